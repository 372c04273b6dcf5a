"""The report of a run: one offline HTML file of what was kept and dropped, with reasons."""

import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from handloom import svg
from handloom.errors import MediaError, UserError
from handloom.files import write_text
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.episodes.rows import EpisodeRow
from handloom.stages.hands.rows import CONFIDENT
from handloom.stages.ingest import card
from handloom.stages.report import captions, ends, fidelity, robots, scores, strip, thresholds
from handloom.stages.report import sections as charts
from handloom.stages.report.gallery import End, Ended, Gallery, gather
from handloom.stages.report.pictures import Pictures
from handloom.stages.report.sample import Sample
from handloom.stages.select import Select
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Tables
from handloom.stages.tables.rows import Clip
from handloom.stages.tokens import Encoding, TokenRow
from handloom.tokenize.frames import center_square

TOKENS_SHOWN = 6
TOKEN_FRAMES_SHOWN = 6


@dataclass(frozen=True)
class Draft:
    """What the page shows of the tables: clips, with their pictures, and counts."""

    gallery: Gallery
    ended: list[tuple[End, Sample[Ended]]]
    scored: dict[str, Clip]
    """The clips next to a threshold, by id."""
    pictures: Pictures
    codes: str
    """The section on codes, HTML."""


def draft(tables: Tables, stages: dict[str, Stage], gallery: Gallery | None = None) -> Draft:
    """Choose clips and draw their pictures, which takes nearly all of the page's time.

    Args:
        tables: tables of all stages; how well the codes do need not be measured yet.
        stages: the run's stages; they open the media, and their VQGAN decodes the codes. Clips
            whose file has gone are shown without a picture.
        gallery: clips and counts of these tables, if they have been gathered.
    """
    select = selection(stages)
    gallery = gallery or gather(tables, select)
    pictures = Pictures(tables, stages["ingest"], select.min_confidence if select else CONFIDENT)
    ended = gallery.ends(tables)
    scored = scores.shown(tables, gallery.scores)
    uncut = [one.clip for _, clips in ended for one in clips.values()]
    kept = [] if "episodes" in tables else gallery.kept.values()  # robots' cards differ
    pictures.prepare(kept, [*scored.values(), *uncut])
    return Draft(gallery, ended, scored, pictures, _tokens_section(pictures, gallery, stages))


def write(tables: Tables, stages: dict[str, Stage], out: Path, drawn: Draft | None = None) -> Path:
    """Write `out/report/index.html`, whole or not at all.

    Args:
        tables: tables of all stages.
        stages: the run's stages, as for `draft`.
        out: the run's folder.
        drawn: what `draft` made of these tables, if it has been called.
    """
    drawn = drawn or draft(tables, stages)
    gallery = drawn.gallery
    gallery.funnel.check()
    about = charts.card_section(card.lines(card.read(tables["ingest"].folder)))
    words = [
        charts.words_section("Verbs", *gallery.words.verbs),
        charts.words_section("Objects", *gallery.words.nouns),
    ]
    sections = [
        _facts_section(gallery),
        f"<div class=beside><div>{charts.funnel_section(gallery.funnel, out)}</div>"
        f"<div>{about}</div></div>",
        *_clip_sections(drawn, tables, stages),
        svg.section("words", "Words", f"<div class=beside>{''.join(words)}</div>"),
    ]
    path = out / "report" / "index.html"
    write_text(path, svg.page(f"handloom: {out.name}", sections))
    return path


def _facts_section(gallery: Gallery) -> str:
    licences = sorted(gallery.licences.items(), key=lambda one: (-one[1], one[0]))
    splits = ", ".join(f"{count:,} {split}" for split, count in sorted(gallery.splits.items()))
    classes = ", ".join(f"{name} ({count:,})" for name, count in licences)
    return (
        f"<p>{sum(gallery.splits.values()):,} clips kept ({html.escape(splits)}), "
        f"{float(gallery.seconds) / 3600:.2f} hours. Licence: {html.escape(classes)}.</p>"
    )


def selection(stages: dict[str, Stage]) -> Select | None:
    """The stage whose scores the page shows; None in a run of robots."""
    select = stages.get("select")
    return select if isinstance(select, Select) else None


def _clip_sections(drawn: Draft, tables: Tables, stages: dict[str, Stage]) -> Iterator[str]:
    """The sections that show clips: first what was kept and what was not, then why."""
    pictures, gallery = drawn.pictures, drawn.gallery
    if gallery.thresholds:
        yield svg.folded("What the colours mean", strip.legend())
    yield svg.section("kept", f"Kept ({gallery.kept.total:,})", _kept_section(pictures, gallery))
    yield from ends.sections(pictures, stages, drawn.ended)
    codes = f"{fidelity.section(tables, stages)}{drawn.codes}"
    yield svg.section("codes", "Codes", codes)
    yield svg.section("captions", "Captions", captions.section(tables, gallery.captions))
    if gallery.thresholds:
        limits = "".join(thresholds.section(gallery.thresholds.found))
        yield svg.section("thresholds", "Thresholds", limits)
        found = scores.section(drawn.scored, gallery.scores, pictures.uncut_card)
        yield svg.section("scores", "Scores", "".join(found))


def _kept_section(pictures: Pictures, gallery: Gallery) -> str:
    cards = []
    for clip in gallery.kept.values():
        caption = pictures.row("caption", CaptionRow, clip).caption
        note = " · ".join(filter(None, (_steps(pictures, clip), clip.split)))
        if "episodes" in pictures.tables:
            cards.append(robots.card(pictures, clip, caption, note))
        else:
            cards.append(pictures.card(clip, pictures.framing(clip), caption, note, named=True))
    shown = ends.how_many(len(cards), gallery.kept.total)
    return f"<h2>Kept</h2><p>{shown}</p><div class=cards>{''.join(cards)}</div>"


def _tokens_section(pictures: Pictures, gallery: Gallery, stages: dict[str, Stage]) -> str:
    """Frames above what their codes decode to."""
    encoder, figures = stages["tokens"], []
    assert isinstance(encoder, Encoding)
    for clip in gallery.kept.values()[:TOKENS_SHOWN]:
        tokens = pictures.row("tokens", TokenRow, clip)
        count = len(tokens.times_s)
        shown = np.linspace(0, count - 1, min(count, TOKEN_FRAMES_SHOWN)).round().astype(int)
        try:
            decoder = encoder.vqgan()
            times_s = np.asarray(tokens.times_s)[shown]
            frames = list(pictures.frames(clip, pictures.framing(clip), times_s))
        except (MediaError, UserError) as error:
            return f"<h2>Codes</h2><p>not shown: {html.escape(str(error))}</p>"
        codes = np.frombuffer(tokens.codes, "<u2").reshape(tokens.shape)[0].astype(np.uint16)
        decoded = decoder.decode(codes[shown])
        true = [center_square(frame, decoded.shape[1]) for frame in frames]
        rows = np.concatenate([np.concatenate(true, 1), np.concatenate(list(decoded), 1)])
        text = html.escape(pictures.row("caption", CaptionRow, clip).caption)
        figures.append(
            f"<figure class=wide>{strip.jpeg(rows, 220)}<figcaption>{text}</figcaption></figure>"
        )
    return (
        "<h2>Codes</h2><p>Above, frames as they were encoded; below, what their codes say.</p>"
        f"<div class=cards>{''.join(figures)}</div>"
    )


def _steps(pictures: Pictures, clip: Clip) -> str:
    if "episodes" not in pictures.tables:
        return ""
    row = pictures.row("episodes", EpisodeRow, clip)
    return f"{len(row.state)} steps at {row.hz:g} Hz"
