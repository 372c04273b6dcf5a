"""The rows that pass between all stages, as plain frozen records, and their Arrow schemas.

Every clip that enters a stage leaves it as one row: `ok`, `rejected` with a reason, or `failed`
with an error. Fields with a unit say so in their name. Table schemas are derived from the fields.
Rows of a single stage lie beside it, in `rows.py` of its folder or in its file.
"""

import hashlib
import math
import types
import typing
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import pyarrow as pa

from handloom.stages.tables.texts import storable_name

Status = Literal["ok", "rejected", "failed"]
INPUTS = "inputs"
"""Column of a stage's table beside those of its rows, int64: digest of what a row was made from."""
PLACE = {"is_place": True}
"""Metadata of a field that says where something lies: a row computed from it outlives a move."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Columns of every table."""

    clip_id: str
    status: Status = "ok"
    reason: str = ""
    """Reason of a rejection, one snake_case word: `no_hands`. A kept clip has one only where a
    person has marked it, `marked_keep`."""
    error: str = ""
    """Error of a failed clip, one sentence."""
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class Footage(Row):
    """A span of a source video: what decides which pictures a clip has."""

    bucket: str
    """Bucket of the clip's rows in every table, two hex digits."""
    video_id: str
    """The dataset's own id of the source video or robot episode."""
    start_s: float
    end_s: float
    """Infinite where the whole of an unreadable file was meant."""
    media_path: str = field(default="", metadata=PLACE)
    """Below the data folder, with forward slashes."""
    duration_s: float = 0.0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    codec: str = ""


@dataclass(frozen=True, kw_only=True)
class DescribedFootage(Footage):
    """A span of a source video and the text that becomes its caption."""

    text: str
    """The dataset's own text, unchanged."""
    text_kind: str
    """narration, template, asr, label or instruction."""
    text_flags: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Clip(DescribedFootage):
    """A span of a source video with its text: a row of the `ingest` table."""

    dataset: str
    version: str
    split: str
    """`train`, `val` or `test`, by source video."""
    licence: str
    unit: str
    """Piece that ingest reads at a time: a file, or an episode in one."""
    other_texts: list[str] = field(default_factory=list)
    """Further texts of the same seconds: a second annotator, duplicates at the same time."""
    annotation_id: str = ""
    """The dataset's own id of what was annotated (EPIC's narration_id), where it has one."""
    clamped_s: float = 0.0
    """Seconds of the annotated span that lay beyond the end of the file."""


@dataclass(frozen=True, kw_only=True)
class EpisodeArrays(Row):
    """States and actions of a robot episode, in the convention of `source.Episode`."""

    hz: float
    """Steps per second of the source."""
    action_kind: str
    """ee_delta, joints or as_stored."""
    state: list[list[float]]
    """[steps, state width]"""
    action: list[list[float]]
    """[steps, action width]"""
    idle: list[bool]
    """[steps], True where the action commands nothing; empty if never."""
    success: bool | None
    """None where the source does not say."""
    grippers: list[int] = field(default_factory=list)
    """Of `joints`, the columns of the state that are grippers."""


@dataclass(frozen=True, kw_only=True)
class EpisodeFootage(Footage):
    """A robot episode's pictures: where they lie and of which cameras they are."""

    unit: str
    place: list[int]
    """Location inside `media_path`, in the adapter's own terms."""
    views: list[str]
    """Names of its cameras, the main one first."""
    steps: int


@dataclass(frozen=True, kw_only=True)
class EpisodePlace(EpisodeFootage, Clip):
    """Location and contents of a robot episode, without its arrays."""

    facts: list[str]
    """`key: value`, further provenance of the adapter."""


@dataclass(frozen=True, kw_only=True)
class EpisodeClip(EpisodePlace, EpisodeArrays):
    """A robot episode: a row of the `ingest` table of a robot dataset."""


def clip_id(dataset: str, video_id: str, start_s: float, end_s: float) -> str:
    """Stable identity of a clip: 80 bits of a hash over dataset, video and span in milliseconds.

    An infinite end, that of the file, counts as such: the length of the file is no part of it.
    """
    name = f"{dataset}/{video_id}/{_ms(start_s)}-{_ms(end_s)}"
    return hashlib.blake2b(storable_name(name).encode(), digest_size=10).hexdigest()


def _ms(seconds: float) -> int | str:
    return round(seconds * 1000) if math.isfinite(seconds * 1000) else "end"


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
