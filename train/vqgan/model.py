"""The VQGAN's network, and where it starts: at principal components and k-means.

Shapes: N pictures, H x W pixels, D code width, I x J codes, K codes, M latents.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handloom.errors import UserError
from handloom.train.vqgan.codebook import Codebook
from handloom.train.vqgan.config import VQGANConfig
from handloom.train.vqgan.frames import Pool
from handloom.train.vqgan.linear_start import fit_codebook, fit_encoder

INPUT_RANGE = (-1.0, 1.0)
FITTED_ON = 300  # pictures that the principal components are computed from
LATENTS_A_CODE = 100  # that k-means sees
# options that two models must share for their weights to fit
SIZES = (
    "block_out_channels", "vq_embed_dim", "latent_channels", "layers_per_block",
    "num_vq_embeddings", "norm_num_groups", "mid_block_add_attention",
)  # fmt: skip


def build(config: VQGANConfig) -> Any:
    """A `diffusers.VQModel` with torch's own random weights, ready to learn."""
    from diffusers import VQModel

    scales = len(config.widths)
    model = VQModel(
        down_block_types=("DownEncoderBlock2D",) * scales,
        up_block_types=("UpDecoderBlock2D",) * scales,
        block_out_channels=config.widths,
        layers_per_block=config.layers,
        latent_channels=config.latent_channels,
        sample_size=config.resolution,
        num_vq_embeddings=config.codes,
        norm_num_groups=config.groups,
        vq_embed_dim=config.code_width,
        mid_block_add_attention=False,  # a hand in one corner should not change codes in another
    )
    return model.eval().to(memory_format=torch.channels_last)


def start(model: Any, pool: Pool, config: VQGANConfig) -> Tensor:
    """Set encoder, codebook and decoder to where training starts.

    Returns:
        Share of latents nearest to each code, float [K].
    """
    with torch.no_grad():
        if config.begin_with is not None:
            _load(model, config.begin_with)
        else:
            fit_encoder(model, pictures(pool.some(FITTED_ON, config.seed)))
            for half in (model.decoder, model.post_quant_conv):
                _keep_variance(half)
        model.half().float()  # what is saved is fp16: codes must be those of the saved weights
        latents_md = _latents(model, pool, config)
        codes_kd = fit_codebook(latents_md, config.codes, config.seed).half().float()
        model.quantize.embedding.weight.copy_(codes_kd)
        if config.encoder_start < config.steps:
            _open_branches(model.encoder)
        nearest = [
            torch.cdist(some, codes_kd).argmin(1) for some in torch.split(latents_md, 100_000)
        ]
    return torch.bincount(torch.cat(nearest), minlength=config.codes) / len(latents_md)


def pictures(frames_nhwc: NDArray[np.uint8]) -> Tensor:
    """Frames in the network's range, float32 [N, 3, H, W]."""
    low, high = INPUT_RANGE
    x_nchw = torch.from_numpy(np.ascontiguousarray(frames_nhwc)).permute(0, 3, 1, 2)
    return (x_nchw.float() / 255 * (high - low) + low).contiguous(memory_format=torch.channels_last)


class Reconstruction(nn.Module):
    """Encoder, codebook and decoder as one pass: what is compiled, and what DDP wraps."""

    def __init__(self, model: Any, codebook: Codebook) -> None:
        super().__init__()
        self.model, self.codebook = model, codebook

    def loss(self, target_bchw: Tensor, learned: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents [B, D, I, J], code ids [B, I, J], commitment loss, pictures [B, 3, H, W].

        Args:
            target_bchw: pictures in [-1, 1].
            learned: the encoder gets gradients.
        """
        with torch.set_grad_enabled(learned and torch.is_grad_enabled()):
            latents_bdij = latents_of(self.model, target_bchw).float()
            codes_bdij, ids_bij, commitment = self.codebook.quantize(latents_bdij)
        return latents_bdij, ids_bij, commitment, decode(self.model, codes_bdij)


def latents_of(model: Any, x_nchw: Tensor) -> Tensor:
    """Latents of images before quantisation: [N, D, I, J]."""
    latents: Tensor = model.quant_conv(model.encoder(x_nchw))
    return latents


def decode(model: Any, codes_ndij: Tensor) -> Tensor:
    """Pictures [N, 3, H, W] from the vectors of codes."""
    decoded: Tensor = model.decoder(model.post_quant_conv(codes_ndij))
    return decoded


def _latents(model: Any, pool: Pool, config: VQGANConfig) -> Tensor:
    """Latents [M, D] of frames drawn by weight, enough for k-means."""
    grid = config.resolution // config.downsample
    wanted = LATENTS_A_CODE * config.codes
    # A frame's latents resemble each other: of each frame only a part is taken.
    frames_nhwc = pool.some(max(1, math.ceil(4 * wanted / grid**2)), config.seed)
    parts = [
        latents_of(model, pictures(some)).permute(0, 2, 3, 1).flatten(0, 2)
        for some in np.array_split(frames_nhwc, math.ceil(len(frames_nhwc) / 16))
    ]
    latents_md = torch.cat(parts)
    generator = torch.Generator().manual_seed(config.seed)
    return latents_md[torch.randperm(len(latents_md), generator=generator)[:wanted]]


def _load(model: Any, folder: Path) -> None:
    """Take over another model's weights."""
    from diffusers import VQModel

    try:
        stored = VQModel.from_pretrained(folder, torch_dtype=torch.float32, low_cpu_mem_usage=False)
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"--begin-with {folder} is not a diffusers VQModel ({why}).") from error
    for name in SIZES:
        theirs, ours = (_plain(config[name]) for config in (stored.config, model.config))
        if theirs != ours:
            raise UserError(
                f"--begin-with {folder} has {name} {theirs} and this run {ours}: give the options "
                "that it was trained with."
            )
    model.load_state_dict(stored.state_dict())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


def _open_branches(encoder: Any) -> None:
    """Let the encoder's residual branches learn without changing what it computes.

    Projecting left them at zero, in both of their convolutions: there no gradient passes. A random
    first one lets the second, still zero, find out what is worth adding.
    """
    blocks = [block for down in encoder.down_blocks for block in down.resnets]
    for block in [*blocks, *encoder.mid_block.resnets]:
        first, second = block.conv1.weight, block.conv2.weight
        if not second.any():  # else it has learned already
            first.normal_(std=first[0].numel() ** -0.5)


def _keep_variance(half: Any) -> None:
    """Keep the variance on every path; torch's own start shrinks it and learns slowly."""
    for name, module in half.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.normal_(std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                module.bias.zero_()
            if name.endswith("conv2"):  # the last of a residual branch
                module.weight.mul_(0.1)
