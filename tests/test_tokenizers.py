"""Every published kind of VQGAN gives the codes and pixels of its own network.

Checkpoints with random weights are written in the exact layouts of their projects; the reference
passes below are written from the names in the file, straight down, and share nothing with the
package.
"""

import argparse
import json
import os
import pickle
import threading
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from diffusers import VQModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import JanusVQVAE, JanusVQVAEConfig

from handloom.errors import UserError
from handloom.tokenize import measure, measure_lpips, vqgan
from handloom.tokenize.frames import center_square
from handloom.tokenize.vqgan_search import MARGIN, direct_convolutions
from handloom.tokenize.vqgan_stream import encode_stream, read_ahead
from handloom.tokenize.weights import open_weights

CH, MULT, RES_BLOCKS, Z, SIDE = 32, (1, 1, 2), 2, 12, 64  # widths are multiples of the 32 groups


@pytest.fixture(scope="module")
def frames_thwc():
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((3, 3, 9, 9), np.float32))
    smooth = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    return (smooth.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)


class Writer:
    """Random tensors under the names that a project gives them."""

    def __init__(self, seed=0):
        self.state = {}
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def conv(self, name, inside, out, side=3):
        self.state[f"{name}.weight"] = (
            self.random(out, inside, side, side) / (inside * side**2) ** 0.5
        )
        self.state[f"{name}.bias"] = 0.3 * self.random(out)

    def norm(self, name, width):
        self.state[f"{name}.weight"] = 1 + 0.3 * self.random(width)
        self.state[f"{name}.bias"] = 0.3 * self.random(width)

    def block(self, name, inside, out):
        self.norm(f"{name}.norm1", inside)
        self.conv(f"{name}.conv1", inside, out)
        self.norm(f"{name}.norm2", out)
        self.conv(f"{name}.conv2", out, out)
        if inside != out:
            self.conv(f"{name}.nin_shortcut", inside, out, 1)

    def attention(self, name, width):
        self.norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            self.conv(f"{name}.{part}", width, width, 1)

    def ends(self, half, inside, first, last, out):
        self.conv(f"{half}.conv_in", inside, first)
        self.norm(f"{half}.norm_out", last)
        self.conv(f"{half}.conv_out", last, out)

    def codebook(self, codes, width):
        self.state["quantize.embedding.weight"] = self.random(codes, width)
        self.conv("quant_conv", Z, width, 1)
        self.conv("post_quant_conv", width, Z, 1)


def taming_state(attention_at=(2,), codes=64, width=Z, seed=0):
    """taming/modules/diffusionmodules/model.py; the decoder's levels are numbered by resolution."""
    w, top = Writer(seed), CH * MULT[-1]
    w.ends("encoder", 3, CH, top, Z)
    w.ends("decoder", Z, top, CH, 3)
    for half in ("encoder", "decoder"):
        w.block(f"{half}.mid.block_1", top, top)
        w.attention(f"{half}.mid.attn_1", top)
        w.block(f"{half}.mid.block_2", top, top)
    inside = CH
    for i, multiple in enumerate(MULT):
        for j in range(RES_BLOCKS):
            w.block(f"encoder.down.{i}.block.{j}", inside, CH * multiple)
            inside = CH * multiple
            if i in attention_at:
                w.attention(f"encoder.down.{i}.attn.{j}", inside)
        if i < len(MULT) - 1:
            w.conv(f"encoder.down.{i}.downsample.conv", inside, inside)
    for i in reversed(range(len(MULT))):
        for j in range(RES_BLOCKS + 1):
            w.block(f"decoder.up.{i}.block.{j}", inside, CH * MULT[i])
            inside = CH * MULT[i]
            if i in attention_at:
                w.attention(f"decoder.up.{i}.attn.{j}", inside)
        if i:
            w.conv(f"decoder.up.{i}.upsample.conv", inside, inside)
    w.codebook(codes, width)
    return w.state


