"""Round a pillar, left or right as chance had it: the action heads beside a deterministic one.

    python benchmarks/bench_two_modes.py                            minutes, most of them curation
    python benchmarks/bench_two_modes.py --episodes 160 --starts 100 --seeds 0 1 2      longer
    python benchmarks/bench_two_modes.py --shards DIR --stage1 RUN  with demonstrations at hand

Demonstrations of the tabletop's `go_round` begin alike and pass the pillar on either side. A
deterministic head, the conditional VAE and flow matching are trained on them with the same GPT,
steps and seeds (frozen+cached where --stage1 is given, else a small GPT from random weights). Then:

chunks     at the first step of held-out episodes, how far to the side the first six actions lead:
           the share of draws that go left, right or between (less than half as far
           as the least of the demonstrations), and arm L1 in standard deviations
rollouts   of the policy from other starts: goal reached without touching the pillar, pillar
           touched, and the side on which it was passed
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demonstrations import shards_of
from numpy.typing import NDArray
from torch import Tensor

from handloom.train.evaluate.rollout import CalvinAdapter
from handloom.train.finetune.config import FinetuneConfig, FlowOptions, HeadOptions, LossOptions
from handloom.train.finetune.task import FinetuneTask
from handloom.train.policy.policy import Execution, Policy
from handloom.train.tabletop import tasks
from handloom.train.tabletop.env import TabletopEnv, initial_state
from handloom.train.tabletop.spread import SpreadOut
from handloom.train.trainer import start
from handloom.train.trainer.run import Run

AHEAD = 6  # actions of 1/10 s, after which a demonstration is farthest to the side
LONGEST = 120  # steps of 1/30 s; a demonstration takes about 40
DRAWS = 64
HEADS = ("deterministic", "conditional VAE", "flow matching")


@dataclass(frozen=True)
class Fork:
    """First windows of held-out episodes: chunks there are normalised, [M, k, A]."""

    job: FinetuneTask
    true: Tensor
    there: Tensor
    context: Tensor


@torch.no_grad()
def fork_of(job: FinetuneTask) -> Fork:
    model, every = job.trained.eval(), job.val.read(np.arange(len(job.val)))
    inputs = job.windows(job.val.read(np.flatnonzero(every.step == 0))).inputs
    context = model.context(model.features(inputs), inputs)
    return Fork(job, inputs.action_BkA, inputs.action_valid_Bk, context)


def aside_m(fork: Fork, chunk: Tensor) -> NDArray[np.float32]:
    """Metres to the right after the first actions of chunks [..., k, A]."""
    found: NDArray[np.float32] = fork.job.space.denormalise(chunk)[..., :AHEAD, 0].sum(-1).numpy()
    return found


def error(fork: Fork, chunk: Tensor) -> Tensor:
    """Arm L1 of chunks [..., M, k, A] in standard deviations: [..., M]."""
    off = (chunk - fork.true)[..., list(fork.job.space.arm_columns)].abs().mean(-1)
    return (off * fork.there).sum(-1) / fork.there.sum(-1)


@torch.no_grad()
def tell_chunks(name: str, fork: Fork, seed: int) -> None:
    half = np.abs(aside_m(fork, fork.true)).min() / 2
    act, shape = fork.job.trained.act, fork.job.trained.head.noise_shape
    chunks = {"no noise": act(fork.context)[None]}
    if shape:
        random = torch.Generator().manual_seed(seed)
        draws = torch.randn(DRAWS, len(fork.context), *shape, generator=random)
        chunks["draws"] = torch.stack([act(fork.context, noise) for noise in draws])
        best = error(fork, chunks["draws"][:8]).amin(0).mean()
    for which, found in chunks.items():
        x = aside_m(fork, found)
        left, right = np.mean(x < -half), np.mean(x > half)
        print(f"{name:<22}{which:<14}{left:>7.0%}{right:>8.0%}{1 - left - right:>9.0%}"
              f"{error(fork, found).mean():>10.3f}")  # fmt: skip
    if shape:
        print(f"{name:<22}best of 8     {'':>24}{best:>10.3f}")


def roll_out(out: Path, sample: bool, starts: int) -> tuple[float, float, float, float]:
    """Shares of starts: goal reached untouched, pillar touched, passed left, passed right."""
    policy = Policy.from_checkpoint(out, execution=Execution(sample=sample), threads=1)
    found = []
    for number in range(starts):
        policy.execution = Execution(sample=sample, seed=number)  # each start draws anew
        found.append(attempt(SpreadOut(CalvinAdapter(policy)), number))
    reached, touched, side = np.array(found).T
    return reached.mean(), touched.mean(), (side < 0).mean(), (side > 0).mean()


def attempt(model: SpreadOut, number: int) -> tuple[bool, bool, float]:
    """Whether it got there, whether it touched, and the side at the pillar's height, or 0."""
    env, judge = TabletopEnv(scene="go_round"), tasks.TaskOracle()
    random = np.random.default_rng([1_000_003, number])  # no demonstration's
    obs, side, words = env.reset(*initial_state(random, "go_round")), 0.0, tasks.TRAINING
    start = info = env.get_info()
    model.reset()
    for _ in range(LONGEST):
        action = model.step(obs, words[tasks.GO_ROUND][0])
        obs, _, _, info = env.step(action)
        x, y = obs["robot_obs"][:2] - env.world.blocks[0, :2]
        side = side or (float(np.sign(x)) if y > 0 else 0.0)
        if env.collided or judge.get_task_info_for_set(start, info, {tasks.GO_ROUND}):
            break
    return not env.collided and bool(info["scene_info"]["at_goal"]), env.collided, side


