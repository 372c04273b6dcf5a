"""What the report counts and shows of a run's clips, gathered in one pass over the tables."""

from collections import Counter
from dataclasses import dataclass, field, fields
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handloom.stages.caption.stage import instruction
from handloom.stages.pack.samples import CLIP_ORDER
from handloom.stages.report.captions import COLUMNS, Tally
from handloom.stages.report.sample import Sample
from handloom.stages.report.words import verb_and_noun
from handloom.stages.tables.columns import added, distinct, frequencies
from handloom.stages.tables.funnel import Count, Funnel
from handloom.stages.tables.outcomes import Numbers, Outcome, Outcomes, all_outcomes
from handloom.stages.tables.parts import Tables
from handloom.stages.tables.rows import Clip

SHOWN = 24  # of the kept clips, of each reason of a rejection, of each stage's failures


@dataclass(frozen=True)
class End:
    """Where clips ended that were not kept."""

    status: str
    """rejected or failed"""
    stage: str
    reason: str = ""
    """Of a rejection."""


@dataclass(frozen=True)
class Ended:
    """A clip that was not kept."""

    clip: Clip
    error: str
    """Of a failed clip."""


@dataclass
class Gallery:
    """Clips and counts of a run."""

    funnel: Funnel
    captions: Tally = field(default_factory=Tally)
    kept: Sample[Clip] = field(default_factory=lambda: Sample(SHOWN))
    ended: dict[End, Sample[Ended]] = field(default_factory=dict)
    verbs: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    """Counts in all ingested clips, and in those kept."""
    nouns: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    licences: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    """Of the kept clips."""

    def ends(self, tables: Tables) -> list[tuple[End, Sample[Ended]]]:
        """Rejections, then failures, in the order of the stages, frequent reasons first."""
        order = list(tables)

        def rank(entry: tuple[End, Sample[Ended]]) -> tuple[bool, int, int, str]:
            end, clips = entry
            return end.status == "failed", order.index(end.stage), -clips.total, end.reason

        return sorted(self.ended.items(), key=rank)


def gather(tables: Tables) -> Gallery:
    """Read all tables once, a bucket at a time."""
    gallery = Gallery(Funnel({name: Count() for name in tables}))
    columns = {name: ["reason", "error"] for name in tables}
    columns["ingest"] = [f.name for f in fields(Clip)]
    columns["caption"] += COLUMNS
    for found in all_outcomes(tables, columns):
        gallery.funnel.add(found)
        gallery.captions.add(found)
        _count_words(gallery, found)
        _add_kept(gallery, found)
        for stage, outcome in found.stages.items():
            _add_ended(gallery, found, stage, outcome)
    return gallery


def _add_kept(gallery: Gallery, found: Outcomes) -> None:
    ingest = found.stages["ingest"]
    places = np.flatnonzero(found.kept[ingest.clip])
    names = [name for name, _ in CLIP_ORDER]
    rows = ingest.table.select([*names, "licence", "split"]).take(pa.array(places))
    order = pc.sort_indices(rows, CLIP_ORDER)
    rows, places = rows.take(order), places[order.to_numpy()]
    gallery.kept.add_all(rows["clip_id"].to_pylist(), lambda i: _clip(found, places[i]))
    gallery.licences.update(frequencies(rows["licence"]))
    gallery.splits.update(frequencies(rows["split"]))
    length_s = rows["end_s"].to_numpy() - rows["start_s"].to_numpy()
    gallery.seconds = added(gallery.seconds, length_s)


def _add_ended(gallery: Gallery, found: Outcomes, stage: str, outcome: Outcome) -> None:
    """Add the clips that a stage rejected, by reason, or that failed in it."""
    for status, clips in (("rejected", outcome.rejected), ("failed", outcome.failed)):
        if not clips.any():
            continue
        places = outcome.rows_of(clips)
        rows = outcome.table.select(["clip_id", "reason", "error"]).take(pa.array(places))
        for reason in pc.unique(rows["reason"]).to_pylist():
            mask = pc.equal(rows["reason"], reason)
            some, numbers = rows.filter(mask), outcome.clip[places[mask.to_numpy()]]

            def ended(i: int, some: pa.Table = some, numbers: Numbers = numbers) -> Ended:
                row = found.stages["ingest"].row[numbers[i]]
                return Ended(_clip(found, row), some["error"][i].as_py())

            sample = gallery.ended.setdefault(End(status, stage, reason), Sample(SHOWN))
            sample.add_all(some["clip_id"].to_pylist(), ended)


def _clip(found: Outcomes, row: int) -> Clip:
    """A row of the ingest table."""
    rows = found.stages["ingest"].table.slice(int(row), 1)
    return Clip(**rows.select([f.name for f in fields(Clip)]).to_pylist()[0])


def _count_words(gallery: Gallery, found: Outcomes) -> None:
    """Count verbs and nouns of the datasets' own texts, which are there before captions are."""
    ingest = found.stages["ingest"]
    rows = ingest.rows_of(ingest.ok)
    kept = found.kept[ingest.clip[rows]]
    texts = ingest.table.select(["text", "text_kind"]).take(pa.array(rows))
    names, number = distinct(texts)
    counts = np.bincount(number, minlength=len(names))
    kept_counts = np.bincount(number[kept], minlength=len(names))
    for name, count, kept_count in zip(names, counts.tolist(), kept_counts.tolist(), strict=True):
        for counters, word in zip((gallery.verbs, gallery.nouns), words_of(*name), strict=True):
            if word:
                counters[0][word] += count
                counters[1][word] += kept_count


@lru_cache(maxsize=1 << 17)  # 50 MB; short texts come again and again
def words_of(text: str, kind: str) -> tuple[str, str]:
    """The verb and the noun of a dataset's text."""
    return verb_and_noun(instruction(text, kind))
