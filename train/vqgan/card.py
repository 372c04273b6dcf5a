"""The result of a VQGAN's training: the model's folder and its card."""

import dataclasses
import json
import platform
import shutil
from pathlib import Path
from typing import Any

from handloom.files import sync_tree
from handloom.tokenize import vqgan
from handloom.tokenize.frames import RESIZE_RULE
from handloom.train.vqgan.config import VQGANConfig
from handloom.train.vqgan.evaluate import draw_grid, evaluate_sources, speed
from handloom.train.vqgan.frames import Frames, Pool, folder_name
from handloom.train.vqgan.model import INPUT_RANGE

GRID = "reconstructions.png"


def save_model(
    model: Any, config: VQGANConfig, frames: Frames, held_out: Pool, seconds: float
) -> None:
    """Write the model, measure what was written, write its card and move it into place."""
    import torch

    out, partial = config.out, config.out / "model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.to(memory_format=torch.contiguous_format).half().save_pretrained(partial)
    sidecar = {"name": config.title, "input_range": INPUT_RANGE, "resolution": config.resolution}
    (partial / vqgan.SIDECAR).write_text(json.dumps(sidecar, indent=2) + "\n")
    tokenizer = vqgan.load(str(partial), device=config.device, dtype="float32")
    facts = evaluate_sources(tokenizer, held_out, config.still)
    facts |= speed(tokenizer, held_out.pairs[0][0])
    draw_grid(tokenizer, held_out, partial / GRID)
    (partial / "README.md").write_text(card(config, tokenizer, frames, held_out, facts, seconds))
    sync_tree(partial)
    for path in sorted(partial.iterdir(), key=lambda path: path.name == vqgan.CONFIG):
        path.replace(out / path.name)
    partial.rmdir()
    print(json.dumps({"saved": str(out), **facts}), flush=True)


def card(
    config: VQGANConfig,
    tokenizer: vqgan.VQGAN,
    frames: Frames,
    held_out: Pool,
    facts: dict[str, Any],
    seconds: float,
) -> str:
    """Write the README.md of a trained tokenizer from what was measured."""
    side, grid = tokenizer.resolution, tokenizer.resolution // tokenizer.downsample
    low, high = tokenizer.input_range
    pairs = sum(len(pairs) for pairs in held_out.pairs)
    rows = {
        "trained on": ", ".join(f"{s.name} (weight {s.weight:g})" for s in frames.sources)
        + f": up to {config.max_pairs:,} pairs of frames, {config.gap_s:g} s apart",
        "held out": f"{pairs:,} pairs of other videos and episodes",
        "steps, seed": f"{config.steps:,}, {config.seed}; {seconds / 60:.0f} minutes on "
        f"{config.threads} threads",
        "encoder": _encoder(config),
        "discriminator": _discriminator(config),
        "held-out PSNR": f"{facts['psnr_db']} dB "
        f"({facts['mean_color_psnr_db']} dB for the mean colour of each frame)",
        "codes in use (held out)": f"{facts['codes_used']:,.0f} of {tokenizer.codebook_size:,}, "
        f"perplexity {facts['perplexity']}",
        f"codes that change in {config.gap_s:g} s": f"{facts['flips_still']:.1%} where nothing "
        f"moves (mean difference below {config.still:g} of 255), {facts['flips_all']:.1%} overall",
        "encode, decode": f"{facts['encode_ms']}, {facts['decode_ms']} ms a frame, "
        f"one thread, {machine()}",
        "weights": _weights(tokenizer),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""# {tokenizer.name}

An image tokenizer: {side} x {side} pixels become {grid} x {grid} codes out of
{tokenizer.codebook_size:,}. A `diffusers.VQModel` with inputs in [{low:g}, {high:g}]
(see `{vqgan.SIDECAR}`); frames are prepared by `{RESIZE_RULE}`.

| | |
|---|---|
{table}

{_by_source(facts["sources"])}

```
handloom train vqgan {_flags(config)}
```

`metrics.jsonl` is the training curve; `{GRID}` shows held-out frames above what their codes give
back. PSNR is of the error over all held-out frames, which are encoded, decoded and rounded as in
use. {_perceptual(config)} It knows what it was trained on and nothing else: expect it to fail on
other footage.
"""


def _by_source(sources: dict[str, Any]) -> str:
    """A table of what was measured on each source."""
    lines = ["| held out | PSNR | codes in use | change where nothing moves |", "|---|---|---|---|"]
    for name, facts in sources.items():
        still = f"{facts['flips_still']:.1%}"
        lines.append(f"| {name} | {facts['psnr_db']} dB | {facts['codes_used']:,} | {still} |")
    return "\n".join(lines)


def _encoder(config: VQGANConfig) -> str:
    if config.encoder_start >= config.steps:
        return "principal components, and a codebook from k-means; only the decoder learned"
    return (
        "principal components, and a codebook from k-means; both learned with the decoder from "
        f"step {config.encoder_start:,}"
    )


def _discriminator(config: VQGANConfig) -> str:
    if config.discriminator_start >= config.steps:
        return "none: texture finer than a code is smooth"
    kind = "adaptive" if config.adaptive else "fixed"
    return (
        f"from step {config.discriminator_start:,}, {kind} weight {config.discriminator_weight:g}"
    )


def _perceptual(config: VQGANConfig) -> str:
    if config.perceptual is not None:
        return "The perceptual loss was LPIPS."
    return "There was no pretrained perceptual loss: differences of image gradients took its place."


def _weights(tokenizer: vqgan.VQGAN) -> str:
    count = sum(parameter.numel() for parameter in tokenizer.network.parameters())
    return f"{count:,} ({count * 2 / 1e6:.1f} MB: fp16 on disk, run in fp32)"


def _flags(config: VQGANConfig) -> str:
    """The command line of a run, without where things lay on this machine."""
    flags = []
    for option in dataclasses.fields(config):
        value = getattr(config, option.name)
        if value == option.default or option.name in ("name", "device", "threads", "resume"):
            continue
        if option.name in ("frames", "held_out"):
            value = tuple(folder_name(text) for text in value)
        if isinstance(value, Path):
            value = value.name
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        flag = option.name.replace("_", "-")
        flags.append(f"--no-{flag}" if value is False else f"--{flag} {shown}")
    return " ".join(flags)


def machine() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
