"""The scaling study: several sizes on the same clips, in the same order, for the same budget.

    OUT/<size>-<seed>/      one pre-training run each, see loop.py; a finished one is not run again
    OUT/scaling.svg         validation loss against tokens and against parameters, per dataset
    OUT/scaling.json        the numbers behind it, the power laws and the verdict; written last

A loss is the mean cross entropy of held-out codes of frames 1 and later, in nats, which is what
training minimises. Points before the end of a run were taken before its learning rate had fallen.
This file imports no torch.
"""

import json
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from handloom.errors import UserError
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.pretrain.scaling_chart import Losses, SizeRun
from handloom.train.trainer.options import Free
from handloom.train.trainer.start import train


@dataclass(frozen=True, kw_only=True)
class ScalingConfig(PretrainConfig):
    """Train several sizes alike and draw how the validation loss falls. All options of `train
    pretrain` hold for every run; --size is replaced by --sizes."""

    out: Free[Path] = Path("runs/scaling")
    """Folder for the runs, scaling.svg and scaling.json."""
    sizes: tuple[str, ...] = ("nano", "micro", "mini", "tiny")
    """Model sizes, small to large; on GPUs `--sizes s b l xl`."""
    lrs: tuple[float, ...] = ()
    """Peak learning rate of each size, in their order; without it --lr for all."""
    seeds: int = 2
    """Runs of each size, with seeds --seed, --seed + 1, …: they tell differences from luck."""
    steps: int = 100
    """Optimiser steps of each run."""
    val_every: Free[int] = 20
    """Steps between validations."""


def study(config: ScalingConfig) -> None:
    """Train all sizes, fit, draw and say whether larger was better.

    Raises:
        UserError: sizes or learning rates do not fit; and what `train` raises.
    """
    runs = []
    for run in plan(config):
        print(f"\n== {run.size}, seed {run.seed}", flush=True)
        train(run)
        runs.append(read(run))
    from handloom.files import write_text
    from handloom.train.pretrain import scaling_chart, scaling_fit

    fits = {name: scaling_fit.fit(*ends(runs, name)) for name in runs[0].losses[-1]}
    write_text(config.out / "scaling.svg", scaling_chart.draw(runs, fits))
    numbers = {
        "loss": "held-out cross entropy of frames 1 and later, nats",
        "runs": [run.__dict__ for run in runs],
        "fits": {name: fit.as_json() for name, fit in fits.items()},
        "larger_is_better": {name: gaps(runs, name) for name in fits},
    }
    write_text(config.out / "scaling.json", json.dumps(numbers, indent=2) + "\n")
    for name, fit in fits.items():
        print("\n" + "\n".join(table(runs, name)) + f"\n{fit}")
    print(f"\nwrote {config.out / 'scaling.svg'} and scaling.json")


def plan(config: ScalingConfig) -> list[PretrainConfig]:
    """The runs of a study; they differ in size, learning rate, seed and folder alone."""
    if len(set(config.sizes)) < 2 or config.seeds < 1:
        raise UserError(
            f"{len(set(config.sizes))} sizes and {config.seeds} seeds make no study: give at least "
            "two different --sizes and one of --seeds."
        )
    lrs = config.lrs or (config.lr,) * len(config.sizes)
    if len(lrs) != len(config.sizes):
        raise UserError(
            f"--lrs has {len(lrs)} learning rates for {len(config.sizes)} sizes: give one for each."
        )
    shared = {f.name: getattr(config, f.name) for f in fields(PretrainConfig)}
    return [
        PretrainConfig(
            **shared | {"size": size, "lr": lr, "seed": seed, "out": config.out / f"{size}-{seed}"}
        )
        for size, lr in zip(config.sizes, lrs, strict=True)
        for seed in range(config.seed, config.seed + config.seeds)
    ]


def read(run: PretrainConfig) -> SizeRun:
    """The size and losses that a finished run has written."""
    from handloom.train.model.shape import Shape
    from handloom.train.trainer.flops import trainable_parameters

    shape = Shape(**json.loads((run.out / "export" / "config.json").read_text())["shape"])
    lines = map(json.loads, (run.out / "metrics.jsonl").read_text().splitlines())
    rows = {row["step"]: row["val"] for row in lines if "val" in row}
    return SizeRun(
        run.size,
        run.seed,
        trainable_parameters(shape),
        [step * run.batch_size * shape.codes for step in rows],
        [_losses(val) for val in rows.values()],
    )


def _losses(val: dict[str, Any]) -> Losses:
    by_dataset = {"all": val} if "later" in val else val
    return {name: scores["later"]["cross_entropy"] for name, scores in by_dataset.items()}


def ends(runs: list[SizeRun], dataset: str) -> tuple[list[int], list[float]]:
    """Parameters and final loss of every run."""
    return [run.parameters for run in runs], [run.losses[-1][dataset] for run in runs]


def gaps(runs: list[SizeRun], dataset: str) -> list[dict[str, Any]]:
    """Each size beside the next larger one: the fall of the mean final loss, and the spread.

    The spread is the larger of the two sizes' difference between best and worst seed; a fall
    beyond it is no luck of the seed. With one seed there is none to tell.
    """
    final: dict[str, list[float]] = {}
    for run in sorted(runs, key=lambda run: run.parameters):
        final.setdefault(run.size, []).append(run.losses[-1][dataset])
    rows = []
    for (small, a), (large, b) in pairwise(final.items()):
        fall = sum(a) / len(a) - sum(b) / len(b)
        spread = max(max(a) - min(a), max(b) - min(b)) if len(a) > 1 else None
        beyond = fall > spread if spread is not None else None
        row = {"from": small, "to": large, "fall": fall, "spread": spread, "beyond": beyond}
        rows.append(row)
    return rows


def table(runs: list[SizeRun], dataset: str) -> list[str]:
    """Lines that show the final losses of a dataset, and whether larger was better."""
    lines = [f"{dataset}: validation loss after {runs[0].tokens[-1]:,} tokens"]
    for run in runs:
        loss = run.losses[-1][dataset]
        lines.append(
            f"  {run.size:<6} {run.parameters:>12,} parameters, seed {run.seed} {loss:.4f}"
        )
    for gap in gaps(runs, dataset):
        said = {True: "more than", False: "NOT more than", None: "of one seed, against"}
        spread = "an unknown spread" if gap["spread"] is None else f"the spread {gap['spread']:.4f}"
        words = f"{gap['fall']:+.4f} lower, {said[gap['beyond']]} {spread}"
        lines.append(f"  {gap['to']} than {gap['from']}: {words}")
    return lines
