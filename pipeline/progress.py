"""Progress of a run's stages, in an actor that the stages update and the display reads.

The actor has a process of its own. This module imports nothing of handloom, so that it starts at
once; the stages take a second.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Line:
    """Progress of one stage."""

    total: int | None = None
    done: int = 0
    failed: int = 0
    started: float = 0.0
    seconds: float = 0.0
    state: str = "waiting"

    @property
    def rate(self) -> float:
        """Clips per second so far."""
        seconds = self.seconds or time.time() - self.started
        return self.done / seconds if seconds else 0.0

    @property
    def eta(self) -> str:
        """Time left as m:ss; empty while it cannot be estimated."""
        if self.state != "running" or not self.total or not self.done:
            return ""
        left = round((self.total - self.done) / self.rate)
        return f"{left // 60}:{left % 60:02d}"


class Progress:
    """A Ray actor with the progress of all stages."""

    def __init__(self, stages: Sequence[str]) -> None:
        self.lines = {name: Line() for name in stages}

    def start(self, name: str, total: int | None) -> None:
        """Begin a stage; `total` clips are to be done, None if it is not known."""
        line = self.lines[name]
        line.total, line.started, line.state = total, time.time(), "running"

    def advance(self, name: str, counts: dict[str, int]) -> None:
        """Count the rows of a written part, by status."""
        self.lines[name].done += sum(counts.values())
        self.lines[name].failed += counts.get("failed", 0)

    def finish(self, name: str) -> None:
        """End a stage."""
        line = self.lines[name]
        line.seconds = time.time() - line.started if line.started else 0.0
        line.state = "done" if line.done or (name == "report" and line.started) else "up to date"

    def snapshot(self) -> dict[str, Line]:
        """All lines, as they are now."""
        return self.lines
