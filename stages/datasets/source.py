"""The types that adapters and `ingest` share: videos, robot episodes, and the adapters themselves.

An adapter is a module of this folder with an ADAPTER. Its `videos` (or `episodes`) runs once, in
the driver, and only lists: media files are opened later, on the workers.
"""

import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.places import is_remote
from handloom.stages.datasets.camera_track import CameraTrack
from handloom.stages.datasets.joints import JointUnit
from handloom.stages.tables.rows import Footage
from handloom.tars import tar_of

TO_THE_END = math.inf
"""`end_s` of a span that ends with its file."""

ActionKind = Literal["ee_delta", "joints", "as_stored"]


@dataclass(frozen=True)
class Span:
    """A stretch of a video with its text.

    Attributes:
        start_s: as annotated, from the start of the file.
        end_s: as annotated; may lie beyond the end of the file, and is TO_THE_END for a whole file.
        text: as annotated.
        other_texts: further texts of the same seconds.
        flags: remarks on the text, such as `unsure`.
        reason: why the span cannot become a clip, as far as annotations tell, or empty.
        annotation_id: the dataset's own id of the annotation, or empty; for provenance only.
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
    """One video file of a dataset.

    Attributes:
        video_id: the dataset's own id of the source video; splits go by it.
        media_path: below the data folder, with forward slashes; empty where there is no file.
        split: the official one (`train`, `val`, `test`), or empty where the dataset has none.
        version: release of the dataset.
        spans: in time order.
        part: distinguishes files of one source video (`000084_000094`); mostly empty.
        raw: annotation from which the adapter's `cut` makes the spans on a worker; `spans` is then
            empty.
        expected_s: length of the file by the annotations, or 0.
        raw_clips: number of clips to expect of `raw`, for the display; a video of speech has about
            thirty.
        whole_if_shorter_s: a file no longer than this is its one span, from start to end.
        reason: why no span of the video can become a clip, or empty.
    """

    video_id: str
    media_path: str
    split: str
    version: str
    spans: tuple[Span, ...] = field(default=(), repr=False)
    expected_s: float = 0.0
    part: str = ""
    raw: Any = field(default=None, repr=False)
    raw_clips: int = 30
    whole_if_shorter_s: float = 0.0
    reason: str = ""

    @property
    def unit(self) -> str:
        """Name of this unit of work: it is handed to a worker whole, and finished or not."""
        return f"{self.video_id}#{self.part}" if self.part else self.video_id

    @property
    def clips(self) -> int:
        """Number of clips to expect, for the display."""
        return len(self.spans) if self.raw is None else self.raw_clips

    @property
    def bucket_key(self) -> str:
        """Text that is hashed to a bucket: all files of a source video share one."""
        return self.video_id


@dataclass(frozen=True)
class CutRule:
    """How narrations (points in time) and lines of speech become spans.

    Attributes:
        min_s: lines of speech are merged until a span has at least this length.
        max_s: no span is longer.
    """

    min_s: float = 2.0
    max_s: float = 8.0


@dataclass(frozen=True)
class Adapter:
    """A dataset of videos.

    Attributes:
        videos: lists the videos by the annotations below a folder; raises UserError where there
            are none.
        annotations: lists the files that decide what is ingested, for the fingerprint.
        text_kind: narration, template, asr, label or instruction.
        licence: licence class of every clip, in lower case with dashes.
        terms: what the licence allows, one sentence, for the dataset card.
        how_to_get: how to obtain the dataset officially: the tool, the form to sign, the size.
        cut: makes the spans of a video that comes with `raw`.
        camera: reads the camera of a clip, and poses beside it, of the joints named or of the usual
            ones; gives None for a clip of which nothing is known.
    """

    videos: Callable[[Path, CutRule], Iterator[SourceVideo]]
    annotations: Callable[[Path], list[Path]]
    text_kind: str
    licence: str
    terms: str
    how_to_get: str
    cut: Callable[[SourceVideo, CutRule], tuple[Span, ...]] | None = None
    camera: Callable[[Path, Footage, tuple[str, ...]], CameraTrack | None] | None = None


@dataclass(frozen=True)
class SourceEpisode:
    """Place of a robot episode, which listing finds without reading the episode.

    Attributes:
        unit: name of the place: `<file below the data folder>#<number in it>`.
        media_path: the file, or the folder, below the data folder, with forward slashes.
        place: where in it, by the adapter's convention: (offset, length), (first frame, last
            frame).
        split: the official one (`train`, `val`, `test`), or empty; as `version` below it is empty
            where an episode is opened again for its pictures.
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
        """Text that is hashed to a bucket: each episode has its own, as one file may hold all."""
        return self.unit


