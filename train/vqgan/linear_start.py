"""The part of a VQGAN that needs no gradient: a linear encoder from principal components, and a
codebook from k-means.

Every halving of the picture stacks the 2 x 2 neighbours of a place and keeps the principal
components of the stack. Four halvings are a projection of 16 x 16 pixels, close to the best linear
one. What is learned in seconds this way takes a convolutional encoder hours on a CPU, the codes of
a still place stay still, and no code is ever dead.

The projection is written into the layers of a `diffusers.VQModel`: shortcuts and strided
convolutions are linear, residual branches are set to zero, and the one normalisation on the way is
held constant (see `_write_projection`).

Shapes: N pictures, C channels, H x W places, D code width, K codes, M latents.
"""

import math
from typing import Any

import torch
from torch import Tensor

CONSTANT = 100.0  # dwarfs every signal, so that a normalisation's mean and deviation are its own
LIFT = 10.0  # SiLU is the identity to 5e-4 above this
SMALL = 0.1  # a signal's share of LIFT
ROUNDS = 20  # of k-means


def fit_encoder(model: Any, pictures_nchw: Tensor) -> None:
    """Write a projection to the principal components of the pictures into the model's encoder.

    Args:
        model: a VQModel without attention, its widths at most four times the one before.
        pictures_nchw: float in the model's input range, a few hundred.
    """
    encoder = model.encoder
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, torch.nn.Conv2d):
                for parameter in module.parameters():
                    parameter.zero_()
        features_nchw = pictures_nchw
        _write_identity(encoder.conv_in.weight, pictures_nchw.shape[1], at=1)
        for level, block in enumerate(encoder.down_blocks[:-1]):
            channels = features_nchw.shape[1]
            if level:
                _write_shortcut(block, channels)
            stacked_nchw = _stack_neighbours(features_nchw)
            conv = block.downsamplers[0].conv
            keep = min(conv.out_channels, stacked_nchw.shape[1])
            basis_dc = _components(stacked_nchw, keep)[0]
            # torch's order of a stacked place is (row, column, channel)
            taps = basis_dc.view(keep, 2, 2, channels).permute(0, 3, 1, 2)
            conv.weight[:keep, :channels, :2, :2] = taps
            features_nchw = torch.einsum("dc,nchw->ndhw", basis_dc, stacked_nchw)
        _write_projection(model, features_nchw)


def fit_codebook(latents_md: Tensor, codes: int, seed: int) -> Tensor:
    """k-means: the codebook, float [K, D]. Codes that lose all their latents are drawn again."""
    generator = torch.Generator().manual_seed(seed)
    codes_kd = latents_md[torch.randperm(len(latents_md), generator=generator)[:codes]].clone()
    for _ in range(ROUNDS):
        nearest_m = torch.cdist(latents_md, codes_kd).argmin(1)
        counts_k = torch.bincount(nearest_m, minlength=len(codes_kd))
        sums_kd = torch.zeros_like(codes_kd).index_add_(0, nearest_m, latents_md)
        used = counts_k > 0
        codes_kd[used] = sums_kd[used] / counts_k[used, None]
        drawn = torch.randint(len(latents_md), (int((~used).sum()),), generator=generator)
        codes_kd[~used] = latents_md[drawn]
    return codes_kd


def _write_projection(model: Any, features_nchw: Tensor) -> None:
    """Lead the largest principal components past the last normalisation to the latents.

    A group normalisation subtracts the mean of a group and divides by its deviation, which both
    change from picture to picture. So each signal is accompanied by its negative, which makes the
    group's mean zero, and by constants so large that its deviation is theirs alone. Its affine
    part then undoes the division and lifts the signal to where SiLU is straight.
    """
    encoder, width = model.encoder, model.quant_conv.out_channels
    basis_dc, spread_d = _components(features_nchw, width, centred=True)
    basis_dc = basis_dc / spread_d[0]  # the largest component has a deviation of one
    offset_d = -basis_dc @ features_nchw.mean((0, 2, 3))
    shortcut, norm = encoder.down_blocks[-1].resnets[0].conv_shortcut, encoder.conv_norm_out
    members, signals = norm.num_channels // norm.num_groups, width // norm.num_groups
    shortcut.weight.zero_()
    for group in range(norm.num_groups):
        first, mine = group * members, slice(group * signals, (group + 1) * signals)
        for sign, start in ((1, first), (-1, first + signals)):
            rows = slice(start, start + signals)
            shortcut.weight[rows, : basis_dc.shape[1], 0, 0] = sign * basis_dc[mine]
            shortcut.bias[rows] = sign * offset_d[mine]
        constants = (members - 2 * signals) // 2
        rest = first + 2 * signals
        shortcut.bias[rest : rest + constants] = CONSTANT
        shortcut.bias[rest + constants : rest + 2 * constants] = -CONSTANT
        norm.weight[first : first + members] = CONSTANT * math.sqrt(2 * constants / members) * SMALL
        for signal in range(signals):
            latent = group * signals + signal
            encoder.conv_out.weight[latent, first + signal, 1, 1] = 1 / SMALL
    norm.bias.fill_(LIFT)
    encoder.conv_out.bias[:width] = -LIFT / SMALL
    model.quant_conv.weight.zero_()
    model.quant_conv.bias.zero_()
    _write_identity(model.quant_conv.weight, width, at=0)


def _write_shortcut(block: Any, channels: int) -> None:
    """Hand the channels on; where the width does not change there is no shortcut to write."""
    if block.resnets[0].conv_shortcut is not None:
        _write_identity(block.resnets[0].conv_shortcut.weight, channels, at=0)


def _write_identity(weight: Tensor, channels: int, at: int) -> None:
    weight[range(channels), range(channels), at, at] = 1.0


def _stack_neighbours(x_nchw: Tensor) -> Tensor:
    """Put the 2 x 2 neighbours of each place into its channels: [N, 4 * C, H / 2, W / 2]."""
    n, c, h, w = x_nchw.shape
    split = x_nchw.view(n, c, h // 2, 2, w // 2, 2)
    return split.permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def _components(x_nchw: Tensor, keep: int, centred: bool = False) -> tuple[Tensor, Tensor]:
    """The largest principal components [keep, C] and their deviations [keep]."""
    values_mc = x_nchw.permute(0, 2, 3, 1).flatten(0, 2)
    values_mc = values_mc[:: max(1, len(values_mc) // 200_000)]
    moments_cc = torch.cov(values_mc.T) if centred else values_mc.T @ values_mc / len(values_mc)
    values_c, vectors_cc = torch.linalg.eigh(moments_cc)  # ascending
    spread = values_c.flip(0)[:keep].clamp_min(1e-12).sqrt()
    return vectors_cc.flip(1)[:, :keep].T.contiguous(), spread
