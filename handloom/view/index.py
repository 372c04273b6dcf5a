"""All clips of a run as columns in memory, N rows: what lists, filters and counts are made from.

Words are numbers with a dictionary, scores are float64 as `select` compares them: a million clips
take about 300 MB. Nothing here opens a video.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from handloom.stages.caption.stage import instruction
from handloom.stages.report.words import verb_and_noun
from handloom.stages.tables.outcomes import Outcome, Outcomes, outcomes
from handloom.stages.tables.parts import Table
from handloom.stages.tables.reading import damage_named

Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

KEPT, REJECTED, FAILED, WAITING = "kept", "rejected", "failed", "waiting"
STATUSES = (KEPT, REJECTED, FAILED, WAITING)
INGESTED = ("bucket", "video_id", "dataset", "split", "licence", "text_kind")
MEDIA = ("duration_s", "fps", "width", "height")
KNOWN = frozenset({"ingest", "hands", "duplicates", "caption", "tokens"})
"""Stages whose numbers are no scores, or are those of `select` too."""
UNSCORED = frozenset({"attempts", "inputs"})


@dataclass(frozen=True)
class Words:
    """A column of words.

    Attributes:
        codes: number of each row's word, int32 [N].
        values: the words, string [words].
    """

    codes: npt.NDArray[np.int32]
    values: pa.Array

    @classmethod
    def of(cls, chunks: Sequence[pa.Array]) -> "Words":
        """From strings, chunk after chunk; null counts as empty."""
        filled = [pc.fill_null(chunk.cast(pa.string()), "") for chunk in chunks]
        return cls.encoded([pc.dictionary_encode(chunk) for chunk in filled])

    @classmethod
    def encoded(cls, chunks: Sequence[pa.Array]) -> "Words":
        """From arrays with dictionaries of their own, chunk after chunk."""
        kind = pa.dictionary(pa.int32(), pa.string())
        joined = pa.chunked_array(chunks, kind).unify_dictionaries()
        codes = [chunk.indices.to_numpy() for chunk in joined.chunks]
        values = joined.chunk(0).dictionary if joined.num_chunks else pa.array([], pa.string())
        return cls(np.concatenate([np.empty(0, np.int32), *codes]).astype(np.int32), values)

    def at(self, row: int) -> str:
        """The word of a row."""
        return str(self.values[int(self.codes[row])].as_py())

    def take(self, rows: Rows) -> list[str]:
        """The words of some rows."""
        words: list[str] = self.values.take(pa.array(self.codes[rows])).to_pylist()
        return words

    def equal(self, wanted: Sequence[str]) -> Bools:
        """Rows whose word is one of some."""
        chosen = pc.is_in(self.values, value_set=pa.array(list(wanted), pa.string()))
        return np.asarray(chosen.to_numpy(zero_copy_only=False), bool)[self.codes]

    def translated(self, values: pa.Array) -> npt.NDArray[np.int32]:
        """The code of each of some words here, -1 for those that do not come, int32 [words]."""
        found = pc.fill_null(pc.index_in(values, value_set=self.values), -1)
        return np.asarray(found.to_numpy(zero_copy_only=False), np.int32)

    def counts(self, rows: Bools) -> list[tuple[str, int]]:
        """Each word with its number among some rows, frequent ones first."""
        counts = np.bincount(self.codes[rows], minlength=len(self.values))
        order = np.argsort(-counts, kind="stable")
        order = order[counts[order] > 0]
        words = self.values.take(pa.array(order)).to_pylist()
        return list(zip(words, counts[order].tolist(), strict=True))


@dataclass(frozen=True)
class Index:
    """The clips of a run, [N], in the order of the buckets.

    Attributes:
        tables: the tables that it was read from.
        to_come: stages of the run that have no table yet.
        ids: clip ids, string [N].
        words: columns of words: `status`, `stage` and `reason` of each clip's end, and more.
        text: caption, or the dataset's own text where there is no caption.
        numbers: scores by name, NaN where a clip has none.
        came: clips that `select` has decided on.
        passed: those that it let through.
    """

    tables: dict[str, Table]
    to_come: list[str]
    ids: pa.Array
    words: dict[str, Words]
    text: Words
    numbers: dict[str, npt.NDArray[Any]]
    came: Bools
    passed: Bools

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def length_s(self) -> Numbers:
        """Seconds of each clip; 0 where the end of its file is unknown."""
        length_s = self.numbers["end_s"] - self.numbers["start_s"]
        return np.where(np.isfinite(length_s), length_s, 0.0)

    @cached_property
    def actions(self) -> tuple[Words, Words]:
        """Verb and object of each clip's text."""
        kinds = self.words["text_kind"]
        pair = self.text.codes.astype(np.int64) * len(kinds.values) + kinds.codes
        distinct, number = np.unique(pair, return_inverse=True)
        texts = self.text.values.take(pa.array(distinct // max(len(kinds.values), 1))).to_pylist()
        of_kind = kinds.values.take(pa.array(distinct % max(len(kinds.values), 1))).to_pylist()
        found = [verb_and_noun(instruction(*one)) for one in zip(texts, of_kind, strict=True)]
        verbs, nouns = (
            Words.of([pa.array([one[i] for one in found], pa.string())]) for i in (0, 1)
        )
        return tuple(Words(one.codes[number], one.values) for one in (verbs, nouns))  # type: ignore[return-value]

    def find(self, clip_id: str) -> int | None:
        """Row of a clip; None where there is none."""
        found = pc.index(self.ids, pa.scalar(clip_id, pa.string())).as_py()
        return None if found < 0 else int(found)

    def places(self, clip_ids: pa.Array) -> Rows:
        """Rows of some clips, -1 for those that there are not."""
        found = pc.index_in(clip_ids.cast(pa.string()), value_set=self.ids)
        return np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64)


def read_index(
    tables: dict[str, Table], to_come: list[str], advance: Callable[[float], None]
) -> Index:
    """Read the columns of all tables, a bucket at a time.

    Args:
        tables: of the run, in the order of the data flow, each listed.
        to_come: stages that have no table yet.
        advance: is given the share that is read, 0 to 1.

    Raises:
        UserError: the run was written by a version that recorded no gates.
    """
    scored = _scored(tables)
    columns = {name: ["reason", *scores] for name, scores in scored.items()}
    columns["ingest"] += [*INGESTED, *MEDIA, "start_s", "end_s", "text"]
    columns.setdefault("caption", []).extend(["caption", "source"])
    buckets = tables["ingest"].buckets()
    pieces = []
    for number, bucket in enumerate(buckets):
        pieces.append(_piece(outcomes(tables, bucket, columns), scored, to_come))
        advance((number + 1) / len(buckets))
    return _joined(pieces, tables, to_come)


Piece = dict[str, Any]
"""Columns of one bucket's clips by name: arrays of Arrow for words, of numpy for numbers."""


def _scored(tables: Mapping[str, Table]) -> dict[str, list[str]]:
    """Names of the scores in each table: those of `select`, `episodes`, a user's own stages."""
    found: dict[str, list[str]] = {}
    for name, table in tables.items():
        found[name] = ["agreement"] if name == "caption" else []
        parts = table.parts()[:1]
        if name in KNOWN or not parts:
            continue
        with damage_named(*parts):
            schema = pq.read_schema(parts[0])
        found[name] = [f.name for f in schema if _is_number(f.type) and f.name not in UNSCORED]
    return found


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _piece(found: Outcomes, scored: Mapping[str, list[str]], to_come: list[str]) -> Piece:
    ingest = found.stages["ingest"]
    piece: Piece = {"ids": found.clip_ids} | _ends(found, to_come)
    for name in INGESTED:
        piece[name] = _column(ingest, name)
    for name in ("start_s", "end_s"):
        piece[name] = _floats(ingest, name, ingest.came)
    for name in MEDIA:
        piece[name] = _floats(ingest, name, ingest.came).astype(np.float32)
    for stage, names in scored.items():
        outcome = found.stages[stage]
        for name in names:
            piece[_score_name(name, stage)] = _floats(outcome, name, outcome.came)
    own, caption = _column(ingest, "text"), found.stages.get("caption")
    words = _column(caption, "caption") if caption else own
    has_caption = pc.greater(pc.fill_null(pc.utf8_length(words), 0), 0)
    piece["text"] = pc.if_else(has_caption, words, own)
    piece["source"] = _column(caption, "source") if caption else _nothing(len(found.clip_ids))
    decided = found.stages.get("select")
    piece["came"] = decided.came if decided else np.zeros(len(found.clip_ids), bool)
    piece["passed"] = decided.ok if decided else np.zeros(len(found.clip_ids), bool)
    return piece


def _score_name(name: str, stage: str) -> str:
    return name if stage in {"select", "episodes", "caption"} else f"{stage}.{name}"


def _ends(found: Outcomes, to_come: list[str]) -> Piece:
    """Status, stage and reason of each clip's end. Failed counts before rejected, as in the funnel:
    a clip can end in both branches behind `select`."""
    count = len(found.clip_ids)
    status, stage = np.full(count, STATUSES.index(WAITING)), np.full(count, -1)
    names = [*found.stages, *to_come, ""]
    reason = _nothing(count)
    for code, mask_of in ((FAILED, "failed"), (REJECTED, "rejected")):
        for number, outcome in enumerate(found.stages.values()):
            here = getattr(outcome, mask_of) & (stage < 0)
            if here.any():
                status[here], stage[here] = STATUSES.index(code), number
                reason = pc.if_else(pa.array(here), _column(outcome, "reason"), reason)
    kept = found.kept & (stage < 0) if not to_come else np.zeros(count, bool)
    status[kept], stage[kept] = STATUSES.index(KEPT), len(names) - 1
    if "select" in found.stages and kept.any():  # why somebody kept it nevertheless
        reason = pc.if_else(pa.array(kept), _column(found.stages["select"], "reason"), reason)
    for number, name in enumerate(names[:-1]):
        here = (stage < 0) & ~_passed(found, name)
        stage[here] = number
    return {
        "status": pa.array(STATUSES).take(pa.array(status)),
        "stage": pa.array(names).take(pa.array(stage)),
        "reason": reason,
    }


def _passed(found: Outcomes, stage: str) -> Bools:
    outcome = found.stages.get(stage)
    return outcome.ok if outcome else np.zeros(len(found.clip_ids), bool)


def _nothing(count: int) -> pa.Array:
    return pa.repeat(pa.scalar("", pa.string()), count)


def _column(outcome: Outcome, name: str) -> pa.Array:
    """A column of words of each clip's row, empty without one."""
    if not outcome.table.num_rows:
        return _nothing(len(outcome.came))
    rows = pa.array(outcome.row, mask=outcome.row < 0)
    words = outcome.table[name].combine_chunks().take(rows).cast(pa.string())
    return pc.fill_null(words, "")


def _floats(outcome: Outcome, name: str, counts: Bools) -> Numbers:
    """A column of numbers of each clip's row; NaN without one, or where it does not count."""
    found = np.full(len(counts), np.nan)
    if outcome.table.num_rows:
        values = outcome.table[name].cast(pa.float64()).to_numpy()
        here = counts & (outcome.row >= 0)
        found[here] = values[outcome.row[here]]
    return found


def _joined(pieces: list[Piece], tables: dict[str, Table], to_come: list[str]) -> Index:
    """All buckets together; columns of a bucket go as they are joined."""
    ids = pa.concat_arrays([pa.array([], pa.string()), *(piece.pop("ids") for piece in pieces)])
    came, passed = (
        np.concatenate([np.zeros(0, bool), *(piece.pop(name) for piece in pieces)])
        for name in ("came", "passed")
    )
    names = list(pieces[0]) if pieces else [*INGESTED, "text", "start_s", "end_s", "status"]
    words: dict[str, Words] = {}
    numbers: dict[str, npt.NDArray[Any]] = {}
    for name in names:
        columns = [piece.pop(name) for piece in pieces]
        if columns and isinstance(columns[0], np.ndarray):
            numbers[name] = np.concatenate(columns)
        else:
            words[name] = Words.of(columns)
    return Index(tables, to_come, ids, words, words.pop("text"), numbers, came, passed)
