"""What the report counts and shows of a run's clips, gathered in one pass over the tables."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from handloom.stages.caption.stage import instruction
from handloom.stages.pack.stage import kept_clips
from handloom.stages.report.sample import Sample
from handloom.stages.report.words import verb_and_noun
from handloom.stages.tables import funnel
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
    gallery = Gallery()
    for bucket in tables["ingest"].buckets():
        clips = {row.clip_id: row for row in tables["ingest"].read(Clip, bucket)}
        _count_words(gallery, 0, (clip for clip in clips.values() if clip.status == "ok"))
        kept = kept_clips(tables, bucket)
        _count_words(gallery, 1, kept)
        for clip in kept:
            _add_kept(gallery, clip)
        for stage, rows in funnel.reached(tables, bucket).items():
            for clip_id, row in rows.items():
                if row.status != "ok":
                    end = End(row.status, stage, row.reason)
                    sample = gallery.ended.setdefault(end, Sample(SHOWN))
                    sample.add(clip_id, Ended(clips[clip_id], row.error))
    return gallery


def _add_kept(gallery: Gallery, clip: Clip) -> None:
    gallery.kept.add(clip.clip_id, clip)
    gallery.licences[clip.licence] += 1
    gallery.splits[clip.split] += 1
    gallery.seconds += clip.end_s - clip.start_s


def _count_words(gallery: Gallery, selected: int, clips: Iterable[Clip]) -> None:
    """Count verbs and nouns of the datasets' own texts, which are there before captions are."""
    for clip in clips:
        words = verb_and_noun(instruction(clip.text, clip.text_kind))
        for counters, word in zip((gallery.verbs, gallery.nouns), words, strict=True):
            if word:
                counters[selected][word] += 1
