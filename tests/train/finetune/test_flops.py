"""The FLOPs of a window are those that torch counts in a step."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from handloom.train.finetune.config import FlowOptions, HeadOptions, LossOptions
from handloom.train.finetune.flops import flops_per_window
from handloom.train.finetune.inputs import Inputs
from handloom.train.finetune.model import RobotModel, RobotShape
from handloom.train.model.shape import Shape

TRUNK = Shape(4, 192, 4, codebook_size=1024, views=2, frames=3, rows=8, cols=8,
              text_length=24, text_width=128)  # fmt: skip
HEAD = HeadOptions(width=64, layers=2, latent=8, vae_width=64, vae_blocks=2)
FLOW = {"name": "flow", **vars(FlowOptions(width=64, blocks=2))}


@pytest.mark.parametrize("mode", ["full", "frozen", "frozen+cached"])
@pytest.mark.parametrize("other_head", [None, FLOW], ids=["cvae", "flow"])
def test_the_flops_of_a_window_are_what_torch_counts(mode: Any, other_head: Any) -> None:
    shape = RobotShape(TRUNK, ("a", "b"), 2, 10, 10, 7, (6,), HEAD, other_head)
    model = RobotModel(shape)
    model.trunk.requires_grad_(mode == "full")
    inputs = Inputs(
        codes_Bn=torch.randint(1024, (1, 3 * 2 * 64)),
        visible_BFV=torch.ones(1, 3, 2, dtype=torch.bool),
        text_BLE=torch.randn(1, 24, 128),
        state_BhS=torch.randn(1, 2, 10),
        state_known_Bh=torch.ones(1, 2, dtype=torch.bool),
        action_BkA=torch.rand(1, 10, 7),
        action_valid_Bk=torch.ones(1, 10, dtype=torch.bool),
        all_visible=True,
    )
    if mode == "frozen+cached":
        inputs = inputs._replace(features_BMX=model.features(inputs).detach())
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        losses = model.loss(inputs, LossOptions(), video=mode == "full")
        model.total(losses, LossOptions(), 0).backward()
    assert flops_per_window(shape, mode) == pytest.approx(counter.get_total_flops(), rel=0.02)
