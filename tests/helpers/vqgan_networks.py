"""VQGANs with random weights in the layouts of their projects, and reference passes.

Checkpoints are written under the exact names of their projects; the reference passes are written
from the names in the file, straight down, and share nothing with the package.
"""

import argparse
import os

import numpy as np
import torch
import torch.nn.functional as F
import yaml

CH, MULT, RES_BLOCKS, Z, SIDE = 32, (1, 1, 2), 2, 12, 64  # widths are multiples of the 32 groups


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
