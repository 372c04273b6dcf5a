"""Small shards for stage 1, small runs on them, and what those runs logged."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from handloom.tokenize.shards import Sample, write_manifest, write_shards
from handloom.train.pretrain.config import PretrainConfig

TOKENIZER = {"name": "vqgan-f16-64", "weights_sha256": "ab" * 32, "codebook_size": 64}
Row = dict[str, Any]


def write_clips(
    root: Path,
    clips: tuple[int, int] = (24, 6),
    frames: int = 3,
    tokenizer: dict[str, Any] = TOKENIZER,
    seed: int = 0,
    dataset: str = "test",
    side: int = 6,
) -> Path:
    """Shards whose later frames are their first one, shifted as the caption says, with noise."""
    random, infos = np.random.default_rng(seed), {}
    for split, count in zip(("train", "val"), clips, strict=True):
        samples = []
        for i in range(count):
            step = int(random.integers(0, 2))
            still = random.integers(0, 64, (side, side))
            codes = np.stack([np.roll(still, step * f, axis=1) for f in range(frames)])
            noisy = random.random(codes.shape) < 0.1
            codes[noisy] = random.integers(0, 64, int(noisy.sum()))
            meta = {"caption": ("stay", "move right")[step], "split": split, "dataset": dataset}
            name = f"{dataset}-{split}{i:03d}"
            samples.append(Sample(name, codes[None].astype(np.uint16), meta))
        infos[split] = write_shards(root, split, samples)
    write_manifest(root, infos, {**tokenizer, "model": str(root / "no-decoder-here")})
    return root


def small_run(shards: Path, out: Path, **changes: Any) -> PretrainConfig:
    """A run of 12 steps that takes a few seconds."""
    options: dict[str, Any] = {
        "steps": 12,
        "batch_size": 2,
        "warmup": 4,
        "lr": 2e-3,
        "threads": 1,  # the same in this process, whatever ran before, as in a new one
        "text_length": 8,
        "log_every": 3,
        "val_every": 6,
        "save_every": 6,
        "tensorboard": False,
    }
    return PretrainConfig(shards=(str(shards),), out=out, **{**options, **changes})


def rows(out: Path) -> list[Row]:
    """All lines of a run's log."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def trace(out: Path) -> list[Row]:
    """What a run learned from step to step: its log without times and memory."""
    return [row for row in rows(out) if "train" not in row]


def losses(out: Path) -> list[float]:
    """The loss of every step."""
    return [row["loss"] for row in rows(out) if "loss" in row]
