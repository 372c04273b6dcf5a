"""Progress of a run, in files of its output folder: one for each stage, one for the run itself.

    progress/<stage>.json    clips done, failed and in all, workers; written by the stage's task
    progress/_run.json       who runs, since when, and the time of the last sign of life

Files instead of an actor: no node carries them away, the process that shows them need not be the
one that started the run, and a run starts one process less.
"""

import json
import math
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from handloom.errors import RunError, Terminated, first_line
from handloom.files import read_facts, write_text
from handloom.places import is_remote

EVERY_S = 1.0
LOOK_S = 0.2  # large clusters write a hundred parts a second, and each look opens a file
REMOTE_S = 5.0  # where the files lie in a store, which counts requests
SILENT_S = 30.0  # a run that has said nothing for so long has been killed, or its machine is gone


@dataclass
class Line:
    """Progress of one stage; times in seconds since 1970."""

    total: int | None = None
    """Clips to do; None where it is not known."""
    done: int = 0
    failed: int = 0
    """Clips among `done`."""
    started: float = 0.0
    seconds: float = 0.0
    """Duration, once it is done."""
    state: str = "waiting"
    """`waiting`, `running`, `done`, or `up to date` where there was nothing to do."""
    workers: int = 0
    note: str = ""
    """What it waits for, where it cannot go on."""
    outdated: int = 0
    """Rows of earlier runs that were thrown away, since their clips have changed."""

    @property
    def rate(self) -> float:
        """Clips per second so far."""
        seconds = self.seconds or time.time() - self.started
        return self.done / seconds if seconds > 0 else 0.0  # a clock may run backwards

    @property
    def eta_s(self) -> float | None:
        """Seconds left; None while they cannot be estimated."""
        if self.state != "running" or not self.total or not self.rate:
            return None
        return max(0, self.total - self.done) / self.rate

    @property
    def eta(self) -> str:
        """Time left as m:ss; empty while it cannot be estimated."""
        left = self.eta_s
        return "" if left is None else f"{round(left) // 60}:{round(left) % 60:02d}"


class Reporter:
    """Writes the progress of one stage, at most once a second.

    Args:
        out: the output folder of the run.
        name: the stage.
    """

    def __init__(self, out: Path, name: str) -> None:
        self.path, self.line = _folder(out) / f"{name}.json", Line()
        self.told, self.gauges = 0.0, Gauges(name)
        self.every_s = _every_s(out)

    def start(self, total: int | None) -> None:
        """Begin; `total` clips are to be done, None if it is not known."""
        self.line.total, self.line.started, self.line.state = total, time.time(), "running"
        self._write()

    def advance(self, counts: dict[str, int]) -> None:
        """Count the rows of a written part, by status."""
        self.line.done += sum(counts.values())
        self.line.failed += counts.get("failed", 0)
        self.tell()

    def throw_away(self, rows: int) -> None:
        """Note that so many rows of earlier runs go, since their clips have changed."""
        self.line.outdated += rows
        self._write()

    def watch(self, workers: int, note: str) -> None:
        """Note the number of workers, and what is missing where there is none."""
        changed = (workers, note) != (self.line.workers, self.line.note)
        self.line.workers, self.line.note = workers, note
        self.tell(now=changed)

    def tell(self, now: bool = False) -> None:
        """Write the line, unless that was done a moment ago."""
        if now or time.monotonic() - self.told > self.every_s:
            self._write()

    def finish(self) -> Line:
        """End, and return the final line."""
        line = self.line
        line.seconds = max(0.0, time.time() - line.started) if line.started else 0.0
        is_report = self.path.stem == "report" and line.started
        line.state = "done" if line.done or is_report else "up to date"
        line.workers, line.note = 0, ""
        self._write()
        return line

    def _write(self) -> None:
        self.told = time.monotonic()
        write_text(self.path, json.dumps(asdict(self.line)) + "\n", sync=False)
        self.gauges.set(self.line)


class Gauges:
    """The same numbers as metrics of Ray, which Prometheus reads from every node.

    `handloom_clips_done`, `handloom_clips_failed` and so on, as in `NAMES`, with the tag `stage`.
    """

    NAMES = ("clips_done", "clips_failed", "clips_total", "clips_per_second", "workers")

    def __init__(self, stage: str) -> None:
        from ray.util.metrics import Gauge

        self.tags = {"stage": stage}
        self.gauges = {
            name: Gauge(f"handloom_{name}", f"handloom curate: {name}", tag_keys=("stage",))
            for name in self.NAMES
        }

    def set(self, line: Line) -> None:
        """Publish a line."""
        rate = line.rate if line.state == "running" else 0.0
        values = line.done, line.failed, line.total or 0, rate, line.workers
        for name, value in zip(self.NAMES, values, strict=True):
            self.gauges[name].set(value, tags=self.tags)


@dataclass
class Heartbeat:
    """The run itself, as the process that started it tells."""

    run_id: str
    stages: list[str]
    started: float = field(default_factory=time.time)
    updated: float = 0.0
    state: str = "running"
    """`running`, `finished` or `failed`."""
    error: str = ""
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)

    def beat(self, out: Path, state: str = "running", error: str = "") -> None:
        """Write it, at most once a second while the state is the same."""
        told = (state, error) == (self.state, self.error)
        if told and abs(time.time() - self.updated) < _every_s(out):
            return
        self.updated, self.state, self.error = time.time(), state, error
        write_text(_folder(out) / "_run.json", json.dumps(asdict(self)) + "\n", sync=False)

    def fail(self, out: Path, error: BaseException) -> None:
        """Write that the run has failed, and why."""
        stopped: dict[type, str] = {
            Terminated: "ended by SIGTERM",
            KeyboardInterrupt: "interrupted",
        }
        self.beat(out, "failed", stopped.get(type(error)) or first_line(error))


def clear(out: Path) -> None:
    """Forget the progress of earlier runs."""
    for path in _folder(out).glob("*.json*"):
        path.unlink(missing_ok=True)


def read_lines(out: Path, names: Iterable[str]) -> dict[str, Line]:
    """The lines of some stages; one that has told nothing yet is `waiting`."""
    return {name: Line(**read_facts(_folder(out) / f"{name}.json")) for name in names}


def read_run(out: Path) -> Heartbeat | None:
    """What the newest run said of itself; None where there is nothing.

    A run that has been silent for long is `stopped`, whatever it said last.
    """
    told = read_facts(_folder(out) / "_run.json")
    if not told:
        return None
    run = Heartbeat(**told)
    if run.state == "running" and time.time() - run.updated > SILENT_S:
        run.state = "stopped"
    return run


_looked_s: dict[tuple[Path, str], float] = {}  # when a run was last looked at


def check_goes_on(out: Path, run_id: str) -> None:
    """Raise RunError where a run has failed or another has begun, so that its stages end too."""
    now, every_s = time.monotonic(), REMOTE_S if is_remote(out) else LOOK_S
    if now - _looked_s.get((out, run_id), -math.inf) < every_s:
        return
    _looked_s[out, run_id] = now
    told = read_facts(_folder(out) / "_run.json")
    if told and (told["run_id"] != run_id or told["state"] == "failed"):
        raise RunError("the run has ended; run the same command again, it goes on from there.")


def has_ended(out: Path, run_id: str, stage: str) -> bool:
    """Whether a stage has ended; raises RunError if the run has, since it then never will."""
    check_goes_on(out, run_id)
    return read_lines(out, [stage])[stage].state in ("done", "up to date")


def _every_s(out: Path) -> float:
    return REMOTE_S if is_remote(out) else EVERY_S


def _folder(out: Path) -> Path:
    return out / "progress"
