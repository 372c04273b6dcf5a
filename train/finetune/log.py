"""What a run of stage 2 tells while it runs: terminal, metrics.jsonl and TensorBoard.

{"step": 25, "loss": 0.81, "gradient_norm": 0.9}
{"step": 26, "loss": null, "gradient_norm": null, "skipped": ["clip ids", …]}
{"step": 50, "train": {"loss": 0.7, "video": 2.9, "arm": 0.3, …, "windows_per_s": 90, …}}
{"step": 100, "val": {…}}
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from handloom.errors import RunError
from handloom.train.finetune.windows.windows import Batch
from handloom.train.trainer.log_lines import (
    duration,
    forget_steps_after,
    json_number,
    mean,
    memory_gb,
    numbers,
    open_board,
)
from handloom.train.trainer.optimizer import schedule

if TYPE_CHECKING:
    from handloom.train.finetune.task import Job
    from handloom.train.finetune.validate import Scores

PARTS = ("loss", "video", "arm", "gripper", "kl")
NAMED_CLIPS = 8  # in a message; metrics.jsonl has all
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One step as it is pending: the values are on the device, and may not be computed yet."""

    number: int
    parts: Tensor
    """Means over this process's windows, as `PARTS` names them."""
    norm: Tensor
    batch: Batch


class Log:
    """Holds the losses of steps on the device, and writes them in bunches.

    All processes call the same methods at the same steps; rank 0 writes.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.world, self.config = job, job.world, job.config
        self.path = job.config.out / "metrics.jsonl"
        self._pending: list[Step] = []
        self._board: Any = None
        if self.world.is_first:
            self.config.out.mkdir(parents=True, exist_ok=True)
            forget_steps_after(self.path, job.step)
            if self.config.tensorboard:
                self._board = open_board(self.config.out / "tensorboard", job.step)
        self.restart_clock()

    def restart_clock(self) -> None:
        """Time training from here: validations and checkpoints do not count."""
        self._waited_s, self._since = 0.0, time.perf_counter()

    def timed(self, fetch: Callable[[], T]) -> T:
        """Fetch a batch; the time counts as waiting for data."""
        began = time.perf_counter()
        fetched = fetch()
        self._waited_s += time.perf_counter() - began
        return fetched

    def add(self, step: Step) -> None:
        """Take in a step; waits for nothing."""
        self._pending.append(step)

    def flush(self) -> None:
        """Write the pending steps, print their mean.

        Raises:
            RunError: too many steps were skipped.
        """
        steps, self._pending = self._pending, []
        norms = torch.stack([step.norm for step in steps]).tolist()
        mine = [step.parts.tolist() for step in steps], [step.batch.clip_id for step in steps]
        seconds = time.perf_counter() - self._since
        gathered = self.world.gather(mine)
        bad = [i for i, norm in enumerate(norms) if not math.isfinite(norm)]
        self.job.skipped += len(bad)
        ids = {i: [name for _, clips in gathered for name in clips[i]] for i in bad}
        if self.world.is_first:
            means = [
                [mean([parts[i][k] for parts, _ in gathered]) for k in range(len(PARTS))]
                for i in range(len(steps))
            ]
            self._write(self._rows(steps, means, norms, ids))
            self._summary(steps[-1].number, means, norms, seconds)
        if bad and self.job.skipped >= self.config.skip_nonfinite:
            self._give_up([steps[i].number for i in bad], [n for i in bad for n in ids[i]])

    def validation(self, step: int, scores: Scores) -> None:
        """Write and print a validation."""
        plain = asdict(scores)
        self._write([{"step": step, "val": plain}])
        for name, value in numbers(plain, "val"):
            self._show(name, value, step)
        self._print(step, f"val {scores.line()}")

    def close(self) -> None:
        """Write what TensorBoard has not got yet."""
        if self._board is not None:
            self._board.close()

    def _rows(
        self,
        steps: list[Step],
        means: list[list[float]],
        norms: list[float],
        ids: dict[int, list[str]],
    ) -> list[dict[str, Any]]:
        rows = []
        for i, step in enumerate(steps):
            row: dict[str, Any] = {"step": step.number, "loss": json_number(means[i][0])}
            row["gradient_norm"] = json_number(norms[i])
            if i in ids:
                row["skipped"] = ids[i]
            rows.append(row)
        return rows

    def _summary(
        self, last: int, means: list[list[float]], norms: list[float], seconds: float
    ) -> None:
        good = [row for row, norm in zip(means, norms, strict=True) if math.isfinite(norm)]
        parts = {name: json_number(mean([row[k] for row in good])) for k, name in enumerate(PARTS)}
        facts = {
            **parts,
            "gradient_norm": json_number(mean([n for n in norms if math.isfinite(n)])),
            "lr": self.config.lr * schedule(last - 1, self.config),
            "windows_per_s": round(self.config.batch_size * len(means) / seconds, 2),
            "data_wait": round(self._waited_s / seconds, 4),
            "memory_gb": round(memory_gb(self.world.device), 3),
            "skipped": self.job.skipped,
        }
        self._write([{"step": last, "train": facts}])
        for name, value in numbers(facts, "train"):
            self._show(name, value, last)
        told = "   ".join(f"{n} {v:.3f}" for n, v in parts.items() if v is not None)
        left_s = (self.config.steps - last) * seconds / len(means)
        self._print(
            last,
            f"{told}   {facts['windows_per_s']:,.1f} windows/s   waits for data "
            f"{facts['data_wait']:.1%}   {duration(left_s)} left",
        )

    def _give_up(self, steps: list[int], ids: list[str]) -> None:
        more = f" and {len(ids) - NAMED_CLIPS} more" if len(ids) > NAMED_CLIPS else ""
        raise RunError(
            f"loss or gradient was not finite in {self.job.skipped} steps, lately in step "
            f"{', '.join(map(str, steps))}, with windows of the episodes "
            f"{', '.join(ids[:NAMED_CLIPS])}{more}. The weights are those from before these steps. "
            "Lower --lr, raise --warmup or leave these episodes out; --skip-nonfinite allows more."
        )

    def _show(self, name: str, value: float, step: int) -> None:
        if self._board is not None:
            self._board.add_scalar(name, value, step)

    def _print(self, step: int, line: str) -> None:
        print(f"step {step:>6,} / {self.config.steps:,}   {line}", flush=True)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with self.path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
