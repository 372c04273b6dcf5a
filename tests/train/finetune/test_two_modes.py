"""Demonstrations that go left or right from the same start: a latent keeps them apart.

The arm goes forward and to one side, half of the episodes to each, at a speed of its own. Pictures
show nothing, and at the first step nothing tells the side.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from handloom.train.finetune.config import FinetuneConfig, HeadOptions
from handloom.train.finetune.inputs import Inputs
from handloom.train.finetune.task import FinetuneTask
from handloom.train.trainer import start
from handloom.train.trainer.run import Run
from tests.helpers.robot_shards import Recorded, write_robot_shards

STEPS, SIDE_M, LATENT = 4, 0.02, 4
DRAWS = 200


def episode(number: int) -> Recorded:
    """Goes left if its number is even, else right, by 16 to 24 mm a step."""
    random = np.random.default_rng(number)
    action = np.zeros((STEPS, 7), np.float32)
    action[:, 0] = (-1) ** number * SIDE_M * random.uniform(0.8, 1.2)
    action[:, 1] = SIDE_M
    state = np.zeros_like(action)
    state[1:, :6] = np.cumsum(action[:-1, :6], axis=0)
    codes = np.zeros((1, STEPS, 2, 2), np.uint16)
    return Recorded(f"fork-{number:03d}", codes, state, action, views=("static",), caption="go on")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    episodes = [episode(number) for number in range(80)]
    found = {"train": episodes[:64], "val": episodes[64:]}
    return write_robot_shards(tmp_path_factory.mktemp("fork"), found)


def train(shards: Path, out: Path, latent: int, seed: int) -> FinetuneTask:
    config = FinetuneConfig(
        shards=(str(shards),), out=out, size="nano", history=1, stride=1, chunk=STEPS, steps=250,
        batch_size=16, lr=3e-3, warmup=20, seed=seed, text_length=4, threads=1, save_every=0,
        val_every=0, tensorboard=False, log_every=0,
        head=HeadOptions(width=32, layers=1, latent=latent, vae_width=32, vae_blocks=2, pool=2),
    )  # fmt: skip
    start.train(config)
    task: FinetuneTask = Run(config).task
    return task


@dataclass(frozen=True)
class AtFork:
    """A model at the first steps of held-out episodes."""

    job: FinetuneTask
    inputs: Inputs
    seen: Tensor

    @classmethod
    def of(cls, job: FinetuneTask) -> "AtFork":
        every = job.val.read(np.arange(len(job.val)))
        inputs = job.windows(job.val.read(np.flatnonzero(every.step == 0))).inputs
        job.trained.eval()
        with torch.no_grad():
            seen = job.trained.context(job.trained.features(inputs), inputs)
        return cls(job, inputs, seen)

    @torch.no_grad()
    def sides(self, z: Tensor | None) -> Tensor:
        """Mean sideways motion of a step, in units of what demonstrations do on average."""
        actions = self.job.space.denormalise(self.job.trained.act(self.seen, z))
        return actions[..., 0].mean(1) / SIDE_M


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_latent_covers_both_sides_and_a_head_without_goes_between(
    shards: Path, tmp_path: Path, seed: int
) -> None:
    with_latent = AtFork.of(train(shards, tmp_path / "vae", LATENT, seed))
    without = AtFork.of(train(shards, tmp_path / "plain", 0, seed))

    random = torch.Generator().manual_seed(seed)
    count = len(with_latent.seen)
    z_nMZ = torch.randn(DRAWS, count, LATENT, generator=random)
    draws_nM = torch.stack([with_latent.sides(z_MZ) for z_MZ in z_nMZ])
    left, right = ((side * draws_nM > 0.5).float().mean().item() for side in (-1, 1))
    near = ((draws_nM.abs() - 1).abs() < 0.5).float().mean().item()
    assert min(left, right) > 0.3
    assert near > 0.75
    assert float(without.sides(None).abs().max()) < 0.25
