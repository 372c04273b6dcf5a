"""Validation of stage 2 on held-out windows: actions, the head's own scores, next pictures.

Shapes: M windows, k actions of a chunk, A numbers of an action, V views.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from handloom.train.finetune.config import FinetuneConfig
from handloom.train.finetune.heads.head import ActionScores, HeadScores, score
from handloom.train.finetune.inputs import DeviceWindows
from handloom.train.finetune.model import RobotModel, RobotShape
from handloom.train.finetune.windows.episodes import Integers
from handloom.train.finetune.windows.windows import WindowBatch, Windows
from handloom.train.trainer.distributed import World


class Finetuning(Protocol):
    """The parts of a stage-2 run that validation reads."""

    config: FinetuneConfig
    world: World
    shape: RobotShape
    val: Windows
    trained: RobotModel
    micro_batch: int
    phrases: set[str]
    """Instructions of the training episodes."""

    @property
    def predicts_video(self) -> bool:
        """True where the next pictures are part of the loss."""

    def windows(self, batch: WindowBatch, split: str) -> DeviceWindows:
        """Windows on the device."""

    def autocast(self) -> torch.autocast:
        """Mixed precision, where asked for."""


@dataclass(frozen=True)
class PhraseScores:
    """Scores of the windows whose instruction training had word for word, or had not."""

    windows: int
    prior_mean: ActionScores
    mean_action: ActionScores


@dataclass(frozen=True)
class FinetuneScores:
    """Scores of a model on held-out windows."""

    windows: int
    prior_mean: ActionScores
    """The chunk that a policy executes: no noise, the latent zero."""
    mean_action: ActionScores
    """The mean action of training, whatever the input: a baseline."""
    head: HeadScores
    video: dict[str, float]
    """Cross entropy of the next picture's codes, nats, by view; empty where it was not asked."""
    phrases: dict[str, PhraseScores]
    """Of `known` and of `unseen` instructions, those of the two that there are."""

    def plain(self) -> dict[str, Any]:
        """For metrics.jsonl."""
        return {
            "windows": self.windows,
            "prior_mean": asdict(self.prior_mean),
            "mean_action": asdict(self.mean_action),
            **self.head.numbers,
            "video": self.video,
            "phrases": {name: asdict(found) for name, found in self.phrases.items()},
        }

    def line(self) -> str:
        """In one line."""
        against = f"(mean action {self.mean_action.arm_l1:.3f})"
        words = [f"arm L1 {self.prior_mean.arm_l1:.3f} {against}"]
        if len(self.phrases) > 1:
            each = (f"{name} {found.prior_mean.arm_l1:.3f}" for name, found in self.phrases.items())
            words.append(f"of phrases {', '.join(each)}")
        if self.prior_mean.gripper_accuracy is not None:
            words.append(f"gripper {self.prior_mean.gripper_accuracy:.1%}")
        words += [self.head.line] if self.head.line else []
        words += [f"{view} {nats:.3f} nats" for view, nats in self.video.items()]
        return "   ".join(words)


@torch.no_grad()
def evaluate(job: Finetuning) -> FinetuneScores | None:
    """Score the model on windows spread evenly over the held-out episodes.

    The processes share the windows; rank 0 has the result, the others None.
    """
    numbers = numbers_of(job)
    count = len(numbers)
    mine = numbers[job.world.share(count)]
    job.trained.eval()
    found: list[dict[str, Tensor]] = []
    for start in range(0, len(mine), job.micro_batch):
        batch = job.val.read(mine[start : start + job.micro_batch])
        with job.autocast():
            outputs = _outputs(job, job.windows(batch, "val"))
        outputs["known"] = torch.tensor([caption in job.phrases for caption in batch.caption])
        found += [{n: v[i] for n, v in outputs.items()} for i in range(len(batch.number))]
    job.trained.train()
    rows = job.world.collect(found, count)
    if not rows:
        return None
    return _scores(job, {name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def numbers_of(job: Finetuning) -> Integers:
    """Numbers of the held-out windows that are scored, rising."""
    count = min(len(job.val), job.config.val_windows)
    return np.linspace(0, len(job.val) - 1, count).astype(np.int64)


def _outputs(job: Finetuning, windows: DeviceWindows) -> dict[str, Tensor]:
    model, inputs = job.trained, windows.inputs
    features_BMX = inputs.features_BMX
    if features_BMX is None:
        features_BMX = model.features(inputs)
    context_BQW = model.context(features_BMX, inputs)
    found = {
        "true": inputs.action_BkA,
        "counts": inputs.action_valid_Bk,
        "acted": model.act(context_BQW),
        **model.measure(context_BQW, inputs),
    }
    if job.predicts_video:
        found["video"] = model.video_nats(inputs)
    return {name: value.float().cpu() for name, value in found.items()}


def _scores(job: Finetuning, found: dict[str, Tensor]) -> FinetuneScores:
    true_MkA, valid_Mk, grippers = found.pop("true"), found.pop("counts") > 0, job.shape.grippers
    mean_action = torch.zeros_like(true_MkA)
    known_M = found.pop("known")
    columns = list(grippers)
    if columns:
        mean_action[..., columns] = (true_MkA[valid_Mk][:, columns] > 0.5).float().mean()

    def judged(chunk_MkA: Tensor) -> ActionScores:
        return score(chunk_MkA, true_MkA, valid_Mk, grippers)

    acted_MkA = found.pop("acted")
    acted, video = judged(acted_MkA), {}
    phrases = {}
    for name, rows_M in (("known", known_M), ("unseen", ~known_M)):
        if rows_M.any():
            truth = true_MkA[rows_M], valid_Mk[rows_M], grippers
            both = (score(chunk[rows_M], *truth) for chunk in (acted_MkA, mean_action))
            phrases[name] = PhraseScores(int(rows_M.sum()), *both)
    if "video" in found:
        nats_V = found.pop("video").nanmean(0).tolist()
        video = {v: n for v, n in zip(job.shape.views, nats_V, strict=True) if n == n}  # NaN: none
    head = job.trained.head.scores(found, acted, judged)
    mean = judged(mean_action)
    return FinetuneScores(len(true_MkA), acted, mean, head, video, phrases)


def table(scores: FinetuneScores) -> Iterator[str]:
    """Scores of a finished run as lines to print."""
    yield f"{scores.windows} held-out windows             arm L1 (std)   gripper"
    rows = {"as executed (no noise)": scores.prior_mean, **scores.head.rows}
    rows["mean action of training"] = scores.mean_action
    for name, of_phrase in scores.phrases.items() if len(scores.phrases) > 1 else ():
        rows[f"{name} phrases, {of_phrase.windows} windows"] = of_phrase.prior_mean
        rows[f"  mean action, {name} phrases"] = of_phrase.mean_action
    for name, row in rows.items():
        hand = "" if row.gripper_accuracy is None else f"{row.gripper_accuracy:>10.1%}"
        yield f"{name:<34}{row.arm_l1:>10.3f}{hand}"
    if list(scores.phrases) == ["unseen"]:
        yield "training had none of these instructions word for word"
    for view, nats in scores.video.items():
        yield f"next picture, view {view:<15}{nats:>10.3f} nats a code"
    yield from scores.head.remarks
