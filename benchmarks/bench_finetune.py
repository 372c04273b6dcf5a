"""What stage 2 costs in its three modes, what a chunk is good for, and what stage 1 is.

    python benchmarks/bench_finetune.py                             all three, minutes
    python benchmarks/bench_finetune.py modes --sizes tiny s b
    python benchmarks/bench_finetune.py chunk --shards DIR --steps 1000 --seeds 0 1 2
    python benchmarks/bench_finetune.py stage1 --shards DIR --stage1 RUN --steps 300 --seeds 0 1 2

modes     CPU seconds of a step in `full`, `frozen` and `frozen+cached`, in turn in one process (the
          median of the rounds; ratios are the medians of the rounds' ratios), and the bytes of the
          optimiser. Weights and windows are random: they do not change what is computed.
chunk     A chunk of ten actions against single steps, equal steps and seeds: error of the first
          action, and jerk of whole held-out episodes played through, not smoothed. With
          `frozen+cached` where --stage1 is given, else a small GPT from random weights.
stage1    Mode `full` from --stage1 against the same GPT from random weights, equal steps and seeds:
          cross entropy of the next pictures and error of the actions, held out.

Without --shards demonstrations of two tasks are recorded and curated below --work first, and
without --stage1 a GPT is pre-trained on their pictures.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demonstrations import shards_of

from handloom.train.evaluate import policy_motion
from handloom.train.evaluate.policy import Evaluation, outputs_of
from handloom.train.evaluate.policy_config import PolicyEval
from handloom.train.evaluate.policy_scores import scores_by_group
from handloom.train.finetune.config import FinetuneConfig, HeadOptions
from handloom.train.finetune.inputs import Inputs
from handloom.train.finetune.model import RobotModel, RobotShape
from handloom.train.finetune.task import FinetuneTask
from handloom.train.finetune.validate import evaluate
from handloom.train.model.shape import SIZES, Shape
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.trainer import start
from handloom.train.trainer.optimizer import make_optimizer, update
from handloom.train.trainer.run import Run

MODES = ("full", "frozen", "frozen+cached")
TASKS = ("open_drawer", "move_slider_left")
CONFIG = FinetuneConfig(shards=("",))


def modes(args: argparse.Namespace) -> None:
    for size in args.sizes:
        count = args.batch or (8 if size in ("nano", "micro", "mini", "tiny") else 2)
        sides = {mode: build(size, mode, count) for mode in MODES}
        times: dict[str, list[float]] = {mode: [] for mode in MODES}
        for round_ in range(1 + args.rounds):
            for mode in MODES if round_ % 2 else MODES[::-1]:
                began = time.process_time()
                sides[mode][1]()
                if round_:  # the first one warms up
                    times[mode].append(time.process_time() - began)
        tell_modes(size, count, sides, times)


def build(size: str, mode: str, count: int) -> tuple[dict[str, int], Callable[[], None]]:
    """Sizes in numbers and bytes, and a step, of two views with 8 x 8 codes."""
    trunk = Shape(**SIZES[size]._asdict(), codebook_size=1024, views=2, frames=3, rows=8, cols=8,
                  text_length=24, text_width=128)  # fmt: skip
    shape = RobotShape(trunk, ("static", "gripper"), 2, 10, 10, 7, (6,), HeadOptions())
    torch.manual_seed(0)
    model = RobotModel(shape)
    model.trunk.requires_grad_(mode == "full")
    optimizer = make_optimizer(model, CONFIG)
    inputs = random_inputs(shape, count)
    if mode == "frozen+cached":
        with torch.no_grad():
            inputs = inputs._replace(features_BMX=model.features(inputs))

    def step() -> None:
        losses = model.loss(inputs, CONFIG.loss, mode == "full")
        model.total(losses, CONFIG.loss, CONFIG.loss.kl_warmup).backward()
        update(list(model.parameters()), optimizer, CONFIG.clip)

    state = [t.nbytes for state in optimizer.state.values() for t in state.values()]
    of_trunk = sum(p.numel() for p in model.trunk.parameters())
    head = sum(p.numel() for p in model.parameters()) - of_trunk
    return {"trunk": of_trunk, "head": head, "optimizer": sum(state)}, step


def random_inputs(shape: RobotShape, count: int) -> Inputs:
    trunk, yes = shape.trunk, torch.ones(1, dtype=torch.bool)
    return Inputs(
        codes_Bn=torch.randint(trunk.codebook_size, (count, 3 * trunk.codes_per_frame)),
        visible_BFV=yes.expand(count, 3, 2),
        text_BLE=torch.randn(count, trunk.text_length, trunk.text_width),
        state_BhS=torch.randn(count, 2, shape.state_width),
        state_known_Bh=yes.expand(count, 2),
        action_BkA=torch.rand(count, shape.chunk, shape.action_width),
        action_valid_Bk=yes.expand(count, shape.chunk),
        all_visible=True,
    )


def tell_modes(size: str, count: int, sides: dict[str, Any], times: dict[str, list[float]]) -> None:
    facts = {mode: sides[mode][0] for mode in MODES}
    print(f"\n{size}: GPT {facts['full']['trunk'] / 1e6:.1f} M, head "
          f"{facts['full']['head'] / 1e6:.2f} M parameters; {count} windows a step, "
          f"{len(times['full'])} rounds")  # fmt: skip
    print(
        f"{'mode':<16}{'CPU s a step':>14}{'times faster':>14}{'optimiser MB':>14}{'smaller':>10}"
    )
    before = {"full": "full", "frozen": "full", "frozen+cached": "frozen"}
    for mode in MODES:
        pairs = zip(times[before[mode]], times[mode], strict=True)
        ratio = statistics.median(slow / fast for slow, fast in pairs)
        size_mb = facts[mode]["optimizer"] / 1e6
        less = facts["full"]["optimizer"] / facts[mode]["optimizer"]
        print(f"{mode:<16}{statistics.median(times[mode]):>14.3f}{ratio:>14.1f}{size_mb:>14.1f}"
              f"{less:>10.1f}   faster than {before[mode]}")  # fmt: skip


def chunk(args: argparse.Namespace) -> None:
    print(f"\n{args.steps} steps of 32 windows; held-out episodes; means over seeds {args.seeds}")
    print(f"{'chunk':<8}{'1st action L1 (std)':>22}{'of all, L1 (std)':>18}{'jerk m/s3':>12}"
          f"{'true jerk':>12}{'drift mm':>10}")  # fmt: skip
    for length in (10, 1):
        rows = [chunk_scores(args, length, seed) for seed in args.seeds]
        first, every, jerk, true, drift = np.mean(rows, 0)
        print(f"{length:<8}{first:>22.3f}{every:>18.3f}{jerk:>12.2f}{true:>12.2f}{drift:>10.1f}"
              f"   1st action of each seed {[round(row[0], 3) for row in rows]}")  # fmt: skip


def chunk_scores(args: argparse.Namespace, length: int, seed: int) -> list[float]:
    out = args.work / f"chunk-{length}-{seed}"
    start: dict[str, Any] = {"stage1": args.stage1, "mode": "frozen+cached"}
    if args.stage1 is None:
        start = {"size": "micro"}
    train(args, out, seed, chunk=length, batch_size=32, features=args.work / "features", **start)
    config = PolicyEval(
        checkpoint=out, shards=(args.shards,), windows=512, samples=1, clips=12, smoothing=0.0
    )
    job = Evaluation(config)
    found = scores_by_group(outputs_of(job), job.space, job.model.shape.views, 0.0)["all"]
    played = []
    for batch in job.episodes():
        inputs = job.on_device(batch).inputs
        with torch.no_grad():
            normal = job.model.act(job.model.context(job.model.features(inputs), inputs))
        chunks = job.space.denormalise(normal).numpy()
        played.append(policy_motion.play(batch, chunks, job.space, job.execution, job.execute_n))
    motion = policy_motion.scores(played, job.space)["all"]
    first, error = found["by_step_ahead"]["prior mean"][0], found["chunks"]["prior mean"]
    jerks = [motion["jerk_executed_m_s3"], motion["jerk_true_m_s3"]]
    return [first, error["arm_l1_std"], *jerks, motion["drift_mm"]]


def stage1(args: argparse.Namespace) -> None:
    folder = args.stage1 or pretrained(args)
    print(f"\nmode full, {args.steps} steps of {args.batch or 8} windows; held-out windows")
    print(f"{'seed':<6}{'start':<18}{'next picture, nats by view':<44}{'arm L1':>8}{'gripper':>9}")
    for seed in args.seeds:
        for name, given in (("stage 1", folder), ("random weights", None)):
            out = args.work / f"start-{name[:5].strip()}-{seed}"
            job = train(args, out, seed, stage1=given, batch_size=args.batch or 8)
            found = evaluate(job)
            assert found is not None  # in one process
            nats = ", ".join(f"{view} {value:.3f}" for view, value in found.video.items())
            arm, hand = found.prior_mean.arm_l1, found.prior_mean.gripper_accuracy or 0.0
            print(f"{seed:<6}{name:<18}{nats:<44}{arm:>8.3f}{hand:>9.1%}", flush=True)


def pretrained(args: argparse.Namespace) -> Path:
    out: Path = args.work / "stage1"
    shards = (args.shards,)
    start.train(
        PretrainConfig(shards=shards, out=out, size="tiny", steps=300, batch_size=2, threads=1)
    )
    return out


def train(args: argparse.Namespace, out: Path, seed: int, **changes: Any) -> FinetuneTask:
    """Fine-tune, and open the finished run."""
    quiet: dict[str, Any] = {"log_every": 0, "val_every": 0, "save_every": 0, "tensorboard": False}
    config = FinetuneConfig(
        shards=(args.shards,), out=out, steps=args.steps, seed=seed, threads=args.threads,
        **quiet, **changes,
    )  # fmt: skip
    start.train(config)
    task: FinetuneTask = Run(config).task
    return task


def main(asked: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "part", nargs="?", choices=["modes", "chunk", "stage1", "all"], default="all"
    )
    parser.add_argument("--sizes", nargs="+", default=["tiny", "s"], choices=SIZES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, help="windows a step of modes and stage1")
    parser.add_argument("--steps", type=int, default=150, help="of chunk and stage1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--shards", help="of robot episodes")
    parser.add_argument("--stage1", type=Path, help="an --out of `handloom train pretrain`")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-finetune"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(asked)
    torch.set_num_threads(args.threads)
    if args.part in ("modes", "all"):
        modes(args)
    if args.part != "modes":
        args.shards = args.shards or shards_of(args.work / "tabletop", TASKS, 24, 6)
    if args.part in ("chunk", "all"):
        chunk(args)
    if args.part in ("stage1", "all"):
        stage1(args)


if __name__ == "__main__":
    main()