def llamagen_state(codes=64, width=8, seed=0):
    """tokenizer/tokenizer_image/vq_model.py; the decoder's levels are numbered as they run."""
    last, renamed = len(MULT) - 1, {}
    for name, tensor in taming_state((last,), codes, width, seed).items():
        parts = name.split(".")
        if parts[1] == "up":
            parts[2] = str(last - int(parts[2]))
        name = ".".join(parts)
        for old, new in (
            (".down.", ".conv_blocks."), (".up.", ".conv_blocks."), (".block.", ".res."),
            (".mid.block_1.", ".mid.0."), (".mid.attn_1.", ".mid.1."), (".mid.block_2.", ".mid.2."),
        ):  # fmt: skip
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


class Reference:
    """The forward pass of taming-transformers, read from a state dict, tensor by tensor."""

    def __init__(self, state):
        self.state = state

    def conv(self, name, x, **options):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **options)

    def norm(self, name, x):
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-6)

    def block(self, name, x):
        h = self.norm(f"{name}.norm1", x)
        h = self.conv(f"{name}.conv1", h * torch.sigmoid(h), padding=1)
        h = self.norm(f"{name}.norm2", h)
        h = self.conv(f"{name}.conv2", h * torch.sigmoid(h), padding=1)
        if f"{name}.nin_shortcut.weight" in self.state:
            x = self.conv(f"{name}.nin_shortcut", x)
        return x + h

    def attention(self, name, x):
        if f"{name}.norm.weight" not in self.state:
            return x
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        weights = (torch.bmm(q.transpose(1, 2), k) * q.shape[1] ** -0.5).softmax(2)
        h = torch.bmm(v, weights.transpose(1, 2)).reshape(x.shape)
        return x + self.conv(f"{name}.proj_out", h)

    def middle(self, half, x, names):
        x = self.block(f"{half}.mid.{names[0]}", x)
        x = self.attention(f"{half}.mid.{names[1]}", x)
        return self.block(f"{half}.mid.{names[2]}", x)

    def out(self, half, x):
        h = self.norm(f"{half}.norm_out", x)
        return self.conv(f"{half}.conv_out", h * torch.sigmoid(h), padding=1)

    def encode(self, x, level, block, attention, middle):
        h = self.conv("encoder.conv_in", x, padding=1)
        for i in range(len(MULT)):
            for j in range(RES_BLOCKS):
                h = self.block(f"encoder.{level}.{i}.{block}.{j}", h)
                h = self.attention(f"encoder.{level}.{i}.{attention}.{j}", h)
            if i < len(MULT) - 1:
                h = F.pad(h, (0, 1, 0, 1))
                h = self.conv(f"encoder.{level}.{i}.downsample.conv", h, stride=2)
        return self.conv("quant_conv", self.out("encoder", self.middle("encoder", h, middle)))

    def decode(self, z, order, level, block, attention, middle):
        h = self.conv("decoder.conv_in", self.conv("post_quant_conv", z), padding=1)
        h = self.middle("decoder", h, middle)
        for step, i in enumerate(order):
            for j in range(RES_BLOCKS + 1):
                h = self.block(f"decoder.{level}.{i}.{block}.{j}", h)
                h = self.attention(f"decoder.{level}.{i}.{attention}.{j}", h)
            if step < len(MULT) - 1:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")
                h = self.conv(f"decoder.{level}.{i}.upsample.conv", h, padding=1)
        return self.out("decoder", h)


def nearest(z, codes):
    """Ids and vectors, by brute force in double precision: [T, I, J] and [T, D, I, J]."""
    flat = z.permute(0, 2, 3, 1).double()
    ids = (flat[..., None, :] - codes.double()).square().sum(-1).argmin(-1)
    return ids, codes[ids].permute(0, 3, 1, 2)


def pixels(painted, low, high):
    return ((painted - low) / (high - low) * 255).permute(0, 2, 3, 1).clamp(0, 255).numpy()


def agrees(tokenizer, frames_thwc, ids, painted):
    """The same codes; pixels within rounding and the last digits; a codebook that is used."""
    codes_tij = tokenizer.encode(frames_thwc)
    assert len(np.unique(codes_tij)) > 8
    assert (codes_tij == ids.numpy()).all()
    expected = pixels(painted, *tokenizer.input_range)
    assert expected.std() > 20
    assert np.abs(tokenizer.decode(codes_tij) - expected).max() < 0.51


