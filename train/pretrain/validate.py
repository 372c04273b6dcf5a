"""Validation: the model on held-out clips by dataset, each code predicted from the true ones.

Shapes: M clips, V views, F frames, R rows, C columns, N = F*V*R*C codes a clip, K codebook size.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handloom.train.model.shape import Shape
from handloom.train.pretrain.baselines import Score, Validation
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


@torch.no_grad()
def evaluate(job: Pretraining) -> dict[str, Validation]:
    """Score the model on held-out clips, each code predicted from the true ones before it.

    The processes share the clips.

    Returns:
        By dataset, as clips name it, and of `all`; empty but in rank 0.
    """
    count = min(len(job.val), job.config.val_clips)
    found: list[tuple[Tensor, Tensor]] = []
    mine = [job.val[i] for i in job.world.share(count)]
    for codes_BN, text_BLE in in_parts(job, mine, job.micro_batch):
        with job.autocast():
            logits_BNK = job.trained(codes_BN, text_BLE).float()
        loss_BN = F.cross_entropy(logits_BNK.mT, codes_BN, reduction="none").cpu()
        hit_BN = (logits_BNK.argmax(-1) == codes_BN).float().cpu()
        found += zip(loss_BN, hit_BN, strict=True)
    rows = job.world.collect(found, count)
    if not rows:
        return {}
    loss_MN, hit_MN = (torch.stack(column) for column in zip(*rows, strict=True))
    each = job.shape.codes_per_frame
    return {
        name: _validation(loss_MN[rows], hit_MN[rows], each)
        for name, rows in by_dataset([job.val[i] for i in range(count)]).items()
    }


def _validation(loss_MN: Tensor, hit_MN: Tensor, each: int) -> Validation:
    first, later = (
        Score(float(loss_MN[:, span].mean()), float(hit_MN[:, span].mean()))
        for span in (slice(each), slice(each, None))
    )
    return Validation(len(loss_MN), float(loss_MN.mean()), first, later)


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
