"""A run's log: lines on the terminal, metrics.jsonl and TensorBoard.

{"step": 25, "loss": 2.81, "gradient_norm": 0.9}
{"step": 26, "loss": null, "gradient_norm": null, "skipped": ["clip ids", …]}
{"step": 50, "train": {"loss": 2.7, "datasets": {"ego4d": 2.9}, "tokens_per_s": 9000, …}}
{"step": 100, "val": {…}}
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from handloom.errors import RunError
from handloom.train.trainer.distributed import World
from handloom.train.trainer.numbers import (
    duration,
    finite_or_none,
    forget_steps_after,
    mean,
    memory_gb,
    numbers,
    open_board,
)
from handloom.train.trainer.options import TrainOptions
from handloom.train.trainer.task import Batch, Task

NAMED_SAMPLES = 8  # in a message; metrics.jsonl has all
T = TypeVar("T")
Row = dict[str, Any]


class Pending(NamedTuple):
    """A step whose values are on the device, and may not be computed yet."""

    step: int
    values: dict[str, Tensor]
    norm: Tensor
    datasets: list[str]
    position: int


class Means(NamedTuple):
    """Values of one step on the host, over all processes."""

    values: dict[str, float]
    norm: float
    datasets: dict[str, list[float]]
    """Losses of the samples of each dataset."""

    @property
    def is_finite(self) -> bool:
        """True where the step updated the network."""
        return math.isfinite(self.norm)


class Log:
    """Holds the values of steps on the device, and writes many at a time.

    All processes call the same methods at the same steps; rank 0 writes.

    Args:
        config: of the run.
        world: whose values are gathered.
        task: names samples, units and further numbers.
        step: the last step that is done; lines of later ones come from a run that died after its
            checkpoint, and are dropped.
        skipped: steps skipped by then.
    """

    def __init__(
        self, config: TrainOptions, world: World, task: Task, step: int, skipped: int
    ) -> None:
        self.config, self.world, self.task = config, world, task
        self.path, self.skipped = config.out / "metrics.jsonl", skipped
        self.units_per_s = 0.0
        self._share_of_peak = task.share_of_peak()
        self._pending: list[Pending] = []
        self._board: Any = None
        if world.is_first:
            config.out.mkdir(parents=True, exist_ok=True)
            forget_steps_after(self.path, step)
            if config.tensorboard:
                self._board = open_board(config.out / "tensorboard", step)
        self.restart_clock()

    def restart_clock(self) -> None:
        """Time training from here: validations and checkpoints do not count."""
        self._units, self._waited_s, self._since = 0, 0.0, time.perf_counter()

    def timed(self, fetch: Callable[[], T]) -> T:
        """Fetch a batch; the time counts as waiting for data."""
        began = time.perf_counter()
        fetched = fetch()
        self._waited_s += time.perf_counter() - began
        return fetched

    def add(self, step: int, values: dict[str, Tensor], norm: Tensor, batch: Batch) -> None:
        """Take in a step; waits for nothing."""
        self._pending.append(Pending(step, values, norm, batch.datasets, batch.position))
        self._units += self.task.units_of(batch)

    def flush(self) -> None:
        """Write the pending steps, print their mean.

        Raises:
            RunError: too many steps were skipped.
        """
        pending, self._pending = self._pending, []
        mine = _on_host(pending)  # waits for the device: the clock stops after it
        seconds = time.perf_counter() - self._since
        parts = self.world.gather((mine, [step.datasets for step in pending]))
        bad = [s for s, (_, norm) in zip(pending, mine, strict=True) if not math.isfinite(norm)]
        self.skipped += len(bad)
        if self.world.is_first:
            means = [
                _means([part[i] for part, _ in parts], [names[i] for _, names in parts])
                for i in range(len(pending))
            ]
            self._write_steps(pending, means)
            self._write_summary(pending, means, seconds)
            if self._board is not None:
                self._board.flush()
        if bad and self.skipped >= self.config.skip_nonfinite:
            self._give_up(bad)

    def validation(self, step: int, scores: Row, line: str) -> None:
        """Write and print a validation."""
        self._write([{"step": step, "val": scores}])
        for name, value in numbers(scores, "val"):
            self._show(name, value, step)
        self._print(step, f"val   {line}")

    def picture(self, step: int, png: Path) -> None:
        """Show a picture in TensorBoard."""
        if self._board is not None:
            from PIL import Image

            with Image.open(png) as image:
                pixels_HWC = np.asarray(image.convert("RGB"))
            self._board.add_image("predictions", pixels_HWC, step, dataformats="HWC")

    def close(self) -> None:
        """Write what TensorBoard has not got yet."""
        if self._board is not None:
            self._board.close()

    def _write_steps(self, pending: list[Pending], means: list[Means]) -> None:
        rows = []
        for step, mean_of in zip(pending, means, strict=True):
            row: Row = {"step": step.step, "loss": finite_or_none(mean_of.values["loss"])}
            row["gradient_norm"] = finite_or_none(mean_of.norm)
            if not mean_of.is_finite:
                row["skipped"] = self.task.sample_ids(step.position)
            rows.append(row)
        self._write(rows)

    def _write_summary(self, pending: list[Pending], means: list[Means], seconds: float) -> None:
        last, finite = pending[-1].step, [step for step in means if step.is_finite]
        self.units_per_s = self._units * self.world.size / seconds
        facts: Row = {
            **_averaged([step.values for step in finite], list(means[-1].values)),
            "gradient_norm": finite_or_none(mean([step.norm for step in finite])),
            **_by_dataset(finite),
            f"{self.task.unit}_per_s": round(self.units_per_s, 1),
            "mfu": self._mfu(),
            "data_wait": round(self._waited_s / seconds, 4),
            "memory_gb": round(memory_gb(self.world.device), 3),
            "skipped": self.skipped,
            **self.task.log_facts(last),
        }
        self._write([{"step": last, "train": facts}])
        for name, value in numbers(facts, "train"):
            self._show(name, value, last)
        self._print(last, self._line(facts, list(means[-1].values), seconds / len(pending), last))

    def _line(self, facts: Row, names: list[str], step_s: float, step: int) -> str:
        wanted = [n for n in names if facts[n] is not None and n in (self.task.shown or names)]
        shown = [f"{n} {facts[n]:.3f}" for n in wanted]
        if facts["gradient_norm"] is not None:
            shown.append(f"norm {facts['gradient_norm']:.2f}")
        shown.append(
            f"{self.units_per_s:,.{0 if self.units_per_s > 100 else 1}f} {self.task.unit}/s"
        )
        if facts["mfu"] is not None:
            shown.append(f"MFU {facts['mfu']:.1%}")
        shown.append(f"waits for data {facts['data_wait']:.1%}")
        shown.append(f"{facts['memory_gb']:.1f} GB")
        if self.skipped:
            shown.append(f"skipped {self.skipped}")
        left_s = (self.config.steps - step) * step_s
        return "   ".join(["train", *shown, f"{duration(left_s)} left"])

    def _mfu(self) -> float | None:
        if self._share_of_peak is None:
            return None
        return round(self._share_of_peak * self.units_per_s / self.world.size, 4)

    def _give_up(self, bad: list[Pending]) -> None:
        noun = self.task.noun
        ids = [name for step in bad for name in self.task.sample_ids(step.position)]
        more = f" and {len(ids) - NAMED_SAMPLES} more" if len(ids) > NAMED_SAMPLES else ""
        named = f", with the {noun} {', '.join(ids[:NAMED_SAMPLES])}{more}" if ids else ""
        raise RunError(
            f"loss or gradient was not finite in {self.skipped} steps, lately in step "
            f"{', '.join(str(step.step) for step in bad)}{named}. The weights are those from "
            f"before these steps. Lower --lr, warm up longer or leave these {noun} out; "
            "--skip-nonfinite allows more."
        )

    def _show(self, name: str, value: float, step: int) -> None:
        if self._board is not None:
            self._board.add_scalar(name, value, step)

    def _print(self, step: int, line: str) -> None:
        print(f"step {step:>6,} / {self.config.steps:,}   {line}", flush=True)

    def _write(self, rows: list[Row]) -> None:
        with self.path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


Values = dict[str, list[float] | float]


def _on_host(pending: list[Pending]) -> list[tuple[Values, float]]:
    """Values and norms of this process's steps."""
    return [
        ({name: value.float().tolist() for name, value in step.values.items()}, step.norm.item())
        for step in pending
    ]


