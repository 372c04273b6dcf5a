"""Reads the tables of a run into an index, a bucket at a time."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from handloom.stages.tables.outcomes import Outcome, Outcomes, outcomes
from handloom.stages.tables.parts import Table
from handloom.stages.tables.reading import damage_named
from handloom.view.index import (
    FAILED,
    KEPT,
    REJECTED,
    STATUSES,
    WAITING,
    Bools,
    Index,
    Numbers,
    Words,
)

INGESTED = ("bucket", "video_id", "dataset", "split", "licence", "text_kind")
MEDIA = ("duration_s", "fps", "height")
CHUNKS = 32  # with a dictionary each, before they get one together
WORDS = (*INGESTED, "status", "stage", "reason", "source", "text")
KNOWN = frozenset({"ingest", "hands", "duplicates", "caption", "tokens"})
"""Stages whose numbers are no scores, or are those of `select` too."""
UNSCORED = frozenset({"attempts", "inputs"})


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
    buckets, filling = tables["ingest"].buckets(), _Filling(tables["ingest"].row_count())
    for number, bucket in enumerate(buckets):
        found = outcomes(tables, bucket, columns)
        filling.add(_piece(found, scored, to_come), found.stages["ingest"].came)
        advance((number + 1) / len(buckets))
    return filling.index(tables, to_come)


Piece = dict[str, Any]
"""Columns of one bucket's clips by name: arrays of Arrow for words, of numpy for numbers."""


def _one(chunks: list[pa.Array]) -> pa.Array:
    """Chunks as one, with one dictionary."""
    return pa.chunked_array(chunks).unify_dictionaries().combine_chunks()


class _Filling:
    """Columns that are filled bucket by bucket: one array each for all numbers, since a million
    clips in small arrays leave holes of 200 MB; words with dictionaries, or they take twice that.

    Args:
        count: of clips at most.
    """

    def __init__(self, count: int) -> None:
        self.count, self.filled = count, 0
        self.ids = [pa.array([], pa.string())]
        self.words: dict[str, list[pa.Array]] = {}
        self.numbers: dict[str, npt.NDArray[Any]] = {}

    def add(self, piece: Piece, counts: Bools) -> None:
        """Add those of a bucket's clips that count: others are of an earlier ingest."""
        mask, size = pa.array(counts), int(counts.sum())
        self.ids.append(piece.pop("ids").filter(mask))
        for name, values in piece.items():
            if isinstance(values, np.ndarray):
                column = self.numbers.setdefault(name, np.empty(self.count, values.dtype))
                column[self.filled : self.filled + size] = values[counts]
            else:
                encoded = pc.dictionary_encode(values.filter(mask))
                self.words.setdefault(name, []).append(encoded)
                if len(self.words[name]) == CHUNKS:
                    self.words[name] = [_one(self.words[name])]
        self.filled += size
        pa.default_memory_pool().release_unused()

    def index(self, tables: dict[str, Table], to_come: list[str]) -> Index:
        """All buckets together."""
        words = {name: Words.encoded(self.words.pop(name, [])) for name in WORDS}
        none = np.zeros(0, bool)
        masks = [self.numbers.pop(name, none)[: self.filled] for name in ("came", "passed")]
        numbers = {name: column[: self.filled] for name, column in self.numbers.items()}
        for name in ("start_s", "end_s"):
            numbers.setdefault(name, np.zeros(0))
        ids = pa.concat_arrays(self.ids)
        pa.default_memory_pool().release_unused()
        return Index(tables, to_come, ids, words, words.pop("text"), numbers, *masks)


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
    has_caption = pc.and_(pc.greater(pc.utf8_length(words), 0), pa.array(_passed(found, "caption")))
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
