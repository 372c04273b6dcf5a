"""Robot episodes as a LeRobot dataset, v3.0."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from handloom.export.clips import ExportClip
from handloom.export.format import Job, Written
from handloom.export.kinds import choose
from handloom.export.lerobot import layout
from handloom.export.lerobot.layout import ACTION, STATE
from handloom.export.lerobot.part import PartWriter
from handloom.export.lerobot.statistics import gathered
from handloom.export.listing import Listing
from handloom.export.options import LeRobotExport, Rate
from handloom.export.parts import Limits, Part
from handloom.files import whole, write_text
from handloom.tokenize.shards import SPLITS

LIMITS = Limits(
    pixels=2_000_000_000,  # of all cameras; about 100 MB of video
    # LeRobot compares times in a video as float32 with a tolerance of 0.1 ms, which is less than
    # their rounding from 1,024 s on.
    seconds=1000.0,
    clips=1000,
)


@dataclass(frozen=True)
class LeRobot:
    """The format, with its options."""

    options: LeRobotExport
    name: ClassVar[str] = "lerobot"
    form: ClassVar[int] = 1
    limits: ClassVar[Limits] = LIMITS
    opens_media: ClassVar[bool] = True

    @property
    def rate(self) -> Rate:
        """Which steps are exported."""
        return self.options.rate

    def select(self, listing: Listing) -> Listing:
        """The episodes of one kind."""
        return choose(listing, self.options, "a LeRobot dataset")

    def write_part(self, job: Job, part: Part, clips: Iterator[ExportClip]) -> Written:
        """Write a part's videos, its steps, and its rows of the episode table."""
        assert job.pictures is not None
        writer = PartWriter(job.dest, part, job.listing, self.options.crf)
        with writer.open():
            for one in clips:
                writer.add(one, job.pictures)
        return writer.finish(), {"sizes": writer.sizes}

    def finish(self, job: Job, records: Sequence[dict[str, Any]]) -> list[Path]:
        """Write info.json last: without it there is no dataset for LeRobot's code."""
        meta, listing = job.dest / "meta", job.listing
        tasks = listing.tasks[1]
        with whole(meta / "tasks.parquet") as temporary:
            pq.write_table(task_table(tasks), temporary)
        stats = gathered(_stats_of(job, part) for part in job.parts)
        write_text(meta / "stats.json", json.dumps(stats, indent=2) + "\n")
        totals = {
            "total_episodes": len(listing),
            "total_frames": int(listing.starts[-1]),
            "total_tasks": len(tasks),
        }
        kind, sizes = listing.kinds[0], {n: tuple(s) for n, s in records[0]["sizes"].items()}
        described = layout.features(kind, sizes, layout.has_success(listing))
        info = layout.info(kind, described, totals, _splits(listing))
        write_text(meta / "info.json", json.dumps(info, indent=2) + "\n")
        return [meta / name for name in ("tasks.parquet", "stats.json", "info.json")]

    def reading(self, job: Job) -> str:
        """How LeRobot's package reads it."""
        return READING

    @property
    def globs(self) -> list[str]:
        """Globs of the files with the data."""
        return ["data/*/*.parquet"]

    def data_files(self) -> dict[str, str]:
        """The steps of all splits lie in the same files."""
        return {"default": "data/*/*.parquet"}

    def record_fields(self, job: Job) -> dict[str, str]:
        """Columns of the tables of steps."""
        columns = dict.fromkeys((STATE, ACTION, "timestamp"), "sc:Float")
        return columns | dict.fromkeys(layout.INDEXES, "sc:Integer")


READING = """```python
from lerobot.datasets.lerobot_dataset import LeRobotDataset

dataset = LeRobotDataset("handloom/export", root="THIS FOLDER")
dataset[0]["action"], dataset[0]["task"]
```

`meta/info.json` names rate, cameras and splits; episodes of `val` follow those of `train`.
`meta/provenance/` has a row for each episode: where it comes from, its caption and how it was made,
idle steps, licence."""


def task_table(tasks: list[str]) -> pa.Table:
    """The tasks as pandas stores a frame of `task_index` whose index is the text."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": tasks})
    columns = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64",
         "numpy_type": "int64", "metadata": None},
        {"name": "task", "field_name": "task", "pandas_type": "unicode",
         "numpy_type": "object", "metadata": None},
    ]  # fmt: skip
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _splits(listing: Listing) -> dict[str, str]:
    """Half-open ranges of episodes, `0:40`: each split's episodes follow each other."""
    splits, start = dict[str, str](), 0
    for split in SPLITS:
        count = pc.sum(pc.equal(listing.rows["split"], split)).as_py() or 0
        if count:
            splits[split] = f"{start}:{start + count}"
        start += count
    return splits


def _stats_of(job: Job, part: Part) -> dict[str, list[Any]]:
    """Columns of statistics of a part's episode table."""
    path = job.dest / layout.EPISODES.format(**layout.place(part.number))
    names = [name for name in pq.read_schema(path).names if name.startswith("stats/")]
    columns: dict[str, list[Any]] = pq.read_table(path, columns=names).to_pydict()
    return columns
