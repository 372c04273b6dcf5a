"""Train a small VQGAN on your own videos: `handloom train vqgan --frames DIR --out DIR`.

The result is a `diffusers.VQModel` folder that `--tokens.model` accepts. The recipe:

1. Pairs of frames `gap_s` apart are read from each video, squared with `tokenize.frames`.
2. The encoder is a projection to principal components and the codebook comes from k-means, both
   without a gradient (`train.vqgan_linear`). Both are then left as they are.
3. The decoder learns to paint the frames from their codes. Its loss is L1 + MSE + the difference
   of image gradients at three scales. The last stands in for the LPIPS of VQGAN (arXiv 2012.09841),
   whose weights are another download.

There is no discriminator, so texture finer than a code is smooth. Shapes: B crops, P = 2 frames of
a pair, N pictures, H x W pixels, I x J codes, D their width, K codes, M latents.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from handloom.errors import UserError
from handloom.tokenize import vqgan
from handloom.train.vqgan_frames import FramePairs, read_pairs
from handloom.train.vqgan_report import card, draw_grid, evaluate, speed

if TYPE_CHECKING:  # torch takes seconds to import, and --help reads this module
    import torch

INPUT_RANGE = (-1.0, 1.0)
LATENT_CHANNELS = 64  # between codebook and decoder; the codes themselves have `code_width`
FITTED_ON = 300  # pictures that the principal components are computed from
CLUSTERED = 100_000  # latents that k-means sees


@dataclass(frozen=True)
class VQGANConfig:
    """Options of `handloom train vqgan`."""

    frames: Path
    """Folder with videos or images, searched recursively."""
    out: Path
    """New folder for the model, its card, metrics.jsonl and reconstructions.png."""
    held_out: Path | None = None
    """Folder with videos kept for validation; default: a tenth of the videos in `frames`."""
    name: str = ""
    """Name recorded in shard manifests; default: the name of `out`."""
    steps: int = 5000
    """Steps of the decoder's optimizer."""
    batch: int = 8
    """Crops a step."""
    lr: float = 4e-3
    """Peak learning rate of AdamW; warms up over 50 steps, then falls to a fiftieth (cosine)."""
    seed: int = 0
    """Decides the initial weights, the codebook and the crops."""
    resolution: int = 256
    """Side of the squared frames in pixels."""
    crop: int = 64
    """Side of the random crops trained on: small ones are quick, and codes are local."""
    whole_frames: float = 0.25
    """Share of the steps, at the end, that see whole frames: normalisation spans the picture."""
    widths: tuple[int, ...] = (8, 16, 48, 96, 144)
    """Channels at each scale; n scales make n - 1 halvings, so five make a code of 16 pixels."""
    groups: int = 2
    """Groups of each group normalisation; divides every width and `code_width`."""
    codes: int = 1024
    """Size of the codebook."""
    code_width: int = 16
    """Dimensions of a code."""
    gap_s: float = 0.5
    """Seconds between the two frames of a pair."""
    max_pairs: int = 2000
    """Pairs held in memory: 2,000 take 0.8 GB at 256 pixels."""
    edge_weight: float = 1.0
    """Weight of the gradient loss."""
    still: float = 2.0
    """Mean difference (of 255) below which a code's square counts as still, when evaluated."""
    eval_every: int = 500
    """Steps between evaluations."""
    eval_pairs: int = 64
    """Held-out pairs evaluated."""
    threads: int = 2
    """CPU threads."""
    device: str = "cpu"
    """A torch device for the decoder."""


def train(config: VQGANConfig) -> None:
    """Train, evaluate and save a VQGAN.

    `out` appears only when training is over; until then its files grow in `<out>.partial`.

    Raises:
        UserError: `out` exists, or `frames` holds nothing to train on.
    """
    partial = _prepare(config)
    import torch

    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    limits = (config.max_pairs, config.eval_pairs)
    pairs = read_pairs(config.frames, config.held_out, limits, config.gap_s, config.resolution)
    print(json.dumps(pairs.counts), flush=True)
    model = _build(config)
    codes_nij = _fit(model, pairs.train.reshape(-1, *pairs.train.shape[2:]), config)
    _initialize_decoder(model)
    model.to(config.device)
    _train_decoder(model, codes_nij, pairs, config, partial / "metrics.jsonl")
    _save(model, config, partial, pairs)


