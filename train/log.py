"""What a training run tells while it runs: lines on the terminal, and metrics.jsonl.

{"step": 25, "loss": 2.81, "gradient_norm": 0.9}
{"step": 100, "val": {"loss": 2.2, "first": {...}, "later": {...}}}
"""

import json
import math
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from handloom.errors import RunError
from handloom.train.baselines import Validation
from handloom.train.checkpoint import write_atomically
from handloom.train.pretrain import PretrainConfig


class Log:
    """Holds the losses of steps on the device, and writes them in bunches.

    Args:
        config: of the run.
        step: the last step that is done; lines of later ones come from a run that died after its
            checkpoint, and are dropped.
    """

    def __init__(self, config: PretrainConfig, step: int) -> None:
        self.config, self.path = config, config.out / "metrics.jsonl"
        self.tokens_per_s = 0.0
        self._pending: list[tuple[int, Tensor, Tensor]] = []
        config.out.mkdir(parents=True, exist_ok=True)
        self._forget_steps_after(step)
        self.restart_clock()

    def restart_clock(self) -> None:
        """Time training from here: validations and checkpoints do not count."""
        self._codes, self._since = 0, time.perf_counter()

    def add(self, step: int, loss: Tensor, norm: Tensor, codes: int) -> None:
        """Take in a step; waits for nothing."""
        self._pending.append((step, loss, norm))
        self._codes += codes

    def flush(self) -> None:
        """Write the pending steps, print their mean.

        Raises:
            RunError: a loss is not finite.
        """
        values = torch.stack([torch.stack([loss, norm]) for _, loss, norm in self._pending])
        steps = [step for step, _, _ in self._pending]
        self.tokens_per_s = self._codes / (time.perf_counter() - self._since)
        self._pending = []
        rows = zip(steps, values.tolist(), strict=True)
        self._write([{"step": s, "loss": loss, "gradient_norm": n} for s, (loss, n) in rows])
        mean = float(values[:, 0].mean())
        self._print(steps[-1], f"train loss {mean:.3f}   {self.tokens_per_s:,.0f} tokens/s")
        if not math.isfinite(mean):
            raise RunError(
                f"the loss is {mean} in steps {steps[0]} to {steps[-1]}; nothing of them was "
                "saved. Lower --lr or raise --warmup."
            )

    def validation(self, step: int, scores: Validation) -> None:
        """Write and print a validation."""
        self._write([{"step": step, "val": asdict(scores)}])
        later = f"{scores.later.cross_entropy:.3f}, accuracy {scores.later.accuracy:.1%}"
        self._print(step, f"val loss   {scores.loss:.3f}   frames 1 and later: {later}")

    def _print(self, step: int, line: str) -> None:
        print(f"step {step:>6,} / {self.config.steps:,}   {line}", flush=True)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with self.path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def _forget_steps_after(self, step: int) -> None:
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        # The last line may be half a line, where the run was killed in the middle of it.
        whole = [line for line in lines if line.endswith("}")]
        kept = [line for line in whole if json.loads(line)["step"] <= step]
        if kept != lines:
            write_atomically(self.path, "".join(f"{line}\n" for line in kept))
