"""The `episodes` stage: what is kept, what is rejected, and why."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from handloom.stages.episodes.rows import EpisodeRow
from handloom.stages.episodes.stage import Episodes
from handloom.stages.tables.rows import EpisodeClip

STEPS = 30


def episode(**changed: Any) -> EpisodeClip:
    """Three seconds at 10 Hz, half a centimetre a step along x, the gripper open."""
    state = np.zeros((STEPS, 7))
    state[:, 0] = 0.005 * np.arange(STEPS)
    action = np.zeros((STEPS, 7))
    action[:, 0] = 0.005
    values: dict[str, Any] = {
        "clip_id": "c", "dataset": "d", "version": "1", "split": "train", "licence": "l",
        "bucket": "00", "unit": "f#0", "video_id": "e", "start_s": 0.0, "end_s": 3.0,
        "text": "pick up the cup", "text_kind": "instruction", "hz": 10.0,
        "action_kind": "ee_delta", "state": state.tolist(), "action": action.tolist(),
        "idle": [], "success": None, "place": [0], "views": ["main"], "steps": STEPS, "facts": [],
    }  # fmt: skip
    return EpisodeClip(**(values | changed))


def decided(clip: EpisodeClip, stage: Episodes | None = None) -> EpisodeRow:
    (row,) = (stage or Episodes())(clip, clip)
    return row


def with_state(change: Any) -> list[list[float]]:
    state = np.asarray(episode().state)
    change(state)
    found: list[list[float]] = state.tolist()
    return found


def jump(state: Any) -> None:
    state[15:, 1] += 0.4  # 4 m/s from one step to the next


def shake(state: Any) -> None:
    state[::2, 2] += 0.15  # third differences of 4 x 0.15 m at 10 Hz: 600 m/s^3


def stop(state: Any) -> None:
    state[:, 0] = 0.0


def flip(state: Any) -> None:
    state[15:, 5] = 2.0  # 20 rad/s


def test_a_smooth_successful_episode_is_kept() -> None:
    row = decided(episode(success=True))
    assert (row.status, row.reason, len(row.state), row.hz) == ("ok", "", STEPS, 10.0)
    assert row.max_speed_m_s == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"success": False}, "unsuccessful"),
        ({"text": "  "}, "no_text"),
        ({"state": episode().state[:3], "action": episode().action[:3]}, "too_short"),
        ({"state": with_state(jump)}, "jump"),
        ({"state": with_state(flip)}, "jump"),
        ({"state": with_state(shake)}, "jerk"),
        ({"state": with_state(stop)}, "frozen_state"),
        ({"action": [[float("nan")] * 7] * STEPS}, "not_finite"),
    ],
)
def test_what_is_rejected(changed: dict[str, Any], reason: str) -> None:
    row = decided(episode(**changed))
    assert (row.status, row.reason) == ("rejected", reason)


def test_failed_and_wordless_episodes_can_be_asked_for() -> None:
    stage = Episodes(keep_failed=True, require_text=False)
    assert decided(episode(success=False, text=""), stage).status == "ok"


def test_numbers_whose_meaning_is_not_told_are_neither_resampled_nor_judged() -> None:
    stored = episode(state=with_state(jump), action_kind="as_stored", hz=50.0)
    row = decided(stored)
    assert (row.status, row.hz, len(row.state)) == ("ok", 50.0, STEPS)
    assert row.state == stored.state


def test_a_step_shows_the_picture_before_it() -> None:
    at_three = decided(replace(episode(), hz=3.0))
    assert at_three.steps_taken[:8] == [0, 0, 0, 0, 1, 1, 1, 2]
    assert len(at_three.steps_taken) == len(at_three.state) == 97  # 29 / 3 s at 10 Hz
