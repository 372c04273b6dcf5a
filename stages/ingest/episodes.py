"""Ingest of robot datasets: one row for each episode, with its instruction, states and actions."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from handloom.errors import MediaError
from handloom.files import file_digest
from handloom.stages.datasets.catalog import robot_adapter
from handloom.stages.datasets.source import (
    Episode,
    EpisodeOptions,
    RobotAdapter,
    SourceEpisode,
    naming,
)
from handloom.stages.ingest.texts import storable_row, storable_source
from handloom.stages.ingest.videos import hashed_split, inputs
from handloom.stages.media.episode_views import EpisodeViews
from handloom.stages.media.frame_transform import FrameOptions, load_transform
from handloom.stages.outside import is_outside, module_file
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Table, bucket_of
from handloom.stages.tables.rows import EpisodeClip, Row, clip_id


@dataclass(frozen=True)
class EpisodeIngest(Stage, FrameOptions, EpisodeOptions):
    """Options of `ingest` for robot datasets."""

    name: ClassVar[str] = "ingest"
    row_type: ClassVar[type[Row]] = EpisodeClip
    code_version: ClassVar[int] = 3

    dataset: str = "rlds"
    """Name that the episodes carry."""
    format: str = "rlds"
    """The adapter that reads the folder."""
    licence: str = ""
    """Licence class that the episodes carry; empty means the adapter's."""
    val_percent: float = 5.0
    """Share of the episodes without an official split that goes to val, by a hash of their id."""

    @property
    def adapter(self) -> RobotAdapter:
        """The adapter of the dataset's format."""
        return robot_adapter(self.format)

    @property
    def licence_class(self) -> str:
        """What every episode carries."""
        return self.licence or self.adapter.licence

    def settings(self) -> dict[str, Any]:
        """The options and the files that say how to read the episodes."""
        found = super().settings() | inputs(self.format, self.adapter, self.data)
        del found["frame_transform"]  # episodes are the same whatever their pictures look like
        return found

    def picture_settings(self) -> dict[str, Any]:
        """What an episode's pictures depend on beside its row: how the adapter reads them."""
        reader = file_digest(module_file(self.format)) if is_outside(self.format) else self.format
        return {
            "version": self.code_version,
            "reader": reader,
            "views": self.views,
            "bgr": self.bgr,
        }

    def sources(self) -> Iterator[SourceEpisode]:
        """Stream the places of the dataset's episodes."""
        found = map(storable_source, self.adapter.episodes(self.data, self))
        return filter(None, map(self.only, found)) if self.only else found

    @property
    def pictures(self) -> EpisodeViews:
        """Opens the episodes and their cameras."""
        transform = load_transform(self.frame_transform)
        return EpisodeViews(self.data, self.format, self, transform)

    def __call__(self, source: SourceEpisode) -> Iterator[EpisodeClip]:
        """Read an episode without its pictures, except for the first."""
        if source.error:
            raise MediaError(source.error)
        if source.reason:
            yield self._row(source, status="rejected", reason=source.reason)
            return
        with naming(source.unit):
            episode = self.pictures.open(source)
            facts = _facts(source, episode, self.dataset, self.val_percent) if episode.views else {}
        if facts:
            yield self._row(source, **facts)
        else:
            yield self._row(source, status="rejected", reason="no_pictures")

    def failed(self, error: str, source: SourceEpisode) -> Iterator[EpisodeClip]:
        """An episode that cannot be read."""
        yield self._row(source, status="failed", error=error)

    def _row(self, source: SourceEpisode, **values: Any) -> EpisodeClip:
        row: dict[str, Any] = {
            "clip_id": clip_id(self.dataset, source.unit, 0.0, np.inf),
            "dataset": self.dataset,
            "version": source.version,
            "split": source.split or hashed_split(source.unit, self.val_percent),
            "licence": self.licence_class,
            "bucket": bucket_of(source.bucket_key),
            "unit": source.unit,
            "video_id": source.unit,
            "start_s": 0.0,
            "end_s": 0.0,
            "text": "",
            "text_kind": self.adapter.text_kind,
            "media_path": source.media_path,
            "place": list(source.place),
            "hz": 0.0, "action_kind": "", "state": [], "action": [], "idle": [], "success": None,
            "views": [], "steps": 0, "facts": [],
        }  # fmt: skip
        return EpisodeClip(**storable_row(row | values))


@dataclass(frozen=True, kw_only=True)
class _Facts(Row):
    facts: list[str]


def guessed_units(table: Table) -> str:
    """One sentence on the joints whose unit was guessed, for the end of a run; empty for none."""
    units = Counter(
        fact.removeprefix("joint_unit: ").partition(",")[0]
        for row in table.read(_Facts)
        for fact in row.facts
        if fact.startswith("joint_unit: ") and ", guessed" in fact
    )
    if not units:
        return ""
    told = ", ".join(f"{unit} in {count:,} episodes" for unit, count in sorted(units.items()))
    return f"joints were taken to be {told}, by their size; if not, set --ingest.joint-unit"


def _facts(
    source: SourceEpisode, episode: Episode, dataset: str, val_percent: float
) -> dict[str, Any]:
    """What a row says of an episode that could be read."""
    steps, seconds = len(episode.state), len(episode.state) / episode.hz
    main = next(iter(episode.views.values()))
    height, width = main[0].shape[:2]  # decoded once, so that a damaged episode is known here
    return {
        "clip_id": clip_id(dataset, episode.episode_id, 0.0, seconds),
        "split": source.split or hashed_split(episode.recording or episode.episode_id, val_percent),
        "video_id": episode.episode_id,
        "end_s": seconds,
        "duration_s": seconds,
        "fps": episode.hz,
        "width": width,
        "height": height,
        "text": episode.text,
        "other_texts": list(episode.other_texts),
        "text_flags": list(episode.flags),
        "hz": episode.hz,
        "action_kind": episode.action_kind,
        "state": episode.state.tolist(),
        "action": episode.action.tolist(),
        "grippers": list(episode.grippers),
        "idle": [] if episode.idle is None else episode.idle.tolist(),
        "success": episode.success,
        "views": list(episode.views),
        "steps": steps,
        "facts": [f"{key}: {value}" for key, value in episode.facts.items()],
    }
