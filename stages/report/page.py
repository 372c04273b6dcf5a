"""The report of a run: one offline HTML file of what was kept and dropped, with reasons."""

import html
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from handloom import svg
from handloom.errors import MediaError, UserError
from handloom.files import write_text
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.caption.stage import instruction
from handloom.stages.episodes.rows import EpisodeRow
from handloom.stages.ingest import card
from handloom.stages.pack.stage import kept_clips
from handloom.stages.report import captions as report_captions
from handloom.stages.report import fidelity as report_fidelity
from handloom.stages.report import scores as report_scores
from handloom.stages.report import sections as charts
from handloom.stages.report.captions import keep_smallest
from handloom.stages.report.pictures import Pictures, jpeg
from handloom.stages.report.words import verb_and_noun
from handloom.stages.select import Select, SelectRow
from handloom.stages.stage import Stage
from handloom.stages.tables import funnel
from handloom.stages.tables.parts import Tables
from handloom.stages.tables.rows import Clip
from handloom.stages.tokens import Encoding, TokenRow
from handloom.tokenize.frames import center_square

KEPT_SHOWN = 24
ENDED_SHOWN = 6  # for each reason of a rejection, and each stage with failures
TOKENS_SHOWN = 6
TOKEN_FRAMES_SHOWN = 6


@dataclass
class Gallery:
    """Clips and counts of a run, gathered in one pass over the tables.

    The clips shown are those with the smallest ids: ids are hashes, so that is a fair sample, and
    the same one every time.
    """

    kept: dict[str, Clip] = field(default_factory=dict)
    ended: dict[tuple[str, str], dict[str, Clip]] = field(default_factory=dict)
    """Clips by (status, reason of a rejection or stage of a failure)."""
    errors: dict[str, str] = field(default_factory=dict)
    """Errors of the failed clips in `ended`."""
    verbs: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    """Counts in all ingested clips, and in those kept."""
    nouns: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    licences: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def write(tables: Tables, stages: dict[str, Stage], out: Path) -> Path:
    """Write `out/report/index.html`, whole or not at all.

    Args:
        tables: tables of all stages.
        stages: the run's stages; they open the media, and their VQGAN decodes the codes. Clips
            whose file has gone are shown without a picture.
        out: the run's folder.
    """
    gallery = _gather(tables)
    encoder, select = stages["tokens"], stages.get("select")
    assert isinstance(encoder, Encoding)
    pictures = Pictures(tables, stages["ingest"])
    sections = [
        charts.funnel_section(funnel.count(tables), out),
        charts.card_section(card.lines(card.read(tables["ingest"].folder))),
        _facts_section(gallery),
        charts.words_section("Verbs", *gallery.verbs),
        charts.words_section("Objects", *gallery.nouns),
        *(
            report_scores.section(tables, select, pictures.uncut_card)
            if isinstance(select, Select)
            else ()
        ),
        report_captions.section(tables),
        report_fidelity.section(tables, stages),
        _tokens_section(pictures, gallery, encoder),
        _kept_section(pictures, gallery),
        *_ended_sections(pictures, gallery),
    ]
    path = out / "report" / "index.html"
    write_text(path, svg.page(f"handloom: {out.name}", sections))
    return path


def _gather(tables: Tables) -> Gallery:
    gallery = Gallery()
    for bucket in tables["ingest"].buckets():
        clips = {row.clip_id: row for row in tables["ingest"].read(Clip, bucket)}
        _count_words(gallery, 0, (clip for clip in clips.values() if clip.status == "ok"))
        kept = kept_clips(tables, bucket)
        _count_words(gallery, 1, kept)
        for clip in kept:
            keep_smallest(gallery.kept, clip.clip_id, clip, KEPT_SHOWN)
            gallery.licences[clip.licence] += 1
            gallery.splits[clip.split] += 1
            gallery.seconds += clip.end_s - clip.start_s
        for stage, rows in funnel.reached(tables, bucket).items():
            for clip_id, row in rows.items():
                if row.status != "ok":
                    shown = gallery.ended.setdefault((row.status, row.reason or stage), {})
                    keep_smallest(shown, clip_id, clips[clip_id], ENDED_SHOWN)
                    gallery.errors[clip_id] = row.error
    return gallery


