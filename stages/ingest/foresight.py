"""What `ingest` would make of a dataset's annotations now, from the files that were probed before.

No media is opened: a file that is new or was replaced is left out, and so are its clips.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from handloom.errors import MediaError
from handloom.stages.datasets.source import SourceVideo
from handloom.stages.ingest.videos import Ingest
from handloom.stages.stage import run_isolated
from handloom.stages.tables.parts import Table, bucket_of
from handloom.stages.tables.rows import Clip, Row

CLIPS_AT_A_TIME = 250_000  # in memory, some 250 MB


def foreseen(ingest: Ingest, folder: Path, say: Callable[[int], None]) -> tuple[Table, int]:
    """The table that `ingest` would write, as far as it can be known; written into a folder.

    Args:
        ingest: the stage, with its data folder and cache.
        folder: an empty folder.
        say: is given the number of clips so far, now and then.

    Returns:
        The table, and how many files would have to be opened first, whose clips it lacks.
    """
    table = Table(folder, "foreseen" * 2)
    waiting: dict[str, list[Row]] = defaultdict(list)
    clips = written = unopened = 0
    for source in ingest.sources():
        if not _is_known(ingest, source):
            unopened += 1
            continue
        rows = run_isolated(ingest, (source,))
        waiting[bucket_of(source.bucket_key)] += rows
        clips += len(rows)
        if clips - written >= CLIPS_AT_A_TIME:
            _write(table, waiting, str(written))
            written = clips
            say(clips)
    _write(table, waiting, str(written))
    return table, unopened


def _write(table: Table, waiting: dict[str, list[Row]], name: str) -> None:
    for bucket, rows in waiting.items():
        table.write(bucket, name, rows, Clip)
    waiting.clear()


def _is_known(ingest: Ingest, source: SourceVideo) -> bool:
    """Whether the source's clips follow without opening its file."""
    if source.reason:
        return True
    try:
        return ingest.knows(source)
    except MediaError:  # `ingest` will say so of its clips
        return True