def train(args: argparse.Namespace, name: str, seed: int) -> FinetuneTask:
    begin: dict[str, Any] = {"size": "micro"}
    if args.stage1 is not None:
        begin = {"stage1": args.stage1, "mode": "frozen+cached", "features": args.work / "features"}
    width, layers = args.width, args.layers
    config = FinetuneConfig(
        shards=(args.shards,), out=args.work / f"{name.replace(' ', '-')}-{seed}",
        steps=args.steps, batch_size=32, action_head="flow" if name == "flow matching" else "cvae",
        chunk=args.chunk, seed=seed, threads=1, tensorboard=False, log_every=0, val_every=0,
        save_every=0, loss=LossOptions(kl=args.kl, free_bits=args.free_bits), **begin,
        head=HeadOptions(
            width=width, layers=layers, latent=32 * (name == "conditional VAE"),
            vae_width=width, vae_blocks=layers,
        ),
        flow=FlowOptions(width=width, blocks=layers),
    )  # fmt: skip
    start.train(config)
    task: FinetuneTask = Run(config).task
    return task


def measure(args: argparse.Namespace, seed: int) -> None:
    heads = {name: train(args, name, seed) for name in HEADS}
    print(f"\nseed {seed}\n{'chunks at the fork':<36}{'left':>7}{'right':>8}{'between':>9}"
          f"{'arm L1':>10}")  # fmt: skip
    for name, job in heads.items():
        tell_chunks(name, fork_of(job), seed)
    print(f"{'rollouts':<36}{'reached':>9}{'touched':>9}{'left':>7}{'right':>8}", flush=True)
    for name, job in heads.items():
        for sample in (False, True) if job.trained.head.noise_shape else (False,):
            how = "drawn" if sample else "no noise"
            row = roll_out(job.config.out, sample, args.starts)
            print(f"{name:<22}{how:<14}{row[0]:>9.0%}{row[1]:>9.0%}{row[2]:>7.0%}{row[3]:>8.0%}",
                  flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", help="of `go_round`, curated with bundled-128")
    parser.add_argument("--stage1", type=Path, help="an --out of `handloom train pretrain`")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-two-modes"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    default = LossOptions()
    parser.add_argument("--kl", type=float, default=default.kl)
    parser.add_argument("--free-bits", type=float, default=default.free_bits)
    for name, number in {
        "episodes": 80, "steps": 1000, "starts": 50, "chunk": 10, "width": 64, "layers": 2,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=number)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.shards is None:
        args.shards = shards_of(args.work / "tabletop", [tasks.GO_ROUND], args.episodes, 20)
    print(f"{args.steps} steps of 32 windows, chunks of {args.chunk}, {args.starts} starts")
    for seed in args.seeds:
        measure(args, seed)


if __name__ == "__main__":
    main()
