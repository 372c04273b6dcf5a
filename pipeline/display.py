"""Output of a run on the terminal: a line per stage while it works, and the closing table."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable

from handloom.pipeline.job import Job
from handloom.pipeline.progress import Line
from handloom.stages.tables.funnel import Funnel
from handloom.stages.tables.parts import effort, stage_folder

LOG_EVERY_S = 10.0  # without a terminal, as in a job's log


class Display:
    """Progress of a job: a live table on a terminal, a line every few seconds elsewhere."""

    def __init__(self, job: Job) -> None:
        self.console, self.logged = Console(), 0.0
        self.said: set[str] = set()
        title = f"curate {job.dataset}: {job.data} -> {job.out}"
        self.console.print(title, soft_wrap=True, highlight=False)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def say(self, sentence: str) -> None:
        """Print a sentence once, whatever is shown below it; nothing if it is empty."""
        if sentence and sentence not in self.said:
            self.said.add(sentence)
            self.console.print(sentence, soft_wrap=True, highlight=False, markup=False)

    def show(self, lines: dict[str, Line], is_last: bool) -> None:
        """Show progress as it is now."""
        for name, line in lines.items():
            self.say(f"{name} {line.note}" if line.note else "")
            self.say(outdated(name, line.outdated) if line.outdated else "")
        if self.console.is_terminal:
            self.live.update(progress_table(lines))
        elif time.monotonic() - self.logged > LOG_EVERY_S or is_last:
            self.logged = time.monotonic()
            print(progress_line(lines), flush=True)


def outdated(stage: str, rows: int) -> str:
    """The sentence on rows that are thrown away since their clips have changed."""
    return (
        f"{stage}: {rows:,} rows are thrown away and computed again, since what they were made "
        "from has changed"
    )


def progress_table(lines: dict[str, Line]) -> RichTable:
    """The live table."""
    table = RichTable("stage", "state", "clips", "failed", "clips/s", "ETA", "workers", box=None)
    for name, line in lines.items():
        clips = f"{line.done}/{line.total}" if line.total else str(line.done or "")
        rate = f"{line.rate:.1f}" if line.done else ""
        workers = str(line.workers or "")
        table.add_row(name, line.state, clips, str(line.failed or ""), rate, line.eta, workers)
    return table


def progress_line(lines: dict[str, Line]) -> str:
    """The same in one line, for the stages that have begun."""
    parts = []
    for name, line in lines.items():
        if line.state == "running":
            clips = f"{line.done}/{line.total}" if line.total else str(line.done)
            eta = f", ETA {line.eta}" if line.eta else ""
            parts.append(f"{name} {clips} ({line.rate:.1f} clips/s{eta})")
        elif line.state != "waiting":
            parts.append(f"{name} {line.state}")
    return " | ".join(parts) or "starting"


def closing_table(out: Path, funnel: Funnel, lines: Sequence[str] = ()) -> None:
    """Print counts and effort of every stage, the ends of all clips, and further lines."""
    table = RichTable("stage", "in", "kept", "rejected", "failed", "new", "seconds", "clips/s")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, count in funnel.stages.items():
        reasons = "\n".join(f"{n} {reason}" for reason, n in count.rejected.most_common())
        table.add_row(
            name, str(count.entered), str(count.kept), reasons, str(count.failed or ""),
            *_effort(stage_folder(out, name)),
        )  # fmt: skip
    table.add_row(
        "pack", str(funnel.kept), str(funnel.kept), "", "", *_effort(stage_folder(out, "pack"))
    )
    console = Console(width=100 if not sys.stdout.isatty() else None)
    console.print(table)
    waiting = funnel.ingested - funnel.kept - funnel.rejected - funnel.failed
    console.print(
        f"{funnel.ingested} clips ingested = {funnel.kept} kept + {funnel.rejected} rejected "
        f"+ {funnel.failed} failed" + (f" + {waiting} that wait for a stage" if waiting else ""),
        highlight=False,
    )
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _effort(folder: Path) -> tuple[str, str, str]:
    computed, seconds, last = effort(folder)
    return str(last), f"{seconds:.1f}", f"{computed / seconds:.1f}" if seconds else ""
