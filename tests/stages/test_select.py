"""Decisions from stored numbers: each criterion, its switch, its order, and what it counts."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from handloom.stages.select import Select
from handloom.stages.tables.columns import by_bucket

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


def random_clips(seed: int, count: int = 300) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Clips of which many are at a threshold, with texts that come again; some numbers are NaN."""
    rng = np.random.default_rng(seed)
    steps = [0.0, 0.03, 0.04, 0.05, 0.1, 0.35, 0.4, 0.45, 0.5, 0.8, 1.0]
    kinds = "brightness", "contrast", "sharpness", "flat_share", "confidence"
    frames = {name: rng.choice(steps, (count, FRAMES)).tolist() for name in kinds}
    plain = {
        name: rng.choice([*steps, np.nan], count).tolist()
        for name in ("change", "bar_share", "stereo_score", "similarity", "leak_similarity")
    }
    fine = rng.random(count) < 0.5  # else hardly any clip would get beyond the first criteria
    for name, value in (("brightness", 0.5), ("contrast", 0.6), ("flat_share", 0.1),
                        ("sharpness", 0.8)):  # fmt: skip
        frames[name] = [
            [value] * FRAMES if f else v for f, v in zip(fine, frames[name], strict=True)
        ]
    more = {
        "detector_ran": (rng.random((count, FRAMES)) < 0.8).tolist(),
        "shot_end_s": rng.choice([1.0, 3.0, 4.0], count).tolist(),
        "text": rng.choice(["Stir ", "stir", "cut", " CUT", "Öl", "öl"], count).tolist(),
        "video_id": rng.choice(["a", "b", "c"], count).tolist(),
    }
    tables = clips(count, **frames, **plain, **more)
    order = pa.array(rng.permutation(count))
    return tables[0].take(order), tables[1].take(order), tables[2].take(order)


def decided_row_by_row(select: Select, *tables: pa.Table) -> list[tuple[str, float]]:
    """Reason and repeats of each clip, decided one after the other in the order of the ids."""
    rows = zip(*(table.to_pylist() for table in tables), strict=True)
    found: dict[str, tuple[str, float]] = {}
    seen = Counter[tuple[str, str]]()
    for hands, clip, alike in sorted(rows, key=lambda row: row[0]["clip_id"]):
        shown = [i for i, t in enumerate(hands["times_s"]) if 0.0 <= t <= hands["shot_end_s"]]
        searched = [i for i in shown if hands["detector_ran"][i]]
        seen_hands = [hands["confidence"][i] for i in searched]
        hits = sum(c >= select.min_confidence for c in seen_hands)
        alone = hits == 1 and len(searched) >= 4 and max(seen_hands) < 1.0

        def share(name: str, holds: Callable[[float], bool], shown: list[int] = shown,
                  hands: dict[str, Any] = hands) -> float:  # fmt: skip
            return sum(holds(hands[name][i]) for i in shown) / max(len(shown), 1)

        failing = {
            "dark": share("brightness", lambda v: v < 0.04) > 0.5,
            "blank": share("contrast", lambda v: v < 0.03) > 0.5,
            "stereo": hands["stereo_score"] > 0.45,
            "too_little_picture": hands["bar_share"] > 0.5,
            "title_card": share("flat_share", lambda v: v >= 0.8) > 0.5,
            "still": hands["change"] < 0.05,
            "shot_change": min(hands["shot_end_s"] / 4.0, 1.0) < 0.5,
            "blurred": max((hands["sharpness"][i] for i in shown), default=0.0) < 0.4,
            "no_hands": hits / max(len(searched), 1) < 0.1,
            "lone_hand": alone,
            "leak": alike["leak_similarity"] > 0.5,
            "duplicate": alike["similarity"] > 0.5,
        }
        reason, repeats = next((name for name, fails in failing.items() if fails), ""), 0
        if not reason:
            key = clip["video_id"], clip["text"].strip().lower()
            repeats, seen[key] = seen[key], seen[key] + 1
            reason = "repeat" if select.max_repeats and repeats >= select.max_repeats else ""
        found[hands["clip_id"]] = reason, float(repeats)
    return [found[clip_id] for clip_id in tables[0]["clip_id"].to_pylist()]


@pytest.mark.parametrize("max_repeats", [None, 2])
def test_columns_decide_as_a_loop_over_the_clips(max_repeats: int | None) -> None:
    told = Counter[str]()
    for seed in range(5):
        tables, select = random_clips(seed), Select(max_repeats=max_repeats)
        decided = select.decide(*tables)
        columns = (decided[name].to_pylist() for name in ("reason", "repeats"))
        expected = decided_row_by_row(select, *tables)
        assert list(zip(*columns, strict=True)) == expected
        told.update(reason for reason, _ in expected)
    assert len(told) == (13 if max_repeats is None else 14)  # every reason, and the kept


def test_buckets_come_in_order_each_sorted_by_id() -> None:
    rng = np.random.default_rng(0)
    buckets = rng.choice(["ff", "00", "3a"], 100).tolist()
    ids = [rng.bytes(10).hex() for _ in buckets]
    found = list(by_bucket(pa.table({"clip_id": ids}), pa.chunked_array([buckets])))
    assert [(name, rows["clip_id"].to_pylist()) for name, rows in found] == [
        (name, sorted(i for i, b in zip(ids, buckets, strict=True) if b == name))
        for name in ("00", "3a", "ff")
    ]
    empty = pa.table({"clip_id": pa.array([], pa.string())})
    assert list(by_bucket(empty, pa.chunked_array([[]], pa.string()))) == []
