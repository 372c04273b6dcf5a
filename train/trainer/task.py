"""The interface of a kind of training: data in, one optimiser step, validation, results.

`handloom.train.pretrain.task`, `.finetune.task` and `.vqgan.task` are the three that there are.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from handloom.errors import UserError
from handloom.train.trainer import flops
from handloom.train.trainer.distributed import World
from handloom.train.trainer.optimizer import named_state
from handloom.train.trainer.options import TrainOptions

Scores = dict[str, Any]  # plain JSON
Tensors = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Batch:
    """One process's part of a step, on its device."""

    inputs: Any
    """Input of the task's `take_step`."""
    size: int
    """Samples of this process."""
    datasets: list[str]
    """Dataset of each sample; empty where a task does not log them apart."""
    position: int
    """Position of the data after this step: samples or steps of all processes together."""


class Step(NamedTuple):
    """Values of a step for the log. They are on the device and may not be computed yet."""

    values: dict[str, Tensor]
    """Each [B], one a sample, or a scalar, the mean of this process; `loss` comes first."""
    norm: Tensor
    """Norm of the gradient, a scalar. If it is not finite, in any process, no process updated."""


class Task:
    """Base of the kinds of training.

    A subclass loads data and builds networks in its constructor, where `config.seed` decides the
    initial weights, and writes the methods below. All processes call the same ones in the same
    order.

    Args:
        config: of the run.
        world: the processes that share it.

    Raises:
        UserError: data, processes or options do not fit each other.
    """

    noun: ClassVar[str] = "clips"
    """Plural name of the samples of a batch."""
    finished_by: ClassVar[str] = "summary.json"
    """The file in `out` that is written last: a run that has it is finished."""
    shown: ClassVar[tuple[str, ...]] = ()
    """The values that the terminal shows; by default all."""
    draws_validation: ClassVar[bool] = False
    """Draw a picture with each validation."""
    trained: Any
    """The network that learns, a module; under FSDP this process's part."""
    optimizer: torch.optim.Optimizer

    def __init__(self, config: Any, world: World) -> None:
        self.config, self.world = config, world
        set_up_torch(config, world.device)

    def identity(self) -> Scores:
        """Everything that decides the loss trace, as a flat dict of plain JSON."""
        identity: Scores = self.config.identity()
        return identity

    def describe(self) -> list[str]:
        """Lines about the sizes of model and data."""
        return []

    def begin(self) -> None:
        """Called once before the first step of this process."""

    def batches(self, position: int) -> Iterator[Batch]:
        """This process's part of the batches from a position on; endless."""
        raise TypeError(f"{type(self).__name__} defines no batches")

    def sample_ids(self, position: int) -> list[str]:
        """Ids of the samples, of all processes, of the batch that ends at a position."""
        return []

    def take_step(self, batch: Batch, step: int) -> Step:
        """Update the network once. Nothing in it waits for the device.

        Args:
            batch: to learn from.
            step: steps done before this one.
        """
        raise TypeError(f"{type(self).__name__} defines no take_step")

    def validate(self, step: int) -> Scores:
        """Score the network on held-out data; the processes share the work, rank 0 has the result.

        Args:
            step: steps done.
        """
        raise TypeError(f"{type(self).__name__} defines no validate")

    def validation_line(self, scores: Scores) -> str:
        """A validation in one line."""
        raise TypeError(f"{type(self).__name__} defines no validation_line")

    def draw(self, step: int) -> Path | None:
        """Write a picture of the network's output, in rank 0; None where there is none."""
        return None

    def tensors(self) -> Tensors:
        """The live tensors of a checkpoint, by kind and name; `restore` follows their loading."""
        return {
            "model": dict(self.trained.named_parameters()),
            "optimizer": dict(named_state(self.trained, self.optimizer)),
        }

    def facts(self) -> Scores:
        """Plain JSON that a checkpoint holds beside the tensors."""
        return {}

    def restore(self, facts: Scores) -> None:
        """Take over the facts of a checkpoint whose tensors have been loaded."""

    def log_facts(self, step: int) -> Scores:
        """Numbers for the log beside the losses, in rank 0."""
        return {}

    def units_of(self, batch: Batch) -> int:
        """Number of `unit`s in a batch."""
        return batch.size

    @property
    def unit(self) -> str:
        """Unit in which speed is counted."""
        return self.noun

    def flops_per_unit(self) -> float | None:
        """FLOPs of training on one `unit`; None where they are not counted."""
        return None

    def share_of_peak(self) -> float | None:
        """Share of the device's peak FLOPS that one unit a second takes; None if unknown."""
        dtype = torch.bfloat16 if self.config.bf16 else torch.float32
        peak = flops.peak_flops(device_name(self.world.device), dtype)
        each = None if peak is None else self.flops_per_unit()
        return None if peak is None or each is None else each / peak

    def too_large(self) -> tuple[str, str]:
        """For a batch that does not fit into memory: what it was, and which option to lower."""
        return self.noun, "--batch-size"

    def finish(self, step: int, scores: Scores) -> None:
        """Write the results of a run that is done, in rank 0, `finished_by` last.

        Args:
            step: of the run.
            scores: of the last validation.
        """
        raise TypeError(f"{type(self).__name__} defines no finish")

    def gather(self) -> None:
        """Bring the whole network to rank 0, where processes hold parts; all must call this."""

    def autocast(self) -> torch.autocast:
        """Mixed precision, where asked for."""
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.config.bf16)


def task_class(config: TrainOptions) -> type[Task]:
    """The class that a configuration names."""
    module, name = config.task.split(":")
    kind: type[Task] = getattr(import_module(module), name)
    return kind


def forget_results(config: TrainOptions, kind: type[Task]) -> None:
    """Delete what a former run left, so that nothing of it is taken for this one's."""
    for name in (kind.finished_by, "metrics.jsonl"):
        (config.out / name).unlink(missing_ok=True)


def device_name(device: torch.device) -> str:
    """The device's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def share_of(batch_size: int, micro_batch: int | None, processes: int) -> tuple[int, int]:
    """Samples of a batch that one process gets, and how many it takes at a time.

    Raises:
        UserError: they do not divide.
    """
    here, rest = divmod(batch_size, processes)
    if rest or not here:
        lower = here * processes or processes
        raise UserError(
            f"--batch-size {batch_size} cannot be split evenly over {processes} processes: "
            f"choose a multiple of {processes}, such as {lower} or {(here + 1) * processes}."
        )
    micro = micro_batch or here
    if micro < 1 or here % micro:
        raise UserError(
            f"--micro-batch {micro} does not divide the {here} that each of {processes} "
            f"processes gets of --batch-size {batch_size}: choose a divisor of {here}."
        )
    return here, micro


def set_up_torch(config: TrainOptions, device: torch.device) -> None:
    """Set CPU threads, TF32, and on request only operations that give the same bits each time."""
    if config.threads:
        torch.set_num_threads(config.threads)
    deterministic = config.deterministic or device.type == "cpu"
    if deterministic:
        # cuBLAS wants this before its first call, and is not deterministic without
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
