"""What an adapter yields: the videos of a dataset with the spans and texts it annotates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Span:
    """Some seconds of a video with their text; `reason` is set where the annotations rule it out.

    Attributes:
        start_s: as annotated, from the start of the video.
        end_s: as annotated; may lie beyond the end of the file.
        text: as annotated.
        other_texts: further texts of the same seconds.
        flags: remarks on the text, such as `unsure`.
        reason: why the span cannot become a clip, or empty.
    """

    start_s: float
    end_s: float
    text: str
    other_texts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class SourceVideo:
    """One video of a dataset; `reason` is set where none of its spans can become a clip.

    Attributes:
        video_id: the dataset's own id.
        media_path: below the data folder; empty where there is no file.
        split: the official one (`train`, `val`, `test`), or empty where the dataset has none.
        version: release of the dataset.
        spans: in time order.
        expected_s: length that the annotations give the file, or 0.
        reason: why the video is left out, or empty.
    """

    video_id: str
    media_path: str
    split: str
    version: str
    spans: tuple[Span, ...] = field(repr=False)
    expected_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class CutRule:
    """How points in time become spans.

    Attributes:
        max_s: a span ends at the next narration, but after this long at the latest.
    """

    max_s: float


@dataclass(frozen=True)
class Adapter:
    """A dataset as handloom knows it.

    Attributes:
        videos: reads the annotations below a folder; raises UserError where they are not there.
        annotations: the files that decide what is ingested, for the fingerprint.
        text_kind: narration, template, asr, label or instruction.
        licence: licence class that every clip carries.
        how_to_get: how the dataset is obtained officially, for whoever has not got it.
    """

    videos: Callable[[Path, CutRule], Iterator[SourceVideo]]
    annotations: Callable[[Path], list[Path]]
    text_kind: str
    licence: str
    how_to_get: str
