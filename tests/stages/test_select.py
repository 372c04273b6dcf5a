"""Decisions from stored numbers: each criterion, its switch, its order, and what it counts."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from handloom.stages.select import Select

OFF = Select(
    **{
        name: None
        for name in vars(Select())
        if name.startswith(("min_", "max_")) and name != "min_confidence"
    }
)
FRAMES = 4


def clips(count: int, **changed: Any) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Tables of clips in which nothing is wrong, with columns replaced."""
    frames = {
        "confidence": 1.0,
        "brightness": 0.5,
        "contrast": 0.6,
        "sharpness": 0.8,
        "flat_share": 0.1,
    }
    plain = {"change": 0.5, "bar_share": 0.0, "stereo_score": 0.1, "shot_start_s": 0.0}
    ids = [f"{i:020x}" for i in range(count)]
    hands: dict[str, Any] = {
        "clip_id": ids,
        "times_s": [[0.5, 1.5, 2.5, 3.5]] * count,
        "detector_ran": [[True] * FRAMES] * count,
        **{name: [[value] * FRAMES] * count for name, value in frames.items()},
        **{name: [value] * count for name, value in plain.items()},
        "shot_end_s": [4.0] * count,
    }
    source = {
        "clip_id": ids, "video_id": ["v"] * count, "text": [f"act {i}" for i in range(count)],
        "start_s": [0.0] * count, "end_s": [4.0] * count,
    }  # fmt: skip
    alike = {"clip_id": ids, "similarity": [0.0] * count, "leak_similarity": [0.0] * count}
    for columns in (hands, source, alike):
        columns.update({k: v for k, v in changed.items() if k in columns})
    return pa.table(hands), pa.table(source), pa.table(alike)


def reasons(select: Select, *tables: pa.Table) -> list[str]:
    decided = select.decide(*tables)
    for row in decided.to_pylist():
        assert row["status"] == ("rejected" if row["reason"] else "ok")
    return decided["reason"].to_pylist()


@pytest.mark.parametrize(
    ("column", "good", "bad", "option", "reason"),
    [
        ("confidence", [0, 0, 0.9, 0.9], [0, 0, 0, 0.3], {"min_hand_share": 0.1}, "no_hands"),
        ("brightness", [0.01, 0.01, 0.5, 0.5], [0.01] * 3 + [0.5], {"max_dark_share": 0.5}, "dark"),
        ("contrast", [0.01, 0.01, 0.5, 0.5], [0.01] * 3 + [0.5], {"max_blank_share": 0.5}, "blank"),
        (
            "flat_share",
            [0.9, 0.9, 0.1, 0.1],
            [0.9] * 3 + [0.1],
            {"max_flat_share": 0.5},
            "title_card",
        ),
        ("sharpness", [0.2, 0.2, 0.5, 0.2], [0.2] * 4, {"min_sharpness": 0.4}, "blurred"),
        ("change", 0.2, 0.01, {"min_change": 0.05}, "still"),
        ("bar_share", 0.2, 0.6, {"max_bar_share": 0.5}, "too_little_picture"),
        ("stereo_score", 0.5, 0.9, {"max_stereo": 0.8}, "stereo"),
        ("shot_end_s", 3.0, 1.0, {"min_shot_share": 0.5}, "shot_change"),
        ("similarity", 0.5, 0.95, {"max_similarity": 0.9}, "duplicate"),
        ("leak_similarity", 0.5, 0.95, {"max_similarity": 0.9}, "leak"),
    ],
)
def test_each_criterion_rejects_the_bad_clip_and_can_be_switched_off(
    column: str, good: Any, bad: Any, option: dict[str, float], reason: str
) -> None:
    tables = clips(2, **{column: [good, bad]})
    assert reasons(replace(OFF, **option), *tables) == ["", reason]
    assert reasons(OFF, *tables) == ["", ""]


def test_a_hand_in_one_frame_alone_counts_only_among_few_or_where_a_search_confirmed_it() -> None:
    confidence = [[0.5, 0, 0, 0], [0.5, 0.5, 0, 0], [0.5, 0, 0, 0], [1.0, 0, 0, 0]]
    ran = [[True] * 4, [True] * 4, [True, True, True, False], [True] * 4]
    tables = clips(4, confidence=confidence, detector_ran=ran)
    assert reasons(Select(), *tables) == ["lone_hand", "", "", ""]
    assert reasons(replace(Select(), lone_hand=True), *tables) == ["", "", "", ""]


def test_frames_outside_the_shot_and_frames_not_looked_at_do_not_count() -> None:
    confidence = [[0.0, 0.0, 0.0, 1.0]] * 3
    ran = [[True] * 4, [True] * 4, [True, True, True, False]]
    tables = clips(3, confidence=confidence, detector_ran=ran, shot_end_s=[4.0, 3.0, 4.0])
    share = OFF.decide(*tables)["hand_share"].to_pylist()
    assert share == [0.25, 0.0, 0.0]


def test_a_dark_clip_without_hands_is_called_dark() -> None:
    tables = clips(1, brightness=[[0.0] * 4], confidence=[[0.0] * 4])
    assert reasons(Select(), *tables) == ["dark"]


def test_repeats_are_capped_in_each_video_and_only_among_kept_clips() -> None:
    text = ["Stir", "stir ", "stir", "cut", "stir", "stir"]
    video = ["a", "a", "a", "a", "b", "a"]
    confidence = [[1.0] * 4] * 5 + [[0.0] * 4]
    tables = clips(6, text=text, video_id=video, confidence=confidence)
    found = reasons(replace(Select(), max_repeats=2), *tables)
    assert found == ["", "", "repeat", "", "", "no_hands"]


def test_the_order_of_the_rows_changes_no_decision() -> None:
    count = 200
    rng = np.random.default_rng(0)
    text = [f"say {i}" for i in rng.integers(0, 5, count)]
    tables = clips(count, text=text, confidence=(0.5 * (rng.random((count, 4)) < 0.5)).tolist())
    select = replace(Select(), max_repeats=3)
    straight = dict(zip(tables[0]["clip_id"].to_pylist(), reasons(select, *tables), strict=True))
    assert set(straight.values()) == {"", "no_hands", "lone_hand", "repeat"}
    order = pa.array(rng.permutation(count))
    turned = [table.take(order) for table in tables]
    assert straight == dict(
        zip(turned[0]["clip_id"].to_pylist(), reasons(select, *turned), strict=True)
    )