def scaled(frames_thwc, low, high):
    return torch.from_numpy(frames_thwc).permute(0, 3, 1, 2) / 255 * (high - low) + low


# taming-transformers


class Callback:
    """What Lightning pickles beside the weights: a class of the training code."""

    def __init__(self):
        self.best = torch.tensor(0.5)


class Evil:
    """A pickle that leaves a file behind when it is executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_taming(folder, state, evil=None, **changes):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "configs").mkdir()
    network = {
        "double_z": False, "z_channels": Z, "resolution": SIDE, "in_channels": 3, "out_ch": 3,
        "ch": CH, "ch_mult": list(MULT), "num_res_blocks": RES_BLOCKS,
        "attn_resolutions": [SIDE // 4], "dropout": 0.0,
    }  # fmt: skip
    codes, width = state["quantize.embedding.weight"].shape
    options = {"embed_dim": width, "n_embed": codes, "ddconfig": network}
    network.update({k: v for k, v in changes.items() if k in network})
    options.update({k: v for k, v in changes.items() if k not in network and k != "target"})
    target = changes.get("target", "taming.models.vqgan.VQModel")
    model = {"base_learning_rate": 4.5e-6, "target": target, "params": options}
    (folder / "configs/model.yaml").write_text(yaml.safe_dump({"model": model}))
    checkpoint = {
        "epoch": 3,
        "global_step": 7,
        "pytorch-lightning_version": "1.0.8",
        "callbacks": {Callback: {"best": torch.tensor(0.5)}, "other": Callback()},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "state_dict": {
            **state,
            "loss.perceptual_loss.net.slice1.0.weight": torch.zeros(2, 2),
            "loss.discriminator.main.0.weight": torch.zeros(2, 2),
        },
    }
    if evil:
        checkpoint["hyper_parameters"] = Evil(evil)
    torch.save(checkpoint, folder / "checkpoints/last.ckpt")
    return folder


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


def write_llamagen(path, **states):
    torch.save(
        {
            **states,
            "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
            "discriminator": {"a": torch.zeros(2)},
            "steps": 5,
            "args": argparse.Namespace(vq_model="VQ-16", codebook_size=64),
        },
        path,
    )
    return str(path)


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


# files


def test_files_that_are_no_weights_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"model": {"a": torch.zeros(3)}}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"since 1\.6"):
        vqgan.load(str(path))
    torch.save({"model": {"a": torch.zeros(3)}}, path)
    with pytest.raises(UserError, match="no VQGAN that is known here"):
        vqgan.load(str(path))
    torch.save({"model": {"a": torch.zeros(3), "b": "text"}}, path)
    with pytest.raises(UserError, match='"b" among its tensors is none'):
        vqgan.load(str(path))
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="not a dictionary of tensors"):
        vqgan.load(str(path))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="not readable as weights"):
        vqgan.load(str(path))
    with pytest.raises(UserError, match="no VQGAN at"):
        vqgan.load(str(tmp_path / "absent.pt"))
    for name in ("a.pt", "b.ckpt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="holds 3 checkpoints: name one"):
        vqgan.load(str(tmp_path))


def rewrite(path, out, edit):
    """Write a torch file again with its pickle changed, as an attacker would."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(
                info.filename, edit(content) if info.filename.endswith(".pkl") else content
            )


def test_tensors_outside_their_storage_are_refused(tmp_path):
    values = torch.arange(12, dtype=torch.float32)
    torch.save({"model": {"a": values.view(3, 4).T}}, tmp_path / "good.pt")
    a = open_weights(tmp_path / "good.pt")["a"]
    assert a.shape == (4, 3)
    assert (a.read() == values.view(3, 4).T.numpy()).all()
    torch.save({"model": {"a": values[:1].expand(1 << 40)}}, tmp_path / "bomb.pt")
    with pytest.raises(UserError, match="does not lie inside its storage"):
        open_weights(tmp_path / "bomb.pt")
    # 12 floats become 200: the number is pickled as one byte after K
    rewrite(tmp_path / "good.pt", tmp_path / "long.pt", lambda p: p.replace(b"K\x0c", b"K\xc8"))
    with pytest.raises(UserError, match="smaller than its pickle says"):
        open_weights(tmp_path / "long.pt")
    rewrite(
        tmp_path / "good.pt", tmp_path / "memo.pt", lambda p: p[:2] + b"]r\xff\xff\xff\xff" + p[2:]
    )
    open_weights(tmp_path / "memo.pt")  # the unpickler in C would allocate 32 GB here


