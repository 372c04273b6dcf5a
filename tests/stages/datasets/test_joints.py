"""Joints are radians and grippers are no joints, whichever unit a source stores."""

import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from handloom.stages.datasets.joints import gripper_columns, in_radians
from handloom.stages.datasets.lerobot import adapter as lerobot
from handloom.stages.datasets.source import EpisodeOptions
from handloom.stages.episodes.stage import Episodes
from handloom.stages.ingest.episodes import EpisodeIngest, guessed_units
from handloom.stages.miniatures.robots.world import joint_angles, make_episode, resample
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import EpisodeClip
from tests.helpers.miniatures import writer

NAMES = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "gripper.pos"]


def swing(steps: int = 40) -> NDArray[np.float32]:
    """Three joints in radians and a gripper that closes within one step, [T, 4]."""
    time = np.linspace(0, 3, steps)
    gripper = (np.arange(steps) < steps // 2).astype(float)
    return np.column_stack([np.sin(time), 0.2 * time, -1.5 + 0 * time, gripper]).astype(np.float32)


def in_degrees(radians: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.column_stack([np.rad2deg(radians[:, :3]), 100 * radians[:, 3]]).astype(np.float32)


@pytest.mark.parametrize("unit", ["auto", "degrees"])
def test_degrees_become_radians_and_percent_a_share(unit: str) -> None:
    wanted = swing()
    found = in_radians(in_degrees(wanted), in_degrees(wanted), unit, NAMES, NAMES)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.state, wanted, atol=1e-6)
    np.testing.assert_allclose(found.action, wanted, atol=1e-6)
    assert found.grippers == (3,)
    assert found.facts["joint_unit"].startswith("degrees")


@pytest.mark.parametrize("unit", ["auto", "radians"])
def test_radians_stay(unit: str) -> None:
    found = in_radians(swing(), swing(), unit, NAMES, NAMES)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.state, swing())


def test_a_gripper_in_percent_is_no_sign_of_degrees() -> None:
    values = swing()
    values[:, 3] *= 100
    assert in_radians(values, values, "auto", NAMES, NAMES).facts["joint_unit"][:7] == "radians"


def test_grippers_without_names_are_the_last_of_each_arm_of_seven() -> None:
    assert gripper_columns([], 14) == (6, 13)
    assert gripper_columns([], 6) == ()
    assert gripper_columns(["a", "left_gripper", "b", "jaw"], 4) == (1, 3)
    assert gripper_columns(["a", "gripper"], 7) == (6,)  # names of another width say nothing


@pytest.fixture(scope="module")
def so101(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeRobot v3.0 with five joints in degrees and a gripper in percent, 15 Hz."""
    return writer(tmp_path_factory)("lerobot") / "v3.0"


def ingested(data: Path) -> list[EpisodeClip]:
    stage = EpisodeIngest(dataset="lerobot", format="lerobot", action_kind="joints").at(data)
    return [row for source in stage.sources() for row in stage(source)]


def test_joints_in_degrees_are_kept_and_said(so101: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rows = ingested(so101)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "joints are taken to be in degrees" in said[0]
    assert "--ingest.joint-unit" in said[0]
    decided = [next(Episodes()(row, row)) for row in rows]
    assert rows
    assert [(row.status, row.reason) for row in decided] == [("ok", "")] * len(rows)
    world = resample(make_episode(0, 40), 15)
    count = len(rows[0].state)
    np.testing.assert_allclose(
        np.array(rows[0].state)[:, :5], joint_angles(world, 5)[:count], atol=1e-5
    )
    assert all(row.grippers == [5] for row in rows)
    assert max(max(state[5] for state in row.state) for row in rows) <= 1.0


def test_a_run_ends_with_a_sentence_on_the_guess(so101: Path, tmp_path: Path) -> None:
    table = Table(tmp_path, "0123456789ab")
    rows = ingested(so101)
    table.write("00", "a", rows, EpisodeClip)
    assert guessed_units(table) == (
        f"joints were taken to be degrees in {len(rows)} episodes, by their size; if not, set "
        "--ingest.joint-unit"
    )


def test_all_episodes_of_a_dataset_have_one_unit(so101: Path) -> None:
    options = EpisodeOptions(action_kind="joints")
    facts = [lerobot.load(so101, s, options).facts for s in lerobot.episodes(so101, options)]
    assert len({fact["joint_unit"] for fact in facts}) == 1


def smoothly(state: NDArray[np.float32], action: NDArray[np.float32], so101: Path) -> str:
    """Why an episode of these joints at 15 Hz is rejected, or empty."""
    from dataclasses import replace

    row = replace(ingested(so101)[0], state=state.tolist(), action=action.tolist(), grippers=[3])
    return next(Episodes()(row, row)).reason


def test_smoothness_is_that_of_joints(so101: Path) -> None:
    good = swing()
    assert smoothly(good, good, so101) == ""  # though the gripper closes at once
    jumps = good.copy()
    jumps[20:, 1] += 1.5  # 22 rad/s
    assert smoothly(jumps, good, so101) == "jump"
    stuck = np.repeat(good[:1], len(good), axis=0)
    assert smoothly(stuck, good, so101) == "frozen_state"
    assert smoothly(stuck, stuck, so101) == ""  # nothing was commanded
