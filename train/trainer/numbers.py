"""Numbers and lines of a log: metrics.jsonl, TensorBoard, memory, durations."""

import json
import math
import resource
from pathlib import Path
from typing import Any

import torch

from handloom.files import write_text


def forget_steps_after(path: Path, step: int) -> None:
    """Drop lines of later steps: they come from a run that died after its checkpoint."""
    lines = path.read_text().splitlines() if path.is_file() else []
    # The last line may be half a line, where the run was killed in the middle of it.
    whole = [line for line in lines if line.endswith("}")]
    kept = [line for line in whole if json.loads(line)["step"] <= step]
    if kept != lines:
        write_text(path, "".join(f"{line}\n" for line in kept))


def open_board(folder: Path, step: int) -> Any:
    """A writer for TensorBoard that continues after a step."""
    # TensorBoard itself, which is large, is only needed to view the log.
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)


def memory_gb(device: torch.device) -> float:
    """The largest memory so far: the GPU's that torch has taken, or this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def mean(values: list[float]) -> float:
    """The mean; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def finite_or_none(value: float) -> float | None:
    """A number as JSON knows it, which has no NaN or infinity."""
    return value if math.isfinite(value) else None


def numbers(values: dict[str, Any], name: str) -> list[tuple[str, float]]:
    """Every number in nested dicts, under its path."""
    pairs = []
    for key, value in values.items():
        if isinstance(value, dict):
            pairs += numbers(value, f"{name}/{key}")
        elif isinstance(value, int | float):
            pairs.append((f"{name}/{key}", float(value)))
    return pairs


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
