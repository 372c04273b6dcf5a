"""What a VQGAN's training tells while it runs: lines on the terminal, and metrics.jsonl.

{"step": 50, "l1": 0.03, …, "usage": 0.98, "perplexity": 610.2, "psnr_db": 24.1, "seconds": 9.1}
{"step": 500, "held_out": {"psnr_db": 26.3, …, "sources": {"ego4d": {…}, …}}}
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handloom.errors import RunError
from handloom.train.trainer.whole_files import write_atomically


class Log:
    """Gathers what steps measure on the device, and writes the mean of every few.

    Args:
        out: the run's folder.
        steps: of the whole run.
        step: the last step that is done; lines of later ones come from a run that died after its
            checkpoint, and are dropped.
        seconds: that the run had taken by then.
    """

    def __init__(self, out: Path, steps: int, step: int, seconds: float) -> None:
        self.path, self.steps = out / "metrics.jsonl", steps
        self._pending: list[dict[str, Tensor]] = []
        self._sources: dict[str, int] = {}
        self._began = time.monotonic() - seconds
        out.mkdir(parents=True, exist_ok=True)
        self._forget_steps_after(step)

    @property
    def seconds(self) -> float:
        """What the run has taken so far, with all that went before an interruption."""
        return round(time.monotonic() - self._began, 1)

    def add(self, values: dict[str, Tensor], sources: list[str]) -> None:
        """Take in a step; waits for nothing."""
        self._pending.append(values)
        for name in sources:
            self._sources[name] = self._sources.get(name, 0) + 1

    def flush(self, step: int, facts: dict[str, float]) -> None:
        """Write the means of the pending steps, with further facts.

        Raises:
            RunError: a loss is not finite.
        """
        if not self._pending:
            return
        names = list(self._pending[-1])
        values = {
            name: torch.stack([row[name].float() for row in self._pending if name in row]).mean()
            for name in names
        }
        row: dict[str, Any] = {name: float(f"{value.item():.5g}") for name, value in values.items()}
        drawn, self._pending, self._sources = self._sources, [], {}
        if not all(math.isfinite(value) for value in row.values()):
            raise RunError(
                f"a loss is not finite before step {step} ({row}); nothing after the last "
                "checkpoint was saved. Lower --lr."
            )
        row |= {name: round(value, 4) for name, value in facts.items()}
        self._write({"step": step, **row, "drawn": drawn, "seconds": self.seconds})
        shown = ("loss", "psnr_db", "usage", "logits_real", "logits_fake", "adaptive")
        self._print(step, "  ".join(f"{n} {row[n]:.4g}" for n in shown if n in row))

    def held_out(self, step: int, facts: dict[str, Any]) -> None:
        """Write and print an evaluation."""
        self._write({"step": step, "held_out": facts})
        names = ("psnr_db", "codes_used", "perplexity", "flips_still")
        self._print(step, "held out: " + "  ".join(f"{name} {facts[name]}" for name in names))

    def _print(self, step: int, line: str) -> None:
        print(f"step {step:>6,} / {self.steps:,}   {line}", flush=True)

    def _write(self, row: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _forget_steps_after(self, step: int) -> None:
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        # The last line may be half a line, where the run was killed in the middle of it.
        whole = [line for line in lines if line.endswith("}")]
        kept = [line for line in whole if json.loads(line)["step"] <= step]
        if kept != lines:
            write_atomically(self.path, "".join(f"{line}\n" for line in kept))
