"""Frechet video distance: how far apart two sets of videos are in the features of a network.

Unterthiner et al., "Towards Accurate Generative Models of Video" (arXiv 1812.01717). The network is
an I3D trained on Kinetics-400 as StyleGAN-V uses it (arXiv 2112.14683): the TorchScript file
`i3d_torchscript.pt`, called with rescale, resize and return_features, 400 numbers a video of 16
frames. It is not part of handloom.

Shapes: M videos, T frames, H x W pixels, D features.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handloom.errors import UserError, first_line

FRAMES = 16
"""Frames that the network sees. A shorter clip is shown slower, in both sets alike, each frame
several times; such distances compare among themselves only, not with published ones."""

Features = NDArray[np.float64]
Network = Callable[[NDArray[np.uint8]], Features]


def frechet_distance(a_MD: Features, b_MD: Features) -> float:
    """Squared distance of the two normal distributions that fit the features.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), A and B the covariances over M as StyleGAN-V
    has them. With A = X'X and B = Y'Y of centred features, the trace of the root is the sum of the
    singular values of X Y': no root of a matrix that fewer videos than features leave singular.

    Args:
        a_MD: float64.
        b_MD: float64; the number of videos may be another.
    """
    means = a_MD.mean(0) - b_MD.mean(0)
    x_MD, y_MD = ((v - v.mean(0)) / len(v) ** 0.5 for v in (a_MD, b_MD))
    root = np.linalg.svd(x_MD @ y_MD.T, compute_uv=False).sum()
    return float(means @ means + (x_MD**2).sum() + (y_MD**2).sum() - 2 * root)


def load(path: Path, device: str = "cpu") -> Network:
    """A function from a video, uint8 [T, H, W, 3], to its features [D].

    Raises:
        UserError: no such file, or not the network.
    """
    try:
        load_module: Any = torch.jit.load  # untyped
        network = load_module(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{path} does not load as a TorchScript module ({first_line(error)}): "
            "--i3d wants i3d_torchscript.pt, as StyleGAN-V uses it."
        ) from error

    @torch.no_grad()
    def features(video_thwc: NDArray[np.uint8]) -> Features:
        x_1cthw = torch.from_numpy(in_time(video_thwc)).to(device).permute(3, 0, 1, 2)[None].float()
        try:
            found = network(x_1cthw, rescale=True, resize=True, return_features=True)
        except RuntimeError as error:
            raise UserError(
                f"{path} does not work as the I3D of StyleGAN-V ({first_line(error)}): "
                "--i3d wants i3d_torchscript.pt, which takes rescale, resize and return_features."
            ) from error
        row: Features = found[0].double().cpu().numpy()
        return row

    return features


def in_time(video_thwc: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first 16 frames, or all of a shorter video, each as often as any other or nearly so."""
    shown = min(len(video_thwc), FRAMES)
    return video_thwc[np.arange(FRAMES) * shown // FRAMES]
