"""Laws of the statistics that the manifest holds of robot trajectories."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.pipeline.job import Job
from handloom.pipeline.recipes import RECIPES
from handloom.stages.miniatures.catalog import miniature
from handloom.stages.pack import statistics as trajectory_statistics
from handloom.stages.pack.statistics import SAMPLED_ROWS, STATISTICS, Spread, step_keys
from tests.helpers.robot_shards import wander, write_robot_shards

IDLE = (0, 7, 19)


def statistics(folder: Path) -> dict[str, Any]:
    """The manifest's entry."""
    entry: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["trajectories"]
    return entry


def by_numpy(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Every statistic, from all rows at once."""
    values = rows.astype(np.float64)
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    parts = (values.mean(0), values.std(0), values.min(0), values.max(0), low, high)
    return dict(zip(STATISTICS, parts, strict=True))


@pytest.mark.parametrize("per_shard", [4, 100])
def test_they_are_those_of_all_steps_of_train(tmp_path: Path, per_shard: int) -> None:
    train = [wander(i, steps=12 + i, idle=(0, 7)) for i in range(13)]
    val = [wander(i, steps=50) for i in range(20, 24)]
    episodes = {"train": train, "val": val}
    found = statistics(write_robot_shards(tmp_path, episodes, per_shard=per_shard))
    moving = [np.delete(episode.action, episode.idle, axis=0) for episode in train]
    expected = {"state": [episode.state for episode in train], "action": moving}
    for name, parts in expected.items():
        rows = np.concatenate(parts)
        assert found[name]["count"] == len(rows)
        for key, value in by_numpy(rows).items():
            np.testing.assert_allclose(found[name][key], value, rtol=1e-9, atol=1e-12)
    assert (found["action_kind"], found["hz"]) == ("ee_delta", 10.0)
    assert found["views"] == ["static", "gripper"]


def test_idle_steps_do_not_count(tmp_path: Path) -> None:
    calm = wander(0, steps=20, idle=IDLE)
    wild = calm.action.copy()
    wild[list(IDLE)] = 1e6
    one = write_robot_shards(tmp_path / "calm", {"train": [calm]})
    other = write_robot_shards(tmp_path / "wild", {"train": [replace(calm, action=wild)]})
    assert statistics(one) == statistics(other)


def test_a_large_sample_has_the_quantiles_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal(size=(5 * SAMPLED_ROWS, 2)).astype(np.float32)
    keys = step_keys("clip", len(rows))
    found = Spread.of(rows[:1000], keys[:1000])
    for first, last in pairwise([1000, 70_000, 70_001, len(rows)]):
        found = found.merged(Spread.of(rows[first:last], keys[first:last]))
        assert len(found.rows) <= SAMPLED_ROWS
    for name, value in by_numpy(rows).items():
        # a quantile of n sampled rows errs by sqrt(0.01 * 0.99 / n) of their share, here 0.04 %,
        # where the density of the normal distribution is 0.027: 0.015 in value
        atol = 5 * 0.015 if name.startswith("q") else 1e-9
        np.testing.assert_allclose(found.facts()[name], value, atol=atol)
    whole = Spread.of(rows, keys).facts()
    assert [found.facts()[q] for q in ("q01", "q99")] == [whole[q] for q in ("q01", "q99")]


def test_keys_are_spread_evenly_and_differ_between_clips() -> None:
    keys = np.concatenate([step_keys(f"clip{i}", 100) for i in range(1000)])
    assert len(np.unique(keys)) == len(keys)
    counts = np.bincount((keys >> np.uint64(60)).astype(int), minlength=16)
    assert abs(counts - len(keys) / 16).max() < 5 * np.sqrt(len(keys) / 16)


def test_views_are_named_in_the_order_in_which_they_first_come(tmp_path: Path) -> None:
    names = [("b",), ("b", "a"), ("c", "a")]
    train = [wander(i, views=views) for i, views in enumerate(names)]
    val = [wander(9, views=("d",))]
    folder = write_robot_shards(tmp_path, {"train": train, "val": val}, per_shard=1)
    assert statistics(folder)["views"] == ["b", "a", "c", "d"]


@pytest.mark.parametrize("per_shard", [1, 100])
def test_episodes_of_different_kinds_are_named_instead(tmp_path: Path, per_shard: int) -> None:
    train = [wander(0), wander(1, arms=2), wander(2)]
    found = statistics(write_robot_shards(tmp_path, {"train": train}, per_shard=per_shard))
    one, two = "state of 7, action of 7: 2 episodes", "state of 14, action of 14: 1 episodes"
    assert found["mixed"] == [f"ee_delta at 10 Hz, {two}", f"ee_delta at 10 Hz, {one}"]
    assert "state" not in found


def test_a_run_of_robots_is_packed_again_for_other_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    miniature("rt1")(tmp_path / "data", clips=2)
    job = Job("rt1", tmp_path / "data", tmp_path / "out", RECIPES["rt1"]())
    before = job.pack_inputs()
    assert job.pack_inputs() == before
    monkeypatch.setattr(trajectory_statistics, "VERSION", trajectory_statistics.VERSION + 1)
    assert job.pack_inputs() != before
