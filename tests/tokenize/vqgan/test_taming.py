"""Checkpoints of taming-transformers and LlamaGen give the codes and pixels of their networks."""

import pickle

import pytest
import torch
import torch.nn.functional as F

from handloom.errors import UserError
from handloom.tokenize import vqgan
from tests.helpers.vqgan_networks import (
    CH,
    MULT,
    SIDE,
    Reference,
    Z,
    agrees,
    llamagen_state,
    nearest,
    scaled,
    taming_state,
    write_llamagen,
    write_taming,
)

TAMING = ("down", "block", "attn", ("block_1", "attn_1", "block_2"))


def test_taming_gives_the_codes_and_pixels_of_its_network(tmp_path, frames_thwc):
    state = taming_state()
    write_taming(tmp_path / "vqgan_imagenet_f16_64", state)
    tokenizer = vqgan.load(str(tmp_path / "vqgan_imagenet_f16_64"))
    assert (tokenizer.name, tokenizer.downsample) == ("vqgan_imagenet_f16_64", 4)
    assert (tokenizer.resolution, tokenizer.input_range) == (SIDE, (-1.0, 1.0))
    reference = Reference(state)
    z = reference.encode(scaled(frames_thwc, -1, 1), *TAMING)
    ids, vectors = nearest(z, state["quantize.embedding.weight"])
    order = reversed(range(len(MULT)))
    agrees(tokenizer, frames_thwc, ids, reference.decode(vectors, order, "up", *TAMING[1:]))


def test_a_checkpoint_is_opened_without_executing_anything(tmp_path):
    write_taming(tmp_path / "evil", taming_state(), evil=tmp_path / "executed")
    with pytest.raises(pickle.UnpicklingError):  # torch refuses the file as a whole
        torch.load(tmp_path / "evil/checkpoints/last.ckpt", weights_only=True)
    vqgan.load(str(tmp_path / "evil/checkpoints/last.ckpt"))
    assert not (tmp_path / "executed").exists()
    torch.load(tmp_path / "evil/checkpoints/last.ckpt", weights_only=False)
    assert (tmp_path / "executed").exists()  # it was a checkpoint that does something


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embed": 128}, "codebook_size 128, its weights 64"),
        ({"embed_dim": 256}, "code_width 256, its weights 12"),
        ({"ch_mult": [1, 1, 2, 4]}, "levels 4, its weights 3"),
        ({"attn_resolutions": [32]}, "level 1 of its weights"),
        ({"resolution": 256}, "level 2 of its weights"),
        ({"remap": "used.npy"}, "remap"),
        ({"double_z": True}, "double_z"),
        ({"target": "taming.models.vqgan.GumbelVQ"}, "GumbelVQ is not known"),
    ],
)
def test_a_yaml_of_another_model_is_refused(tmp_path, changes, message):
    folder = write_taming(tmp_path / "model", taming_state(), **changes)
    with pytest.raises(UserError, match=message):
        vqgan.describe(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantize.used": torch.arange(3)}, "renumbers its codes"),
        ({"quantize.proj.weight": torch.zeros(1)}, "Gumbel"),
        ({"colorize": torch.zeros(3, 182, 1, 1)}, r"1 tensors were not expected \(colorize\)"),
        ({"encoder.conv_out.bias": None}, r"1 tensors are missing \(encoder.conv_out.bias\)"),
        ({"encoder.down.0.downsample.conv.weight": None}, "levels.0.resample.weight"),
        ({"encoder.conv_in.weight": torch.zeros(CH, 182, 3, 3)}, "does not turn RGB pictures"),
        ({"decoder.norm_out.weight": torch.zeros(CH - 1)}, "groups do not divide"),
        ({"decoder.conv_in.weight": torch.zeros(64, 3, 3, 3)}, "do not fit each other"),
        ({"quant_conv.bias": torch.full((Z,), torch.nan)}, "NaN"),
    ],
)
def test_an_unexpected_tensor_is_an_error(tmp_path, change, message):
    state = {k: v for k, v in {**taming_state(), **change}.items() if v is not None}
    folder = write_taming(tmp_path / "model", state)
    with pytest.raises(UserError, match=message):
        vqgan.load(str(folder))


