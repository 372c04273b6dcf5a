"""Videos in a folder, and `clips.csv` beside them with file, start_s, end_s and text: an adapter.

`handloom curate listed_videos:ADAPTER` and the plain script of `plain_run.py` read the same folder.
"""

import csv
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from handloom.stages.datasets.source import Adapter, CutRule, SourceVideo, Span

TABLE = "clips.csv"
Row = tuple[str, float, float, str]


def read(root: Path) -> list[Row]:
    """Rows of the table: file below the folder, start and end in seconds, text."""
    with (root / TABLE).open(newline="") as file:
        return [(name, float(a), float(b), text) for name, a, b, text in csv.reader(file)]


def write(root: Path, rows: list[Row]) -> None:
    """Write the table."""
    with (root / TABLE).open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def videos(root: Path, rule: CutRule) -> Iterator[SourceVideo]:
    """One SourceVideo for each file, its rows as spans."""
    for name, rows in groupby(sorted(read(root)), key=lambda row: row[0]):
        spans = tuple(Span(start_s, end_s, text) for _, start_s, end_s, text in rows)
        yield SourceVideo(video_id=name, media_path=name, split="", version="1", spans=spans)


ADAPTER = Adapter(
    videos=videos,
    annotations=lambda root: [root / TABLE],
    text_kind="narration",
    licence="for-measurements",
    terms="For measurements.",
    how_to_get="benchmarks/bench_run.py writes it.",
)
