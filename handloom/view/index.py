"""All clips of a run as columns in memory, N rows: what lists, filters and counts are made from.

Words are numbers with a dictionary, scores are float64 as `select` compares them: a million clips
take about 300 MB. Nothing here opens a video.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from handloom.stages.caption.stage import instruction
from handloom.stages.report.words import verb_and_noun
from handloom.stages.tables.parts import Table

Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

KEPT, REJECTED, FAILED, WAITING = "kept", "rejected", "failed", "waiting"
AT_A_TIME = 16_384  # texts that are Python's at a time
STATUSES = (KEPT, REJECTED, FAILED, WAITING)


@dataclass(frozen=True)
class Words:
    """A column of words.

    Attributes:
        codes: number of each row's word, [N], of the smallest type that holds them all.
        values: the words, string [words].
    """

    codes: npt.NDArray[Any]
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
        kinds = (
            kind for kind in (np.int8, np.int16, np.int32) if len(values) <= np.iinfo(kind).max
        )
        return cls(np.concatenate([np.empty(0, np.int32), *codes]).astype(next(kinds)), values)

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
        of_words: Bools = np.asarray(chosen.to_numpy(zero_copy_only=False), bool)
        rows: Bools = of_words[self.codes]
        return rows

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
        kinds, codes = self.words["text_kind"], np.zeros((2, len(self)), np.int32)
        names: tuple[list[str], list[str]] = ([], [])
        for number, kind in enumerate(kinds.values.to_pylist()):
            here = kinds.codes == number
            for place, one in enumerate(_actions(self.text.values, kind)):
                codes[place, here] = one.codes[self.text.codes[here]] + len(names[place])
                names[place].extend(one.values.to_pylist())
        verbs, objects = map(_distinct, codes, names)
        return verbs, objects

    def find(self, clip_id: str) -> int | None:
        """Row of a clip; None where there is none."""
        found = pc.index(self.ids, pa.scalar(clip_id, pa.string())).as_py()
        return None if found < 0 else int(found)

    def places(self, clip_ids: pa.Array) -> Rows:
        """Rows of some clips, -1 for those that there are not."""
        found = pc.index_in(clip_ids.cast(pa.string()), value_set=self.ids)
        return np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64)


def _distinct(codes: npt.NDArray[np.int32], names: list[str]) -> Words:
    """A column of names of which some come twice."""
    place = {name: number for number, name in enumerate(dict.fromkeys(names))}
    values = pa.array(list(place), pa.string())
    numbers = np.array([place[name] for name in names], _kind(values))
    return Words(numbers[codes] if len(names) else codes, values)


def _actions(texts: pa.Array, kind: str) -> Iterator[Words]:
    """Verbs, then objects, of texts of a kind, [texts]."""
    found: tuple[list[pa.Array], list[pa.Array]] = ([], [])
    for start in range(0, len(texts), AT_A_TIME):
        some = texts.slice(start, AT_A_TIME).to_pylist()
        pairs = [verb_and_noun(instruction(text, kind)) for text in some]
        for place, chunks in enumerate(found):
            chunks.append(pa.array([pair[place] for pair in pairs], pa.string()))
    yield from map(Words.of, found)


def _kind(values: pa.Array) -> type[np.signedinteger[Any]]:
    """The smallest type for the numbers of some words."""
    kinds = (np.int8, np.int16, np.int32)
    return next(kind for kind in kinds if len(values) <= np.iinfo(kind).max)
