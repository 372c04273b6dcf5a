"""CPU seconds and peak memory of the steps that run over all clips, on tables of any size.

    python benchmarks/scale_tables.py /tmp/scale/1m --clips 1000000
    python benchmarks/bench_scale.py /tmp/scale/1m [STEP...]

Without a folder, tables of 65,536 clips are written first. Each step runs in a process of its own;
its CPU seconds are those of all its threads, without imports. Memory is the peak of the process, in
brackets that of one which has only imported. `read` reads the columns that go into the shards once:
the measure of `shards`.
"""

import argparse
import contextlib
import io
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from handloom.pipeline.commands import StatusCommand, status
from handloom.pipeline.recipes import ego4d
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.hands.rows import Framing
from handloom.stages.pack.stage import Pack, kept_counts, plan_shards
from handloom.stages.pack.stretches import (
    Counts,
    Stretch,
    plan_stretches,
    seams,
    write_seam,
    write_stretch,
)
from handloom.stages.report import captions, gallery, scores, sections, thresholds
from handloom.stages.tables import funnel
from handloom.stages.tables.parts import Table, Tables, open_tables
from handloom.stages.tables.rows import Clip, arrow_schema
from handloom.stages.tokens import TokenRow

SELECT = ego4d().select


def main() -> None:
    """Measure all steps, or those named, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", help="folder that scale_tables.py has written")
    parser.add_argument("steps", nargs="*", help=", ".join(STEPS))
    parser.add_argument("--here", action="store_true", help="run one step in this process")
    options = parser.parse_args()
    if options.here:
        measure(options.out, options.steps[0])
        return
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or write_tables(Path(scratch) / "tables")
        for step in options.steps or STEPS:
            command = [sys.executable, __file__, str(out), step, "--here"]
            subprocess.run(command, check=True)


def write_tables(out: Path) -> Path:
    """Tables that take half a minute in all."""
    script = Path(__file__).with_name("scale_tables.py")
    subprocess.run([sys.executable, str(script), str(out), "--clips", "65536"], check=True)
    return out


def measure(out: Path, step: str) -> None:
    """Run a step and print what it cost."""
    before_mb, tables = peak_mb(), open_tables(out)
    started, cpu_s = time.perf_counter(), cpu_seconds()
    said = STEPS[step](tables, out)
    wall_s, cpu_s = time.perf_counter() - started, cpu_seconds() - cpu_s
    print(
        f"{step:<12}{cpu_s:8.2f} CPU s {wall_s:8.2f} s {peak_mb():8,.0f} MB ({before_mb:,.0f})"
        f"  {said}",
        flush=True,
    )


def cpu_seconds() -> float:
    """User and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def select(tables: Tables, out: Path) -> str:
    """Decide on all clips, and write the table elsewhere."""
    with tempfile.TemporaryDirectory(dir=out) as folder:
        table = Table(Path(folder), tables["select"].fingerprint)
        counts = sum(SELECT.write(tables, table), Counter[str]())
    return f"{counts['ok']:,} of {counts.total():,} kept"


def count(tables: Tables, out: Path) -> str:
    """The funnel."""
    return f"{funnel.count(tables).kept:,} kept"


def planned(tables: Tables) -> tuple[Counts, list[Stretch]]:
    """Kept clips by split and bucket, and how the buckets are divided."""
    counts = kept_counts(tables, Pack())
    return counts, plan_stretches(counts, Pack().samples_per_shard, Pack().layout)


def plan(tables: Tables, out: Path) -> str:
    """The shard plan."""
    counts, stretches = planned(tables)
    return f"{len(plan_shards(counts, Pack()))} shards in {len(stretches)} tasks"


def shards(tables: Tables, out: Path) -> str:
    """All shards, without statistics and manifest."""
    counts, stretches = planned(tables)
    written = sum(sum(of_split.values()) for of_split in counts.values())
    started = cpu_seconds()
    with tempfile.TemporaryDirectory(dir=out) as folder:
        for stretch in stretches:
            write_stretch(tables, stretch, Path(folder))
        for pieces in seams(stretches).values():
            write_seam(pieces, Path(folder))
    return f"{written:,} samples, of it {cpu_seconds() - started:.2f} CPU s to write them"


def read(tables: Tables, out: Path) -> str:
    """The columns that go into shards, a bucket at a time, once."""
    kinds = {"ingest": Clip, "caption": CaptionRow, "tokens": TokenRow, "hands": Framing}
    rows = 0
    for bucket in tables["ingest"].buckets():
        for name, kind in kinds.items():
            rows += tables[name].columns(arrow_schema(kind).names, [bucket]).num_rows
    return f"{rows:,} rows"


def report(tables: Tables, out: Path) -> str:
    """All that the report counts; its pictures are the same few for any number of clips."""
    gathered = gallery.gather(tables, SELECT)
    assert gathered.thresholds
    text = [sections.funnel_section(gathered.funnel, out)]
    text += [sections.words_section("Verbs", *gathered.words.verbs)]
    text += thresholds.section(gathered.thresholds.found)
    scored = scores.shown(tables, gathered.scores)
    text += scores.section(scored, gathered.scores, lambda clip, note: note)
    text += [captions.section(tables, gathered.captions)]
    return f"{sum(map(len, text)):,} characters"


def closing(tables: Tables, out: Path) -> str:
    """`handloom status`."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status(StatusCommand(out))
    return f"{len(said.getvalue()):,} characters"


STEPS: dict[str, Callable[[Tables, Path], str]] = {
    "select": select, "funnel": count, "plan": plan, "shards": shards, "read": read,
    "report": report, "status": closing,
}  # fmt: skip


if __name__ == "__main__":
    main()
