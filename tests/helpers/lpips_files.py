"""Weights of LPIPS in the two files of their publishers, with random content."""

from pathlib import Path

import torch

from handloom.tokenize.measure import lpips as measure_lpips

WIDTHS = (64, 128, 256, 512, 512)  # of VGG-16's blocks


def write_lpips(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    vgg, linear, inside = {}, {}, 3
    for number, (block, width) in enumerate(zip(measure_lpips.BLOCKS, WIDTHS, strict=True)):
        for layer in block:
            weight = torch.randn((width, inside, 3, 3), generator=generator)
            vgg[f"features.{layer}.weight"] = weight / (inside * 4.5) ** 0.5
            vgg[f"features.{layer}.bias"] = torch.randn(width, generator=generator) / 10
            inside = width
        shares = torch.rand((1, width, 1, 1), generator=generator)
        linear[f"lin{number}.model.1.weight"] = shares
    torch.save(vgg, folder / measure_lpips.VGG)
    # As published: in the form that torch wrote until 1.6.
    torch.save(linear, folder / measure_lpips.LINEAR, _use_new_zipfile_serialization=False)
