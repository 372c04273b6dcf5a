"""The failed clips of a run: on the screen the most frequent errors, in `failed.csv` all."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow.compute as pc

from handloom.files import whole
from handloom.stages.tables.parts import Table, listed
from handloom.stages.tables.rows import Row
from handloom.stages.tables.texts import shown

FAILURES = "failed.csv"
COLUMNS = "clip_id", "status", "attempts", "error"


@dataclass(frozen=True, kw_only=True)
class _Place(Row):
    """Where a clip's media lie."""

    media_path: str


@dataclass(frozen=True)
class FailedClip:
    """A row `failed` of a stage's table."""

    stage: str
    clip_id: str
    media_path: str
    """Below the data folder."""
    attempts: int
    error: str

    @property
    def reason(self) -> str:
        """The error without the file's name, on one line."""
        name = PurePosixPath(self.media_path).name
        told = self.error.removeprefix(self.media_path).removeprefix(f"{name}: ")
        return shown(told.removeprefix(":").strip())


def failed_clips(tables: Mapping[str, Table]) -> Iterator[FailedClip]:
    """All of a run, stage by stage and bucket by bucket."""
    found = listed(tables)
    for stage, table in found.items():
        for bucket in table.buckets():
            rows = table.columns(COLUMNS, [bucket])
            rows = rows.filter(pc.equal(rows["status"], "failed")).to_pylist()
            ids = [row["clip_id"] for row in rows]
            paths = tables["ingest"].find(_Place, ids, bucket) if ids else {}
            for row in rows:
                clip_id = row["clip_id"]
                path = paths[clip_id].media_path if clip_id in paths else ""
                yield FailedClip(stage, clip_id, path, row["attempts"], row["error"])


def sentences(failed: Iterable[FailedClip], most: int = 10) -> list[str]:
    """The most frequent errors with the number of clips and a file, for the screen."""
    kinds: dict[str, list[FailedClip]] = {}
    for one in failed:
        kinds.setdefault(f"{one.stage}: {one.reason}", []).append(one)
    frequent = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    lines = []
    for reason, clips in frequent[:most]:
        files = list(dict.fromkeys(shown(one.media_path) for one in clips if one.media_path))
        more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
        where = f" ({files[0]}{more})" if files else ""
        lines.append(f"failed ({len(clips)} clips) {reason}{where}")
    if len(kinds) > most:
        lines.append(f"and {len(kinds) - most} more kinds of failure")
    return lines


def write_failures(failed: Sequence[FailedClip], out: Path) -> Path:
    """Write OUT/failed.csv; without a failed clip there is none."""
    path = out / FAILURES
    if not failed:
        path.unlink(missing_ok=True)
        return path
    with whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["stage", "clip_id", "media_path", "attempts", "error"])
        for one in failed:
            words = one.stage, one.clip_id, one.media_path, str(one.attempts), one.error
            writer.writerow([shown(word) for word in words])
    return path
