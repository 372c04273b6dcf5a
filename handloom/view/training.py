"""A training as the page shows it: verdicts, pictures, films, and the curves of its log.

The folder is that of one training, or one that holds several with their scores and rollouts, as
`handloom demo` leaves it. What lies there is found by its name, and nothing outside is served.

    /api/training                    names of all there is, and how it compares with copying
    /api/training/curves?run=        curves of a training, JSON
    /api/training/file?path=         a picture or a film
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from handloom.errors import UserError
from handloom.files import read_facts
from handloom.train.report.verdicts import verdicts
from handloom.view.run import Unknown

LOG, SUMMARY, ROLLOUT = "metrics.jsonl", "summary.json", "rollout.json"
PICTURES, FILMS = (".png", ".jpg", ".svg"), (".mp4", ".webm")
DEEP = 3  # folders below the one that is shown
SKIPPED = frozenset({"checkpoints", "tensorboard", "export", "shards", "tables", "source"})
MOST_FILES = 200
MOST_STEP = 2**53  # larger whole numbers are not exact in JavaScript
MOST_POINTS = 1500  # of a curve; of more the means of neighbours are shown


@dataclass(frozen=True)
class Training:
    """The output folder of `handloom train`, `handloom demo` or the like, finished or not.

    Attributes:
        out: the folder.
    """

    out: Path

    def files(self) -> list[str]:
        """Logs, pictures, films and results below the folder, by their paths.

        Raises:
            UserError: the folder is gone.
        """
        if not self.out.is_dir():
            raise UserError(f"{self.out} is not there any more; was it moved or deleted?")
        found = (path.relative_to(self.out).as_posix() for path in _walk(self.out, DEEP))
        return sorted(found, key=lambda name: (name.count("/"), name))[:MOST_FILES]

    def runs(self) -> list[str]:
        """Folders that hold a log; "" is the folder itself."""
        return [_folder(name) for name in self.files() if Path(name).name == LOG]

    def facts(self) -> dict[str, Any]:
        """What the page begins with."""
        files = self.files()
        runs = [_folder(name) for name in files if Path(name).name == LOG]
        return {
            "name": self.out.name,
            "runs": [self._run(run) for run in runs],
            "pictures": [name for name in files if name.endswith(PICTURES)],
            "films": [name for name in files if name.endswith(FILMS)],
            "rollouts": [self._rollout(name) for name in files if Path(name).name == ROLLOUT],
            "report": "report.html" if (self.out / "report.html").is_file() else "",
        }

    def _run(self, run: str) -> dict[str, Any]:
        summary = read_facts(self.out / run / SUMMARY)
        log = self.out / run / LOG
        return {
            "name": run,
            "finished": bool(summary),
            "step": summary.get("step"),
            "verdicts": [one._asdict() for one in verdicts(summary)],
            "state": [log.stat().st_size, log.stat().st_mtime] if log.is_file() else [],
        }

    def _rollout(self, name: str) -> dict[str, Any]:
        tasks = read_facts(self.out / name).get("tasks", {})
        counts = [one for one in tasks.values() if isinstance(one, dict)]
        done, tried = (sum(int(one.get(key, 0)) for one in counts) for key in ("done", "tried"))
        return {"name": _folder(name), "done": done, "tried": tried}

    def file(self, name: str) -> Path:
        """A picture or film below the folder.

        Raises:
            Unknown: there is none of that name.
        """
        if not name.endswith((*PICTURES, *FILMS)) or name not in self.files():
            raise Unknown(f"{name[:80]!r} is no picture or film of this training.")
        return self.out / name


def is_training(folder: Path) -> bool:
    """Whether a folder holds a training's log, and is no run of `handloom curate`."""
    if (folder / "run.yaml").is_file() or not folder.is_dir():
        return False
    return any(path.name == LOG for path in _walk(folder, DEEP))


def routes(training: Training) -> list[BaseRoute]:
    """The addresses of a training."""

    def facts(_: Request) -> Response:
        return JSONResponse(training.facts())

    def log(request: Request) -> Response:
        run = request.query_params.get("run", "")
        if run not in training.runs():
            raise Unknown(f"there is no training {run[:80]!r} here.")
        curves, skipped = read_log(training.out / run / LOG)
        return JSONResponse({"curves": curves, "skipped": skipped})

    def file(request: Request) -> Response:
        return FileResponse(training.file(request.query_params.get("path", "")))

    return [
        Route("/api/training", facts),
        Route("/api/training/curves", log),
        Route("/api/training/file", file),
    ]


def _walk(folder: Path, deep: int) -> Iterator[Path]:
    """Files worth showing, folder by folder."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.is_symlink():
            continue
        if entry.is_dir():
            if deep and entry.name not in SKIPPED:
                yield from _walk(entry, deep - 1)
        elif entry.name in (LOG, ROLLOUT) or entry.suffix in (*PICTURES, *FILMS):
            yield entry


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def read_log(log: Path) -> tuple[list[dict[str, Any]], int]:
    """The curves of a log, and how many of its lines cannot be used.

    A last line that is cut off, as of a training that goes on, is left out and does not count.

    Returns:
        The numbers by name, each with its steps, {name, steps, values}, but none that stay 0; and
        the number of lines that are no JSON object with a step.
    """
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    skipped = 0
    with log.open("rb") as lines:
        for line in lines:
            try:
                row = json.loads(line.decode())
                step = _step(row.pop("step"))
                numbers = list(_numbers(row, ""))
            except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError,
                    RecursionError):  # fmt: skip
                skipped += bool(line.strip()) and line.endswith(b"\n")
                continue
            for name, value in numbers:
                found[name].append((step, value))
    said = {name: points for name, points in found.items() if any(value for _, value in points)}
    return [{"name": name, **thinned(points)} for name, points in said.items()], skipped


def _step(value: Any) -> int:
    """A step as a whole number; OverflowError for one that a browser has no number for."""
    step = int(value)
    if abs(step) > MOST_STEP:
        raise OverflowError
    return step


def _numbers(row: Any, name: str) -> Iterator[tuple[str, float]]:
    """Finite numbers in nested tables, by the path that leads to them."""
    if isinstance(row, dict):
        for key, value in row.items():
            yield from _numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(row, int | float) and not isinstance(row, bool) and math.isfinite(row):
        yield name, float(row)


def thinned(points: list[tuple[int, float]]) -> dict[str, list[float]]:
    """At most MOST_POINTS points: means of as many neighbours as that takes."""
    size = -(-len(points) // MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size or 1)]
    steps = [float(group[-1][0]) for group in groups]
    return {"steps": steps, "values": [math.fsum(v / len(g) for _, v in g) for g in groups]}
