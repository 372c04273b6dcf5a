"""The same door for robot episodes: their cameras' pictures, through the dataset's adapter."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from handloom.errors import MediaError
from handloom.stages.datasets.catalog import robot_adapter
from handloom.stages.datasets.source import (
    Episode,
    EpisodeOptions,
    Images,
    SourceEpisode,
    refuse_outside,
)
from handloom.stages.media.clip_frames import Framing, Times
from handloom.stages.media.display import FrameHWC
from handloom.stages.media.frame_transform import FrameTransform, transformed
from handloom.stages.tables.rows import EpisodeFootage

OTHER_FOLDER = "copy the file there, or name the folder it is in with --data"


@dataclass(frozen=True)
class EpisodeViews:
    """Opens the episodes of a robot dataset.

    Attributes:
        data: the data folder.
        format: name of the adapter that reads it.
        options: what the source does not say of itself.
        transform: the mask or blur that pictures pass, None for none.
    """

    data: Path
    format: str
    options: EpisodeOptions
    transform: FrameTransform | None = None

    def open(self, source: SourceEpisode) -> Episode:
        """Read an episode. Raises MediaError where it is damaged or out of the data folder."""
        refuse_outside(self.data, source.media_path, OTHER_FOLDER)
        return robot_adapter(self.format).load(self.data, source, self.options)

    def views(self, place: EpisodeFootage) -> dict[str, Images]:
        """The cameras of an episode by name, the main one first; the last episode stays open."""
        source = SourceEpisode(place.unit, place.media_path, tuple(place.place), "", "")
        views = _opened(self, source).views
        if self.transform is None:
            return views
        return {name: _Transformed(view, place, self.transform) for name, view in views.items()}

    def frames(self, clip: EpisodeFootage, framing: Framing, times_s: Times) -> Iterator[FrameHWC]:
        """The main camera's picture at each time, seconds from the start of the episode.

        Raises:
            MediaError: the episode cannot be read, or was not when it was taken in.
        """
        if not clip.views:
            raise MediaError("the episode was not opened")
        view = next(iter(self.views(clip).values()))
        for step in np.floor(times_s * clip.fps + 1e-6).astype(int).clip(0, len(view) - 1):
            yield view[int(step)]


@dataclass(frozen=True)
class _Transformed:
    """A camera whose pictures pass a mask or blur."""

    view: Images
    place: EpisodeFootage
    transform: FrameTransform

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, step: int) -> FrameHWC:
        return transformed(self.transform, self.place, self.view[step])

    def fingerprint(self, step: int) -> bytes:
        """As of the picture before the transform."""
        return self.view.fingerprint(step)


@lru_cache(maxsize=1)
def _opened(views: EpisodeViews, source: SourceEpisode) -> Episode:
    return views.open(source)
