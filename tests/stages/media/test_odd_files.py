"""A matrix of odd files: every reader shows the picture that FFmpeg shows, in any order."""

from pathlib import Path

import numpy as np
import pytest

from handloom.stages.media.key_frames import SmallVideo
from handloom.stages.media.video import Video, frames_once, probe
from tests.helpers.odd_videos import ODD, Odd, Truth, truth

TIMES = 20


@pytest.fixture(scope="module", params=ODD, ids=lambda odd: odd.name)
def odd(request: pytest.FixtureRequest) -> Odd:
    return request.param


@pytest.fixture(scope="module")
def path(odd: Odd, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd.write(tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def right(path: Path) -> Truth:
    found = truth(path)
    assert len(found.times_s) > 8  # FFmpeg shows it
    return found


def orders(right: Truth) -> dict[str, np.ndarray]:
    """Times in the middle of pictures and between: in order, backwards, at random."""
    rng = np.random.default_rng(1)
    ends = np.append(right.times_s[1:], right.times_s[-1] + 1e-3)
    numbers = rng.choice(len(right.times_s), min(TIMES, len(right.times_s)), replace=False)
    inside = right.times_s[numbers] + rng.uniform(0.01, 0.9, len(numbers)) * (
        ends[numbers] - right.times_s[numbers]
    )
    return {"order": np.sort(inside), "backwards": np.sort(inside)[::-1], "random": inside}


@pytest.mark.parametrize("order", ["order", "backwards", "random"])
def test_the_picture_on_screen(path: Path, right: Truth, order: str) -> None:
    video, times_s = Video(path), orders(right)[order]
    for time_s in times_s:
        (picture,) = video.frames_at([time_s])
        assert right.at(time_s) in right.which(picture), f"at {time_s:.3f} s"
    together = Video(path).frames_at(times_s)
    alone = [next(frames_once(path, np.array([time_s]))) for time_s in times_s]
    for time_s, one, other in zip(times_s, together, alone, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=f"at {time_s:.3f} s")


def test_small_pictures_by_time(path: Path, right: Truth) -> None:
    for times_s in orders(right).values():
        video = SmallVideo(path, 64)
        for time_s in times_s:
            frame = video.frame_at(float(time_s))
            assert right.at(frame.time_s) in right.which(frame.picture_hwc), f"at {time_s:.3f} s"
            assert abs(frame.time_s - right.times_s[right.at(frame.time_s)]) < 2e-3
            assert frame.time_s > right.times_s[right.at(time_s)] - 2e-3
        video.close()


def test_key_frames_lie_where_they_are_shown(path: Path, right: Truth) -> None:
    video = SmallVideo(path, 64)
    keys_s = video.keys_around(float(right.times_s[0]), float(right.times_s[-1]))
    for key_s in keys_s:
        assert np.abs(right.times_s - key_s).min() < 2e-3


def test_every_frame_is_one_that_is_shown(path: Path, right: Truth) -> None:
    first, last = right.times_s[len(right.times_s) // 3], right.times_s[-2]
    found = list(SmallVideo(path, 64).every_frame(first - 1e-3, last + 1e-3, 64))
    shown = right.times_s[(right.times_s >= first - 2e-3) & (right.times_s <= last + 2e-3)]
    np.testing.assert_allclose([time_s for time_s, _ in found], shown, atol=2e-3)
    for time_s, picture in found:
        assert right.at(time_s) in right.which(picture), f"at {time_s:.3f} s"


def test_probing_tells_when_pictures_begin_and_end(path: Path, odd: Odd, right: Truth) -> None:
    facts = probe(path)
    assert abs(facts.start_s - right.times_s[0]) < 2e-3
    if "truncated" not in odd.tags:
        assert right.times_s[-1] < facts.duration_s + 2e-3 < right.times_s[-1] + 1.2