def _train_decoder(
    model: Any, codes_nij: torch.Tensor, pairs: FramePairs, config: VQGANConfig, log: Path
) -> None:
    """Learn to paint frames from their codes; encoder and codebook stay as they are."""
    import torch

    painted_by = torch.nn.ModuleList([model.post_quant_conv, model.decoder]).requires_grad_(True)
    optimizer = torch.optim.AdamW(painted_by.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    rng = np.random.default_rng(config.seed)
    frames_nhwc = pairs.train.reshape(-1, *pairs.train.shape[2:])
    began = time.monotonic()
    with log.open("w") as lines:
        for step in range(config.steps):
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(step, config)
            side, batch = _crop_and_batch(step, config)
            codes_bij, target_bchw = _crops(codes_nij, frames_nhwc, side, batch, config, rng)
            losses = _losses(model, codes_bij, target_bchw, config)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(losses["loss"])
            torch.nn.utils.clip_grad_norm_(painted_by.parameters(), 1.0)
            optimizer.step()
            if (step + 1) % config.eval_every == 0 or step in (0, config.steps - 1):
                facts = {name: round(value.item(), 5) for name, value in losses.items()}
                facts |= evaluate(_tokenizer(model, config), pairs.held_out, config.still)
                facts = {"step": step + 1, **facts, "seconds": round(time.monotonic() - began, 1)}
                print(json.dumps(facts), file=lines, flush=True)
                print(json.dumps(facts), flush=True)


def _build(config: VQGANConfig) -> Any:
    import torch
    from diffusers import VQModel

    scales = len(config.widths)
    model = VQModel(
        down_block_types=("DownEncoderBlock2D",) * scales,
        up_block_types=("UpDecoderBlock2D",) * scales,
        block_out_channels=config.widths,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        sample_size=config.resolution,
        num_vq_embeddings=config.codes,
        norm_num_groups=config.groups,
        vq_embed_dim=config.code_width,
        mid_block_add_attention=False,  # a hand in one corner should not change codes in another
    )
    return model.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def _fit(model: Any, frames_nhwc: npt.NDArray[np.uint8], config: VQGANConfig) -> torch.Tensor:
    """Fit encoder and codebook; returns the codes of all frames, int64 [N, I, J]."""
    import torch

    from handloom.train.vqgan_linear import fit_codebook, fit_encoder

    some = np.linspace(0, len(frames_nhwc) - 1, min(FITTED_ON, len(frames_nhwc))).astype(int)
    fit_encoder(model, _pictures(frames_nhwc[some]))
    model.half().float()  # what is saved is fp16: the codes must be those of the saved weights
    with torch.inference_mode():
        batches = np.array_split(frames_nhwc, math.ceil(len(frames_nhwc) / 16))
        latents = [model.encode(_pictures(b)).latents.permute(0, 2, 3, 1) for b in batches]
    latents_nijd = torch.cat(latents)
    latents_md = latents_nijd.flatten(0, 2)
    drawn = torch.randperm(len(latents_md))[:CLUSTERED]
    codes_kd = fit_codebook(latents_md[drawn], config.codes, config.seed).half().float()
    model.quantize.embedding.weight.copy_(codes_kd)
    nearest = [
        torch.cdist(chunk, codes_kd).argmin(1) for chunk in torch.split(latents_md, CLUSTERED)
    ]
    return torch.cat(nearest).view(latents_nijd.shape[:3])


def _initialize_decoder(model: Any) -> None:
    """Keep the variance on every path; torch's own start shrinks it and learns slowly."""
    import torch

    for half in (model.decoder, model.post_quant_conv):
        for name, module in half.named_modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.normal_(std=module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    module.bias.zero_()
                if name.endswith("conv2"):  # the last of a residual branch
                    module.weight.mul_(0.1)


def _pictures(frames_nhwc: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Frames in the network's range, float32 [N, 3, H, W]."""
    import torch

    low, high = INPUT_RANGE
    pictures = torch.from_numpy(np.ascontiguousarray(frames_nhwc)).permute(0, 3, 1, 2)
    return (pictures.float() / 255 * (high - low) + low).contiguous(
        memory_format=torch.channels_last
    )


def _crops(
    codes_nij: torch.Tensor,
    frames_nhwc: npt.NDArray[np.uint8],
    side: int,
    batch: int,
    config: VQGANConfig,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random squares of codes and the pixels they stand for."""
    import torch

    square = 2 ** (len(config.widths) - 1)
    grid = config.resolution // square
    span = side // square
    codes, pixels = [], []
    for index in rng.integers(len(frames_nhwc), size=batch):
        i, j = rng.integers(grid - span + 1, size=2)
        codes.append(codes_nij[index, i : i + span, j : j + span])
        rows, columns = slice(i * square, i * square + side), slice(j * square, j * square + side)
        pixels.append(frames_nhwc[index, rows, columns])
    return torch.stack(codes).to(config.device), _pictures(np.stack(pixels)).to(config.device)


def _losses(
    model: Any, codes_bij: torch.Tensor, target_bchw: torch.Tensor, config: VQGANConfig
) -> dict[str, torch.Tensor]:
    codes_bdij = model.quantize.embedding(codes_bij).permute(0, 3, 1, 2)
    painted_bchw = model.decoder(model.post_quant_conv(codes_bdij))
    low, high = INPUT_RANGE
    difference_bchw = (painted_bchw - target_bchw) / (high - low)
    l1, mse = difference_bchw.abs().mean(), difference_bchw.square().mean()
    edge = _edge_loss(difference_bchw)
    return {"l1": l1, "mse": mse, "edge": edge, "loss": l1 + mse + config.edge_weight * edge}


def _edge_loss(difference_bchw: torch.Tensor, scales: int = 3) -> torch.Tensor:
    """L1 between the gradients of two pictures, given their difference, at halving scales."""
    import torch

    total = difference_bchw.new_zeros(())
    for _ in range(scales):
        total = total + difference_bchw.diff(dim=2).abs().mean()
        total = total + difference_bchw.diff(dim=3).abs().mean()
        difference_bchw = torch.nn.functional.avg_pool2d(difference_bchw, 2)
    return total / scales


def _crop_and_batch(step: int, config: VQGANConfig) -> tuple[int, int]:
    """Random crops at first, then fewer whole frames: about the same pixels a step."""
    side = min(config.crop, config.resolution)
    if step < config.steps * (1 - config.whole_frames):
        return side, config.batch
    return config.resolution, max(1, config.batch * side**2 // config.resolution**2)


def _learning_rate(step: int, config: VQGANConfig) -> float:
    warm = min(1.0, (step + 1) / 50)
    cosine = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return config.lr * warm * (0.02 + 0.98 * cosine)


def _prepare(config: VQGANConfig) -> Path:
    if config.out.exists():
        raise UserError(f"{config.out} exists already: delete it or choose another --out.")
    if not config.frames.is_dir():
        raise UserError(f"--frames {config.frames} is not a folder of videos or images.")
    uneven = [w for w in (*config.widths, config.code_width) if w % config.groups]
    if uneven:
        raise UserError(f"--groups {config.groups} does not divide the width {uneven[0]}.")
    if config.widths[-1] < 2 * (config.code_width + config.groups):
        raise UserError(
            f"the last of --widths is {config.widths[-1]}; codes of {config.code_width} dimensions "
            f"in {config.groups} groups need {2 * (config.code_width + config.groups)} channels."
        )
    if config.codes > vqgan.MAX_CODES:
        raise UserError(f"--codes {config.codes:,}: uint16 holds {vqgan.MAX_CODES:,} at most.")
    partial = config.out.with_name(config.out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _tokenizer(model: Any, config: VQGANConfig) -> vqgan.VQGAN:
    """Wrap the model in training, so that it is measured by the code that will use it."""
    return vqgan.VQGAN(
        name=_name(config),
        weights_sha256="",  # not saved yet
        codebook_size=config.codes,
        downsample=2 ** (len(config.widths) - 1),
        resolution=config.resolution,
        input_range=INPUT_RANGE,
        network=model,
        device=config.device,
    )


def _name(config: VQGANConfig) -> str:
    return config.name or config.out.name


def _save(model: Any, config: VQGANConfig, partial: Path, pairs: FramePairs) -> None:
    """Write the folder, measure what was written, and give it its name last."""
    import torch

    model.to(memory_format=torch.contiguous_format).half().save_pretrained(partial)
    sidecar = {"name": _name(config), "input_range": INPUT_RANGE, "resolution": config.resolution}
    (partial / vqgan.SIDECAR).write_text(json.dumps(sidecar, indent=2) + "\n")
    tokenizer = vqgan.load(str(partial), device=config.device)
    facts = evaluate(tokenizer, pairs.held_out, config.still)
    facts |= speed(tokenizer, pairs.held_out[0])
    draw_grid(tokenizer, pairs.held_out, partial / "reconstructions.png")
    (partial / "README.md").write_text(card(config, tokenizer, pairs.counts, facts))
    partial.rename(config.out)
    print(json.dumps({"saved": str(config.out), **facts}), flush=True)
