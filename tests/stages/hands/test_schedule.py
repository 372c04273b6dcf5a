"""Which frames are searched, and when to stop: laws of the plan."""

import numpy as np
import pytest

from handloom.stages.hands import schedule as sampling
from handloom.stages.hands.schedule import ENOUGH_HITS, SURE_SHARE, nearest_first, whole_grid

RATE = {"per_second": 2.0, "at_least": 4}
NO_KEYS = np.array([0.0])


def times(plan: sampling.Plan) -> set[float]:
    return set(plan.times_s)


@pytest.mark.parametrize("gop_s", [0.5, 1.0, 2.0, 3.0, 5.0, 10.0])
def test_frames_far_from_a_key_frame_come_last_and_none_is_left_out(gop_s: float) -> None:
    keys_s = np.arange(0, 100, gop_s)
    for start_s in np.arange(11.3, 50, 1.7):
        plan = nearest_first(start_s, start_s + 7, keys_s, **RATE)
        assert times(plan) == times(whole_grid(start_s, start_s + 7, **RATE))
        ways_s = [time_s % gop_s for time_s in plan.times_s]
        assert np.diff(ways_s).min() > -1e-9


def test_a_clip_shifted_by_a_second_shares_its_frames() -> None:
    one, other = (times(nearest_first(s, s + 6, NO_KEYS, **RATE)) for s in (3.2, 4.2))
    assert one & other == {t for t in one if t >= 4.2}


@pytest.mark.parametrize("seconds", [0.1, 0.7, 1.9, 60.0])
def test_every_clip_gets_its_frames_however_short(seconds: float) -> None:
    for plan in (
        whole_grid(7.03, 7.03 + seconds, **RATE),
        nearest_first(7.03, 7.03 + seconds, NO_KEYS, **RATE),
    ):
        assert len(times(plan)) == len(plan.times_s) >= max(4, int(2 * seconds))
        assert all(7.03 <= t < 7.03 + seconds for t in times(plan))


def test_a_clip_of_an_hour_is_sampled_sparsely() -> None:
    keys_s = np.arange(0, 4000, 1.0)
    for plan in (whole_grid(3.0, 3603.0, **RATE), nearest_first(3.0, 3603.0, keys_s, **RATE)):
        assert sampling.MOST_FRAMES / 2 <= len(plan.times_s) <= sampling.MOST_FRAMES
        assert max(times(plan)) - min(times(plan)) > 3500


@pytest.mark.parametrize("seconds", [2.0, 4.0, 10.0, 60.0])
def test_an_early_yes_decides_as_all_frames_would_for_every_lower_threshold(seconds: float) -> None:
    plan = whole_grid(0.0, seconds, **RATE)
    planned = len(plan.times_s)
    clear = next(hits for hits in range(planned + 1) if plan.is_clear(hits))
    assert clear >= ENOUGH_HITS
    # Frames that are left out may all be without a hand.
    assert clear / planned >= SURE_SHARE
