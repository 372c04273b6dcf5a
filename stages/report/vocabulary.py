"""Counts of the verbs and nouns of a run's texts, before and after selection."""

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow as pa

from handloom.stages.caption.stage import instruction
from handloom.stages.report.words import verb_and_noun
from handloom.stages.tables.outcomes import Bools

Pair = tuple[Counter[str], Counter[str]]
PENDING = 1 << 19  # texts, some 30 MB, of which the distinct ones are found at a time


def _pair() -> Pair:
    return Counter(), Counter()


@dataclass
class Vocabulary:
    """Verbs and nouns, each with its count in all ingested clips, and in those kept."""

    verbs: Pair = field(default_factory=_pair)
    nouns: Pair = field(default_factory=_pair)
    _pending: list[pa.Table] = field(default_factory=list)

    def add(self, texts: pa.Table, kept: Bools) -> None:
        """Add texts (columns text and text_kind), and which of their clips were kept."""
        ones = {"clips": np.ones(len(kept), np.int64), "kept": kept.astype(np.int64)}
        columns = {name: texts[name] for name in ("text", "text_kind")}
        self._pending.append(pa.table(columns | ones))
        if sum(table.num_rows for table in self._pending) > PENDING:
            self.settle()

    def settle(self) -> None:
        """Count what was added: each distinct text is read once."""
        if not self._pending:
            return
        # One thread, so that words come in the order in which their texts did.
        groups = pa.concat_tables(self._pending).group_by(["text", "text_kind"], use_threads=False)
        sums = groups.aggregate([("clips", "sum"), ("kept", "sum")])
        self._pending.clear()
        texts, kinds, *counts = (
            sums[name].to_pylist() for name in ("text", "text_kind", "clips_sum", "kept_sum")
        )
        (verbs, kept_verbs), (nouns, kept_nouns) = self.verbs, self.nouns
        for (verb, noun), clips, kept in zip(map(words_of, texts, kinds), *counts, strict=True):
            if verb:
                verbs[verb] += clips
                kept_verbs[verb] += kept
            if noun:
                nouns[noun] += clips
                kept_nouns[noun] += kept

    def merge(self, other: "Vocabulary") -> None:
        """Add the counts of clips that come after these; both are settled."""
        for mine, its in ((self.verbs, other.verbs), (self.nouns, other.nouns)):
            mine[0].update(its[0])
            mine[1].update(its[1])


@lru_cache(maxsize=1 << 17)  # 50 MB; short texts come again and again
def words_of(text: str, kind: str) -> tuple[str, str]:
    """The verb and the noun of a dataset's text."""
    return verb_and_noun(instruction(text, kind))
