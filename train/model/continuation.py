"""Clips continued by a model: codes in, codes out, and frames to compare.

Shapes: V views, F frames in all, f frames given, R rows, C columns, H x W pixels, L and E as in
`gpt.py`.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handloom.train.generate.config import Sampling
from handloom.train.generate.quality import Frames, PredictedView
from handloom.train.model.gpt import GPT
from handloom.train.model.sampling import LIKELIEST, continue_frames
from handloom.train.model.shape import Shape
from handloom.train.pretrain.data import codes_of

Codes = NDArray[np.uint16]


def continue_clip(
    model: GPT, given_VfRC: Codes, text_1LE: Tensor, frames: int, how: Sampling = LIKELIEST
) -> Codes:
    """Continue one clip: uint16 [V, F, R, C], beginning with the frames given."""
    given_1n = codes_of(given_VfRC[None], model.code.weight.device)
    codes_1n = continue_frames(model, given_1n, text_1LE, frames, how)
    codes_VFRC: Codes = from_sequence(codes_1n, model.shape)[0]
    return codes_VFRC


def from_sequence(codes_Bn: Tensor, shape: Shape) -> Codes:
    """Codes in the order of the model as those of clips: uint16 [B, V, F, R, C]."""
    grid = codes_Bn.view(len(codes_Bn), -1, shape.views, shape.rows, shape.cols)
    return grid.transpose(1, 2).to(torch.int32).cpu().numpy().astype(np.uint16)


def predicted_views(
    dataset: str, given: int, predicted: Frames, true: Frames, source_FHW3: Frames | None
) -> list[PredictedView]:
    """Predicted frames of every view beside the true ones, up to the end of the shorter clip."""
    span = slice(given, min(predicted.shape[1], true.shape[1]))
    return [
        PredictedView(
            dataset,
            view[span],
            np.repeat(true[v, given - 1 : given], span.stop - given, axis=0),
            true[v, span],
            None if source_FHW3 is None else source_FHW3[span],
        )
        for v, view in enumerate(predicted)
        if span.stop > given
    ]
