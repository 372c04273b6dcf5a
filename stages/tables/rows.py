"""The rows of the stage tables: plain frozen records, and their Arrow schemas.

Every clip that enters a stage leaves it as one row: `ok`, `rejected` with a reason, or `failed`
with an error. Fields with a unit say so in their name. Table schemas are derived from the fields.
"""

import hashlib
import math
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
    bucket: str
    """Part of every table in which the clip's rows lie, two hex digits."""
    unit: str
    """What ingest took in at a time: a file, or an episode in one."""
    video_id: str
    """The dataset's own id of the source video or robot episode."""
    start_s: float
    end_s: float
    """Infinite where the whole of an unreadable file was meant."""
    text: str
    """The dataset's own text, unchanged."""
    text_kind: str
    """narration, template, asr, label or instruction."""
    other_texts: list[str] = field(default_factory=list)
    """Further texts of the same seconds: a second annotator, duplicates at the same time."""
    text_flags: list[str] = field(default_factory=list)
    annotation_id: str = ""
    """The dataset's own id of what was annotated (EPIC's narration_id), where it has one."""
    clamped_s: float = 0.0
    """How much of the annotated span lay beyond the end of the file."""
    media_path: str = ""
    """Below the data folder, with forward slashes."""
    duration_s: float = 0.0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    codec: str = ""


@dataclass(frozen=True, kw_only=True)
class EpisodeArrays(Row):
    """What a robot episode holds beside pictures, in the convention of `source.Episode`."""

    hz: float
    """Steps per second of the source."""
    action_kind: str
    """ee_delta, joints or as_stored."""
    state: list[list[float]]
    """[steps, state width]"""
    action: list[list[float]]
    """[steps, action width]"""
    idle: list[bool]
    """[steps], True where the arm was told nothing; empty if never."""
    success: bool | None
    """None where the source does not say."""


@dataclass(frozen=True, kw_only=True)
class EpisodePlace(Clip):
    """Where a robot episode lies and what it shows."""

    place: list[int]
    """Where in `media_path`, in the adapter's own terms."""
    views: list[str]
    """Names of its cameras, the main one first."""
    steps: int
    facts: list[str]
    """`key: value`, further provenance of the adapter."""


@dataclass(frozen=True, kw_only=True)
class EpisodeClip(EpisodePlace, EpisodeArrays):
    """A robot episode: a row of the `ingest` table of a robot dataset."""


@dataclass(frozen=True, kw_only=True)
class EpisodeSteps(Row):
    """Which pictures of an episode are wanted."""

    hz: float
    """Steps per second after resampling."""
    steps_taken: list[int]
    """Of each resampled step, the source step whose pictures it shows."""


@dataclass(frozen=True, kw_only=True)
class EpisodeRow(EpisodeSteps):
    """A row of the `episodes` table: the trajectory at the common rate, and how smooth it is."""

    state: list[list[float]]
    action: list[list[float]]
    idle: list[bool]
    max_speed_m_s: float
    """Fastest move from one state to the next; 0 where the state holds no positions."""
    max_turn_rad_s: float
    jerk_m_s3: float
    """Root mean square of the third difference of the positions."""
    still_share: float
    """Steps at which nothing in the state changes although the action says so."""


class Hand(TypedDict):
    """One detected hand; coordinates are relative to the picture's width and height."""

    frame: int
    handedness: str
    score: float
    """Of the handedness, as MediaPipe gives it."""
    trust: float
    """1 where a closer look confirms the hand, else the support of the clip's other frames."""
    box_xyxy: list[float]
    landmarks_xyz: list[float]
    """21 points, x y z each, in MediaPipe's order."""


@dataclass(frozen=True, kw_only=True)
class HandScores(Row):
    """Per-frame numbers of the `hands` table, enough to decide on a clip."""

    times_s: list[float]
    """Of each sampled frame, from the start of the video, ascending."""
    looked: list[bool]
    """Whether hands were looked for in the frame; where not, its count is 0."""
    hand_counts: list[int]
    """Hands that are trusted to be some."""
    trust: list[float]
    """Of the frame's most trusted hand, 0 to 1; 0 where there is none."""


