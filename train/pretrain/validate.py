"""Validation: the model on held-out clips by dataset, each code predicted from the true ones.

Shapes: M clips, V views, F frames, R rows, C columns, N = F*V*R*C codes a clip, K codebook size.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handloom.train.model.shape import Shape
from handloom.train.pretrain.baselines import Dynamics, Score, Swapped, Validation
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.pretrain.data import ClipInputs, Clips
from handloom.train.trainer.distributed import World


class Pretraining(Protocol):
    """The parts of a stage-1 run that validation and results read."""

    config: PretrainConfig
    world: World
    shape: Shape
    train: Clips
    val: Clips
    text: Any
    micro_batch: int
    trained: nn.Module
    """The model, under FSDP this process's part: its forward pass is one of all processes."""
    model: Any
    """The model, whole in rank 0."""

    def inputs(self, samples: list[dict[str, Any]]) -> ClipInputs:
        """Codes and text features of some clips."""

    def identity(self) -> dict[str, Any]:
        """Everything that decides the loss trace."""

    def autocast(self) -> torch.autocast:
        """Mixed precision, where asked for."""


class ClipScores(NamedTuple):
    """Scores of one held-out clip, code by code."""

    loss_N: Tensor
    """Cross entropy, nats."""
    hit_N: Tensor
    """1 where the likeliest code is the true one."""
    changed_m: Tensor
    """bool, of frames 1 and later: the code differs from the one a frame earlier."""
    swapped_m: Tensor
    """Cross entropy of frames 1 and later under the caption of another clip of the dataset; under
    its own where all clips have the same."""
    is_swapped: Tensor
    """bool: whether there was another caption."""


@torch.no_grad()
def evaluate(job: Pretraining) -> dict[str, Validation]:
    """Score the model on held-out clips, each code predicted from the true ones before it.

    The processes share the clips.

    Returns:
        By dataset, as clips name it, and of `all`; empty but in rank 0.
    """
    count = min(len(job.val), job.config.val_clips)
    found: list[ClipScores] = []
    numbers = list(job.world.share(count))
    for start in range(0, len(numbers), job.micro_batch):
        found += _score(job, numbers[start : start + job.micro_batch], count)
    rows = job.world.collect(found, count)
    if not rows:
        return {}
    scores = ClipScores(*(torch.stack(column) for column in zip(*rows, strict=True)))
    return {
        name: _validation(ClipScores(*(column[rows] for column in scores)))
        for name, rows in by_dataset([job.val[i] for i in range(count)]).items()
    }


def _score(job: Pretraining, numbers: list[int], count: int) -> Iterator[ClipScores]:
    samples, each = [job.val[i] for i in numbers], job.shape.codes_per_frame
    captions = [other_caption(job.val, i, count) for i in numbers]
    codes_BN, text_BLE = job.inputs(samples)
    swapped = [
        sample if words is None else {**sample, "caption": words}
        for sample, words in zip(samples, captions, strict=True)
    ]
    loss_BN, hit_BN = _loss_and_hits(job, codes_BN, text_BLE)
    other_BN, _ = _loss_and_hits(job, codes_BN, job.inputs(swapped).text_BLE)
    changed_Bm = (codes_BN[:, each:] != codes_BN[:, :-each]).cpu()
    is_swapped_B = torch.tensor([words is not None for words in captions])
    return map(ClipScores, loss_BN, hit_BN, changed_Bm, other_BN[:, each:], is_swapped_B)


def _loss_and_hits(job: Pretraining, codes_BN: Tensor, text_BLE: Tensor) -> tuple[Tensor, Tensor]:
    with job.autocast():
        logits_BNK = job.trained(codes_BN, text_BLE).float()
    loss_BN = F.cross_entropy(logits_BNK.mT, codes_BN, reduction="none").cpu()
    return loss_BN, (logits_BNK.argmax(-1) == codes_BN).float().cpu()


def other_caption(clips: Clips, number: int, count: int) -> str | None:
    """A caption of another of the first `count` clips of the same dataset, unlike the clip's own.

    None where all of that dataset have the same one.
    """
    own = clips[number]
    for step in range(1, count):
        other = clips[(number + step) % count]
        words: str = other["caption"]
        if other.get("dataset") == own.get("dataset") and words != own["caption"]:
            return words
    return None


def _validation(scores: ClipScores) -> Validation:
    later = slice(scores.loss_N.shape[1] - scores.changed_m.shape[1], None)
    first = slice(later.start)
    return Validation(
        clips=len(scores.loss_N),
        loss=float(scores.loss_N.mean()),
        first=_mean(scores.loss_N[:, first], scores.hit_N[:, first]),
        later=_mean(scores.loss_N[:, later], scores.hit_N[:, later]),
        dynamics=_dynamics(scores, scores.loss_N[:, later], scores.hit_N[:, later]),
    )


def _mean(loss: Tensor, hit: Tensor) -> Score:
    return Score(float(loss.mean()), float(hit.mean()))


def _dynamics(scores: ClipScores, loss_Mm: Tensor, hit_Mm: Tensor) -> Dynamics:
    changed_Mm, swapped_M = scores.changed_m, scores.is_swapped
    rise_M = (scores.swapped_m - loss_Mm).mean(1)[swapped_M]
    return Dynamics(
        changed_share=float(changed_Mm.float().mean()),
        changed=_mean(loss_Mm[changed_Mm], hit_Mm[changed_Mm]) if changed_Mm.any() else None,
        stayed=_mean(loss_Mm[~changed_Mm], hit_Mm[~changed_Mm]) if not changed_Mm.all() else None,
        swapped=Swapped(len(rise_M), float(rise_M.mean()), float((rise_M > 0).float().mean()))
        if len(rise_M)
        else None,
    )


def by_dataset(samples: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Numbers of the samples of `all` and of each dataset."""
    found: dict[str, list[int]] = {"all": list(range(len(samples)))}
    for i, sample in enumerate(samples):
        found.setdefault(str(sample.get("dataset", "unnamed")), []).append(i)
    return dict(sorted(found.items(), key=lambda item: (item[0] != "all", item[0])))


def in_parts(
    job: Pretraining, samples: list[dict[str, Any]], size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Codes and text features of so many clips at a time."""
    for start in range(0, len(samples), size):
        yield job.inputs(samples[start : start + size])
