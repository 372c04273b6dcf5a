"""Clips or episodes as Parquet, a row each.

data/train-00000.parquet    facts, and of robots `state` and `action`, lists of vectors
                            `video` or `video_<camera>`: struct of `bytes`, an MP4, and `path`
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from handloom.export.clips import ExportClip, Pictures, facts_schema
from handloom.export.format import Job, Written
from handloom.export.listing import Listing
from handloom.export.options import ParquetExport, Rate
from handloom.export.parts import Limits, Part
from handloom.export.videos import encoded, file_names
from handloom.files import whole

WITH_VIDEOS = Limits(pixels=8_000_000_000, seconds=36_000.0, clips=5000)
ROWS_ALONE = Limits(pixels=1 << 62, seconds=float("inf"), clips=50_000)
VIDEO = pa.struct({"bytes": pa.binary(), "path": pa.string()})  # as Hugging Face stores files
ROWS_A_GROUP, BYTES_A_GROUP = 1000, 64 << 20


@dataclass(frozen=True)
class Parquet:
    """The format, with its options."""

    options: ParquetExport
    name: ClassVar[str] = "parquet"
    form: ClassVar[int] = 1

    @property
    def limits(self) -> Limits:
        """Where a part ends."""
        return WITH_VIDEOS if self.options.videos else ROWS_ALONE

    @property
    def rate(self) -> Rate:
        """Which steps of robots are exported."""
        return self.options.rate

    @property
    def opens_media(self) -> bool:
        """Whether the rows hold videos."""
        return self.options.videos

    def select(self, listing: Listing) -> Listing:
        """All clips."""
        return listing

    def write_part(self, job: Job, part: Part, clips: Iterator[ExportClip]) -> Written:
        """Write one file."""
        first = next(one.number for one in job.parts if one.split == part.split)
        path = job.dest / "data" / f"{part.split}-{part.number - first:05d}.parquet"
        schema = _schema(job, self.options.videos)
        with whole(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for group in _groups(_rows(clips, job.pictures, self.options.crf)):
                writer.write_table(pa.Table.from_pylist(group, schema))
        return [path], {}

    def finish(self, job: Job, records: Sequence[dict[str, Any]]) -> list[Path]:
        """Nothing lies beside the tables."""
        return []

    def reading(self, job: Job) -> str:
        """How it is read with pyarrow, or anything else that reads Parquet."""
        return READING

    @property
    def globs(self) -> list[str]:
        """Globs of the files with the data."""
        return ["data/*.parquet"]

    def data_files(self) -> dict[str, str]:
        """Tables of each split."""
        return {"train": "data/train-*.parquet", "val": "data/val-*.parquet"}

    def record_fields(self, job: Job) -> dict[str, str]:
        """Columns that hold one value or a list of such."""
        return {
            field.name: _croissant_type(field.type)
            for field in _schema(job, False)
            if field.name not in ("state", "action")
        }


READING = """```python
import pyarrow.parquet as pq

for row in pq.read_table("THIS FOLDER/data/train-00000.parquet").to_pylist():
    row["caption"], row["start_s"], row["end_s"]
```

A row is a clip or an episode. `video` (of robots `video_<camera>`) is a struct whose `bytes` are
an MP4."""


def _schema(job: Job, videos: bool) -> pa.Schema:
    kinds = job.listing.kinds
    schema = facts_schema(is_robot=bool(kinds))
    names = ["video"]
    if kinds:
        vectors = pa.list_(pa.list_(pa.float32()))
        schema = schema.append(pa.field("state", vectors)).append(pa.field("action", vectors))
        names = [n for kind in kinds for n in _columns(list(kind.views)).values()]
    for name in dict.fromkeys(names) if videos else ():
        schema = schema.append(pa.field(name, VIDEO))
    return schema


def _columns(views: list[str]) -> dict[str, str]:
    """The column of each camera of an episode."""
    return {view: f"video_{name}" for view, name in file_names(views).items()}


def _rows(
    clips: Iterator[ExportClip], pictures: Pictures | None, crf: int
) -> Iterator[dict[str, Any]]:
    for one in clips:
        row = one.facts()
        if one.motion:
            row |= {"state": one.motion.state.tolist(), "action": one.motion.action.tolist()}
        columns = _columns(one.views) if one.motion else dict.fromkeys(one.views, "video")
        for view, content in (encoded(one, pictures, crf) if pictures else {}).items():
            name = columns[view]
            row[name] = {"bytes": content, "path": f"{one.clip.clip_id}.{name}.mp4"}
        yield row


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows by row group: so many as may be in memory at a time."""
    group, size = list[dict[str, Any]](), 0
    for row in rows:
        group.append(row)
        size += sum(len(value["bytes"]) for name, value in row.items() if name.startswith("video"))
        if len(group) == ROWS_A_GROUP or size >= BYTES_A_GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _croissant_type(kind: pa.DataType) -> str:
    inner = kind.value_type if pa.types.is_list(kind) else kind
    if pa.types.is_string(inner):
        return "sc:Text"
    if pa.types.is_boolean(inner):
        return "sc:Boolean"
    return "sc:Integer" if pa.types.is_integer(inner) else "sc:Float"
