"""Validation of stage 2 on held-out windows: the next pictures, the actions, the latent.

Shapes: M windows, k actions of a chunk, A numbers of an action, Z latent dimensions, V views.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from handloom.train.finetune.heads.cvae import active_dimensions
from handloom.train.finetune.model import Inputs, RobotModel

if TYPE_CHECKING:
    from handloom.train.finetune.task import Job

ENOUGH_ACTIVE = 4  # latent dimensions; with fewer the VAE is nearly a deterministic head
# Free bits let dimensions vary that say nothing of use: the true chunk has to help the decoder too.
LEAST_HELP = 0.02


@dataclass(frozen=True)
class ActionScores:
    """Chunks beside the true ones; padding and idle steps do not count."""

    arm_l1: float
    """Mean absolute error of normalised arm numbers, standard deviations."""
    gripper_accuracy: float | None
    """Of open against closed, at one half; None where an action has no gripper."""


@dataclass(frozen=True)
class Scores:
    """Of a model on held-out windows."""

    windows: int
    prior_mean: ActionScores
    """Latent zero: what a policy does."""
    posterior: ActionScores
    """Latent from the true chunk: how much the latent can tell."""
    mean_action: ActionScores
    """The mean action of training, whatever is seen: what is to be beaten."""
    kl: float
    """Nats a chunk."""
    active_dimensions: int
    """Of the latent."""
    latent: int
    video: dict[str, float]
    """Cross entropy of the next picture's codes, nats, by view; empty where it was not asked."""

    @property
    def has_collapsed(self) -> bool:
        """Whether the latent tells next to nothing."""
        few = self.active_dimensions < min(ENOUGH_ACTIVE, self.latent)
        helped = self.posterior.arm_l1 <= (1 - LEAST_HELP) * self.prior_mean.arm_l1
        return self.latent > 0 and (few or not helped)

    def line(self) -> str:
        """In one line."""
        words = [f"arm L1 {self.prior_mean.arm_l1:.3f} (mean action {self.mean_action.arm_l1:.3f}"]
        words[0] += f", posterior {self.posterior.arm_l1:.3f})" if self.latent else ")"
        if self.prior_mean.gripper_accuracy is not None:
            words.append(f"gripper {self.prior_mean.gripper_accuracy:.1%}")
        if self.latent:
            words.append(f"KL {self.kl:.2f}, {self.active_dimensions} of {self.latent} active")
        words += [f"{view} {nats:.3f} nats" for view, nats in self.video.items()]
        return "   ".join(words)


@torch.no_grad()
def evaluate(job: Job) -> Scores:
    """Score the model on windows spread evenly over the held-out episodes."""
    count = min(len(job.val), job.config.val_windows)
    numbers = np.linspace(0, len(job.val) - 1, count).astype(np.int64)
    job.trained.eval()
    parts: list[dict[str, Tensor]] = []
    for start in range(0, count, job.micro_batch):
        batch = job.val.read(numbers[start : start + job.micro_batch])
        with job.autocast():
            parts.append(_outputs(job.trained, job.inputs(batch, "val"), job.predicts_video))
    job.trained.train()
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return _scores(job, whole)


def _outputs(model: RobotModel, inputs: Inputs, video: bool) -> dict[str, Tensor]:
    # Free bits do not change what is read here.
    losses, posterior = model(inputs, 0.0, video)
    features_BMX = inputs.features_BMX
    if features_BMX is None:
        features_BMX = model.features(inputs)
    seen_BCW = model.look(features_BMX, inputs)
    prior = model.act(seen_BCW)
    found = {
        "true": inputs.action_BkA,
        "counts": inputs.action_seen_Bk,
        "prior": prior,
        "posterior": prior,
        "video": losses.video_BV,
        "kl": prior.new_zeros(len(prior)),
        "mean": prior.new_zeros(len(prior), 0),
    }
    if posterior is not None:
        found |= {
            "posterior": model.act(seen_BCW, posterior.mean_BZ),
            "kl": posterior.kl().sum(-1),
            "mean": posterior.mean_BZ,
        }
    return {name: value.float().cpu() for name, value in found.items()}


def _scores(job: Job, found: dict[str, Tensor]) -> Scores:
    shape = job.shape
    true_MkA, counts_Mk = found["true"], found["counts"] > 0
    mean_action = torch.zeros_like(true_MkA)
    grippers = list(shape.grippers)
    if grippers:
        mean_action[..., grippers] = (true_MkA[counts_Mk][:, grippers] > 0.5).float().mean()
    video = {}
    if job.predicts_video:
        nats_V = found["video"].nanmean(0).tolist()
        video = {v: n for v, n in zip(shape.views, nats_V, strict=True) if n == n}  # NaN: unseen
    return Scores(
        windows=len(true_MkA),
        prior_mean=score(found["prior"], true_MkA, counts_Mk, shape.grippers),
        posterior=score(found["posterior"], true_MkA, counts_Mk, shape.grippers),
        mean_action=score(mean_action, true_MkA, counts_Mk, shape.grippers),
        kl=float(found["kl"].mean()),
        active_dimensions=active_dimensions(found["mean"]),
        latent=shape.head.latent,
        video=video,
    )


def score(
    found_MkA: Tensor, true_MkA: Tensor, counts_Mk: Tensor, grippers: tuple[int, ...]
) -> ActionScores:
    """Compare chunks.

    Args:
        found_MkA: normalised; grippers as probabilities of being open.
        true_MkA: normalised; grippers 0 to 1.
        counts_Mk: bool, the actions that count.
        grippers: columns.
    """
    arms = [i for i in range(true_MkA.shape[-1]) if i not in grippers]
    found, true = found_MkA[counts_Mk], true_MkA[counts_Mk]
    hands = list(grippers)
    right = (found[:, hands] > 0.5) == (true[:, hands] > 0.5)
    return ActionScores(
        arm_l1=float((found[:, arms] - true[:, arms]).abs().mean()),
        gripper_accuracy=float(right.float().mean()) if hands else None,
    )


def table(scores: Scores) -> Iterator[str]:
    """Lines that say the scores of a finished run."""
    yield f"{scores.windows} held-out windows             arm L1 (std)   gripper"
    rows = {"prior mean (latent zero)": scores.prior_mean}
    if scores.latent:
        rows["posterior"] = scores.posterior
    rows["mean action of training"] = scores.mean_action
    for name, row in rows.items():
        hand = "" if row.gripper_accuracy is None else f"{row.gripper_accuracy:>10.1%}"
        yield f"{name:<34}{row.arm_l1:>10.3f}{hand}"
    for view, nats in scores.video.items():
        yield f"next picture, view {view:<15}{nats:>10.3f} nats a code"
    if scores.latent:
        yield (
            f"latent: {scores.active_dimensions} of {scores.latent} dimensions active, "
            f"{scores.kl:.2f} nats a chunk"
        )
    if scores.has_collapsed:
        yield (
            f"the posterior has collapsed: fewer than {ENOUGH_ACTIVE} dimensions tell chunks "
            f"apart, or knowing the chunk makes it less than {LEAST_HELP:.0%} better, so drawing "
            "from the prior changes little. Where demonstrations differ, train longer, lower "
            "--loss.kl or raise --loss.kl-warmup; where they do not, --head.latent 0 is as good"
        )
