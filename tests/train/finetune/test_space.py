"""Laws of `Space`: what the model takes is continuous, undoes itself, and fits the folders."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from handloom.errors import UserError
from handloom.tokenize.shards import read_manifest
from handloom.train.finetune.space import Space
from tests.helpers.robot_shards import wander, write_robot_shards


def space(kind: str = "ee_delta", arms: int = 1) -> Space:
    """Some space; one column of the action never moves."""
    random = np.random.default_rng(arms)
    mean, std = random.normal(size=(2, 7 * arms)), random.uniform(0.01, 2, (2, 7 * arms))
    std[1, 3] = 1e-9
    numbers = (tuple(row.tolist()) for row in (mean[0], std[0], mean[1], std[1]))
    return Space(kind, 10.0, *numbers)


@pytest.mark.parametrize("arms", [1, 2])
@pytest.mark.parametrize("kind", ["ee_delta", "joints", "as_stored"])
def test_denormalising_undoes_normalising(kind: str, arms: int) -> None:
    some = space(kind, arms)
    action = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 5, 7 * arms)))
    back = some.denormalise(some.normalise(action))
    torch.testing.assert_close(back, action, rtol=1e-12, atol=1e-12)


def test_normalised_actions_have_mean_0_and_deviation_1_and_grippers_stay(tmp_path: Path) -> None:
    train = [wander(i, arms=2) for i in range(8)]
    folder = write_robot_shards(tmp_path, {"train": train})
    some = Space.of({str(folder): read_manifest(folder)})
    rows = torch.from_numpy(np.concatenate([e.action for e in train])).double()
    scaled = some.normalise(rows)
    assert some.grippers == (6, 13)
    torch.testing.assert_close(scaled[:, some.grippers], rows[:, some.grippers])
    moving = [0, 1, 2, 5, 7, 8, 9, 12]  # the hand turns about z alone
    torch.testing.assert_close(scaled[:, moving].mean(0), torch.zeros(8).double())
    torch.testing.assert_close(scaled[:, moving].std(0, correction=0), torch.ones(8).double())
    assert not scaled[:, [3, 4, 10, 11]].any()  # what never moves is not blown up


@pytest.mark.parametrize("angle", [0, 1, 2])
def test_an_encoded_state_does_not_jump_where_an_angle_does(angle: int) -> None:
    some, state = space(), torch.zeros(2, 7)
    state[:, 3:6] = torch.tensor([0.3, -0.4, 1.1])
    state[0, 3 + angle], state[1, 3 + angle] = np.pi - 1e-4, -np.pi + 1e-4
    before, after = some.encode_state(state)
    assert float((before - after).abs().max()) < 3e-4
    assert some.state_width == len(before) == 10


def test_the_rotation_is_the_first_two_columns_of_its_matrix() -> None:
    some, random = space(arms=2), np.random.default_rng(3)
    state = random.uniform(-3, 3, (20, 14))
    coded = some.encode_state(torch.from_numpy(state)).numpy()
    for arm in (0, 1):
        matrices = Rotation.from_euler("xyz", state[:, 7 * arm + 3 : 7 * arm + 6]).as_matrix()
        here = coded[:, 10 * arm : 10 * arm + 10]
        np.testing.assert_allclose(here[:, 3:6], matrices[:, :, 0], atol=1e-12)
        np.testing.assert_allclose(here[:, 6:9], matrices[:, :, 1], atol=1e-12)
        np.testing.assert_allclose(here[:, 9], state[:, 7 * arm + 6])
    width = len(some.state_mean)
    assert replace(some, kind="joints").encode_state(torch.zeros(width)).shape == (width,)


@pytest.mark.parametrize(
    ("kind", "arms", "grippers"),
    [("ee_delta", 1, (6,)), ("joints", 2, (6, 13)), ("as_stored", 1, ())],
)
def test_which_columns_are_grippers(kind: str, arms: int, grippers: tuple[int, ...]) -> None:
    some = space(kind, arms)
    assert some.grippers == grippers
    assert sorted(some.grippers + some.arm_columns) == list(range(7 * arms))


def test_it_comes_back_from_json() -> None:
    some = space()
    assert Space.from_dict(json.loads(json.dumps(some.to_dict()))) == some


def test_several_folders_have_the_statistics_of_all_their_steps(tmp_path: Path) -> None:
    every = [wander(i, steps=10 + 3 * i) for i in range(9)]
    parts = {"a": every[:2], "b": every[2:3], "c": every[3:]}
    folders = [write_robot_shards(tmp_path / n, {"train": e}) for n, e in parts.items()]
    whole = write_robot_shards(tmp_path / "whole", {"train": every})
    pooled = Space.of({str(folder): read_manifest(folder) for folder in folders})
    expected = Space.of({str(whole): read_manifest(whole)})
    for name in ("state_mean", "state_std", "action_mean", "action_std"):
        np.testing.assert_allclose(getattr(pooled, name), getattr(expected, name), atol=1e-12)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"hz": 5.0}, "ee_delta at 5 Hz, state of 7"),
        ({"kind": "joints"}, "joints at 10 Hz"),
        ({"arms": 2}, "ee_delta at 10 Hz, state of 14, action of 14"),
    ],
)
def test_folders_that_differ_are_named(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    one = write_robot_shards(tmp_path / "one", (2, 1))
    other = write_robot_shards(tmp_path / "other", (2, 1), **options)
    with pytest.raises(UserError, match="different kinds") as error:
        Space.of({str(folder): read_manifest(folder) for folder in (one, other)})
    assert f"{other}: {told}" in str(error.value)
    assert f"{one}: ee_delta at 10 Hz, state of 7, action of 7" in str(error.value)


def refused(folder: Path, match: str) -> None:
    """Check that the folder is named and why."""
    with pytest.raises(UserError, match=match) as error:
        Space.of({str(folder): read_manifest(folder)})
    assert str(folder) in str(error.value)


def test_a_folder_without_usable_statistics_says_what_to_do(tmp_path: Path) -> None:
    refused(write_robot_shards(tmp_path / "old", (2, 1), statistics=False), "handloom curate")
    refused(write_robot_shards(tmp_path / "val", (0, 2)), "train split")
    still = wander(0, steps=4, idle=(0, 1, 2, 3))
    refused(write_robot_shards(tmp_path / "idle", {"train": [still]}), "of action")
    mixed = {"train": [wander(0), wander(1, arms=2)]}
    refused(write_robot_shards(tmp_path / "mixed", mixed), "state of 14, action of 14: 1 episodes")
    broken = wander(0)
    broken.state[3, 1] = np.inf
    with np.errstate(invalid="ignore"):
        folder = write_robot_shards(tmp_path / "inf", {"train": [broken]})
    refused(folder, "NaN or infinity")


def test_poses_have_seven_numbers_an_arm() -> None:
    with pytest.raises(UserError, match="actions of 6"):
        Space("ee_delta", 10.0, (0.0,) * 7, (1.0,) * 7, (0.0,) * 6, (1.0,) * 6)