def _count_words(gallery: Gallery, selected: int, clips: Iterable[Clip]) -> None:
    """Count verbs and nouns of the datasets' own texts, which are there before captions are."""
    for clip in clips:
        words = verb_and_noun(instruction(clip.text, clip.text_kind))
        for counters, word in zip((gallery.verbs, gallery.nouns), words, strict=True):
            if word:
                counters[selected][word] += 1


def _facts_section(gallery: Gallery) -> str:
    splits = ", ".join(f"{count:,} {split}" for split, count in sorted(gallery.splits.items()))
    licences = ", ".join(f"{name} ({count:,})" for name, count in gallery.licences.most_common())
    return (
        f"<p>{sum(gallery.splits.values()):,} clips kept ({html.escape(splits)}), "
        f"{gallery.seconds / 3600:.2f} hours. Licence: {html.escape(licences)}.</p>"
    )


def _kept_section(pictures: Pictures, gallery: Gallery) -> str:
    cards = []
    for clip in gallery.kept.values():
        caption = pictures.row("caption", CaptionRow, clip).caption
        note = f"{_why_kept(pictures, clip)} · {clip.split}"
        cards.append(pictures.card(clip, pictures.framing(clip), caption, note))
    return f"<h2>Kept</h2><div class=cards>{''.join(cards)}</div>"


def _ended_sections(pictures: Pictures, gallery: Gallery) -> Iterator[str]:
    for (status, why), clips in sorted(gallery.ended.items()):
        cards = []
        for clip in clips.values():
            note = f"{clip.video_id} at {clip.start_s:.1f} s. {gallery.errors[clip.clip_id]}"
            cards.append(pictures.uncut_card(clip, note))
        title = f"Rejected: {why}" if status == "rejected" else f"Failed in {why}"
        yield f"<h2>{html.escape(title)}</h2><div class=cards>{''.join(cards)}</div>"


def _tokens_section(pictures: Pictures, gallery: Gallery, encoder: Encoding) -> str:
    """Frames above what their codes decode to."""
    figures = []
    for clip in islice(gallery.kept.values(), TOKENS_SHOWN):
        tokens = pictures.row("tokens", TokenRow, clip)
        count = len(tokens.times_s)
        shown = np.linspace(0, count - 1, min(count, TOKEN_FRAMES_SHOWN)).round().astype(int)
        try:
            decoder = encoder.vqgan()
            times_s = np.asarray(tokens.times_s)[shown]
            frames = pictures.frames(clip, pictures.framing(clip), times_s)
        except (MediaError, UserError) as error:
            return f"<h2>Codes</h2><p>not shown: {html.escape(str(error))}</p>"
        codes = np.frombuffer(tokens.codes, "<u2").reshape(tokens.shape)[0].astype(np.uint16)
        decoded = decoder.decode(codes[shown])
        true = [center_square(frame, decoded.shape[1]) for frame in frames]
        strip = np.concatenate([np.concatenate(true, 1), np.concatenate(list(decoded), 1)])
        text = html.escape(pictures.row("caption", CaptionRow, clip).caption)
        figures.append(f"<figure>{jpeg(strip, 220)}<figcaption>{text}</figcaption></figure>")
    return (
        "<h2>Codes</h2><p>Above, frames as they were encoded; below, what their codes say.</p>"
        + "".join(figures)
    )


def _why_kept(pictures: Pictures, clip: Clip) -> str:
    if "episodes" in pictures.tables:
        row = pictures.row("episodes", EpisodeRow, clip)
        return f"{len(row.state)} steps at {row.hz:g} Hz"
    return f"hands in {pictures.row('select', SelectRow, clip).hand_share:.0%} of the frames"
