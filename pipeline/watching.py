"""A run seen from another shell or machine: `handloom status OUT --watch` and `--json`."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from handloom.errors import UserError
from handloom.pipeline import output, progress
from handloom.pipeline.display import LOG_EVERY_S, progress_line, progress_table
from handloom.pipeline.progress import Heartbeat, Line

EVERY_S = 1.0


def read(out: Path) -> tuple[Heartbeat, dict[str, Line]]:
    """The newest run of a folder and the progress of its stages.

    Raises:
        UserError: the folder is no run's, or its run tells no progress.
    """
    output.read_run(out)
    run = progress.read_run(out)
    if run is None:
        raise UserError(
            f"{out} tells no progress: its run has just begun, or was of an earlier version; "
            "`handloom status` without --watch and --json counts what its tables hold."
        )
    return run, progress.read_lines(out, run.stages)


def follow(out: Path) -> Iterator[tuple[Heartbeat, dict[str, Line]]]:
    """The same every second, until the run has ended; at least once."""
    while True:
        run, lines = read(out)
        yield run, lines
        if run.state != "running":
            return
        time.sleep(EVERY_S)


def watch(out: Path) -> None:
    """Show a run until it ends: a live table on a terminal, a line every few seconds elsewhere."""
    console, logged = Console(), 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for run, lines in follow(out):
            if console.is_terminal:
                live.update(progress_table(lines), refresh=True)
            elif time.monotonic() - logged > LOG_EVERY_S or run.state != "running":
                logged = time.monotonic()
                print(progress_line(lines), flush=True)
    print(ending(run))


def ending(run: Heartbeat) -> str:
    """A sentence on how a run ended."""
    where = f"process {run.pid} on {run.host}"
    if run.state == "stopped":
        silent = round(time.time() - run.updated)
        return f"the run ({where}) has said nothing for {silent} s; run the same command to go on"
    return f"the run ({where}) has {run.state}{f': {run.error}' if run.error else ''}"


def print_json(out: Path, again: bool) -> None:
    """Print a run as JSON in one line; every second until it ends, if `again`."""
    for run, lines in follow(out):
        print(json.dumps(as_json(out, run, lines)), flush=True)
        if not again:
            return


def as_json(out: Path, run: Heartbeat, lines: dict[str, Line]) -> dict[str, Any]:
    """A run as plain values. Times are in seconds since 1970; rates in clips a second."""
    facts = {key: value for key, value in asdict(run).items() if key not in ("stages", "run_id")}
    stages = {
        name: {
            "state": line.state, "total": line.total, "done": line.done, "failed": line.failed,
            "clips_per_second": round(line.rate, 3) if line.done else 0.0,
            "eta_s": None if line.eta_s is None else round(line.eta_s, 1),
            "workers": line.workers, "note": line.note,
        }
        for name, line in lines.items()
    }  # fmt: skip
    return {"out": str(out), **facts, "stages": stages}