@dataclass(frozen=True, kw_only=True)
class HandRow(HandScores):
    """A row of the `hands` table. Lists are parallel to `times_s`."""

    brightness: list[float]
    """Mean luma, 0 black to 1 white."""
    contrast: list[float]
    """Range of the luma without its extremes; 0 is one flat colour."""
    sharpness: list[float]
    """How much of its strongest edges a further blur takes away, 0 to 1."""
    glare: list[float]
    """Share of the frame that is white without detail."""
    flat_share: list[float]
    """Share of the frame that has one and the same luma."""
    motion: list[float]
    """Largest change since the frame before, 0 to 1; 0 for the first."""
    change: float
    """Largest change among all frames, 0 to 1."""
    picture_xyxy: list[float]
    """The picture without letterbox bars, relative to width and height."""
    bar_share: float
    stereo: str
    """Where a second eye's picture would be: side_by_side or top_bottom."""
    stereo_score: float
    """How alike the two would be, 0 to 1."""
    cuts_s: list[float]
    """Shot changes, from the start of the video; empty where none were looked for."""
    shot_start_s: float
    """The longest stretch without a shot change."""
    shot_end_s: float
    fingerprints: bytes
    """uint8 [frames, 1152], see fingerprints.py."""
    detections: list[Hand]


@dataclass(frozen=True, kw_only=True)
class Framing(Row):
    """The part of a clip that is worth showing: columns of the `hands` table."""

    shot_start_s: float
    """The longest stretch without a shot change; the whole clip where none was looked for."""
    shot_end_s: float
    picture_xyxy: list[float]
    """The picture without letterbox bars, relative to width and height."""


class Match(TypedDict):
    """A clip that shows nearly the same."""

    clip_id: str
    dataset: str
    split: str
    similarity: float
    better: bool
    """Whether it is the one to keep of the two."""


@dataclass(frozen=True, kw_only=True)
class DuplicateRow(Row):
    """A row of the `duplicates` table."""

    similarity: float
    """To the most similar clip that is the one to keep of the two, 0 to 1; 0 if there is none."""
    leak_similarity: float
    """Of a clip of train, to the most similar one held out."""
    matches: list[Match]
    """The most similar first."""


@dataclass(frozen=True, kw_only=True)
class SelectRow(Row):
    """A row of the `select` table: the decision and the numbers it was made from.

    Shares are of the sampled frames of the clip's longest shot, 0 to 1.
    """

    hand_share: float
    """Frames with a hand, of those in which hands were looked for."""
    lone_hand: float
    """1 where of four or more such frames a single one shows a hand, else 0."""
    dark_share: float
    """Frames too dark to show anything."""
    blank_share: float
    """Frames of one flat colour."""
    flat_share: float
    """Frames of which most has one and the same luma: slides and title cards."""
    sharpness: float
    """Of the sharpest frame, 0 to 1."""
    change: float
    """How much the most changing part of the picture ever changes, 0 to 1."""
    bar_share: float
    """Share of the picture that is black bars."""
    stereo_score: float
    """How alike the halves of the picture are, as two eyes' pictures are, 0 to 1."""
    shot_share: float
    """The longest shot's share of the clip."""
    similarity: float
    """To the most similar clip that is kept instead, 0 to 1."""
    leak_similarity: float
    """Of a clip of train, to the most similar one held out."""
    repeats: float
    """Clips of the same video with the same text that come before this one."""


@dataclass(frozen=True, kw_only=True)
class CaptionRow(Row):
    """A row of the `caption` table."""

    caption: str
    source: str
    """Where the caption comes from: `source` is the dataset's own text, `vlm` and `server` are
    models."""
    flags: list[str] = field(default_factory=list)
    model: str = ""
    """Which model was asked: a name, or the hash of a folder."""
    answers: list[str] = field(default_factory=list)
    """What it said, as it came: one answer, or two where the first was flagged."""
    answer_flags: list[str] = field(default_factory=list)
    """Of each answer its flags, with spaces between them; empty for one that could be used."""
    prompt_tokens: int = 0
    """Of all answers together, as are the next two."""
    completion_tokens: int = 0
    seconds: float = 0.0
    """From sending to receiving."""
    agreement: float | None = None
    """Cosine of caption and pictures in CLIP's space, -1 to 1, where a CLIP model was given."""


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
    """Stable identity of a clip: 80 bits of a hash over dataset, video and span in milliseconds.

    An infinite end, that of the file, counts as such: the length of the file is no part of it.
    """
    end = round(end_s * 1000) if math.isfinite(end_s) else "end"
    span = f"{round(start_s * 1000)}-{end}"
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
    if typing.get_origin(hint) is types.UnionType:  # `bool | None`: every column takes nulls
        return _arrow_type(typing.get_args(hint)[0])
    if typing.get_origin(hint) is list:
        return pa.list_(_arrow_type(typing.get_args(hint)[0]))
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        return pa.struct([(k, _arrow_type(v)) for k, v in typing.get_type_hints(hint).items()])
    raise TypeError(f"no Arrow type for {hint}")
