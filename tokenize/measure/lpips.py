"""LPIPS with VGG16: how different two pictures look to a network, learned from people's answers.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (arXiv
1801.03924), eq. 1, as in the authors' version 0.1; a measure, and a loss with gradients. Two files
are needed, which are not part of handloom:

- `vgg16-397923af.pth`, torchvision's VGG16 (https://download.pytorch.org/models/);
- `vgg.pth`, the five linear layers (lpips/weights/v0.1/ of richzhang/PerceptualSimilarity).

Shapes: B pictures, H x W pixels.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from handloom.errors import UserError
from handloom.tokenize.measure.pixels import Distance

VGG, LINEAR = "vgg16-397923af.pth", "vgg.pth"
# torchvision's numbers of VGG16's convolutions, by block; a block ends where LPIPS compares
BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the authors' ScalingLayer


def load(folder: Path, device: str = "cpu") -> Distance:
    """A function that gives the distance of two pictures, uint8 [H, W, 3]; 0 for the same.

    Raises:
        UserError: as `LPIPS`.
    """
    network = LPIPS(folder).to(device)

    @torch.inference_mode()
    def distance(a_hwc: NDArray[np.uint8], b_hwc: NDArray[np.uint8]) -> float:
        pair = (torch.from_numpy(np.array(picture)).to(device) for picture in (a_hwc, b_hwc))
        a_bchw, b_bchw = (x.permute(2, 0, 1)[None] / 127.5 - 1 for x in pair)
        return float(network(a_bchw, b_bchw))

    return distance


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
                f"{folder}: {error} is missing; expected torchvision's {VGG} and the linear layers "
                f"{LINEAR} of LPIPS 0.1."
            ) from error
        for name, value in (("shift", SHIFT), ("scale", SCALE)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1))

    def forward(self, a_bchw: Tensor, b_bchw: Tensor) -> Tensor:
        """The mean distance of two batches [B, 3, H, W], a scalar."""
        total = a_bchw.new_zeros(())
        pairs = zip(self._features(a_bchw), self._features(b_bchw), strict=True)
        for number, (a, b) in enumerate(pairs):
            total = total + F.conv2d((a - b).square(), self.get_buffer(f"linear{number}")).mean()
        return total

    def _features(self, x: Tensor) -> list[Tensor]:
        """Features after each block, scaled to length 1 at every place: [B, C, H', W'] each."""
        x, features = (x - self.get_buffer("shift")) / self.get_buffer("scale"), []
        for number, block in enumerate(BLOCKS):
            x = F.max_pool2d(x, 2) if number else x
            for layer in block:
                x = F.conv2d(
                    x, self.get_buffer(f"weight{layer}"), self.get_buffer(f"bias{layer}"), padding=1
                )
                x = F.relu(x)
            # the square root is not differentiable at zero, where a black patch may lie
            length = (x.square().sum(1, keepdim=True) + 1e-20).sqrt()
            features.append(x / (length + 1e-10))
        return features


def _tensors(path: Path) -> dict[str, Any]:
    try:
        # weights_only: a stranger's file must not run code
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        raise UserError(
            f"{path} is not there or not readable ({type(error).__name__}): LPIPS needs {VGG} and "
            f"{LINEAR}, torchvision's VGG16 and the linear layers of LPIPS 0.1."
        ) from error
    if not isinstance(tensors, dict):
        raise UserError(f"{path} should hold named tensors, found a {type(tensors).__name__}")
    return tensors
