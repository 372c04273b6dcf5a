"""The trunk of a stage-2 model as the GPT of stage 1 that it was made of."""

from dataclasses import replace

import torch

from handloom.train.finetune.model import RobotModel
from handloom.train.finetune.stage1 import VIEWS
from handloom.train.model.gpt import GPT


@torch.no_grad()
def as_stage1(model: RobotModel, views: int) -> GPT:
    """The GPT with its first so many views."""
    gpt = GPT(replace(model.shape.trunk, views=views))
    weights = model.trunk.state_dict()
    gpt.load_state_dict({**weights, VIEWS: weights[VIEWS][:views]})
    return gpt.to(next(model.parameters()).device).eval()
