"""The interface of an action head: context tokens in, a chunk of actions out.

`cvae.py` is GR-2's, `flow.py` another; `catalog.py` names them. A new one is a file like these, its
options in `finetune/config.py`, and a line in the catalogue.

Shape legend: B windows, C context tokens of width W, k actions of a chunk, A numbers of an action.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handloom.train.finetune.config import LossOptions


@dataclass(frozen=True)
class HeadShape:
    """Shapes that a head is given."""

    actions: int
    """k"""
    action_width: int
    """A"""
    state_width: int
    """Numbers of the encoded current state."""
    context_width: int
    """W"""
    grippers: tuple[int, ...]
    """Columns of an action that are grippers, 0 closed to 1 open."""

    @property
    def arms(self) -> list[int]:
        """All other columns."""
        return [i for i in range(self.action_width) if i not in self.grippers]


class Demonstration(NamedTuple):
    """The true chunks of some windows."""

    action_BkA: Tensor
    """Normalised."""
    valid_Bk: Tensor
    """bool: False behind the end of an episode and where the arm is idle."""
    state_BS: Tensor
    """The current state, encoded."""


@dataclass(frozen=True)
class ActionScores:
    """Chunks beside the true ones; padding and idle steps do not count."""

    arm_l1: float
    """Mean absolute error of normalised arm numbers, standard deviations."""
    gripper_accuracy: float | None
    """Share of grippers right, open or closed at one half; None where an action has none."""


Score = Callable[[Tensor], ActionScores]


@dataclass(frozen=True)
class HeadScores:
    """A head's own validation scores, beside those of the chunks that a policy executes."""

    rows: dict[str, ActionScores] = field(default_factory=dict)
    """Further chunks beside the truth, by the name under which a table shows them."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """Plain JSON for metrics.jsonl."""
    line: str = ""
    """Summary in a few words."""
    remarks: tuple[str, ...] = ()
    """Sentences for the closing table."""


class ActionHead(nn.Module):
    """Base of the action heads.

    Args:
        shape: of its inputs and outputs.
        options: of the head, as `config.py` has them.
    """

    key: ClassVar[str]
    """Name of its parameters in the model's state dict."""
    parts: ClassVar[tuple[str, ...]]
    """The parts of its loss that a log shows."""

    def __init__(self, shape: HeadShape, options: Any) -> None:
        super().__init__()
        self.shape = shape

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the normal noise that a draw of one window takes; () for none."""
        return ()

    def losses(
        self, context_BCW: Tensor, true: Demonstration, weights: LossOptions
    ) -> dict[str, Tensor]:
        """The parts of the loss, scalars; each window weighs the same."""
        raise TypeError(f"{type(self).__name__} defines no losses")

    def weighted(self, losses: dict[str, Tensor], weights: LossOptions, step: int) -> list[Tensor]:
        """The weighted parts, whose sum is minimised, after so many steps."""
        raise TypeError(f"{type(self).__name__} defines no weighted")

    def act(self, context_BCW: Tensor, noise: Tensor | None = None) -> Tensor:
        """Chunks [B, k, A] of normalised actions; grippers 0 closed to 1 open.

        Args:
            context_BCW: context tokens of the readout.
            noise: [B, *noise_shape]; None for the one chunk that a policy executes by default.
        """
        raise TypeError(f"{type(self).__name__} defines no act")

    def measure(self, context_BCW: Tensor, true: Demonstration) -> dict[str, Tensor]:
        """Measurements of some windows for `scores`, each [B, …]."""
        return {}

    def scores(self, measured: dict[str, Tensor], acted: ActionScores, score: Score) -> HeadScores:
        """Judge what was measured on all held-out windows.

        Args:
            measured: on the CPU, [M, …] each.
            acted: of the chunks that a policy executes.
            score: chunks [M, k, A] beside the truth.
        """
        return HeadScores()


def mean_of_each(values_BnM: Tensor, counts_Bn: Tensor) -> Tensor:
    """The mean of each window over what counts in it, then of all windows.

    So windows weigh the same however they are split into parts; what counts nowhere is 0.
    """
    if not values_BnM.shape[-1]:
        return values_BnM.new_zeros(())
    sums_B = (values_BnM.mean(-1) * counts_Bn).sum(-1)
    return (sums_B / counts_Bn.sum(-1).clamp(min=1)).mean()


def action_errors(out_BkA: Tensor, true_BkA: Tensor, shape: HeadShape) -> tuple[Tensor, Tensor]:
    """Smooth L1 of arm numbers [B, k, arm] and cross entropy of grippers [B, k, grippers].

    Args:
        out_BkA: decoded; logits where the grippers are.
        true_BkA: normalised.
        shape: says which columns are which.
    """
    grippers = list(shape.grippers)
    arm = F.smooth_l1_loss(out_BkA[..., shape.arms], true_BkA[..., shape.arms], reduction="none")
    gripper = F.binary_cross_entropy_with_logits(
        out_BkA[..., grippers], true_BkA[..., grippers], reduction="none"
    )
    return arm, gripper


@torch.no_grad()
def score(
    chunk_MkA: Tensor, true_MkA: Tensor, valid_Mk: Tensor, grippers: tuple[int, ...]
) -> ActionScores:
    """Compare chunks.

    Args:
        chunk_MkA: normalised; grippers as probabilities of being open.
        true_MkA: normalised; grippers 0 to 1.
        valid_Mk: bool, the actions that count.
        grippers: columns.
    """
    arms = [i for i in range(true_MkA.shape[-1]) if i not in grippers]
    chunk, true = chunk_MkA[valid_Mk], true_MkA[valid_Mk]
    hands = list(grippers)
    right = (chunk[:, hands] > 0.5) == (true[:, hands] > 0.5)
    return ActionScores(
        arm_l1=float((chunk[:, arms] - true[:, arms]).abs().mean()),
        gripper_accuracy=float(right.float().mean()) if hands else None,
    )
