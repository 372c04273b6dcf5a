"""Cards of clips: every frame that was searched with its time and its hands, and plain words."""

import base64
import html
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from handloom.stages.caption.stage import source_row
from handloom.stages.hands.rows import Hand, HandRow
from handloom.stages.ingest.videos import Ingest
from handloom.stages.media.clip_frames import Framing, whole
from handloom.stages.report import page, strip
from handloom.stages.report.pictures import Pictures
from handloom.stages.report.searched import FRAMES_SHOWN, Search, SearchedRow
from handloom.stages.select import Select
from handloom.stages.tables.parts import open_tables
from handloom.stages.tables.rows import Clip
from handloom.stages.tokens import TokenRow, Tokens
from tests.helpers.numbered_clips import SIDE, number_shown, write_videos
from tests.helpers.recorded_runs import clip_row, hands_row, write_run
from tests.stages.media.test_clip_frames import duplicate, selected

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">\'"&'


def hand(frame: int, confidence: float, box: tuple[float, float, float, float]) -> Hand:
    points = [0.0] * 63
    return Hand(
        frame=frame, handedness="Left", score=0.9, confidence=confidence, box_xyxy=list(box),
        landmarks_xyz=points, world_xyz=points,
    )  # fmt: skip


def search_row(clip: Clip, times_s: list[float], confidence: list[float]) -> HandRow:
    """A search of a clip that found a hand of some confidence in each frame; -1 is not searched."""
    return replace(
        hands_row(clip, whole(clip)),
        times_s=times_s,
        detector_ran=[value >= 0 for value in confidence],
        confidence=[max(value, 0.0) for value in confidence],
        detections=[
            hand(frame, value, (0.1, 0.1, 0.9, 0.9))
            for frame, value in enumerate(confidence)
            if value > 0
        ],
    )


