"""Shots: cuts are placed to the frame, and nothing is decoded where nothing is suspicious."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from handloom.stages.media.shots import ShotOptions, change_times, longest_run, shot_changes
from handloom.stages.media.transitions import Transition, TransitionOptions, luma, transitions

Frame = np.ndarray
FPS = 30
OPTIONS = ShotOptions()


def view(seed: int, height: int = 144, width: int = 900) -> Frame:
    """A wide view of one place: things of its own few colours on a ground of its own."""
    draw = np.random.default_rng(seed)
    palette = draw.integers(0, 256, (4, 3))
    place = np.full((height, width, 3), palette[0], np.uint8)
    for _ in range(90):
        middle = draw.integers(0, (width, height)).tolist()
        color = palette[draw.integers(1, 4)].tolist()
        cv2.circle(place, middle, int(draw.integers(5, 22)), color, -1)
    return place


def shot(seed: int, frames: int, pixels_a_frame: int = 1) -> list[Frame]:
    """A camera that turns over a place."""
    place = view(seed)
    return [place[:, pixels_a_frame * i :][:, :256] for i in range(frames)]


class Film:
    """Frames at `FPS` that count how often they are decoded."""

    def __init__(self, frames: list[Frame]) -> None:
        self.frames = frames
        self.decoded: list[int] = []

    def decode(self, start_s: float, end_s: float) -> Iterator[tuple[float, Frame]]:
        for index, frame in enumerate(self.frames):
            if start_s <= index / FPS <= end_s:
                self.decoded.append(index)
                yield index / FPS, frame

    def changes(self, every: int = 15, options: ShotOptions = OPTIONS) -> list[int]:
        """Frames at which shots change, when each `every`-th frame is sampled."""
        sampled = range(0, len(self.frames), every)
        times_s = [index / FPS for index in sampled]
        found = shot_changes(
            times_s, [self.frames[index] for index in sampled], self.decode, options
        )
        return [round(time_s * FPS) for time_s in change_times(found)]


@pytest.mark.parametrize("cut", [31, 38, 45])
@pytest.mark.parametrize("every", [15, 30])
def test_a_cut_is_placed_to_the_frame(cut: int, every: int) -> None:
    film = Film(shot(1, cut) + shot(2, 91 - cut))
    assert film.changes(every) == [cut]


def test_only_what_lies_around_a_suspicion_is_decoded() -> None:
    film = Film(shot(1, 100) + shot(2, 101))
    assert film.changes() == [100]
    assert set(film.decoded) <= set(range(90 - 8, 105 + 9))
    quiet = Film(shot(1, 201))
    assert quiet.changes() == quiet.decoded == []


def test_neighbouring_suspicions_are_decoded_once() -> None:
    film = Film(shot(1, 40) + shot(2, 15) + shot(3, 46))
    assert film.changes() == [40, 55]
    assert len(film.decoded) == len(set(film.decoded))


def test_a_fast_turn_is_not_a_cut_even_where_it_is_suspicious() -> None:
    place = np.concatenate([view(4), view(5)], axis=1)
    film = Film([place[:, 20 * index :][:, :256] for index in range(76)])
    assert film.changes() == []
    assert film.decoded


@pytest.mark.parametrize("level", [0, 255])
def test_a_fade_is_placed_to_a_tenth_of_a_second(level: int) -> None:
    before, after = shot(1, 45)[-1].astype(float), shot(2, 1)[0].astype(float)
    down = [before + (level - before) * step / 12 for step in range(1, 13)]
    up = [level + (after - level) * step / 12 for step in range(1, 13)]
    fade = [frame.astype(np.uint8) for frame in down + up]
    found = Film(shot(1, 45) + fade + shot(2, 45)).changes()
    assert abs(found[0] - 45) <= 3
    assert abs(found[-1] - 69) <= 3


@pytest.mark.parametrize("frames", [8, 20, 45])
def test_a_dissolve_between_moving_shots_is_placed_to_a_tenth_of_a_second(frames: int) -> None:
    before, after = shot(1, 45 + frames), shot(2, 45 + frames)
    weights = (np.arange(frames) + 1) / (frames + 1)
    blend = [
        (a * (1 - weight) + b * weight).astype(np.uint8)
        for a, b, weight in zip(before[45:], after, weights, strict=False)
    ]
    start, end = Film(before[:45] + blend + after[frames:]).changes()
    assert abs(start - 45) <= 3
    assert abs(end - (45 + frames)) <= 3


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_a_flash_is_no_change(frames: int) -> None:
    place = shot(1, 100)
    white = [cv2.convertScaleAbs(frame, alpha=0.2, beta=200) for frame in place[45 : 45 + frames]]
    film = Film(place[:45] + white + place[45 + frames :])
    assert film.changes() == []
    assert film.decoded


def test_light_that_is_dimmed_is_no_change() -> None:
    place = shot(1, 91)
    strength = [1.0] * 35 + list(np.linspace(1.0, 0.35, 20)) + [0.35] * 36
    film = Film([cv2.convertScaleAbs(f, alpha=a) for f, a in zip(place, strength, strict=True)])
    assert film.changes() == []
    assert film.decoded


def test_a_whip_pan_is_no_change() -> None:
    """A camera turns to another place within half a second, its frames blurred by the motion."""
    place = np.concatenate([view(4), view(5)], axis=1)
    speed = [1] * 37 + [60] * 16 + [1] * 38
    left = np.cumsum([0, *speed[:-1]])
    frames = [
        cv2.blur(place[:, at : at + 256], (max(pixels, 1), 1))
        for at, pixels in zip(left, speed, strict=True)
    ]
    film = Film(frames)
    assert film.changes() == []
    assert film.decoded


def test_the_size_of_the_frames_does_not_matter() -> None:
    frames = shot(1, 40) + shot(2, 36)
    large = [cv2.resize(frame, (683, 384)) for frame in frames]
    assert Film(large).changes() == Film(frames).changes() == [40]


def test_a_cut_is_found_in_a_clip_of_few_frames() -> None:
    film = Film(shot(1, 9) + shot(2, 10))  # at neither end are there frames to spare
    assert film.changes(every=9) == [9]
    assert shot_changes([0.0], film.frames[:1], film.decode, OPTIONS) == []


@pytest.mark.parametrize("count", range(1, 7))
def test_a_few_frames_are_no_dissolve(count: int) -> None:
    times_s = np.arange(count) / FPS
    assert transitions(times_s, [luma(f) for f in shot(1, count)], TransitionOptions()) == []


def cuts(*times_s: float) -> list[Transition]:
    return [Transition(time_s, time_s) for time_s in times_s]


def test_the_longest_run_lies_between_neighbouring_cuts() -> None:
    assert longest_run(10.0, 20.0, []) == (10.0, 20.0)
    assert longest_run(10.0, 20.0, cuts(17.0, 12.0)) == (12.0, 17.0)
    assert longest_run(10.0, 20.0, cuts(3.0, 10.0, 20.0, 25.0)) == (10.0, 20.0)
    assert longest_run(0.0, 4.0, cuts(2.0)) == (0.0, 2.0)


def test_the_longest_run_holds_no_part_of_a_dissolve() -> None:
    assert longest_run(0.0, 4.0, [Transition(1.0, 2.6)]) == (2.6, 4.0)
    assert longest_run(0.0, 4.0, [Transition(-1.0, 1.0), Transition(3.5, 5.0)]) == (1.0, 3.5)
    assert longest_run(0.0, 4.0, [Transition(1.0, 3.0)]) == (0.0, 1.0)