def test_safetensors_that_lie_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    for entry, message in (
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 99]}, "does not lie inside"),
        ({"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}, "does not lie inside"),
        ({"dtype": "F9", "shape": [4], "data_offsets": [0, 16]}, "F9"),
        ({"dtype": "F32"}, "shape"),
    ):
        header = json.dumps({"a": entry}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
        with pytest.raises(UserError, match=message):
            open_weights(path)
    path.write_bytes((1 << 60).to_bytes(8, "little"))
    with pytest.raises(UserError, match="does not fit the file"):
        open_weights(path)


# speed must not change codes


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A network wide enough for Winograd convolutions."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wide")
    model = VQModel(
        block_out_channels=(128, 128), layers_per_block=2, latent_channels=32, vq_embed_dim=8,
        num_vq_embeddings=4096, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    torch.nn.init.normal_(model.quantize.embedding.weight)
    torch.nn.init.normal_(model.quant_conv.weight)
    model.save_pretrained(folder)
    return folder


def both_ways(tokenizer, frame):
    """Latents [D, I, J] through fast and through direct convolutions."""
    x = scaled(frame[None], *tokenizer.input_range).contiguous()
    with torch.inference_mode():
        fast = tokenizer.network.latents(x)[0]
        with direct_convolutions():
            return fast, tokenizer.network.latents(x)[0]


def test_the_error_of_fast_convolutions_is_less_than_what_counts_as_doubt(wide, frames_thwc):
    tokenizer = vqgan.load(str(wide), resolution=SIDE)
    tokenizer.encode(frames_thwc[:1])
    counted = MARGIN * tokenizer.network.search.error
    codes = tokenizer.network.codes()
    for frame in frames_thwc[1:]:
        fast, z = (part.flatten(1).T.double() for part in both_ways(tokenizer, frame))
        first, second = torch.cdist(z, codes.double()).topk(2, largest=False).indices.T
        towards = F.normalize(codes[first] - codes[second], dim=1)
        moved = ((fast - z) * towards).sum(1).abs() / z.norm(dim=1)
        assert 0 < moved.max() < counted  # 0 would mean that both ways were the same


def test_latents_of_direct_convolutions_are_those_of_diffusers_to_the_last_digit(wide, frames_thwc):
    tokenizer = vqgan.load(str(wide), resolution=SIDE)
    model = VQModel.from_pretrained(wide).eval()
    for frame in frames_thwc:
        with torch.inference_mode():
            x = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
            expected = model.encode(x.contiguous()).latents
            with direct_convolutions():
                assert torch.equal(tokenizer.network.latents(x.contiguous()), expected)


def test_codes_are_those_of_diffusers_however_many_frames_are_in_doubt(
    wide, frames_thwc, monkeypatch
):
    model = VQModel.from_pretrained(wide).eval()
    many = np.concatenate([np.roll(frames_thwc, shift, 2) for shift in range(0, 63, 9)])
    with torch.inference_mode():
        x = torch.from_numpy(many).permute(0, 3, 1, 2).float() / 255
        found = [model.quantize(model.encode(x[i : i + 1]).latents)[2][2] for i in range(len(x))]
    expected = torch.stack(found).reshape(len(x), SIDE // 2, SIDE // 2).numpy()
    for margin, doubted in ((MARGIN, None), (1e9, 16)):
        monkeypatch.setattr("handloom.tokenize.vqgan_search.MARGIN", margin)
        tokenizer = vqgan.load(str(wide), resolution=SIDE)
        assert (tokenizer.encode(many) == expected).all()
        if doubted is not None:  # then the direct way alone
            assert tokenizer.network.search.frames == doubted < len(many)


def test_threads_change_no_code_and_no_pixel(wide, frames_thwc):
    one = vqgan.load(str(wide), resolution=SIDE)
    codes_tij = one.encode(frames_thwc)
    back = one.decode(codes_tij)
    try:
        two = vqgan.load(str(wide), resolution=SIDE, threads=2)
        assert (two.encode(frames_thwc) == codes_tij).all()
        assert (two.decode(codes_tij) == back).all()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_bfloat16_is_what_was_asked_for_and_the_search_is_float32(wide, frames_thwc):
    exact = vqgan.load(str(wide), resolution=SIDE)
    rough = vqgan.load(str(wide), resolution=SIDE, dtype="bfloat16")
    with torch.inference_mode(), rough._autocast():
        z = rough.network.latents(scaled(frames_thwc[:1], 0, 1).contiguous())
    assert z.dtype == torch.float32
    same = (exact.encode(frames_thwc) == rough.encode(frames_thwc)).mean()
    assert 0.5 < same < 1  # 1 would mean that nothing was computed in bfloat16


def test_batches_of_an_accelerator_have_one_shape(wide):
    """No accelerator is needed to see how frames are cut into batches and filled up."""
    tokenizer = replace(vqgan.load(str(wide), resolution=SIDE), device="cuda")
    for count in (1, 16, 37):
        frames = np.ones((count, SIDE, SIDE, 3), np.uint8)
        batches = tokenizer._batches(frames)
        assert sum(at.stop - at.start for at in batches) == count
        filled = [tokenizer._filled(frames[at]) for at in batches]
        assert {b.shape for b in filled} == {(vqgan.GPU_BATCH, SIDE, SIDE, 3)}
        assert sum(int(b[:, 0, 0, 0].sum()) for b in filled) == count


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_codes_on_a_gpu_do_not_depend_on_the_batch_and_are_nearly_those_of_a_cpu(wide, frames_thwc):
    tokenizer = vqgan.load(str(wide), resolution=SIDE, device="cuda")
    many = np.concatenate([frames_thwc] * 7)
    together = tokenizer.encode(many)
    alone = np.concatenate([tokenizer.encode(frame[None]) for frame in many])
    assert (together == alone).all()
    assert (tokenizer.encode(many[::-1].copy())[::-1] == together).all()
    reference = vqgan.load(str(wide), resolution=SIDE).encode(many)
    assert (together == reference).mean() >= 0.99


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


# encoding while reading


def test_a_stream_gives_the_codes_of_clip_by_clip(wide, frames_thwc):
    tokenizer = vqgan.load(str(wide), resolution=SIDE)
    clips = [frames_thwc[:2], frames_thwc[:0], frames_thwc[2:], frames_thwc]
    streamed = list(encode_stream(tokenizer, iter(clips), ahead=1))
    assert [len(codes) for codes in streamed] == [2, 0, 1, 3]
    for clip, codes_tij in zip(clips, streamed, strict=True):
        assert (codes_tij == tokenizer.encode(clip)).all()
    assert list(encode_stream(tokenizer, [])) == []


def test_reading_ahead_is_bounded_and_carries_errors():
    read = []

    def items():
        for i in range(100):
            read.append(i)
            yield i
            if i == 50:
                raise UserError("item 51 is damaged")

    ahead = read_ahead(items(), 3)
    assert next(ahead) == 0
    time.sleep(0.3)
    assert len(read) <= 5  # one taken, three waiting, one in hand
    assert [next(ahead) for _ in range(50)] == list(range(1, 51))
    with pytest.raises(UserError, match="item 51"):
        next(ahead)
    before = threading.active_count()
    stopping = read_ahead(iter(range(100)), 1)
    next(stopping)
    stopping.close()
    for _ in range(50):
        if threading.active_count() <= before:
            break
        time.sleep(0.1)
    assert threading.active_count() <= before


# measuring


def brute_ssim(a, b):
    """Eq. 13 of Wang et al. 2004, window by window."""
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    found = []
    for channel in range(3):
        x, y = a[..., channel].astype(float), b[..., channel].astype(float)
        for i in range(x.shape[0] - 10):
            for j in range(x.shape[1] - 10):
                p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                cov = (window * (p - mp) * (q - mq)).sum()
                c1, c2 = 2.55**2, 7.65**2
                found.append(
                    (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
                )
    return np.mean(found)


def test_psnr_ssim_and_entropy_are_those_of_their_definitions():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 16, 14, 3), dtype=np.uint8)
    assert measure.ssim(a, b) == pytest.approx(brute_ssim(a, b), abs=1e-9)
    assert measure.ssim(a, a) == pytest.approx(1.0)
    black = np.zeros((12, 12, 3), np.uint8)
    assert measure.psnr_db(black, black + 255) == pytest.approx(0.0)
    assert measure.psnr_db(black, black + 51) == pytest.approx(20 * np.log10(5))
    assert measure.psnr_db(black, black) == 100.0
    assert measure.entropy_bits(np.array([4, 4, 4, 4, 0])) == pytest.approx(2.0)
    assert measure.entropy_bits(np.array([0, 9])) == 0.0


def test_datasets_are_measured_apart_and_together(tmp_path, frames_thwc):
    tokenizer = vqgan.load("bundled")
    big = np.stack([center_square(frame, 256) for frame in frames_thwc])
    flat = np.full((1, 256, 256, 3), 120, np.uint8)
    datasets = {"soft": iter([big[:2], big[2:]]), "flat": iter([flat])}
    facts = measure.measure(tokenizer, datasets, tmp_path / "out")
    assert json.loads((tmp_path / "out/tokenizer.json").read_text()) == facts
    assert facts["tokenizer"]["weights_sha256"] == tokenizer.weights_sha256
    soft, flat_facts, both = *facts["datasets"].values(), facts["all"]
    assert (soft["frames"], flat_facts["frames"], both["frames"]) == (3, 1, 4)
    for key in ("psnr_db", "ssim"):
        assert both[key] == pytest.approx((3 * soft[key] + flat_facts[key]) / 4, abs=1e-3)
    assert soft["psnr_db"] > soft["mean_color_psnr_db"] + 4
    codes_tij = tokenizer.encode(big)
    counts = np.unique(codes_tij, return_counts=True)[1]
    assert soft["codes_used"] == len(counts)
    assert soft["perplexity"] == pytest.approx(2 ** soft["entropy_bits"], rel=1e-3)
    assert soft["entropy_bits"] <= both["codebook_bits"] == 10
    grid = np.array(Image.open(tmp_path / "out/soft.png"))
    assert grid.shape == (512, 3 * 256, 3)
    assert (grid[:256, 256:512] == big[1]).all()
    assert (grid[256:, 256:512] == tokenizer.decode(codes_tij)[1]).all()
    with pytest.raises(UserError, match="nothing gave no frames"):
        measure.measure(tokenizer, {"nothing": []}, tmp_path / "out")


def test_lpips_is_a_distance_and_needs_its_weights(tmp_path, frames_thwc):
    with pytest.raises(UserError, match=r"LPIPS needs vgg16-397923af\.pth and vgg\.pth"):
        measure_lpips.load(tmp_path)
    generator = torch.Generator().manual_seed(0)
    vgg, inside = {}, 3
    of_block = dict(zip(measure_lpips.BLOCKS, (64, 128, 256, 512, 512), strict=True))
    widths = [(i, width) for block, width in of_block.items() for i in block]
    for i, width in widths:
        vgg[f"features.{i}.weight"] = (
            torch.randn((width, inside, 3, 3), generator=generator) / (inside * 4.5) ** 0.5
        )
        vgg[f"features.{i}.bias"] = torch.zeros(width)
        inside = width
    linear = {
        f"lin{i}.model.1.weight": torch.rand((1, w, 1, 1), generator=generator)
        for i, w in enumerate(of_block.values())
    }
    torch.save(vgg, tmp_path / measure_lpips.VGG)
    torch.save(linear, tmp_path / measure_lpips.LINEAR, _use_new_zipfile_serialization=False)
    distance = measure_lpips.load(tmp_path)
    a, b, _ = frames_thwc
    nearer = np.clip(a.astype(int) + 3, 0, 255).astype(np.uint8)
    assert distance(a, a) == 0
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-5)
    assert 0 < distance(a, nearer) < distance(a, b)
