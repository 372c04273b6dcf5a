"""VQModels of diffusers and Janus give the codes and pixels of those libraries."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import VQModel
from safetensors.torch import load_file, save_file
from transformers import JanusVQVAE, JanusVQVAEConfig

from handloom.errors import UserError
from handloom.tokenize import vqgan
from tests.helpers.vqgan_networks import (
    CH,
    MULT,
    RES_BLOCKS,
    SIDE,
    Z,
    agrees,
    nearest,
    pixels,
    scaled,
)

# diffusers


def vqmodel(seed=0, **options):
    torch.manual_seed(seed)
    model = VQModel(
        block_out_channels=(32, 64, 64), layers_per_block=2, latent_channels=Z,
        num_vq_embeddings=64, vq_embed_dim=options.pop("vq_embed_dim", 8), norm_num_groups=16,
        down_block_types=options.pop("down", ("DownEncoderBlock2D",) * 3),
        up_block_types=options.pop("up", ("UpDecoderBlock2D",) * 3),
        **options,
    ).eval()  # fmt: skip
    for name, tensor in model.named_parameters():
        if tensor.ndim == 1:
            torch.nn.init.normal_(tensor, 1.0 if "norm" in name and "weight" in name else 0, 0.3)
    torch.nn.init.normal_(model.quantize.embedding.weight)
    torch.nn.init.normal_(model.quant_conv.weight, std=2.0)
    return model


VARIANTS = {
    "amused": {"mid_block_add_attention": False, "lookup_from_codebook": True},
    "attention": {
        "down": ("DownEncoderBlock2D",) * 2 + ("AttnDownEncoderBlock2D",),
        "up": ("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 2,
    },
    "movq": {
        "norm_type": "spatial",
        "vq_embed_dim": Z,  # diffusers wants it equal to the latent's
        "down": ("DownEncoderBlock2D",) * 2 + ("AttnDownEncoderBlock2D",),
        "up": ("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 2,
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_vqmodels_give_the_codes_and_pixels_of_diffusers(tmp_path, frames_thwc, variant):
    model = vqmodel(**VARIANTS[variant])
    model.save_pretrained(tmp_path)
    tokenizer = vqgan.load(str(tmp_path), resolution=SIDE)
    with torch.inference_mode():
        z = model.encode(scaled(frames_thwc, 0, 1)).latents
        ids, vectors = nearest(z, model.quantize.embedding.weight)
        spatial = vectors if variant == "movq" else None
        painted = model.decoder(model.post_quant_conv(vectors), spatial)
    codes_tij = tokenizer.encode(frames_thwc)
    assert len(np.unique(codes_tij)) >= 8
    assert (codes_tij == ids.numpy()).all()
    expected = pixels(painted, 0, 1)
    assert np.abs(tokenizer.decode(codes_tij) - expected).max() < 0.51


def test_a_model_in_training_gives_the_codes_it_will_give_when_saved(tmp_path, frames_thwc):
    model = vqmodel()
    model.save_pretrained(tmp_path)
    saved = vqgan.load(str(tmp_path), resolution=SIDE)
    live = replace(saved, network=model)
    codes_tij = live.encode(frames_thwc)
    assert (codes_tij == saved.encode(frames_thwc)).all()
    assert np.abs(live.decode(codes_tij) - saved.decode(codes_tij).astype(int)).max() <= 1


def test_attention_under_the_names_of_old_diffusers_loads(tmp_path, frames_thwc):
    vqmodel(**VARIANTS["attention"]).save_pretrained(tmp_path / "new")
    path = tmp_path / "new" / vqgan.WEIGHTS
    renamed = {}
    for name, tensor in load_file(path).items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"),
                         ("to_out.0", "proj_attn")):  # fmt: skip
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = tensor
    (tmp_path / "old").mkdir()
    save_file(renamed, tmp_path / "old" / vqgan.WEIGHTS)
    (tmp_path / "old" / vqgan.CONFIG).write_text((tmp_path / "new" / vqgan.CONFIG).read_text())
    ids = [
        vqgan.load(str(tmp_path / name), resolution=SIDE).encode(frames_thwc)
        for name in ("new", "old")
    ]
    assert (ids[0] == ids[1]).all()


def test_a_config_or_sidecar_of_another_codebook_is_refused(tmp_path):
    vqmodel().save_pretrained(tmp_path)
    (tmp_path / vqgan.SIDECAR).write_text('{"codebook_size": 8192}')
    with pytest.raises(UserError, match=r"says 8,192 codes, config.json 64"):
        vqgan.describe(str(tmp_path))
    (tmp_path / vqgan.SIDECAR).unlink()
    config = json.loads((tmp_path / vqgan.CONFIG).read_text()) | {"num_vq_embeddings": 8192}
    (tmp_path / vqgan.CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"codebook_size 8,192, its weights 64"):
        vqgan.describe(str(tmp_path))


def test_a_vqmodel_that_reconstructs_better_in_another_range_is_refused(tmp_path):
    for name in (vqgan.CONFIG, vqgan.WEIGHTS):
        (tmp_path / name).symlink_to(vqgan.BUNDLED / name)
    assert vqgan.describe(str(tmp_path))["input_range"] == [0.0, 1.0]  # nothing says otherwise
    with pytest.raises(UserError, match=r"not trained with pixels in \[0, 1\].* in \[-1, 1\]"):
        vqgan.load(str(tmp_path))
    with pytest.raises(UserError, match="not trained with pixels"):
        vqgan.load(str(tmp_path), input_range=(0.0, 1.0))
    vqgan.load(str(tmp_path), input_range=(-1.0, 1.0))


# Janus


def janus(seed=0, **options):
    torch.manual_seed(seed)
    config = JanusVQVAEConfig(
        embed_dim=8, num_embeddings=64, latent_channels=Z, base_channels=CH,
        channel_multiplier=list(MULT), num_res_blocks=RES_BLOCKS, num_patches=SIDE // 4, **options,
    )  # fmt: skip
    model = JanusVQVAE(config).eval()
    for name, tensor in model.named_parameters():
        if tensor.ndim == 1:
            torch.nn.init.normal_(tensor, 1.0 if "norm" in name and "weight" in name else 0, 0.3)
        elif tensor.ndim == 4:
            torch.nn.init.kaiming_normal_(tensor, nonlinearity="linear")
    torch.nn.init.normal_(model.quantize.embedding.weight)
    with torch.no_grad():  # transformers' encode and decode agree on the codes at length 1 alone
        weight = model.quantize.embedding.weight
        weight.copy_(F.normalize(weight, dim=-1))
    return model


def whole_janus(model, folder, shards):
    """The same model inside a JanusForConditionalGeneration, in shards as large ones are."""
    folder.mkdir()
    vision = {"image_size": SIDE, "patch_size": 4}
    config = {"model_type": "janus", "vq_config": model.config.to_dict(), "vision_config": vision}
    config["vq_config"]["num_patches"] = 32  # what transformers overrides
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {f"model.vqmodel.{n}": t.contiguous() for n, t in model.state_dict().items()}
    tensors["model.language_model.norm.weight"] = torch.zeros(4)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    names = sorted(tensors)
    files = [f"model-0000{i + 1}-of-0000{shards}.safetensors" for i in range(shards)]
    places = {name: files[i % shards] for i, name in enumerate(names)}
    for file in files:
        save_file({n: tensors[n] for n in names if places[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("kind", ["alone", "whole", "sharded"])
def test_janus_gives_the_codes_and_pixels_of_transformers(tmp_path, frames_thwc, kind):
    model = janus()
    if kind == "alone":
        model.save_pretrained(tmp_path / kind)
    else:
        whole_janus(model, tmp_path / kind, 1 if kind == "whole" else 3)
    tokenizer = vqgan.load(str(tmp_path / kind))
    assert (tokenizer.resolution, tokenizer.input_range) == (SIDE, (-1.0, 1.0))
    with torch.inference_mode():
        x = scaled(frames_thwc, -1, 1)
        ids = model.encode(x).image_tokens.reshape(len(x), SIDE // 4, SIDE // 4)
        painted = model.decode(ids.flatten(1))
    agrees(tokenizer, frames_thwc, ids, painted)


def test_a_janus_of_another_geometry_is_refused(tmp_path):
    model = janus()
    whole_janus(model, tmp_path / "whole", 3)
    (tmp_path / "whole/model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no model-00002-of-00003.safetensors"):
        vqgan.describe(str(tmp_path / "whole"))
    model.save_pretrained(tmp_path / "alone")
    path = tmp_path / "alone/config.json"
    config = json.loads(path.read_text())
    for change, message in (
        ({"num_embeddings": 16384}, "codebook_size 16,384, its weights 64"),
        ({"double_latent": True}, "double_latent"),
    ):
        path.write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=message):
            vqgan.describe(str(tmp_path / "alone"))
