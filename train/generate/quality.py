"""Scores of predicted frames against the true ones, as pictures and as videos.

    predicted               what the model generated
    last given repeated     the newest given frame again and again, through the tokenizer
    tokenizer's ceiling     the true codes decoded: what a perfect prediction of codes would get

The truth is the source media where they are at hand. Where they are not it is the decoded true
codes; the ceiling is perfect then by definition, and left out.

Shapes: F predicted frames of one view, H x W pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.tokenize.measure.pixels import Distance, psnr_db, ssim
from handloom.train.generate.fvd import Network, frechet_distance
from handloom.train.pretrain.baselines import datasets_to_print

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class PredictedView:
    """One view of one clip after the frames that were given, uint8 [F, H, W, 3] each."""

    dataset: str
    predicted: Frames
    repeated: Frames
    decoded: Frames
    """The true codes."""
    source: Frames | None
    """The source media, as the tokenizer's encoder read them."""


def scores(
    shown: list[PredictedView], distance: Distance | None = None, network: Network | None = None
) -> dict[str, dict[str, Any]]:
    """Scores by dataset, and of `all`.

    Args:
        shown: views of clips.
        distance: LPIPS; left out without it.
        network: of the Frechet video distance; left out without it, or with a single video.

    Returns:
        By dataset: `truth`, "source media" or "decoded codes"; `videos` and `frames`, how many; and
        for each of the predictors psnr_db, ssim, lpips and fvd, the first three as means over
        frames.
    """
    names = ["all", *sorted({one.dataset for one in shown})]
    return {name: _scores(_of(shown, name), distance, network) for name in names if shown}


def _of(shown: list[PredictedView], dataset: str) -> list[PredictedView]:
    return [one for one in shown if dataset in ("all", one.dataset)]


def _scores(
    shown: list[PredictedView], distance: Distance | None, network: Network | None
) -> dict[str, Any]:
    at_hand = all(one.source is not None for one in shown)
    truth = [one.decoded if one.source is None or not at_hand else one.source for one in shown]
    by_name: dict[str, Callable[[PredictedView], Frames]] = {
        "predicted": lambda one: one.predicted,
        "last given repeated": lambda one: one.repeated,
    }
    if at_hand:
        by_name["tokenizer's ceiling"] = lambda one: one.decoded
    found: dict[str, Any] = {
        "truth": "source media" if at_hand else "decoded codes",
        "videos": len(shown),
        "frames": sum(len(frames) for frames in truth),
    }
    for name, pick in by_name.items():
        found[name] = compare(truth, [pick(one) for one in shown], distance, network)
    return found


def compare(
    truth: list[Frames],
    other: list[Frames],
    distance: Distance | None = None,
    network: Network | None = None,
) -> dict[str, float]:
    """Means over frames of videos with the same lengths, and the distance of the two sets."""
    pairs = [
        pair for videos in zip(truth, other, strict=True) for pair in zip(*videos, strict=True)
    ]
    found = {"psnr_db": _mean(psnr_db, pairs), "ssim": _mean(ssim, pairs)}
    if distance is not None:
        found["lpips"] = _mean(distance, pairs)
    if network is not None and len(truth) > 1:
        sets = [np.stack([network(video) for video in videos]) for videos in (truth, other)]
        found["fvd"] = frechet_distance(*sets)
    return {name: round(value, 4) for name, value in found.items()}


def table(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Scores as lines to print."""
    for dataset in datasets_to_print(found):
        rows = found[dataset]
        size = f"{rows['frames']} frames of {rows['videos']} videos"
        yield f"{dataset}: {size} against {rows['truth']}"
        for name, row in rows.items():
            if isinstance(row, dict):
                words = f"PSNR {row['psnr_db']:6.2f} dB   SSIM {row['ssim']:.3f}"
                words += "".join(
                    f"   {k.upper()} {row[k]:.3f}" for k in ("lpips", "fvd") if k in row
                )
                yield f"  {name:<20}{words}"


def _mean(measure: Distance, pairs: list[tuple[Frames, Frames]]) -> float:
    return float(np.mean([measure(a, b) for a, b in pairs]))