def pictures_in(text: str) -> list[NDArray[np.uint8]]:
    found = re.findall(r"base64,([^\"]+)", text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def searched(row: HandRow, min_confidence: float = 1 / 3) -> Search:
    names = SearchedRow.__dataclass_fields__
    return Search(SearchedRow(**{name: getattr(row, name) for name in names}), min_confidence)


def tiles(sheet: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """The frames of a strip of square pictures of SIDE pixels."""
    columns = sheet.shape[1] // (SIDE + strip.GAP_PX)
    step = SIDE + strip.LABEL_PX + strip.GAP_PX
    corners = [(i // columns * step, i % columns * (SIDE + strip.GAP_PX)) for i in range(count)]
    assert sheet.shape[0] == step * -(-count // columns)
    return [sheet[y : y + SIDE, x : x + SIDE] for y, x in corners]


@pytest.mark.parametrize("count", [1, 5, 9, FRAMES_SHOWN, 40])
def test_a_strip_shows_each_searched_frame_at_its_time(tmp_path: Path, count: int) -> None:
    write_videos(tmp_path, 60)  # a picture each second, which shows the second
    clip = clip_row("a", 0.0, 60.0, media_path="00000.mp4")
    skipped = {0, 2}
    times_s = [second + 0.5 for second in range(count + len(skipped))]
    confidence = [-1.0 if second in skipped else 0.0 for second in range(len(times_s))]
    row = search_row(clip, times_s, confidence)
    run = write_run(tmp_path / "run", tmp_path, {"ingest": [clip], "hands": [row]})
    card = Pictures(open_tables(run), Ingest().at(tmp_path)).uncut_card(clip, "note")
    _, sheet = pictures_in(card)
    said = re.findall(r'alt="searched at ([^"]*) s"', card)[0].split(", ")
    shown = [number_shown(tile) for tile in tiles(sheet, len(said))]
    assert [second + 0.5 for second in shown] == [float(time_s) for time_s in said]
    assert len(set(shown)) == min(count, FRAMES_SHOWN)
    assert not skipped & set(shown)
    assert f"hands in 0 of {count} searched frames" in card


def test_frames_that_cannot_be_read_leave_their_places_empty(tmp_path: Path) -> None:
    write_videos(tmp_path, 4)
    clip = clip_row("a", 0.0, 9.0, media_path="00000.mp4")
    row = search_row(clip, [0.5, 3.5, 8.5], [0.0, 0.0, 0.0])
    run = write_run(tmp_path / "run", tmp_path, {"ingest": [clip], "hands": [row]})
    _, sheet = pictures_in(Pictures(open_tables(run), Ingest().at(tmp_path)).uncut_card(clip, ""))
    first, second, gone = tiles(sheet, 3)
    assert (number_shown(first), number_shown(second)) == (0, 3)
    assert np.abs(gone.astype(int) - 128).max() < 12


def test_a_long_search_is_shown_in_part_with_its_best_frame() -> None:
    confidence = [0.0] * 300
    confidence[151] = 1.0
    row = search_row(clip_row("a", 0.0, 300.0), [float(t) for t in range(300)], confidence)
    search = searched(row)
    assert len(search.shown) == FRAMES_SHOWN
    assert search.shown == sorted(set(search.shown))
    assert 151 in search.shown
    assert search.sentence() == "hands in 1 of 300 searched frames, 276 of them not shown"


def test_only_searched_frames_of_the_shot_with_a_confident_hand_are_hits() -> None:
    clip = clip_row("a", 0.0, 6.0)
    row = search_row(clip, [0.5, 1.5, 2.5, 3.5, 4.5], [1.0, 0.2, 0.5, -1.0, 1.0])
    row = replace(row, shot_end_s=4.0)
    assert searched(row).sentence() == (
        "hands in 2 of 3 searched frames, 1 more outside the longest shot"
    )
    assert searched(row, 0.6).sentence().startswith("hands in 1 of 3")


@pytest.mark.parametrize(
    ("confidence", "colour"), [(1.0, strip.CONFIRMED), (0.5, strip.LONE), (0.1, strip.DOUBTFUL)]
)
def test_boxes_tell_trusted_from_doubtful_hands(
    confidence: float, colour: tuple[int, int, int]
) -> None:
    clip = clip_row("a", 0.0, 1.0)
    search = searched(search_row(clip, [0.5], [confidence]))
    plain = Image.new("RGB", (160, 160), (90, 90, 90))
    picture, _ = pictures_in(strip.pictures(search, {0: plain}, whole(clip)))
    edge = picture[40:120, 17].astype(int)  # the left side of the box, three pixels wide
    nearest = min(
        (strip.CONFIRMED, strip.LONE, strip.DOUBTFUL, (90, 90, 90)),
        key=lambda other: float(np.abs(edge.mean(0) - other).sum()),
    )
    assert nearest == colour
    assert f"rgb{colour}" in strip.legend()


def test_boxes_follow_a_picture_without_its_bars() -> None:
    framing = Framing(
        clip_id="a", shot_start_s=0.0, shot_end_s=1.0, picture_xyxy=[0.25, 0.0, 0.75, 1.0]
    )
    box = strip.in_picture([0.25, 0.5, 0.5, 1.0], framing)
    assert box == pytest.approx((0.0, 0.5, 0.5, 1.0))


def test_texts_of_strangers_stay_text(tmp_path: Path) -> None:
    clips = [
        clip_row("a", 0.0, 2.0, text=HOSTILE, video_id=HOSTILE, licence=HOSTILE),
        clip_row("b", 0.0, 2.0, text=HOSTILE, video_id=HOSTILE),
        clip_row("c", 0.0, 2.0, text=HOSTILE, status="failed", error=HOSTILE),
        clip_row("d", 0.0, 2.0, text=HOSTILE, status="rejected", reason=HOSTILE),
    ]
    came = clips[:2]
    decisions = [
        replace(selected(came[0]), status="rejected", reason="no_hands"),
        replace(selected(came[1]), status="rejected", reason=HOSTILE, hand_share=0.05),
    ]
    run = write_run(
        tmp_path / "run",
        tmp_path,
        {
            "ingest": clips,
            "hands": [search_row(clip, [0.5, 1.5], [0.0, 0.2]) for clip in came],
            "duplicates": [duplicate(clip) for clip in came],
            "select": decisions,
            "caption": [source_row(clip) for clip in came],
            "tokens": [TokenRow(clip_id=came[0].clip_id)],
        },
    )
    stages = {"ingest": Ingest().at(tmp_path), "tokens": Tokens(), "select": Select()}
    text = page.write(dict(open_tables(run)), dict(stages), run).read_text()
    assert "<script" not in text
    assert 'onerror="' not in text
    assert "<img src=x" not in text
    assert text.count(html.escape(HOSTILE)) >= 6
    assert "hand_share 0.000, kept with at least 0.1" in text
