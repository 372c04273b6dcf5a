"""Laws of the image tokenizer and of its trainer."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import VQModel
from PIL import Image, ImageDraw

from handloom.errors import UserError
from handloom.tokenize import vqgan
from handloom.tokenize.frames import center_square
from handloom.tokenize.measure.pixels import psnr_db


def table_top(seed: int, size: int = 256) -> np.ndarray:
    """A wooden table below a wall, with a few coloured things on it."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), (190, 196, 204))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, size // 3, size, size), fill=(150, 112, 80))
    for color in ((200, 60, 50), (60, 110, 190), (224, 172, 140)):
        x, y = rng.integers(0, size * 3 // 4, 2)
        draw.ellipse((x, y, x + size // 4, y + size // 5), fill=color)
    return np.array(image)


def tiny_model(codes: int = 32, **options) -> VQModel:
    torch.manual_seed(3)
    model = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        num_vq_embeddings=codes,
        **options,
    )
    torch.nn.init.normal_(model.quantize.embedding.weight)  # the default is too narrow to differ
    return model


@pytest.fixture(scope="module")
def bundled() -> vqgan.VQGAN:
    return vqgan.load("bundled")


@pytest.fixture(scope="module")
def frames_thwc() -> np.ndarray:
    return np.stack([table_top(seed) for seed in range(3)])


def test_a_decoded_frame_is_near_the_encoded_one(bundled, frames_thwc):
    codes_tij = bundled.encode(frames_thwc)
    assert codes_tij.dtype == np.uint16
    assert codes_tij.shape == (3, 16, 16)
    back_thwc = bundled.decode(codes_tij)
    assert back_thwc.dtype == np.uint8
    assert back_thwc.shape == frames_thwc.shape
    mean_color = np.broadcast_to(frames_thwc.mean((1, 2), keepdims=True), frames_thwc.shape)
    assert psnr_db(back_thwc, frames_thwc) > psnr_db(mean_color, frames_thwc) + 4


def test_codes_are_those_of_diffusers(bundled, frames_thwc):
    model = VQModel.from_pretrained(vqgan.BUNDLED, torch_dtype=torch.float32)
    low, high = bundled.input_range
    x = torch.from_numpy(frames_thwc).permute(0, 3, 1, 2) / 255 * (high - low) + low
    with torch.inference_mode():
        latents = model.encode(x).latents
        ids = model.quantize(latents)[2][2].reshape(3, 16, 16).numpy()
        distances = torch.cdist(
            latents.permute(0, 2, 3, 1).flatten(0, 2), model.quantize.embedding.weight
        )
    # another batch shape and memory layout: where two codes nearly tie, either is right
    best, second = distances.topk(2, largest=False).values.T
    safe = ((second - best) / second > 1e-4).reshape(3, 16, 16).numpy()
    assert safe.mean() > 0.95
    codes_tij = bundled.encode(frames_thwc)
    assert (codes_tij == ids)[safe].all()
    # and pixels, for the same codes
    entry = model.quantize.get_codebook_entry(
        torch.from_numpy(codes_tij.astype(np.int64)).flatten(), (3, 16, 16, 16)
    )
    with torch.inference_mode():
        painted = model.decode(entry, force_not_quantize=True).sample
    expected = ((painted - low) / (high - low) * 255).clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(bundled.decode(codes_tij) - expected).max() < 0.6  # rounding, and the last digits


def test_codes_depend_on_the_frame_alone(bundled, frames_thwc):
    together = bundled.encode(frames_thwc)
    bundled.encode(np.stack([table_top(seed) for seed in range(7, 12)]))
    assert (bundled.encode(frames_thwc[1:2])[0] == together[1]).all()
    assert (bundled.encode(frames_thwc[::-1])[::-1] == together).all()
    assert bundled.encode(frames_thwc[:0]).shape == (0, 16, 16)


def test_frames_of_another_size_and_foreign_codes_are_refused(bundled, frames_thwc):
    with pytest.raises(ValueError, match="got uint8"):
        bundled.encode(frames_thwc[:, :128])
    with pytest.raises(ValueError, match="got float"):
        bundled.encode(frames_thwc / 255)
    with pytest.raises(ValueError, match="another tokenizer"):
        bundled.decode(np.full((1, 16, 16), bundled.codebook_size, np.uint16))


def test_what_is_recorded_is_what_was_loaded_and_needs_no_torch(bundled):
    program = (
        "import json, sys; from handloom.tokenize import vqgan; facts = vqgan.describe();"
        "assert 'torch' not in sys.modules; print(json.dumps(facts))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    facts = json.loads(out)
    assert facts["name"] == bundled.name == "vqgan-f16-1024"
    assert facts["weights_sha256"] == bundled.weights_sha256
    assert tuple(facts["input_range"]) == bundled.input_range == (-1.0, 1.0)
    assert (facts["codebook_size"], facts["downsample"], facts["resolution"]) == (1024, 16, 256)


def test_the_bundled_folder_is_small():
    size = sum(path.stat().st_size for path in vqgan.BUNDLED.rglob("*") if path.is_file())
    assert size <= 8e6


@pytest.mark.parametrize("subfolder", ["", "vqvae"])
def test_any_vqmodel_folder_loads(tmp_path, subfolder):
    tiny_model(vq_embed_dim=4, lookup_from_codebook=True).save_pretrained(tmp_path / subfolder)
    tokenizer = vqgan.load(str(tmp_path), resolution=64)
    assert (tokenizer.name, tokenizer.downsample) == (tmp_path.name, 4)
    assert tokenizer.input_range == (0.0, 1.0)
    codes_tij = tokenizer.encode(table_top(0, 64)[None])
    assert codes_tij.shape == (1, 16, 16)
    assert len(np.unique(codes_tij)) > 1
    assert tokenizer.decode(codes_tij).shape == (1, 64, 64, 3)


def test_the_input_range_comes_from_argument_or_sidecar_then_default(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    model = str(tmp_path)
    assert vqgan.describe(model)["input_range"] == [0.0, 1.0]
    (tmp_path / vqgan.SIDECAR).write_text('{"name": "mine", "input_range": [-1, 1]}')
    facts = vqgan.describe(model)
    assert (facts["name"], facts["input_range"]) == ("mine", [-1.0, 1.0])
    assert vqgan.describe(model, input_range=(-1.0, 1.0)) == facts
    with pytest.raises(UserError, match=r"\[0, 1\] was asked for, but .* trained with \[-1, 1\]"):
        vqgan.describe(model, input_range=(0.0, 1.0))


def test_the_hash_follows_weights_and_config(tmp_path):
    for name, codes in (("a", 32), ("b", 32), ("c", 64)):
        tiny_model(codes).save_pretrained(tmp_path / name)
    a, b, c = (vqgan.describe(str(tmp_path / name))["weights_sha256"] for name in "abc")
    assert a == b != c


def test_a_codebook_beyond_uint16_is_refused(tmp_path):
    tiny_model(70_000).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="70,000 codes and shards hold uint16"):
        vqgan.load(str(tmp_path))


def test_a_folder_that_is_not_a_vqmodel_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a diffusers VQModel"):
        vqgan.load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(UserError, match="not a diffusers VQModel"):
        vqgan.load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(UserError, match=r"no diffusion_pytorch_model\.safetensors"):
        vqgan.describe(str(tmp_path))
    (tmp_path / vqgan.WEIGHTS).write_bytes(b"not weights")
    with pytest.raises(UserError, match="not readable as weights"):
        vqgan.load(str(tmp_path))


def test_a_hub_that_does_not_answer_says_what_to_download(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError) as caught:
        vqgan.load("amused/amused-256")
    for part in ("hf download amused/amused-256 --local-dir", "config.json", "--tokens.model DIR"):
        assert part in str(caught.value)
    with pytest.raises(UserError, match='"bundled"'):
        vqgan.load("no-such-folder")


def test_the_centred_square_is_cut_before_resizing():
    frame_hwc = np.zeros((40, 100, 3), np.uint8)
    frame_hwc[:, 30:70] = (10, 200, 90)  # exactly the centred square
    for size in (40, 16, 64):
        assert (center_square(frame_hwc, size) == (10, 200, 90)).all()
    assert center_square(frame_hwc.transpose(1, 0, 2), 16).shape == (16, 16, 3)
    with pytest.raises(ValueError, match="got float"):
        center_square(frame_hwc / 255, 16)


def test_the_bundled_model_takes_small_pictures_with_the_same_codebook():
    whole, small = vqgan.describe("bundled"), vqgan.describe("bundled-128")
    assert small == {**whole, "resolution": 128}
    frames_thwc = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)
    model = vqgan.load("bundled-128")
    codes_tij = model.encode(frames_thwc)
    assert codes_tij.shape == (1, 8, 8)
    assert model.decode(codes_tij).shape == frames_thwc.shape
