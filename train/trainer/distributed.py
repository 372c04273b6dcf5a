"""Several processes that train one model: ranks, messages, and shares of the work.

torchrun and Ray Train give a process its rank in the same environment variables, so that everything
below is the same for both; without them there is one process and no communication.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import distributed_c10d as c10d
from torch.distributed.fsdp import FSDPModule
from torch.distributed.rendezvous import rendezvous

from handloom.errors import UserError

# Validation and pictures are made by rank 0 while the others wait, for minutes with a large model.
PATIENCE = timedelta(hours=1)


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    device: torch.device
    rank: int = 0
    size: int = 1
    group: Any = None
    """A group of CPU messages (gloo): they wait for no GPU. None where there is one process."""
    writers: Any = None
    """Another, for threads that write checkpoints: messages of two threads in one would mix."""

    @property
    def is_first(self) -> bool:
        """True for the process that logs, validates and publishes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """True in all processes if the flag is raised in any."""
        if self.group is None:
            return flag
        raised = torch.tensor([flag], dtype=torch.int32)
        dist.all_reduce(raised, dist.ReduceOp.MAX, group=self.group)
        return bool(raised.item())

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in rank 0; elsewhere an empty list."""
        if self.group is None:
            return [value]
        values = [None] * self.size if self.is_first else None
        dist.gather_object(value, values, dst=0, group=self.group)
        return values or []

    def share(self, count: int) -> list[int]:
        """This process's part of `count` numbers; all processes get equally many, some twice.

        `collect` brings back what was made of them in the order of all numbers.
        """
        each = -(-count // self.size)
        return [min(i * self.size + self.rank, count - 1) for i in range(each)]

    def collect(self, values: list[Any], count: int) -> list[Any]:
        """Results for the numbers of `share`, of all processes, in order; empty but in rank 0."""
        parts = self.gather(values)
        return [parts[i % self.size][i // self.size] for i in range(count)] if parts else []

    def together(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, one behind the other along the first axis."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the processes, in all of them."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor = tensor / self.size
        return tensor

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.any(False)


def check_shared(folder: Path, world: World) -> None:
    """Raise UserError unless all processes see one folder: a checkpoint has a part of each."""
    if world.size == 1:
        return
    mine = folder / f".process-{world.rank}"
    folder.mkdir(parents=True, exist_ok=True)
    mine.touch()
    world.barrier()
    apart = world.any(not (folder / ".process-0").exists())
    mine.unlink(missing_ok=True)
    if apart:
        with suppress(OSError):  # not empty: an earlier run lies there
            folder.rmdir()
        raise UserError(
            f"{folder} is not the same folder for all {world.size} processes of this training; "
            "expected an --out on a disk that all machines share (of --out in a store each machine "
            "has a mirror of its own: train on one machine, or on a shared disk)."
        )


@contextmanager
def join(device: str, sharded: bool = False) -> Iterator[World]:
    """Join the processes that torchrun or Ray Train started; leave them at the end.

    Args:
        device: a torch device; of `cuda` each process takes the GPU of its local rank.
        sharded: communicate even if this process is alone: FSDP2 cannot do without.
    """
    size, here = int(os.environ.get("WORLD_SIZE", "1")), _device(device)
    if size == 1 and not sharded:
        yield World(here)
        return
    ours = not dist.is_initialized()  # Ray Train has done it
    if ours:
        _initialise(here)
    group, writers = (dist.new_group(backend="gloo", timeout=PATIENCE) for _ in range(2))
    try:
        yield World(here, dist.get_rank(), dist.get_world_size(), group, writers)
    finally:
        if ours:
            dist.destroy_process_group()


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                f"--device {name}, but torch {torch.__version__} finds no GPU here: install a "
                "build of torch for CUDA and a driver, or train with --device cpu."
            )
        if device.index is None:
            # Ray Train may show a process its own GPU only.
            local = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
            device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    return device


def _initialise(device: torch.device) -> None:
    backend = "nccl" if device.type == "cuda" else "gloo"
    store, rank, size = _meeting_place()
    # Every run gets names of its own: a second one would wait for the groups of the first.
    store = c10d.PrefixStore(f"run{next(_RUNS)}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)


_RUNS = itertools.count()


@cache
def _meeting_place() -> tuple[c10d.Store, int, int]:
    """The store in which the processes find each other, this one's rank, and their number."""
    if "MASTER_ADDR" not in os.environ:
        return dist.HashStore(), 0, 1  # type: ignore[attr-defined]
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    return store, rank, size


class Objective(nn.Module):
    """The loss of a model as a module: what is compiled, and what DDP wraps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> Any:
        """The result of `model.loss`."""
        return self.model.loss(*inputs)  # type: ignore[operator]


def distribute(model: nn.Module, config: Any, world: World, **ddp: Any) -> nn.Module:
    """The model's loss, compiled if asked for and shared between the processes.

    Args:
        model: on the world's device, with a method `loss`. Under FSDP its parameters become parts;
            then `fsdp_blocks()` names the modules that are gathered one after the other, and
            `fsdp_methods` those of its methods, beside `forward`, that read parameters.
        config: TrainOptions; without an option `parallel` it means DDP.
        world: of the run.
        ddp: further options of DistributedDataParallel.
    """
    objective: nn.Module = Objective(model)
    if getattr(config, "parallel", "ddp") == "fsdp":
        _shard(model, world, config.compile)
        return objective
    if config.compile:  # with static shapes, since every batch of a run has one shape
        objective.compile(dynamic=False)
    if world.size > 1:
        ids = [world.device] if world.device.type == "cuda" else None
        # gradient_as_bucket_view saves a copy of all gradients; buffers are constants.
        options = {"gradient_as_bucket_view": True, "broadcast_buffers": False, **ddp}
        return nn.parallel.DistributedDataParallel(objective, device_ids=ids, **options)
    return objective


def _shard(model: Any, world: World, compiled: bool) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in model.fsdp_blocks():
        if compiled:  # block by block: gathering parameters between them is not compiled
            block.compile(dynamic=False)
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in model.fsdp_methods:
        register_fsdp_forward_method(model, method)


def reshard(model: nn.Module) -> None:
    """Give up the whole parameters that a forward pass alone leaves behind under FSDP."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def gradient_sync(objective: nn.Module, sync: bool) -> Iterator[None]:
    """Within it a backward pass adds to the gradients; processes average them only with `sync`."""
    if isinstance(objective, nn.parallel.DistributedDataParallel) and not sync:
        with objective.no_sync():
            yield
        return
    model = getattr(objective, "model", None)
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(sync)
    yield


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which processes may hold parts, whole; all of them must ask."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
