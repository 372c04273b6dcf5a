"""What an adapter yields: the videos or robot episodes of a dataset, with their texts.

An adapter is one file of this folder. Its `videos` (or `episodes`) runs once, in the driver, and
only lists: whatever opens a media file happens later, on the workers.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError

TO_THE_END = math.inf
"""`end_s` of a span that ends with its file."""

ActionKind = Literal["ee_delta", "joints", "as_stored"]


@dataclass(frozen=True)
class Span:
    """Some seconds of a video with their text; `reason` is set where the annotations rule it out.

    Attributes:
        start_s: as annotated, from the start of the file.
        end_s: as annotated; may lie beyond the end of the file, and is TO_THE_END for a whole file.
        text: as annotated.
        other_texts: further texts of the same seconds.
        flags: remarks on the text, such as `unsure`.
        reason: why the span cannot become a clip, or empty.
        annotation_id: the dataset's own id of the annotation, where it has one; provenance only.
    """

    start_s: float
    end_s: float
    text: str
    other_texts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    reason: str = ""
    annotation_id: str = ""


@dataclass(frozen=True)
class SourceVideo:
    """One video file of a dataset; `reason` is set where none of its spans can become a clip.

    Attributes:
        video_id: the dataset's own id of the source video; splits go by it.
        media_path: below the data folder, with forward slashes; empty where there is no file.
        split: the official one (`train`, `val`, `test`), or empty where the dataset has none.
        version: release of the dataset.
        spans: in time order.
        part: tells files of one source video apart (`000084_000094`); mostly empty.
        raw: what the adapter's `cut` makes the spans of, on a worker, where `spans` is empty.
        expected_s: length that the annotations give the file, or 0.
        whole_if_shorter_s: a file no longer than this holds nothing but its span, from its start.
        reason: why the video is left out, or empty.
    """

    video_id: str
    media_path: str
    split: str
    version: str
    spans: tuple[Span, ...] = field(default=(), repr=False)
    expected_s: float = 0.0
    part: str = ""
    raw: Any = field(default=None, repr=False)
    whole_if_shorter_s: float = 0.0
    reason: str = ""

    @property
    def unit(self) -> str:
        """What the driver hands out and a later run finds done."""
        return f"{self.video_id}#{self.part}" if self.part else self.video_id

    @property
    def clips(self) -> int:
        """About how many clips will come of it; a video of speech has some thirty."""
        return len(self.spans) if self.raw is None else 30

    @property
    def bucket_key(self) -> str:
        """All files of a source video lie in one bucket."""
        return self.video_id


@dataclass(frozen=True)
class CutRule:
    """How points in time, which reach to the next one, and lines of speech become spans.

    Attributes:
        min_s: lines of speech are merged until a span has at least this length.
        max_s: no span is longer.
    """

    min_s: float = 2.0
    max_s: float = 8.0


@dataclass(frozen=True)
class Adapter:
    """A dataset of videos as handloom knows it.

    Attributes:
        videos: reads the annotations below a folder; raises UserError where they are not there.
        annotations: the files that decide what is ingested, for the fingerprint.
        text_kind: narration, template, asr, label or instruction.
        licence: licence class that every clip carries, in lower case with dashes.
        terms: what the licence allows, one sentence, for the dataset card.
        how_to_get: how the dataset is obtained officially, for whoever has not got it: the tool,
            the form to sign, the size.
        cut: makes the spans of a video that comes with `raw`.
    """

    videos: Callable[[Path, CutRule], Iterator[SourceVideo]]
    annotations: Callable[[Path], list[Path]]
    text_kind: str
    licence: str
    terms: str
    how_to_get: str
    cut: Callable[[SourceVideo, CutRule], tuple[Span, ...]] | None = None


@dataclass(frozen=True)
class SourceEpisode:
    """Where a robot episode lies. Listing makes these without reading the episode.

    Attributes:
        unit: names the place: `<file below the data folder>#<number in it>`.
        media_path: the file, or the folder, below the data folder, with forward slashes.
        place: where in it, in the adapter's own terms: (offset, length), (first frame, last frame).
        split: the official one (`train`, `val`, `test`), or empty.
        version: release of the dataset.
        reason: why the episode is left out unread, or empty.
        error: why it cannot be read (a truncated file), or empty: the episode counts as failed.
    """

    unit: str
    media_path: str
    place: tuple[int, ...]
    split: str
    version: str
    reason: str = ""
    error: str = ""
    clips: int = 1

    @property
    def bucket_key(self) -> str:
        """Every episode by itself: a file may hold all there are."""
        return self.unit


class Pictures(Protocol):
    """One camera's pictures of an episode, decoded when asked for."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, step: int) -> NDArray[np.uint8]:
        """One picture, RGB uint8 [H, W, 3], upright. Raises MediaError if it does not decode."""

    def fingerprint(self, step: int) -> bytes:
        """Bytes that are equal where two pictures are: the encoded file or a hash of the pixels."""


