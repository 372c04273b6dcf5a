"""LPIPS with VGG16: how different two pictures look to a network, learned from people's answers.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018),
eq. 1, as in the authors' version 0.1. Two files are needed, which are not part of handloom:

- `vgg16-397923af.pth`, torchvision's VGG16 (https://download.pytorch.org/models/);
- `vgg.pth`, the five linear layers (lpips/weights/v0.1/ of richzhang/PerceptualSimilarity).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from handloom.errors import UserError

VGG, LINEAR = "vgg16-397923af.pth", "vgg.pth"
# torchvision's numbers of VGG16's convolutions, by block; a block ends where LPIPS compares
BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the authors' ScalingLayer


def load(
    folder: Path, device: str = "cpu"
) -> Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]:
    """A function that gives the distance of two pictures, uint8 [H, W, 3]; 0 for the same.

    Raises:
        UserError: a file is missing or is not what it should be.
    """
    vgg, linear = (_tensors(folder / name) for name in (VGG, LINEAR))
    try:
        steps = [
            [(vgg[f"features.{i}.weight"], vgg[f"features.{i}.bias"]) for i in block]
            for block in BLOCKS
        ]
        weights = [linear[f"lin{i}.model.1.weight"] for i in range(len(BLOCKS))]
    except KeyError as error:
        raise UserError(f"{folder}: {error} is missing; expected {VGG} and {LINEAR}") from error

    def distance(a_hwc: NDArray[np.uint8], b_hwc: NDArray[np.uint8]) -> float:
        with torch.inference_mode():
            features_a, features_b = (_features(x, steps, device) for x in (a_hwc, b_hwc))
            parts = [
                F.conv2d((a - b).square(), weight.to(device)).mean()
                for a, b, weight in zip(features_a, features_b, weights, strict=True)
            ]
            return float(sum(parts))

    return distance


def _features(
    picture_hwc: NDArray[np.uint8], steps: list[list[tuple[Tensor, Tensor]]], device: str
) -> list[Tensor]:
    """After each block, scaled to length 1 at every place: [1, C, H', W']."""
    x = torch.from_numpy(np.array(picture_hwc)).to(device).permute(2, 0, 1)[None] / 127.5 - 1
    shift, scale = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (SHIFT, SCALE))
    x, found = (x - shift) / scale, []
    for number, block in enumerate(steps):
        x = F.max_pool2d(x, 2) if number else x
        for weight, bias in block:
            x = F.relu(F.conv2d(x, weight.to(device), bias.to(device), padding=1))
        found.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
    return found


def _tensors(path: Path) -> dict[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what the pickle makes it raise
        raise UserError(f"{path} is not readable: LPIPS needs {VGG} and {LINEAR}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} should hold named tensors, found a {type(found).__name__}")
    return found
