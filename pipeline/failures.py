"""The failed clips of a run: on the screen the most frequent errors, in `failed.csv` all."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from handloom.files import whole
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Row
from handloom.stages.tables.texts import shown

FAILURES = "failed.csv"


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
    def sentence(self) -> str:
        """The error, with the media path where it does not name it, on one line."""
        if not self.media_path or self.media_path in self.error:
            return shown(self.error)
        told = self.error.removeprefix(f"{PurePosixPath(self.media_path).name}: ")
        return shown(f"{self.media_path}: {told}")


def failed_clips(tables: dict[str, Table]) -> Iterator[FailedClip]:
    """All of a run, stage by stage and bucket by bucket."""
    for stage, table in tables.items():
        for bucket in table.buckets():
            rows = [row for row in table.read(Row, bucket) if row.status == "failed"]
            ids = [row.clip_id for row in rows]
            paths = tables["ingest"].find(_Place, ids, bucket) if ids else {}
            for row in rows:
                path = paths[row.clip_id].media_path if row.clip_id in paths else ""
                yield FailedClip(stage, row.clip_id, path, row.attempts, row.error)


def write_failures(tables: dict[str, Table], out: Path) -> Path:
    """Write OUT/failed.csv; without a failed clip there is none."""
    path, rows = out / FAILURES, list(failed_clips(tables))
    if not rows:
        path.unlink(missing_ok=True)
        return path
    with whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["stage", "clip_id", "media_path", "attempts", "error"])
        for one in rows:
            words = one.stage, one.clip_id, one.media_path, str(one.attempts), one.error
            writer.writerow([shown(word) for word in words])
    return path
