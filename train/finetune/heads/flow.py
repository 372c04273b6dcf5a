"""Flow matching: a chunk of actions grows out of noise along straight paths.

A network learns the velocity that carries a noisy chunk towards a demonstrated one; at inference a
few Euler steps follow it (Lipman et al., arXiv 2210.02747; for robots pi0, arXiv 2410.24164, and
GR00T N1, arXiv 2503.14734). Time runs from 0, noise, to 1, the chunk.

Shape legend: B windows, k actions of a chunk, A numbers of an action, C context tokens, W width.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handloom.train.finetune.config import FlowOptions, LossOptions
from handloom.train.finetune.heads.head import (
    ActionHead,
    ActionScores,
    Demonstration,
    HeadScores,
    HeadShape,
    Score,
    mean_of_each,
)
from handloom.train.model.blocks import SelfBlock

# pi0 draws times from (1 - t / s) ~ Beta(1.5, 1): noisy chunks more often than nearly clean ones.
LATEST, BETA = 0.999, 1.5
DRAWS = 4  # of each held-out window, in validation


class FlowMatching(ActionHead):
    """The velocity network, its loss and its integration. Grippers flow too, as -1 to 1.

    Args:
        shape: of its inputs and outputs.
        options: sizes and Euler steps.
    """

    key: ClassVar[str] = "flow"
    parts: ClassVar[tuple[str, ...]] = ("arm", "gripper")

    def __init__(self, shape: HeadShape, options: FlowOptions) -> None:
        super().__init__(shape, options)
        width = options.width
        self.euler_steps, self.width = options.euler_steps, width
        self.step = nn.Parameter(torch.randn(shape.actions, width))
        self.action_in = nn.Linear(shape.action_width, width)
        self.context_in = nn.Linear(shape.context_width, width)
        self.time_in = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        heads = max(1, width // 32)
        self.blocks = nn.ModuleList(SelfBlock(width, heads) for _ in range(options.blocks))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, shape.action_width)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """A whole chunk."""
        return self.shape.actions, self.shape.action_width

    def velocity(self, x_BkA: Tensor, time_B: Tensor, context_BCW: Tensor) -> Tensor:
        """Velocity of noisy chunks at times 0 to 1: [B, k, A]."""
        time_B1W = self.time_in(_waves(time_B, self.width))[:, None]
        x_BkW = self.action_in(x_BkA) + self.step + time_B1W
        x_BNW = torch.cat([x_BkW, self.context_in(context_BCW)], dim=1)
        for block in self.blocks:
            x_BNW = block(x_BNW)
        out: Tensor = self.out(self.norm(x_BNW[:, : self.shape.actions]))
        return out

    def losses(
        self, context_BCW: Tensor, true: Demonstration, weights: LossOptions
    ) -> dict[str, Tensor]:
        """Mean squared errors of the velocity, of arm and of gripper columns."""
        target_BkA = self._centred(true.action_BkA)
        noise_BkA = torch.randn_like(target_BkA)
        uniform_B = torch.rand(len(target_BkA), device=target_BkA.device)
        time_B = LATEST * (1 - uniform_B ** (1 / BETA))  # u^(1/a) is distributed as Beta(a, 1)
        x_BkA = noise_BkA + time_B[:, None, None] * (target_BkA - noise_BkA)
        wrong_BkA = self.velocity(x_BkA, time_B, context_BCW) - (target_BkA - noise_BkA)
        columns = {"arm": self.shape.arms, "gripper": list(self.shape.grippers)}
        return {
            name: mean_of_each(wrong_BkA[..., of].square(), true.valid_Bk)
            for name, of in columns.items()
        }

    def weighted(self, losses: dict[str, Tensor], weights: LossOptions, step: int) -> list[Tensor]:
        """Arm and gripper."""
        return [weights.arm * losses["arm"], weights.gripper * losses["gripper"]]

    def act(self, context_BCW: Tensor, noise: Tensor | None = None) -> Tensor:
        """Chunks [B, k, A] after the Euler steps; without noise they start from its mean, zero."""
        x_BkA = noise
        if x_BkA is None:
            x_BkA = context_BCW.new_zeros(len(context_BCW), *self.noise_shape)
        for number in range(self.euler_steps):
            time_B = x_BkA.new_full((len(x_BkA),), number / self.euler_steps)
            x_BkA = x_BkA + self.velocity(x_BkA, time_B, context_BCW) / self.euler_steps
        grippers = list(self.shape.grippers)
        x_BkA[..., grippers] = ((x_BkA[..., grippers] + 1) / 2).clamp(0, 1)
        return x_BkA

    def measure(self, context_BCW: Tensor, true: Demonstration) -> dict[str, Tensor]:
        """Some draws of each window: [B, draws, k, A]."""
        generator = torch.Generator().manual_seed(0)
        count = len(context_BCW)
        noise = torch.randn(DRAWS, count, *self.noise_shape, generator=generator)
        drawn = [self.act(context_BCW, one.to(context_BCW)) for one in noise]
        return {"draws": torch.stack(drawn, dim=1)}

    def scores(self, measured: dict[str, Tensor], acted: ActionScores, score: Score) -> HeadScores:
        """The first draw beside the truth, and how far draws lie apart."""
        draws_MnkA = measured["draws"]
        drawn = score(draws_MnkA[:, 0])
        spread = float(draws_MnkA[..., self.shape.arms].std(1).mean())
        return HeadScores(
            rows={"one draw": drawn},
            numbers={"draw_arm_l1": drawn.arm_l1, "draw_spread": spread},
            line=f"drawn {drawn.arm_l1:.3f}, draws {spread:.3f} apart",
            remarks=(f"draws lie {spread:.3f} standard deviations of the actions apart",),
        )

    def _centred(self, action_BkA: Tensor) -> Tensor:
        """Grippers from -1 to 1, as wide as the noise they grow out of."""
        grippers = list(self.shape.grippers)
        centred = action_BkA.clone()
        centred[..., grippers] = 2 * centred[..., grippers] - 1
        return centred


def _waves(time_B: Tensor, width: int) -> Tensor:
    """Sines and cosines of a time, of periods from 4 down to 0.004: [B, width]."""
    half = width // 2
    rate_h = torch.logspace(0, 3, half, device=time_B.device) * math.pi / 2
    angle_Bh = time_B[:, None] * rate_h
    return F.pad(torch.cat([angle_Bh.sin(), angle_Bh.cos()], dim=-1), (0, width - 2 * half))
