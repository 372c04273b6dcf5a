"""What the report counts and shows of a run's clips, gathered in one pass over the tables."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handloom.stages.overrides import MARKS
from handloom.stages.report.captions import COLUMNS, Tally
from handloom.stages.report.sample import Sample
from handloom.stages.report.scores import Distribution
from handloom.stages.report.thresholds import Thresholds
from handloom.stages.report.vocabulary import Vocabulary
from handloom.stages.select import CLIP_COLUMNS, Select
from handloom.stages.tables.columns import Total, bucket_groups, frequencies
from handloom.stages.tables.funnel import Count, Funnel
from handloom.stages.tables.outcomes import Numbers, Outcome, Outcomes, outcomes
from handloom.stages.tables.parts import Tables, listed
from handloom.stages.tables.rows import Clip

GROUP_BYTES = 32 << 20  # of the ingest table: about half a million clips
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
    words: Vocabulary = field(default_factory=Vocabulary)
    licences: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    seconds: Total = field(default_factory=Total)
    """Of the kept clips."""
    scores: list[Distribution] = field(default_factory=list)
    """One of each criterion of `select`."""
    thresholds: Thresholds | None = None
    """What `select` would keep at other values; None in a run without it."""

    @classmethod
    def of(cls, stages: Iterable[str], select: Select | None) -> "Gallery":
        """An empty gallery of a run's stages."""
        gallery = cls(Funnel({name: Count() for name in stages}))
        if select:
            gallery.scores = [Distribution(criterion) for criterion in select.criteria()]
            gallery.thresholds = Thresholds(select)
        return gallery

    def merge(self, other: "Gallery") -> None:
        """Add the clips of the buckets that follow."""
        for name in ("funnel", "captions", "kept", "words", "seconds"):
            getattr(self, name).merge(getattr(other, name))
        for end, sample in other.ended.items():
            self.ended.setdefault(end, Sample(SHOWN)).merge(sample)
        self.licences.update(other.licences)
        self.splits.update(other.splits)
        for mine, its in zip(self.scores, other.scores, strict=True):
            mine.merge(its)
        if self.thresholds and other.thresholds:
            self.thresholds.merge(other.thresholds)

    def ends(self, tables: Tables) -> list[tuple[End, Sample[Ended]]]:
        """Rejections, then failures, in the order of the stages, frequent reasons first."""
        order = list(tables)

        def rank(entry: tuple[End, Sample[Ended]]) -> tuple[bool, int, int, str]:
            end, clips = entry
            return end.status == "failed", order.index(end.stage), -clips.total, end.reason

        return sorted(self.ended.items(), key=rank)


def gather(tables: Tables, select: Select | None = None) -> Gallery:
    """Read all tables once, a bucket at a time.

    Args:
        tables: of all stages of the run.
        select: the run's stage, whose scores are counted too.
    """
    gallery, found = Gallery.of(tables, select), listed(tables)
    for buckets in pieces(found):
        gallery.merge(gather_some(found, select, buckets))
    return gallery


def pieces(tables: Tables, most_bytes: int = GROUP_BYTES) -> list[list[str]]:
    """Groups of buckets to count at a time; the same tables give the same groups."""
    return list(bucket_groups(tables["ingest"], most_bytes))


def gather_some(tables: Tables, select: Select | None, buckets: Sequence[str]) -> Gallery:
    """Count and draw the clips of some buckets."""
    gallery, tables = Gallery.of(tables, select), listed(tables)
    columns = {name: ["reason", "error"] for name in tables}
    columns["ingest"] = [f.name for f in fields(Clip)]
    columns["caption"] += COLUMNS
    if select:
        columns["select"] += [one.criterion.score for one in gallery.scores]
    for bucket in buckets:
        found = outcomes(tables, bucket, columns)
        gallery.funnel.add(found)
        gallery.captions.add(found)
        _count_words(gallery, found)
        _add_kept(gallery, found)
        _add_scores(gallery, found)
        for stage, outcome in found.stages.items():
            _add_ended(gallery, found, stage, outcome)
    gallery.words.settle()
    return gallery


def _add_kept(gallery: Gallery, found: Outcomes) -> None:
    ingest = found.stages["ingest"]
    places = np.flatnonzero(found.kept[ingest.clip])
    names = ["clip_id", "licence", "split", "start_s", "end_s"]
    rows = ingest.table.select(names).take(pa.array(places))
    gallery.kept.add_all(rows["clip_id"].combine_chunks(), lambda some: _clips(found, places[some]))
    gallery.licences.update(frequencies(rows["licence"]))
    gallery.splits.update(frequencies(rows["split"]))
    gallery.seconds.add(rows["end_s"].to_numpy() - rows["start_s"].to_numpy())


def _add_scores(gallery: Gallery, found: Outcomes) -> None:
    """Count the scores of the clips that `select` has decided on."""
    if gallery.thresholds is None:
        return
    ingest, decided = found.stages["ingest"], found.stages["select"]
    came = decided.came[decided.clip]
    if not came.any():  # columns of no rows have no types
        return
    rows, clip = decided.table.filter(pa.array(came)), decided.clip[came]
    ids = rows["clip_id"].combine_chunks()
    names = [one.criterion.score for one in gallery.scores]
    scores = {name: rows[name].to_numpy() for name in names}
    for one in gallery.scores:
        one.add(found.bucket, ids, scores[one.criterion.score])
    clips = ingest.table.select(list(CLIP_COLUMNS)).take(pa.array(ingest.row[clip]))
    marked = pc.is_in(rows["reason"], value_set=pa.array(MARKS.values())).to_numpy()
    kept = clips.filter(pc.and_(pa.array(marked), pc.equal(rows["status"], "ok")))
    gallery.thresholds.add_kept(kept)
    free = {name: values[~marked] for name, values in scores.items()}
    gallery.thresholds.add(free, clips.filter(pa.array(~marked)))


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

            def ended(
                drawn: list[int], some: pa.Table = some, numbers: Numbers = numbers
            ) -> list[Ended]:
                clips = _clips(found, found.stages["ingest"].row[numbers[drawn]])
                errors = some["error"].take(pa.array(drawn)).to_pylist()
                return list(map(Ended, clips, errors))

            sample = gallery.ended.setdefault(End(status, stage, reason), Sample(SHOWN))
            sample.add_all(some["clip_id"].combine_chunks(), ended)


def _clips(found: Outcomes, rows: Numbers) -> list[Clip]:
    """Rows of the ingest table."""
    table = found.stages["ingest"].table.select([f.name for f in fields(Clip)])
    return [Clip(**row) for row in table.take(pa.array(rows)).to_pylist()]


def _count_words(gallery: Gallery, found: Outcomes) -> None:
    """Count words of the datasets' own texts, which are there before captions are."""
    ingest = found.stages["ingest"]
    rows = ingest.rows_of(ingest.ok)
    texts = ingest.table.select(["text", "text_kind"]).take(pa.array(rows))
    gallery.words.add(texts, found.kept[ingest.clip[rows]])
