"""Floating point operations of a training step of stage 2, for its MFU; see trainer/flops.py."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from handloom.train.finetune.config import LossOptions, Mode
from handloom.train.finetune.inputs import Inputs
from handloom.train.finetune.model import RobotModel, RobotShape


def flops_per_window(shape: RobotShape, mode: Mode) -> int:
    """FLOPs of one window, forwards and, where something is learned, backwards."""
    return flops_of_trunk(shape, mode) + flops_of_head(shape, mode)


def flops_of_trunk(shape: RobotShape, mode: Mode) -> int:
    """FLOPs of the GPT: as for stage 1, but logits of the last frame alone; a frozen one only runs
    forwards, over the frames given, and not at all where its features are stored."""
    if mode == "frozen+cached":
        return 0
    trunk, text = shape.trunk, shape.trunk.text_length
    d, m = trunk.width, trunk.codes_per_frame
    caption = text * d * d + text * trunk.text_width * d
    if mode == "frozen":
        t = text + shape.given
        return trunk.layers * (24 * t * d * d + 4 * t * t * d) + 2 * caption
    t = text + shape.given + m - 1
    logits = 6 * m * d * trunk.codebook_size + 6 * m * d
    # The text features are frozen: the first text layer has no way further back.
    layers = trunk.layers * (72 * t * d * d + 12 * t * t * d)
    return layers + logits + 6 * caption - 2 * text * trunk.text_width * d


def flops_of_head(shape: RobotShape, mode: Mode) -> int:
    """FLOPs of readout and action head, counted by torch on tensors without content."""
    with torch.device("meta"):
        model, inputs = RobotModel(shape), _one_window(shape)
    model.trunk.requires_grad_(False)
    assert inputs.features_BMX is not None
    inputs.features_BMX.requires_grad_(mode == "full")
    weights = LossOptions()
    with FlopCounterMode(display=False) as counter:
        losses = model.loss(inputs, weights, video=False)
        model.total(losses, weights, 0).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


def _one_window(shape: RobotShape) -> Inputs:
    trunk, (h, views, rows, cols) = shape.trunk, shape.grid
    frames = h + 1
    return Inputs(
        codes_Bn=torch.zeros(1, frames * trunk.codes_per_frame, dtype=torch.long),
        visible_BFV=torch.ones(1, frames, views, dtype=torch.bool),
        text_BLE=torch.zeros(1, trunk.text_length, trunk.text_width),
        state_BhS=torch.zeros(1, h, shape.state_width),
        state_known_Bh=torch.ones(1, h, dtype=torch.bool),
        action_BkA=torch.zeros(1, shape.chunk, shape.action_width),
        action_valid_Bk=torch.ones(1, shape.chunk, dtype=torch.bool),
        features_BMX=torch.zeros(1, h * views * rows * cols, shape.feature_width),
        all_visible=True,
    )
