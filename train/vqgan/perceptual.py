"""LPIPS as a loss: with gradients, and in batches.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
(arXiv 1801.03924), with VGG16; `tokenize/measure/lpips.py` says which two files are needed, and
measures finished pictures with them.

Shapes: B pictures, H x W pixels.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handloom.errors import UserError
from handloom.tokenize.measure.lpips import (
    BLOCKS,
    LINEAR,
    SCALE,
    SHIFT,
    VGG,
)


class LPIPS(nn.Module):
    """The distance of pictures in [-1, 1], a mean over the batch; nothing in it learns.

    Args:
        folder: holds both files.

    Raises:
        UserError: a file is missing, or does not hold the tensors of VGG16 or of LPIPS.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        vgg, linear = (_tensors(folder / name) for name in (VGG, LINEAR))
        try:
            for number in (number for block in BLOCKS for number in block):
                self.register_buffer(f"weight{number}", vgg[f"features.{number}.weight"].float())
                self.register_buffer(f"bias{number}", vgg[f"features.{number}.bias"].float())
            for number in range(len(BLOCKS)):
                self.register_buffer(f"linear{number}", linear[f"lin{number}.model.1.weight"])
        except (KeyError, AttributeError) as error:
            raise UserError(
                f"--perceptual {folder}: {error} is missing; expected torchvision's {VGG} and the "
                f"linear layers {LINEAR} of LPIPS 0.1."
            ) from error
        for name, value in (("shift", SHIFT), ("scale", SCALE)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1))

    def forward(self, a_bchw: Tensor, b_bchw: Tensor) -> Tensor:
        """The mean distance of two batches [B, 3, H, W], a scalar."""
        total = a_bchw.new_zeros(())
        pairs = zip(self._features(a_bchw), self._features(b_bchw), strict=True)
        for number, (a, b) in enumerate(pairs):
            total = total + F.conv2d((a - b).square(), self._get(f"linear{number}")).mean()
        return total

    def _features(self, x: Tensor) -> list[Tensor]:
        x, found = (x - self._get("shift")) / self._get("scale"), []
        for number, block in enumerate(BLOCKS):
            x = F.max_pool2d(x, 2) if number else x
            for layer in block:
                x = F.conv2d(x, self._get(f"weight{layer}"), self._get(f"bias{layer}"), padding=1)
                x = F.relu(x)
            # the square root is not differentiable at zero, where a black patch may lie
            length = (x.square().sum(1, keepdim=True) + 1e-20).sqrt()
            found.append(x / (length + 1e-10))
        return found

    def _get(self, name: str) -> Tensor:
        return self.get_buffer(name)


def _tensors(path: Path) -> dict[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        raise UserError(
            f"--perceptual: {path} is not there or not readable ({type(error).__name__}); LPIPS "
            f"needs {VGG} and {LINEAR}, as `tokenize/measure/lpips.py` describes."
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"--perceptual: {path} holds a {type(found).__name__}, not named tensors.")
    return found
