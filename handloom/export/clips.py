"""The clips of an export with all that is told of them, and their pictures.

T frames of a clip or steps of an episode; widths: S state, A action.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from handloom.errors import MediaError, UserError
from handloom.export.options import Rate
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.episodes.rows import EpisodeRow
from handloom.stages.media.clip_frames import ClipFrames, Framing, spaced_times, whole
from handloom.stages.media.display import FrameHWC
from handloom.stages.media.episode_views import EpisodeViews
from handloom.stages.media.runs import RecordedRun
from handloom.stages.tables.parts import Tables
from handloom.stages.tables.rows import Clip, EpisodeClip, EpisodePlace

AT_A_TIME = 256  # rows; states and actions of a thousand steps take about 1 MB each
MAIN = "main"
"""Name of the one view of a video."""
Pictures = ClipFrames | EpisodeViews


@dataclass(frozen=True)
class Motion:
    """A robot episode's trajectory, as its shard has it or at the source's own rate.

    Attributes:
        hz: steps a second.
        state: float32 [T, S].
        action: float32 [T, A].
        idle: numbers of the steps without a command to the arm.
        steps: of each step, the source's step whose pictures it shows, int64 [T].
    """

    hz: float
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    idle: list[int]
    steps: NDArray[np.int64]


@dataclass(frozen=True)
class ExportClip:
    """A kept clip or episode.

    Attributes:
        clip: its row of `ingest`; an `EpisodeClip` of robots.
        caption: its row of `caption`.
        framing: the part of the clip and of its picture that is shown.
        motion: None of videos.
    """

    clip: Clip
    caption: CaptionRow
    framing: Framing
    motion: Motion | None

    @property
    def views(self) -> list[str]:
        """Names of its cameras, the main one first."""
        return self.clip.views if isinstance(self.clip, EpisodePlace) else [MAIN]

    @property
    def fps(self) -> Fraction:
        """Frames a second of its video, as a ratio that containers can state."""
        hz = self.motion.hz if self.motion else self.clip.fps
        return Fraction(hz).limit_denominator(1001)  # 29.97 is 30000/1001

    @property
    def frame_count(self) -> int:
        """How many pictures `frames` gives of each camera."""
        if self.motion:
            return len(self.motion.steps)
        return len(spaced_times(self.framing, 1 / self.clip.fps))

    def frames(self, pictures: Pictures, view: str) -> Iterator[FrameHWC]:
        """The pictures of a camera, RGB uint8 [H, W, 3].

        Raises:
            MediaError: the file is gone, damaged or ends earlier than it did.
        """
        try:
            if isinstance(pictures, ClipFrames):
                times_s = spaced_times(self.framing, 1 / self.clip.fps)
                yield from pictures.frames(self.clip, self.framing, times_s)
                return
            assert self.motion is not None
            assert isinstance(self.clip, EpisodePlace)
            images = pictures.views(self.clip)[view]
            for step in self.motion.steps.tolist():
                yield images[step]
        except KeyError:
            raise self._unreadable(f"it has no camera {view} any more") from None
        except MediaError as error:
            raise self._unreadable(str(error)) from None

    def _unreadable(self, why: str) -> MediaError:
        return MediaError(
            f"clip {self.clip.clip_id} of {self.clip.media_path} cannot be read as it was when it "
            f"was curated: {why}. Put the file back, or leave the clip out with --leave-out "
            f"{self.clip.clip_id} and another folder."
        )

    def facts(self) -> dict[str, Any]:
        """Caption and provenance; names are those of a shard's metadata (docs/shard-format.md)."""
        clip, caption = self.clip, self.caption
        found: dict[str, Any] = {
            "clip_id": clip.clip_id, "caption": caption.caption, "caption_source": caption.source,
            "caption_flags": caption.flags, "text": clip.text, "text_kind": clip.text_kind,
            "text_flags": clip.text_flags, "other_texts": clip.other_texts,
            "dataset": clip.dataset, "version": clip.version, "split": clip.split,
            "licence": clip.licence, "source_id": clip.video_id, "source_path": clip.media_path,
            "annotation_id": clip.annotation_id, "start_s": self.framing.shot_start_s,
            "end_s": self.framing.shot_end_s, "fps": float(self.fps), "views": self.views,
        }  # fmt: skip
        if self.motion is None:
            return found | {"picture_xyxy": self.framing.picture_xyxy}
        assert isinstance(clip, EpisodeClip)
        return found | {
            "source_hz": clip.hz, "action_kind": clip.action_kind, "success": clip.success,
            "idle_steps": self.motion.idle, "unit": clip.unit, "facts": clip.facts,
        }  # fmt: skip