def _means(parts: list[tuple[Values, float]], datasets: list[list[str]]) -> Means:
    """One step, over all samples of all processes."""
    values = {name: mean(_flat([of[name] for of, _ in parts])) for name in parts[0][0]}
    by_dataset: dict[str, list[float]] = defaultdict(list)
    for (of, _), names in zip(parts, datasets, strict=True):
        losses = of["loss"]
        for name, loss in zip(names, losses if isinstance(losses, list) else [], strict=False):
            by_dataset[name].append(loss)
    return Means(values, parts[0][1], by_dataset)


def _flat(values: list[list[float] | float]) -> list[float]:
    return [v for value in values for v in (value if isinstance(value, list) else [value])]


def _averaged(rows: list[dict[str, float]], names: list[str]) -> dict[str, float | None]:
    """The mean over steps of each value; a value that began in their midst counts from there."""
    return {
        name: finite_or_none(mean([row[name] for row in rows if name in row])) for name in names
    }


def _by_dataset(steps: list[Means]) -> Row:
    pooled: dict[str, list[float]] = defaultdict(list)
    for step in steps:
        for name, losses in step.datasets.items():
            pooled[name] += losses
    means = {name: finite_or_none(mean(losses)) for name, losses in sorted(pooled.items())}
    return {"datasets": means} if means else {}
