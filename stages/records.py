"""The rows of the stage tables: plain frozen records, and their Arrow schemas.

Every clip that enters a stage leaves it as one row: `ok`, `rejected` with a reason, or `failed`
with an error. Fields with a unit say so in their name. Table schemas are derived from the fields.
"""

import hashlib
import types
import typing
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict

import pyarrow as pa

Status = Literal["ok", "rejected", "failed"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What every table says of a clip."""

    clip_id: str
    status: Status = "ok"
    reason: str = ""
    """Why a clip is rejected, one snake_case word: `no_hands`."""
    error: str = ""
    """What went wrong with a failed clip, one sentence."""
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class Clip(Row):
    """A span of a source video with its text: a row of the `ingest` table."""

    dataset: str
    version: str
    split: str
    """`train`, `val` or `test`, by source video."""
    licence: str
    video_id: str
    start_s: float
    end_s: float
    text: str
    """The dataset's own text, unchanged."""
    text_kind: str
    """narration, template, asr, label or instruction."""
    other_texts: list[str] = field(default_factory=list)
    """Further texts of the same seconds: a second annotator, duplicates at the same time."""
    text_flags: list[str] = field(default_factory=list)
    clamped_s: float = 0.0
    """How much of the annotated span lay beyond the end of the file."""
    media_path: str = ""
    """Below the data folder, with forward slashes."""
    duration_s: float = 0.0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    codec: str = ""


class Hand(TypedDict):
    """One detected hand; coordinates are relative to the picture's width and height."""

    frame: int
    handedness: str
    score: float
    box_xyxy: list[float]
    landmarks_xyz: list[float]
    """21 points, x y z each, in MediaPipe's order."""


@dataclass(frozen=True, kw_only=True)
class HandScores(Row):
    """Per-frame numbers of the `hands` table, enough to decide on a clip."""

    times_s: list[float]
    """Of each sampled frame, from the start of the video."""
    hand_counts: list[int]
    brightness: list[float]
    """Mean luma, 0 black to 1 white."""
    motion: list[float]
    """Mean absolute luma change since the frame before, 0 to 1; 0 for the first."""


@dataclass(frozen=True, kw_only=True)
class HandRow(HandScores):
    """A row of the `hands` table."""

    detections: list[Hand]


@dataclass(frozen=True, kw_only=True)
class SelectRow(Row):
    """A row of the `select` table: the decision and the numbers it was made from."""

    hand_share: float
    """Frames with a hand over frames sampled."""
    dark_share: float
    """Frames too dark to show anything over frames sampled."""


@dataclass(frozen=True, kw_only=True)
class CaptionRow(Row):
    """A row of the `caption` table."""

    caption: str
    source: str
    """Where the caption comes from: `source` is the dataset's own text."""
    flags: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TokenRow(Row):
    """A row of the `tokens` table."""

    codes: bytes
    """uint16 little-endian, C order, of `shape`."""
    shape: list[int]
    """[views, frames, rows, columns]"""
    times_s: list[float]
    """Of each frame, from the start of the video."""
    width: int
    height: int
    """Upright size of the decoded picture, before cropping."""


def clip_id(dataset: str, video_id: str, start_s: float, end_s: float) -> str:
    """Stable identity of a clip: 80 bits of a hash over dataset, video and span in milliseconds."""
    span = f"{round(start_s * 1000)}-{round(end_s * 1000)}"
    return hashlib.blake2b(f"{dataset}/{video_id}/{span}".encode(), digest_size=10).hexdigest()


def arrow_schema(row_type: type[Row]) -> pa.Schema:
    """The Arrow schema of a table, from the fields of its row."""
    hints = typing.get_type_hints(row_type)
    return pa.schema([(f.name, _arrow_type(hints[f.name])) for f in fields(row_type)])


def _arrow_type(hint: Any) -> pa.DataType:
    plain = {
        str: pa.string(),
        float: pa.float64(),
        int: pa.int64(),
        bool: pa.bool_(),
        bytes: pa.binary(),
    }
    if hint in plain:
        return plain[hint]
    if typing.get_origin(hint) is Literal:
        return pa.string()
    if typing.get_origin(hint) is list:
        return pa.list_(_arrow_type(typing.get_args(hint)[0]))
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        return pa.struct([(k, _arrow_type(v)) for k, v in typing.get_type_hints(hint).items()])
    raise TypeError(f"no Arrow type for {hint}")
