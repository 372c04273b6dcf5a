"""Trainings of any kind, one after the other, in a process that torchrun started.

    torchrun --nproc-per-node 2 -m tests.helpers.train_together CONFIGS

CONFIGS is a pickled list of TrainOptions. Outs named `poisoned` are made not finite in rank 1; of
those named `apart` each process has another, as on machines that share no disk.
"""

import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from handloom.errors import RunError, UserError
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.trainer import loop
from handloom.train.trainer.run import Run
from handloom.train.trainer.start import train


def poison_step_2(config: PretrainConfig) -> None:
    """Train with a loss that is not finite in one step of one process."""
    with loop.join(config.device) as world:
        job = Run(config, world)
        inner = job.task.objective

        def objective(codes_BN: Any, text_BLE: Any) -> Any:
            loss_BN = inner(codes_BN, text_BLE)
            return loss_BN + torch.inf if world.rank == 1 and job.step == 1 else loss_BN

        job.task.objective = objective  # type: ignore[assignment]
        before = {name: p.detach().clone() for name, p in job.task.trained.named_parameters()}
        try:
            loop.train(job, lambda: False)
        except RunError as error:
            (config.out / f"stopped-{world.rank}").write_text(str(error))
        moved = any(not p.equal(before[name]) for name, p in job.task.trained.named_parameters())
        (config.out / f"moved-{world.rank}").write_text(str(moved))


def train_apart(config: PretrainConfig) -> None:
    """Train with another output folder in each process."""
    rank = os.environ["RANK"]
    config.out.mkdir(exist_ok=True)
    try:
        train(replace(config, out=config.out / f"node-{rank}"))
    except UserError as error:
        (config.out / f"refused-{rank}").write_text(str(error))


WAYS = {"poisoned": poison_step_2, "apart": train_apart}

if __name__ == "__main__":
    for config in pickle.loads(Path(sys.argv[1]).read_bytes()):
        WAYS.get(config.out.name, train)(config)