@dataclass(frozen=True)
class Episode:
    """A robot episode, converted to handloom's convention, at the source's own rate.

    `ee_delta`, for each arm:
        state [7]: position x y z (m) and orientation roll pitch yaw (rad, about the fixed axes
            x, y, z in that order: R = Rz Ry Rx) of the end effector in the robot's base frame;
            gripper, 0 closed to 1 open.
        action [7]: what leads from observation t to t + 1: displacement (m, base axes), rotation
            vector w (rad, base axes: R[t+1] = exp(w) R[t]), gripper target 0 closed to 1 open.
    `joints`: state and action are absolute joint positions (rad), each arm followed by its gripper.
    `as_stored`: the source's own numbers, whose meaning nobody has told.

    Attributes:
        episode_id: the dataset's own id, or where it has none a hash of the content.
        text: the instruction as stored, or empty.
        other_texts: further instructions for the same episode.
        hz: steps per second.
        views: cameras by name, the main one first; only those that show something.
        state: float32 [T, S].
        action: float32 [T, A].
        action_kind: see above.
        success: whether the episode reached its goal; None where the source does not say.
        idle: bool [T], True where the arm was told nothing (base motion, terminate); None if never.
        flags: remarks, one snake_case word each, such as `relabelled`.
        recording: what it was cut from, where others were cut from it too: splits go by it.
        facts: more that the provenance should tell, such as the path of the original recording.
    """

    episode_id: str
    text: str
    hz: float
    views: dict[str, Pictures]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    action_kind: ActionKind
    other_texts: tuple[str, ...] = ()
    success: bool | None = None
    idle: NDArray[np.bool_] | None = None
    flags: tuple[str, ...] = ()
    recording: str = ""
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EpisodeOptions:
    """What a source does not say of itself; most datasets need none of these."""

    views: tuple[str, ...] = ()
    """Cameras to keep, by the source's own names, the main one first; by default all."""
    text: str = ""
    """Instruction of every episode, for sources without any."""
    text_key: str = ""
    """Where the instruction is, for generic sources; by default the usual names."""
    state_key: str = ""
    """Where the state is, for generic sources; by default the usual names."""
    action_key: str = ""
    """Where the action is, for generic sources; by default the usual names."""
    action_kind: ActionKind | Literal["auto"] = "auto"
    """What state and action mean: ee_delta, joints, as_stored; `auto` goes by the format."""
    hz: float = 0.0
    """Control frequency, where the source does not tell; 0 means the source's."""
    relabel: bool = False
    """Actions from the poses that were reached instead of those commanded (Bridge, CALVIN)."""
    bgr: bool = False
    """Uncompressed pictures are stored in OpenCV's channel order (ALOHA)."""


@dataclass(frozen=True)
class RobotAdapter:
    """A dataset of robot episodes as handloom knows it.

    Attributes:
        episodes: lists the episodes below a folder; raises UserError where there are none.
        load: reads one of them; raises MediaError where it is damaged.
        annotations: files that say how to read the episodes, for the fingerprint (not the data).
        licence: as in Adapter.
        terms: as in Adapter.
        how_to_get: as in Adapter.
    """

    episodes: Callable[[Path, EpisodeOptions], Iterator[SourceEpisode]]
    load: Callable[[Path, SourceEpisode, EpisodeOptions], Episode]
    annotations: Callable[[Path], list[Path]]
    licence: str
    terms: str
    how_to_get: str
    text_kind: str = "instruction"


def inside(root: Path, path: str) -> bool:
    """Whether a path named by annotations stays below the data folder, links followed."""
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or "\0" in path:
        return False
    real_root = os.path.realpath(root)
    return os.path.commonpath([real_root, os.path.realpath(root / path)]) == real_root


def refuse_outside(root: Path, path: str, way_out: str) -> None:
    """Let only files of the data folder be opened.

    Args:
        root: the data folder.
        path: as annotations name it.
        way_out: what whoever meant that file can do, for the message.

    Raises:
        MediaError: the path leads out of the folder.
    """
    if not inside(root, path):
        raise MediaError(
            f"{path} leads out of the data folder (a link, or `..`), expected a file in it: "
            + way_out
        )
