"""Report: one offline HTML file that shows what was kept, what was dropped, and why."""

import base64
import html
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from handloom import svg
from handloom.errors import MediaError, UserError
from handloom.files import write_text
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.caption.stage import instruction
from handloom.stages.episodes.rows import EpisodeRow
from handloom.stages.hands.rows import Framing, Hand
from handloom.stages.ingest import card
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.media.clip_frames import pictures_of, whole
from handloom.stages.pack.stage import kept_clips
from handloom.stages.report import captions as report_captions
from handloom.stages.report import scores as report_scores
from handloom.stages.report import sections as charts
from handloom.stages.report.words import verb_and_noun
from handloom.stages.select import Select, SelectRow
from handloom.stages.stage import Stage
from handloom.stages.tables import funnel
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Clip, EpisodePlace, Row
from handloom.stages.tokens import Encoding, TokenRow
from handloom.tokenize.frames import center_square

Tables = dict[str, Table]
R = TypeVar("R", bound=Row)
FrameHWC = npt.NDArray[np.uint8]
Times = npt.NDArray[np.float64]

KEPT_SHOWN = 24
ENDED_SHOWN = 6  # for each reason of a rejection, and each stage with failures
TOKENS_SHOWN = 6
TOKEN_FRAMES_SHOWN = 6
THUMBNAIL_PX = 160


@dataclass(frozen=True, kw_only=True)
class _Sampled(Row):
    """The columns of the `hands` table that a picture is chosen by and drawn from."""

    times_s: list[float]
    hand_counts: list[int]
    detections: list[Hand]


