"""A tiny run of the VQGAN's trainer, and pictures for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from handloom.train.vqgan.config import VQGANConfig


def table_top(seed: int, size: int = 80) -> np.ndarray:
    """A wooden table below a wall, with a few coloured things on it."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), (190, 196, 204))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, size // 3, size, size), fill=(150, 112, 80))
    for color in ((200, 60, 50), (60, 110, 190), (224, 172, 140)):
        x, y = rng.integers(0, size * 3 // 4, 2)
        draw.ellipse((x, y, x + size // 4, y + size // 5), fill=color)
    return np.array(image)


def write_pictures(folder: Path, count: int = 12, first: int = 0) -> Path:
    folder.mkdir(parents=True)
    for seed in range(first, first + count):
        Image.fromarray(table_top(seed)[:70]).save(folder / f"{seed}.png")
    return folder


def tiny_config(frames: Path, out: Path) -> VQGANConfig:
    return VQGANConfig(
        frames=(str(frames),),
        out=out,
        steps=14,
        batch_size=2,
        resolution=64,
        crop=32,
        widths=(8, 16, 40),
        codes=32,
        lr=3e-3,
        encoder_start=3,
        discriminator_start=5,
        discriminator_ramp=4,
        discriminator_width=8,
        dead_after=6,
        log_every=2,
        val_every=100,
        tensorboard=False,
        save_every=6,
        threads=1,
    )


TIMES = {"seconds", "crops_per_s", "data_wait", "memory_gb"}


def log_of(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        for name in TIMES & row.get("train", {}).keys():
            del row["train"][name]
    return rows
