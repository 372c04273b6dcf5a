"""Several processes that train one model: who they are, what they tell each other, how they share.

torchrun and Ray Train tell a process its rank in the same environment variables, so that everything
below is the same for both; without them there is one process and no communication.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
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
        """Whether this process logs, validates and publishes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is raised in any process."""
        if self.group is None:
            return flag
        raised = torch.tensor([flag], dtype=torch.int32)
        dist.all_reduce(raised, dist.ReduceOp.MAX, group=self.group)
        return bool(raised.item())

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in rank 0; elsewhere an empty list."""
        if self.group is None:
            return [value]
        found = [None] * self.size if self.is_first else None
        dist.gather_object(value, found, dst=0, group=self.group)
        return found or []

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.any(False)


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
    """Where the processes find each other, this one's rank, and how many there are."""
    if "MASTER_ADDR" not in os.environ:
        return dist.HashStore(), 0, 1  # type: ignore[attr-defined]
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    return store, rank, size


class Objective(nn.Module):
    """The loss of a model as a module: what is compiled, and what DDP wraps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes_BN: Tensor, text_BLE: Tensor) -> Tensor:
        """Cross entropy [B, N] of every code, in nats."""
        loss_BN: Tensor = self.model.loss(codes_BN, text_BLE)  # type: ignore[operator]
        return loss_BN


def spread(model: nn.Module, world: World, parallel: str, compiled: bool) -> nn.Module:
    """The model's loss, compiled if asked for and shared between the processes.

    Args:
        model: a GPT on the world's device; under `fsdp` its parameters become parts.
        world: of the run.
        parallel: `ddp` or `fsdp`.
        compiled: with static shapes, since every batch of a run has one shape.
    """
    objective: nn.Module = Objective(model)
    if parallel == "fsdp":
        return _shard(objective, model, world, compiled)
    if compiled:
        objective.compile(dynamic=False)
    if world.size > 1:
        ids = [world.device] if world.device.type == "cuda" else None
        # gradient_as_bucket_view saves a copy of all gradients
        return nn.parallel.DistributedDataParallel(
            objective, device_ids=ids, gradient_as_bucket_view=True
        )
    return objective


def _shard(objective: nn.Module, model: Any, world: World, compiled: bool) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in model.blocks:
        if compiled:  # block by block: gathering parameters between them is not compiled
            block.compile(dynamic=False)
        fully_shard(block, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    return objective


@contextmanager
def gradients_meet(objective: nn.Module, meet: bool) -> Iterator[None]:
    """Within it a backward pass adds to the gradients; only if `meet` do processes average them."""
    if isinstance(objective, nn.parallel.DistributedDataParallel) and not meet:
        with objective.no_sync():
            yield
        return
    if isinstance(objective, FSDPModule):
        objective.set_requires_gradient_sync(meet)
    yield


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which processes may hold parts, whole; all of them must ask."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