def test_a_range_or_resolution_that_is_not_the_models_is_refused(tmp_path):
    folder = str(write_taming(tmp_path / "model", taming_state()))
    with pytest.raises(
        UserError, match=r"input range \[0, 1\] was asked for.*trained with \[-1, 1\]"
    ):
        vqgan.load(folder, input_range=(0, 1))
    with pytest.raises(UserError, match=r"resolution 128 was asked for.*trained with 64"):
        vqgan.load(folder, resolution=128)
    assert vqgan.describe(folder, (-1, 1), SIDE) == vqgan.describe(folder)


def test_a_ckpt_without_its_yaml_says_where_it_should_be(tmp_path):
    folder = write_taming(tmp_path / "model", taming_state())
    (folder / "configs/model.yaml").rename(folder / "checkpoints/last.yaml")
    assert vqgan.describe(str(folder))["resolution"] == SIDE
    (folder / "checkpoints/last.yaml").unlink()
    with pytest.raises(UserError, match=r"expected last.yaml or model.yaml beside it"):
        vqgan.describe(str(folder))


# LlamaGen

LLAMAGEN = ("conv_blocks", "res", "attn", ("0", "1", "2"))


def test_llamagen_gives_the_codes_and_pixels_of_its_network(tmp_path, frames_thwc):
    state = llamagen_state()
    state["quantize.codebook_used"] = torch.zeros(65536)
    path = write_llamagen(tmp_path / "vq_ds16_c2i.pt", model=state)
    tokenizer = vqgan.load(path, resolution=SIDE)
    assert (tokenizer.name, tokenizer.input_range) == ("vq_ds16_c2i", (-1.0, 1.0))
    assert vqgan.describe(path)["resolution"] == 256
    reference = Reference(state)
    z = F.normalize(reference.encode(scaled(frames_thwc, -1, 1), *LLAMAGEN), dim=1)
    ids, vectors = nearest(z, F.normalize(state["quantize.embedding.weight"], dim=-1))
    painted = reference.decode(vectors, range(len(MULT)), *LLAMAGEN)
    agrees(tokenizer, frames_thwc, ids, painted)


def test_the_average_of_the_weights_is_preferred(tmp_path, frames_thwc):
    first, second = llamagen_state(seed=1), llamagen_state(seed=2)
    codes = {
        name: vqgan.load(write_llamagen(tmp_path / f"{name}.pt", **states), resolution=SIDE).encode(
            frames_thwc
        )
        for name, states in {
            "both": {"model": first, "ema": second},
            "ema": {"model": second},
            "model": {"model": first},
        }.items()
    }
    assert (codes["both"] == codes["ema"]).all()
    assert (codes["both"] != codes["model"]).any()


def test_a_bare_state_dict_and_half_precision_load(tmp_path, frames_thwc):
    state = {k: v.bfloat16() for k, v in llamagen_state().items()}
    torch.save(state, tmp_path / "bf16.pt")
    torch.save({k: v.float() for k, v in state.items()}, tmp_path / "f32.pt")
    ids = [
        vqgan.load(str(tmp_path / name), resolution=SIDE).encode(frames_thwc)
        for name in ("bf16.pt", "f32.pt")
    ]
    assert (ids[0] == ids[1]).all()


def test_describing_needs_no_torch(tmp_path):
    import subprocess
    import sys

    folder = write_taming(tmp_path / "model", taming_state())
    path = write_llamagen(tmp_path / "vq.pt", model=llamagen_state())
    program = (
        "import sys; from handloom.tokenize import vqgan\n"
        f"print([vqgan.describe(m)['codebook_size'] for m in ({str(folder)!r}, {path!r})])\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "[64, 64]\n"