class Images(Protocol):
    """The images of one camera of an episode, each decoded when it is read."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, step: int) -> NDArray[np.uint8]:
        """One image, RGB uint8 [H, W, 3], upright. Raises MediaError if it cannot be decoded."""

    def fingerprint(self, step: int) -> bytes:
        """Bytes that are equal if two images are: the encoded file or a hash of the pixels."""


@dataclass(frozen=True)
class Episode:
    """A robot episode in handloom's convention, at the source's own rate.

    `ee_delta`, for each arm:
        state [7]: position x y z (m) and orientation roll pitch yaw (rad, about the fixed axes
            x, y, z in that order: R = Rz Ry Rx) of the end effector in the robot's base frame;
            gripper, 0 closed to 1 open.
        action [7]: the step from observation t to t + 1: displacement (m, base axes), rotation
            vector w (rad, base axes: R[t+1] = exp(w) R[t]), gripper target 0 closed to 1 open.
    `joints`: state and action are absolute joint positions (rad) and grippers; see joints.py.
    `as_stored`: the source's own numbers, whose meaning is unknown.

    Attributes:
        episode_id: the dataset's own id, or where it has none a hash of the content.
        text: the instruction as stored, or empty.
        other_texts: further instructions for the same episode.
        hz: steps per second.
        views: images of each camera by name, the main one first; black ones are left out.
        state: float32 [T, S].
        action: float32 [T, A].
        action_kind: see above.
        grippers: of `joints`, the columns of the state that are grippers.
        success: whether the episode reached its goal; None where the source does not say.
        idle: bool [T], True where the arm has no command (base motion, terminate); None if never.
        flags: remarks, one snake_case word each, such as `relabelled`.
        recording: name of the recording from which several episodes were cut; splits go by it.
        facts: further provenance, such as the path of the original recording.
    """

    episode_id: str
    text: str
    hz: float
    views: dict[str, Images]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    action_kind: ActionKind
    other_texts: tuple[str, ...] = ()
    success: bool | None = None
    idle: NDArray[np.bool_] | None = None
    flags: tuple[str, ...] = ()
    recording: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    grippers: tuple[int, ...] = ()


@dataclass(frozen=True)
class EpisodeOptions:
    """Facts that a source does not state itself; most datasets need none of these options."""

    views: tuple[str, ...] = ()
    """Cameras to keep, by the source's own names, the main one first; by default all."""
    text: str = ""
    """Instruction of every episode, for sources without any."""
    text_key: str = ""
    """Key of the instruction, for generic sources; by default the usual names are tried."""
    state_key: str = ""
    """Key of the state, for generic sources; by default the usual names are tried. LeRobot columns
    that hold parts of it are joined: `joints+grippers`."""
    action_key: str = ""
    """Key of the action, for generic sources, as above."""
    action_kind: ActionKind | Literal["auto"] = "auto"
    """Meaning of state and action: ee_delta, joints or as_stored; `auto` decides by the format."""
    joint_unit: JointUnit | Literal["auto"] = "auto"
    """Unit of joints where the source does not state it: radians or degrees; `auto` guesses it from
    the numbers. Joints in percent of their range have no unit: take them `as_stored`."""
    hz: float = 0.0
    """Control frequency in Hz, for sources that do not state it; 0 takes the source's own."""
    relabel: bool = False
    """Take actions from the poses that were reached instead of those commanded (Bridge, CALVIN)."""
    bgr: bool = False
    """Read uncompressed images in OpenCV's channel order, blue green red (ALOHA)."""


@dataclass(frozen=True)
class RobotAdapter:
    """A dataset of robot episodes.

    Attributes:
        episodes: lists the episodes below a folder; raises UserError where there are none.
        load: reads one of them; raises MediaError where it is damaged.
        annotations: lists the files that say how to read the episodes, for the fingerprint; not the
            data themselves.
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


@contextmanager
def naming(unit: str) -> Iterator[None]:
    """Context in which every MediaError names the place of the episode, as `file#number`."""
    try:
        yield
    except MediaError as error:
        named = str(error) if unit in str(error) else f"{unit}: {error}"
        raise MediaError(named) from None


def is_inside(root: Path, path: str) -> bool:
    """Whether a path that annotations name stays below the data folder, links followed."""
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or "\0" in path:
        return False
    if is_remote(root):
        return True  # a store has no links
    # Links are followed on both sides: the data folder may itself be a link.
    real_root = os.path.realpath(root)
    return os.path.commonpath([real_root, os.path.realpath(root / path)]) == real_root


def stat_file(root: Path, path: str) -> os.stat_result:
    """What the file system says of an ordinary file below the data folder, of a member of a tar
    what it says of the tar.

    Raises:
        MediaError: nothing is there, or something else: opening a pipe would wait for its writer.
    """
    try:
        found = (tar_of(root / path) or root / path).stat()
    except OSError as error:
        if "\\x" in path:
            raise MediaError(f"{path}: the name of the file is not UTF-8: rename it") from None
        raise MediaError(f"{path}: cannot be opened ({error.strerror})") from None
    _refuse_kind(path, found.st_mode)
    return found


def refuse_special(path: Path) -> None:
    """Raise MediaError for what is no ordinary file; one that is missing passes."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # whoever opens it has more to say
    _refuse_kind(path.name, mode)


def _refuse_kind(name: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((kind for is_one, kind in KINDS.items() if is_one(mode)), "no file")
        raise MediaError(f"{name}: {kind}, expected a file")


KINDS = {
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISDIR: "a folder",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def refuse_outside(root: Path, path: str, way_out: str) -> None:
    """Raise MediaError for a path that leads out of the data folder.

    Args:
        root: the data folder.
        path: as annotations name it.
        way_out: what the user can do if that file is meant, for the message.
    """
    if not is_inside(root, path):
        raise MediaError(
            f"{path} leads out of the data folder (a link, or `..`), expected a file in it: "
            + way_out
        )
