"""The next pictures, predicted code after code.

Shapes: B windows, f frames imagined, V views, R rows, C columns, n codes.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from handloom.train.finetune.inputs import Inputs
from handloom.train.finetune.model import RobotModel
from handloom.train.model.gpt import Cache


@torch.no_grad()
def next_frames(model: RobotModel, inputs: Inputs, frames: int = 1) -> npt.NDArray[np.uint16]:
    """The likeliest next frames of one window: uint16 [f, V, R, C].

    Beyond the first the window slides: each frame is imagined from the newest ones, the imagined
    ones among them. Views that are not visible are imagined as code 0.

    Args:
        model: in evaluation mode.
        inputs: one window; the last frame of its codes is ignored.
        frames: f.
    """
    each, given = model.shape.trunk.codes_per_frame, model.shape.given
    predicted = []
    for _ in range(frames):
        codes_1m = _next_frame(model, inputs)
        predicted.append(codes_1m)
        window = torch.cat([inputs.codes_Bn[:, each:given], codes_1m], dim=1)
        visible = inputs.visible_BFV.roll(-1, 1)
        visible[:, -1] = visible[:, -2]
        inputs = inputs._replace(
            codes_Bn=torch.cat([window, codes_1m], dim=1),
            visible_BFV=visible,
            state_BhS=inputs.state_BhS.roll(-1, 1),
            state_known_Bh=_slid(inputs.state_known_Bh),
            all_visible=bool(visible.all()),
            masked=None,
        )
    trunk = model.shape.trunk
    grid = torch.cat(predicted).view(frames, trunk.views, trunk.rows, trunk.cols)
    return grid.to(torch.int32).cpu().numpy().astype(np.uint16)


def _next_frame(model: RobotModel, inputs: Inputs) -> Tensor:
    """Codes [1, V*R*C] of the frame after those given."""
    trunk, given = model.trunk, model.shape.given
    visible_Bn = inputs.visible_codes()
    cache = Cache(trunk.shape, len(inputs.codes_Bn), inputs.codes_Bn.device)
    logits_BK = trunk.extend(
        inputs.codes_Bn[:, :given],
        cache,
        inputs.text_BLE,
        None if visible_Bn is None else visible_Bn[:, :given],
    )
    each, area = trunk.shape.codes_per_frame, trunk.shape.rows * trunk.shape.cols
    there_V = inputs.visible_BFV[0, -2]  # the views of the newest frame
    codes = []
    for i in range(each):
        there = there_V[i // area]
        code_B1 = logits_BK.argmax(-1, keepdim=True) * there
        codes.append(code_B1)
        if i < each - 1:
            visible_B1 = None if visible_Bn is None else there.view(1, 1)
            logits_BK = trunk.extend(code_B1, cache, visible_Bn=visible_B1)
    return torch.cat(codes, dim=1)


def _slid(state_known_Bh: Tensor) -> Tensor:
    """States of imagined frames are not known."""
    slid = state_known_Bh.roll(-1, 1)
    slid[:, -1] = False
    return slid
