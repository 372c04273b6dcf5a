"""What a training run tells while it runs: lines on the terminal, metrics.jsonl and TensorBoard.

{"step": 25, "loss": 2.81, "gradient_norm": 0.9}
{"step": 26, "loss": null, "gradient_norm": null, "skipped": ["clip ids", …]}
{"step": 50, "train": {"loss": 2.7, "datasets": {"ego4d": 2.9}, "tokens_per_s": 9000, …}}
{"step": 100, "val": {…}}
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from handloom.errors import RunError
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.pretrain.data import Inputs
from handloom.train.trainer.distributed import World
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
    from handloom.train.pretrain.task import Job

NAMED_CLIPS = 8  # in a message; metrics.jsonl has all


@dataclass(frozen=True)
class Step:
    """One step as it is pending: the values are on the device, and may not be computed yet."""

    number: int
    loss_B: Tensor
    norm: Tensor
    datasets: list[str]
    position: int
    """Clips consumed after it."""


class Log:
    """Holds the losses of steps on the device, and writes them in bunches.

    All processes call the same methods at the same steps; rank 0 writes.

    Args:
        config: of the run.
        world: whose losses are gathered.
        step: the last step that is done; lines of later ones come from a run that died after its
            checkpoint, and are dropped.
        skipped: steps skipped by then.
        job: tells the clips of a batch, the captions read so far, the device's peak.
    """

    def __init__(
        self, config: PretrainConfig, world: World, step: int, skipped: int, job: Job
    ) -> None:
        self.config, self.world, self.path = config, world, config.out / "metrics.jsonl"
        self.skipped, self.tokens_per_s, self.waited_s = skipped, 0.0, 0.0
        self._clip_ids, self._text, self._share_of_peak = (
            job.clip_ids,
            job.text,
            job.share_of_peak(),
        )
        self._pending: list[Step] = []
        self._board: Any = None
        self._said_cut = False
        if world.is_first:
            config.out.mkdir(parents=True, exist_ok=True)
            forget_steps_after(self.path, step)
            if config.tensorboard:
                self._board = open_board(config.out / "tensorboard", step)
        self.restart_clock()

    def restart_clock(self) -> None:
        """Time training from here: validations and checkpoints do not count."""
        self._codes, self.waited_s, self._since = 0, 0.0, time.perf_counter()

    def add(self, step: int, loss_B: Tensor, norm: Tensor, inputs: Inputs) -> None:
        """Take in a step; waits for nothing."""
        self._pending.append(Step(step, loss_B, norm, inputs.datasets, inputs.position))
        self._codes += inputs.codes_BN.numel()

    def flush(self) -> None:
        """Write the pending steps, print their mean.

        Raises:
            RunError: too many steps were skipped.
        """
        steps, self._pending = self._pending, []
        norms = torch.stack([step.norm for step in steps]).tolist()
        losses = [
            torch.stack([step.loss_B for step in steps]).tolist(),
            [s.datasets for s in steps],
        ]
        seconds = time.perf_counter() - self._since
        parts = self.world.gather(losses)
        bad = [step for step, norm in zip(steps, norms, strict=True) if not math.isfinite(norm)]
        self.skipped += len(bad)
        if self.world.is_first:
            self._write_steps(steps, norms, parts)
            self._write_summary(steps, norms, parts, seconds)
            if self._board is not None:
                self._board.flush()
        if bad and self.skipped >= self.config.skip_nonfinite:
            self._give_up(bad)

    def validation(self, step: int, scores: Any) -> None:
        """Write and print a validation, a dataclass or a dict of them by dataset."""
        plain = _plain(scores)
        self._write([{"step": step, "val": plain}])
        for name, value in numbers(plain, "val"):
            self._show(name, value, step)
        loss, later = _overall(plain)
        words = f"{later['cross_entropy']:.3f}, accuracy {later['accuracy']:.1%}"
        self._print(step, f"val loss   {loss:.3f}   frames 1 and later: {words}")

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

    def _write_steps(self, steps: list[Step], norms: list[float], parts: list[Any]) -> None:
        rows = []
        for i, (step, norm) in enumerate(zip(steps, norms, strict=True)):
            loss = mean([loss for losses, _ in parts for loss in losses[i]])
            row: dict[str, Any] = {"step": step.number, "loss": json_number(loss)}
            row["gradient_norm"] = json_number(norm)
            if not math.isfinite(norm):
                row["skipped"] = self._clip_ids(step.position)
            rows.append(row)
        self._write(rows)

    def _write_summary(
        self, steps: list[Step], norms: list[float], parts: list[Any], seconds: float
    ) -> None:
        by_dataset: dict[str, list[float]] = defaultdict(list)
        for losses, datasets in parts:
            for i in range(len(steps)):
                for name, loss in zip(datasets[i], losses[i], strict=True):
                    if math.isfinite(norms[i]):
                        by_dataset[name].append(loss)
        loss = mean([loss for values in by_dataset.values() for loss in values])
        self.tokens_per_s = self._codes * self.world.size / seconds
        read, cut = self._text.read, self._text.cut
        facts = {
            "loss": json_number(loss),
            "gradient_norm": json_number(mean([norm for norm in norms if math.isfinite(norm)])),
            "lr": self.config.lr * schedule(steps[-1].number - 1, self.config),
            "datasets": {name: json_number(mean(v)) for name, v in sorted(by_dataset.items())},
            "tokens_per_s": round(self.tokens_per_s, 1),
            "mfu": self._mfu(),
            "data_wait": round(self.waited_s / seconds, 4),
            "memory_gb": round(memory_gb(self.world.device), 3),
            "skipped": self.skipped,
            "captions_cut": cut,
        }
        last = steps[-1].number
        self._write([{"step": last, "train": facts}])
        for name, value in numbers(facts, "train"):
            self._show(name, value, last)
        self._print(last, self._line(facts, seconds / len(steps), last))
        self._say_cut(read, cut)

    def _line(self, facts: dict[str, Any], step_s: float, step: int) -> str:
        loss, norm = (math.nan if facts[n] is None else facts[n] for n in ("loss", "gradient_norm"))
        parts = [f"train loss {loss:.3f}", f"norm {norm:.2f}"]
        parts.append(f"{self.tokens_per_s:,.0f} tokens/s")
        if facts["mfu"] is not None:
            parts.append(f"MFU {facts['mfu']:.1%}")
        parts.append(f"waits for data {facts['data_wait']:.1%}")
        parts.append(f"{facts['memory_gb']:.1f} GB")
        if self.skipped:
            parts.append(f"skipped {self.skipped}")
        return "   ".join([*parts, f"{duration((self.config.steps - step) * step_s)} left"])

    def _mfu(self) -> float | None:
        if self._share_of_peak is None:
            return None
        return round(self._share_of_peak * self.tokens_per_s / self.world.size, 4)

    def _say_cut(self, read: int, cut: int) -> None:
        if cut and not self._said_cut:
            self._said_cut = True
            print(
                f"{cut:,} of the first {read:,} captions are longer than {self.config.text_length} "
                "tokens and were cut; --text-length takes more of them. metrics.jsonl goes on "
                "counting (captions_cut).",
                flush=True,
            )

    def _give_up(self, bad: list[Step]) -> None:
        ids = [name for step in bad for name in self._clip_ids(step.position)]
        more = f" and {len(ids) - NAMED_CLIPS} more" if len(ids) > NAMED_CLIPS else ""
        raise RunError(
            f"loss or gradient was not finite in {self.skipped} steps, lately in step "
            f"{', '.join(str(step.number) for step in bad)}, with the clips "
            f"{', '.join(ids[:NAMED_CLIPS])}{more}. The weights are those from before these steps. "
            "Lower --lr, raise --warmup or leave these clips out; --skip-nonfinite allows more."
        )

    def _show(self, name: str, value: float, step: int) -> None:
        if self._board is not None:
            self._board.add_scalar(name, value, step)

    def _print(self, step: int, line: str) -> None:
        print(f"step {step:>6,} / {self.config.steps:,}   {line}", flush=True)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with self.path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def _plain(scores: Any) -> Any:
    if is_dataclass(scores) and not isinstance(scores, type):
        return asdict(scores)
    return {name: _plain(value) for name, value in scores.items()}


def _overall(plain: dict[str, Any]) -> tuple[float, dict[str, float]]:
    scores = plain.get("all", plain)
    return scores["loss"], scores["later"]
