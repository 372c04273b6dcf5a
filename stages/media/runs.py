"""Runs on disk as a source of pictures: which clips they kept, and how to open these again."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from handloom.errors import UserError
from handloom.places import place
from handloom.stages.datasets.source import EpisodeOptions
from handloom.stages.media.clip_frames import ClipFrames, Framing, whole
from handloom.stages.media.episode_views import EpisodeViews
from handloom.stages.media.frame_transform import load_transform
from handloom.stages.outside import search
from handloom.stages.tables.parts import Tables, open_tables
from handloom.stages.tables.rows import Clip, EpisodePlace, Row

NO_FILTERS = frozenset({"ingest", "caption", "tokens"})
"""Tables that a clip need not have come to. What is asked of it beyond is asked of its pictures."""


@dataclass(frozen=True)
class RecordedRun:
    """The output of `handloom curate`, finished or not.

    Attributes:
        out: a folder with run.yaml and tables/.
    """

    out: Path

    @cached_property
    def data(self) -> Path:
        """Where the media lie, or lay.

        Raises:
            UserError: run.yaml cannot be read or does not say.
        """
        return place(str(self._record["data"]))

    @cached_property
    def pictures(self) -> ClipFrames | EpisodeViews:
        """Opens the clips of videos, or the robot episodes, in any order."""
        options = self._record.get("config", {}).get("ingest", {})
        search(map(Path, self._record.get("folders", ())))
        transform = load_transform(options.get("frame_transform", ""))
        if not self.holds_episodes:
            return ClipFrames(self.data, transform, scattered=True)
        known = {f.name: options[f.name] for f in fields(EpisodeOptions) if f.name in options}
        known = {name: tuple(v) if isinstance(v, list) else v for name, v in known.items()}
        source = options.get("format", self._record["dataset"])
        return EpisodeViews(self.data, source, EpisodeOptions(**known), transform)

    @cached_property
    def holds_episodes(self) -> bool:
        """Whether its clips are robot episodes."""
        first = self._tables["ingest"].parts()[:1]
        return any("place" in pq.read_schema(path).names for path in first)

    def kept(self) -> Iterator[tuple[Clip, Framing]]:
        """The clips or episodes that every filter let through, bucket by bucket."""
        ingest = self._tables["ingest"]
        filters = [table for name, table in self._tables.items() if name not in NO_FILTERS]
        for bucket in ingest.buckets():
            passed = [
                {row.clip_id for row in table.read(Row, bucket) if row.status == "ok"}
                for table in filters
            ]
            framings = self._framings(bucket)
            for clip in ingest.read(self._clip_type, bucket):
                if clip.status == "ok" and all(clip.clip_id in ids for ids in passed):
                    yield clip, framings.get(clip.clip_id) or whole(clip)

    def find(self, clip_ids: Collection[str]) -> dict[str, tuple[Clip, Framing]]:
        """Those of the clips that the run knows, by id."""
        framings = self._tables["hands"].find(Framing, clip_ids) if "hands" in self._tables else {}
        found = self._tables["ingest"].find(self._clip_type, clip_ids)
        return {i: (clip, framings.get(i) or whole(clip)) for i, clip in found.items()}

    @property
    def _clip_type(self) -> type[Clip]:
        return EpisodePlace if self.holds_episodes else Clip

    def _framings(self, bucket: str) -> dict[str, Framing]:
        if "hands" not in self._tables:
            return {}
        return {row.clip_id: row for row in self._tables["hands"].read(Framing, bucket)}

    @cached_property
    def _tables(self) -> Tables:
        return open_tables(self.out)

    @cached_property
    def _record(self) -> dict[str, Any]:
        path = self.out / "run.yaml"
        try:
            record: dict[str, Any] = yaml.safe_load(path.read_text())
            return {"dataset": "", **record, "data": record["data"]}
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise UserError(
                f"{path} does not say where the data lies ({type(error).__name__}): run "
                "`handloom curate` again, or name a folder of videos."
            ) from error