@dataclass
class Gallery:
    """What the report shows of a run, gathered in one pass over the tables.

    The clips shown are those with the smallest ids: ids are hashes, so that is a fair sample, and
    the same one every time.
    """

    kept: dict[str, Clip] = field(default_factory=dict)
    ended: dict[tuple[str, str], dict[str, Clip]] = field(default_factory=dict)
    """By (status, reason of a rejection or stage of a failure)."""
    errors: dict[str, str] = field(default_factory=dict)
    """Of the failed clips in `ended`."""
    verbs: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    """Of all clips that were taken in, and of those kept."""
    nouns: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    licences: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def write(tables: Tables, stages: dict[str, Stage], out: Path) -> Path:
    """Write `out/report/index.html`, whole or not at all.

    Args:
        tables: of all stages.
        stages: the run's stages; they open the media, and their VQGAN paints the codes. Clips whose
            file has gone are shown without a picture.
        out: the run's folder.
    """
    gallery = _gather(tables)
    ingest, encoder = stages["ingest"], stages["tokens"]
    assert isinstance(encoder, Encoding)
    sections = [
        charts.funnel_section(funnel.count(tables), out),
        charts.card_section(card.lines(card.read(tables["ingest"].folder))),
        _facts_section(gallery),
        charts.words_section("Verbs", *gallery.verbs),
        charts.words_section("Objects", *gallery.nouns),
        *_score_sections(tables, stages),
        report_captions.section(tables),
        _tokens_section(tables, ingest, gallery, encoder),
        _kept_section(tables, ingest, gallery),
        *_ended_sections(tables, ingest, gallery),
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
            _keep_smallest(gallery.kept, clip, KEPT_SHOWN)
            gallery.licences[clip.licence] += 1
            gallery.splits[clip.split] += 1
            gallery.seconds += clip.end_s - clip.start_s
        for stage, rows in funnel.reached(tables, bucket).items():
            for row in rows.values():
                if row.status != "ok":
                    shown = gallery.ended.setdefault((row.status, row.reason or stage), {})
                    _keep_smallest(shown, clips[row.clip_id], ENDED_SHOWN)
                    gallery.errors[row.clip_id] = row.error
    return gallery


def _count_words(gallery: Gallery, after: int, clips: Iterable[Clip]) -> None:
    """Count what the dataset's own texts are about, which is there before and after."""
    for clip in clips:
        for counters, word in zip(
            (gallery.verbs, gallery.nouns),
            verb_and_noun(instruction(clip.text, clip.text_kind)),
            strict=True,
        ):
            if word:
                counters[after][word] += 1


def _keep_smallest(shown: dict[str, Clip], clip: Clip, most: int) -> None:
    shown[clip.clip_id] = clip
    if len(shown) > most:
        del shown[max(shown)]


def _facts_section(gallery: Gallery) -> str:
    splits = ", ".join(f"{count:,} {split}" for split, count in sorted(gallery.splits.items()))
    licences = ", ".join(f"{name} ({count:,})" for name, count in gallery.licences.most_common())
    return (
        f"<p>{sum(gallery.splits.values()):,} clips kept ({html.escape(splits)}), "
        f"{gallery.seconds / 3600:.2f} hours. Licence: {html.escape(licences)}.</p>"
    )


def _kept_section(tables: Tables, ingest: Stage, gallery: Gallery) -> str:
    cards = []
    for clip in gallery.kept.values():
        caption = _row(tables["caption"], CaptionRow, clip).caption
        picture = _thumbnail(tables, ingest, clip, _framing(tables, clip))
        cards.append(_card(picture, caption, f"{_why_kept(tables, clip)} · {clip.split}"))
    return f"<h2>Kept</h2><div class=cards>{''.join(cards)}</div>"


def _ended_sections(tables: Tables, ingest: Stage, gallery: Gallery) -> Iterator[str]:
    for (status, why), clips in sorted(gallery.ended.items()):
        cards = []
        for clip in clips.values():
            note = f"{clip.video_id} at {clip.start_s:.1f} s. {gallery.errors[clip.clip_id]}"
            cards.append(_uncut_card(tables, ingest, clip, note))
        title = f"Rejected: {why}" if status == "rejected" else f"Failed in {why}"
        yield f"<h2>{html.escape(title)}</h2><div class=cards>{''.join(cards)}</div>"


def _score_sections(tables: Tables, stages: dict[str, Stage]) -> Iterator[str]:
    select, ingest = stages.get("select"), stages["ingest"]
    if isinstance(select, Select):
        yield from report_scores.section(
            tables, select, lambda clip, note: _uncut_card(tables, ingest, clip, note)
        )


def _tokens_section(tables: Tables, ingest: Stage, gallery: Gallery, encoder: Encoding) -> str:
    """Frames above what their codes decode to."""
    rows = []
    for clip in islice(gallery.kept.values(), TOKENS_SHOWN):
        tokens = _row(tables["tokens"], TokenRow, clip)
        count = len(tokens.times_s)
        shown = np.linspace(0, count - 1, min(count, TOKEN_FRAMES_SHOWN)).round().astype(int)
        try:
            decoder = encoder.vqgan()
            times_s = np.asarray(tokens.times_s)[shown]
            frames = _frames(ingest, tables, clip, _framing(tables, clip), times_s)
        except (MediaError, UserError) as error:
            return f"<h2>Codes</h2><p>not shown: {html.escape(str(error))}</p>"
        codes = np.frombuffer(tokens.codes, "<u2").reshape(tokens.shape)[0].astype(np.uint16)
        painted = decoder.decode(codes[shown])
        true = [center_square(frame, painted.shape[1]) for frame in frames]
        strip = np.concatenate([np.concatenate(true, 1), np.concatenate(list(painted), 1)])
        text = html.escape(_row(tables["caption"], CaptionRow, clip).caption)
        rows.append(f"<figure>{_image(strip, height=220)}<figcaption>{text}</figcaption></figure>")
    return (
        "<h2>Codes</h2><p>Above, frames as they were encoded; below, what their codes say.</p>"
        + "".join(rows)
    )


def _row(table: Table, row_type: type[R], clip: Clip) -> R:
    return table.get(row_type, clip.bucket, clip.clip_id)


def _why_kept(tables: Tables, clip: Clip) -> str:
    if "episodes" in tables:
        row = _row(tables["episodes"], EpisodeRow, clip)
        return f"{len(row.state)} steps at {row.hz:g} Hz"
    share = _row(tables["select"], SelectRow, clip).hand_share
    return f"hands in {share:.0%} of the frames"


def _frames(
    ingest: Stage, tables: Tables, clip: Clip, framing: Framing, times_s: Times
) -> list[FrameHWC]:
    """Frames at times in seconds from the start of the file or episode."""
    if isinstance(ingest, EpisodeIngest):
        place = _row(tables["ingest"], EpisodePlace, clip)
        return list(ingest.pictures.frames(place, framing, times_s))
    return list(pictures_of(ingest).frames(clip, framing, times_s))


def _framing(tables: Tables, clip: Clip) -> Framing:
    """What of a kept clip models are shown."""
    return _row(tables["hands"], Framing, clip) if "hands" in tables else whole(clip)


def _thumbnail(tables: Tables, ingest: Stage, clip: Clip, framing: Framing) -> str:
    """The sampled frame with the most hands, boxes drawn; without samples the middle."""
    time_s, boxes = (clip.start_s + clip.end_s) / 2, []
    hands = _hands(tables, clip)
    if hands and hands.times_s:
        best = _most_hands(hands, framing)
        time_s = hands.times_s[best]
        boxes = [hand["box_xyxy"] for hand in hands.detections if hand["frame"] == best]
    try:
        (frame_hwc,) = _frames(ingest, tables, clip, framing, np.array([time_s]))
    except (MediaError, ValueError, OverflowError):  # overflow: the end of a file never opened
        return "<div class=nothing>no picture</div>"
    return _image(_draw(frame_hwc, [_in_picture(box, framing) for box in boxes]), THUMBNAIL_PX)


def _hands(tables: Tables, clip: Clip) -> _Sampled | None:
    try:
        return _row(tables["hands"], _Sampled, clip)
    except KeyError:
        return None  # it ended before hands were looked for, or has a robot's


def _most_hands(hands: _Sampled, framing: Framing) -> int:
    """The frame with the most hands, within the shot; of several the one nearest to the middle."""
    counts, middle = hands.hand_counts, len(hands.hand_counts) // 2
    inside = [framing.shot_start_s <= time_s <= framing.shot_end_s for time_s in hands.times_s]
    return max(range(len(counts)), key=lambda i: (inside[i], counts[i], -abs(i - middle)))


def _in_picture(box_xyxy: list[float], framing: Framing) -> list[float]:
    """A box relative to the frame as one relative to the picture without bars."""
    left, top, right, bottom = framing.picture_xyxy
    x0, y0, x1, y1 = box_xyxy
    width, height = right - left, bottom - top
    return [(x0 - left) / width, (y0 - top) / height, (x1 - left) / width, (y1 - top) / height]


def _card(picture: str, text: str, note: str) -> str:
    return (
        f"<figure>{picture}<figcaption>{html.escape(text)}<br><small>{html.escape(note)}</small>"
        "</figcaption></figure>"
    )


def _uncut_card(tables: Tables, ingest: Stage, clip: Clip, note: str) -> str:
    """A clip that was not kept, with its bars, which may be the reason."""
    return _card(_thumbnail(tables, ingest, clip, whole(clip)), clip.text, note)


def _image(frame_hwc: FrameHWC, height: int) -> str:
    buffer = io.BytesIO()
    picture = Image.fromarray(frame_hwc)
    picture.thumbnail((10_000, height))
    picture.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{data}">'


def _draw(frame_hwc: FrameHWC, boxes: list[list[float]]) -> FrameHWC:
    picture = Image.fromarray(frame_hwc)
    pen = ImageDraw.Draw(picture)
    for x0, y0, x1, y1 in boxes:
        box = (x0 * picture.width, y0 * picture.height, x1 * picture.width, y1 * picture.height)
        pen.rectangle(box, outline=(60, 220, 90), width=max(2, picture.width // 160))
    return np.asarray(picture)
