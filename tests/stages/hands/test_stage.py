"""Detecting hands: the fewest frames that decide a clip, and rows of the clip alone."""

from dataclasses import replace
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import pytest

from handloom.stages.hands import schedule as sampling
from handloom.stages.hands import stage as hands
from handloom.stages.hands.rows import HandRow
from handloom.stages.hands.stage import Hands
from handloom.stages.miniatures.encode import write_video
from handloom.stages.miniatures.people import cast
from handloom.stages.stage import run_isolated
from handloom.stages.tables.rows import Clip
from tests.helpers.recorded_runs import clip_row

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`hands.mp4` and `none.mp4` with a key frame each second, `sparse.mp4` with one in all."""
    folder = tmp_path_factory.mktemp("videos")
    plan = [video for video in cast.plan(8, 0) if not video.fault]
    write_video(folder / "hands.mp4", next(v for v in plan if v.actions))
    write_video(folder / "none.mp4", next(v for v in plan if not v.actions))
    for name in ("hands", "none"):
        sparse = ffmpeg.input(str(folder / f"{name}.mp4")).output(
            str(folder / f"{name}_sparse.mp4"), vcodec="libx264", g=999, preset="veryfast"
        )
        sparse.run(cmd=FFMPEG, quiet=True)
    return folder


def clip(name: str, start_s: float, end_s: float, duration_s: float = 0.0) -> Clip:
    return clip_row(f"{name}-{start_s}", start_s, end_s, media_path=name, duration_s=duration_s)


def row(stage: Hands, wanted: Clip) -> HandRow:
    (found,) = stage(wanted)
    return found


@pytest.mark.parametrize("duration_s", [0.0, 60.0])
@pytest.mark.parametrize("suffix", ["", "_sparse"])
def test_a_clear_yes_costs_less_than_a_no_for_which_every_frame_is_searched(
    folder: Path, suffix: str, duration_s: float
) -> None:
    stage = Hands().at(folder)
    yes = row(stage, clip(f"hands{suffix}.mp4", 1.5, 7.5, duration_s))
    no = row(stage, clip(f"none{suffix}.mp4", 0.5, 6.5, duration_s))
    hits = sum(count > 0 for count in yes.hand_counts)
    assert hits >= sampling.ENOUGH_HITS
    assert hits / 12 >= sampling.SURE_SHARE
    assert sum(yes.detector_ran) < 12
    assert not any(no.hand_counts)
    assert sum(no.detector_ran) == 12


@pytest.mark.parametrize("duration_s", [0.0, 60.0])
@pytest.mark.parametrize("name", ["hands.mp4", "hands_sparse.mp4", "none.mp4", "none_sparse.mp4"])
def test_thresholds_up_to_a_quarter_decide_as_after_a_search_of_all_frames(
    folder: Path, name: str, duration_s: float
) -> None:
    early = Hands().at(folder)
    every = replace(Hands(), until_clear=False).at(folder)
    for start_s in (0.5, 1.0, 2.5):
        wanted = clip(name, start_s, start_s + 4, duration_s)
        shares = [share_with_hands(row(stage, wanted)) for stage in (early, every)]
        for threshold in (0.05, 0.1, 0.2, sampling.SURE_SHARE):
            assert len({share >= threshold for share in shares}) == 1


def test_edited_video_is_decoded_to_its_end_after_an_early_yes(folder: Path) -> None:
    found = row(replace(Hands(), shots=True).at(folder), clip("hands.mp4", 0.5, 8.0))
    assert len(found.times_s) == 15
    assert not all(found.detector_ran)


def share_with_hands(found: HandRow) -> float:
    """As `select` counts it."""
    return sum(count > 0 for count in found.hand_counts) / sum(found.detector_ran)


def test_every_frame_is_searched_on_demand(folder: Path) -> None:
    stage = replace(Hands(), until_clear=False).at(folder)
    found = row(stage, clip("hands.mp4", 1.5, 7.5))
    assert len(found.times_s) == 12
    assert all(found.detector_ran)
    assert 0 < sum(count > 0 for count in found.hand_counts) < 12  # the hand rests out of view


@pytest.mark.parametrize("name", ["hands.mp4", "hands_sparse.mp4"])
@pytest.mark.parametrize("until_clear", [True, False])
def test_a_row_does_not_depend_on_the_rows_before(
    folder: Path, name: str, until_clear: bool
) -> None:
    stage = replace(Hands(), until_clear=until_clear).at(folder)
    spans = [(0.5, 4.2), (1.0, 6.5), (2.7, 5.0), (2.7, 8.0), (6.0, 8.4), (0.5, 2.0)]
    together = [row(stage, clip(name, *span)) for span in spans]
    for span, found in zip(spans, together, strict=True):
        hands._open.clear()
        assert row(stage, clip(name, *span)) == found


def test_lists_are_parallel_and_in_time(folder: Path) -> None:
    for name in ("hands.mp4", "none_sparse.mp4"):
        found = row(Hands().at(folder), clip(name, 0.5, 6.5))
        lists = (
            found.times_s,
            found.detector_ran,
            found.hand_counts,
            found.brightness,
            found.confidence,
        )
        assert len({len(numbers) for numbers in lists}) == 1
        assert found.times_s == sorted(set(found.times_s))
        for number, count in enumerate(found.hand_counts):
            assert count == sum(hand["frame"] == number for hand in found.detections)


def test_a_time_beyond_the_end_fails_with_a_sentence(folder: Path) -> None:
    stage = Hands().at(folder)
    (failed,) = run_isolated(stage, (clip("none_sparse.mp4", 500.0, 504.0),))
    assert failed.status == "failed"
    assert failed.error.startswith("none_sparse.mp4: no frame at 500")