def facts_schema(is_robot: bool) -> pa.Schema:
    """Types of the facts of clips or of episodes, as a table has them."""
    lists = dict.fromkeys(("caption_flags", "text_flags", "other_texts", "views"), pa.string())
    more: dict[str, pa.DataType]
    if is_robot:
        lists |= {"idle_steps": pa.int64(), "facts": pa.string()}
        more = {"source_hz": pa.float64(), "action_kind": pa.string(), "success": pa.bool_(),
                "unit": pa.string()}  # fmt: skip
    else:
        lists["picture_xyxy"] = pa.float64()
        more = {}
    texts = ("clip_id", "caption", "caption_source", "text", "text_kind", "dataset", "version",
             "split", "licence", "source_id", "source_path", "annotation_id")  # fmt: skip
    types = dict.fromkeys(texts, pa.string()) | more
    types |= dict.fromkeys(("start_s", "end_s", "fps"), pa.float64())
    return pa.schema({**types, **{name: pa.list_(kind) for name, kind in lists.items()}})


def open_pictures(out: Path, data: Path | None) -> Pictures:
    """What opens the clips of a run, one video after the other.

    Raises:
        UserError: the media lie neither where the run read them nor in `data`.
    """
    run = RecordedRun(out)
    where = data or run.data
    if not where.is_dir():
        was = "" if data is None else f" (the run read {run.data})"
        raise UserError(
            f"{where}{was} is not there, expected the folder of the videos or episodes that {out} "
            "was made from; name it with --data."
        )
    pictures = replace(run.pictures, data=where)
    return replace(pictures, scattered=False) if isinstance(pictures, ClipFrames) else pictures


def read_clips(tables: Tables, rows: pa.Table, rate: Rate) -> Iterator[ExportClip]:
    """The clips of some rows of a listing, in their order; some hundred are in memory."""
    places = zip(rows["bucket"].to_pylist(), rows["clip_id"].to_pylist(), strict=True)
    for bucket, group in groupby(places, key=lambda place: place[0]):
        ids = [clip_id for _, clip_id in group]
        for start in range(0, len(ids), AT_A_TIME):
            yield from _read(tables, bucket, ids[start : start + AT_A_TIME], rate)


def _read(tables: Tables, bucket: str, ids: list[str], rate: Rate) -> Iterator[ExportClip]:
    is_robot = "episodes" in tables
    clips = tables["ingest"].find(EpisodeClip if is_robot else Clip, ids, bucket)
    captions = tables["caption"].find(CaptionRow, ids, bucket)
    framings = tables["hands"].find(Framing, ids, bucket) if "hands" in tables else {}
    common = tables["episodes"].find(EpisodeRow, ids, bucket) if is_robot else {}
    for name in ids:
        clip = clips[name]
        motion = None
        if isinstance(clip, EpisodeClip):
            motion = _at_source(clip) if rate == "source" else _at_common(common[name])
        yield ExportClip(clip, captions[name], framings.get(name) or whole(clip), motion)


def _at_common(row: EpisodeRow) -> Motion:
    return Motion(
        row.hz,
        np.asarray(row.state, np.float32),
        np.asarray(row.action, np.float32),
        np.flatnonzero(row.idle).tolist(),
        np.asarray(row.steps_taken, np.int64),
    )


def _at_source(row: EpisodeClip) -> Motion:
    state = np.asarray(row.state, np.float32)
    idle = np.flatnonzero(row.idle).tolist()
    return Motion(row.hz, state, np.asarray(row.action, np.float32), idle, np.arange(len(state)))
