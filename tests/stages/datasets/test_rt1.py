"""RT-1: its numbers become handloom's, and back; its flags are believed as far as they deserve."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from handloom.errors import MediaError, UserError
from handloom.stages.datasets import rt1
from handloom.stages.datasets.formats import rotations
from handloom.stages.datasets.source import EpisodeOptions
from handloom.stages.miniatures.robots.tfrecords import (
    encode_example,
    features_json,
    flatten,
    frame_record,
    step_flags,
)
from handloom.stages.miniatures.robots.views import jpeg
from handloom.stages.miniatures.rt1 import EPISODE, STEPS

T = 5
ARM, BASE, END = [0, 1, 0], [0, 0, 1], [1, 0, 0]
SHARD = "fractal20220817_data-train.tfrecord-00412-of-01024"


def values(**changed: Any) -> dict[str, Any]:
    """What an adapter needs of an episode; the other keys of features.json may be absent."""
    pictures = [jpeg(np.full((256, 320, 3), 20 * t, np.uint8)) for t in range(T)]
    quarter = [0.0, 0.0, np.sin(np.pi / 4), np.cos(np.pi / 4)]  # a quarter turn about z, x y z w
    pose = np.array([[0.5, 0.1 * t, 0.3, *(quarter if t else [0, 0, 0, 1])] for t in range(T)])
    told = {
        "steps/action/world_vector": np.arange(3.0 * T),
        "steps/action/rotation_delta": np.tile([0.0, 0.0, 0.25], T),
        "steps/action/gripper_closedness_action": np.array([0.0, 0.05, 1.0, 0.0, -1.0]),
        "steps/action/terminate_episode": np.array([ARM] * (T - 1) + [END]).ravel(),
        "steps/observation/image": pictures,
        "steps/observation/base_pose_tool_reached": pose.ravel(),
        "steps/observation/gripper_closed": np.array([0.0, 0.25, 1.0, 1.0, 1.2]),
        "steps/observation/natural_language_instruction": [b"pick coke can"] * T,
        **flatten({"steps": step_flags(T)}),
    }
    return told | changed


def lay_out(root: Path, *episodes: dict[str, Any]) -> Path:
    home = root / "fractal20220817_data/0.1.0"
    home.mkdir(parents=True)
    (home / "features.json").write_text(json.dumps(features_json(STEPS, EPISODE)))
    # The published metadata say array_record, the bucket's files are tfrecord all the same.
    (home / "dataset_info.json").write_text('{"fileFormat": "array_record", "version": "0.1.0"}')
    rng = np.random.default_rng(0)
    (home / SHARD).write_bytes(b"".join(frame_record(encode_example(e, rng)) for e in episodes))
    return root


def load(root: Path, options: EpisodeOptions = EpisodeOptions()) -> list[Any]:  # noqa: B008
    return [rt1.load(root, source, options) for source in rt1.episodes(root, options)]


def test_an_episode_in_handlooms_convention(tmp_path: Path) -> None:
    (episode,) = load(lay_out(tmp_path, values()))
    assert (episode.text, episode.hz, episode.action_kind) == ("pick coke can", 3.0, "ee_delta")
    assert list(episode.views) == ["image"]
    assert episode.views["image"][1].shape == (256, 320, 3)  # height before width
    assert episode.action[:, :3].tolist() == np.arange(15.0).reshape(5, 3).tolist()
    assert episode.action[:, 3:6] == pytest.approx(np.tile([0, 0, 0.25], (T, 1)))
    # Opened before it is told to close, closed until it is told to open.
    assert episode.action[:, 6].tolist() == [1, 1, 0, 0, 1]
    assert episode.state[0] == pytest.approx([0.5, 0, 0.3, 0, 0, 0, 1])
    assert episode.state[1] == pytest.approx([0.5, 0.1, 0.3, 0, 0, np.pi / 2, 0.75])
    assert episode.state[:, 6] == pytest.approx([1, 0.75, 0, 0, 0])
    assert (episode.state.dtype, episode.action.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize(
    ("commands", "opened"),
    [
        ([], []),
        ([0, 0], [1, 1]),  # never told: open
        ([0, 1, 0], [1, 0, 0]),  # closes: was open before
        ([0, -1, 0], [0, 1, 1]),  # opens: was closed before
        ([1, 0, -1, 0, 1], [0, 0, 1, 1, 0]),
        ([0.1, -0.1, 0.11, 0.0], [1, 1, 0, 0]),  # a tenth is no command, more is
        ([-0.5, 0.0, 0.05, 0.7], [1, 1, 1, 0]),
    ],
)
def test_relative_gripper_commands_are_latched(commands: list[float], opened: list[int]) -> None:
    assert rt1.absolute_gripper(commands).tolist() == opened


ANGLE = st.floats(-1.5, 1.5)  # the policy's bounds are pi / 2
ROW = st.tuples(*[st.floats(-1, 1)] * 3, ANGLE, ANGLE, ANGLE, st.sampled_from([-1.0, 0.0, 1.0]))


def stored_action(action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inverse: world_vector [T, 3], rotation_delta [T, 3] and closedness [T] of actions [T, 7].

    The closedness is that of a command at the first step and at every change: RT-1 may repeat
    commands, and what was repeated is lost.
    """
    turn = rotations.rotvec_to_rpy_delta(action[:, 3:6]).astype(np.float32)
    return action[:, :3], turn, -np.diff(action[:, 6], prepend=1 - action[:1, 6])


@given(st.lists(ROW, min_size=1, max_size=20))
def test_actions_can_be_turned_back(rows: list[tuple[float, ...]]) -> None:
    stored = np.array(rows, np.float32)
    action = rt1.convert_actions(stored[:, :3], stored[:, 3:6], stored[:, 6])
    moved, turned, closedness = stored_action(action)
    assert moved.tolist() == stored[:, :3].tolist()
    turn = rotations.from_rpy(stored[:, 3:6]) * rotations.from_rpy(turned).inv()
    assert turn.magnitude().max() < 1e-5
    assert rt1.absolute_gripper(closedness).tolist() == action[:, 6].tolist()
    assert set(closedness.tolist()) <= {-1.0, 0.0, 1.0}


def test_angles_turn_about_the_fixed_axes_in_their_order() -> None:
    # A quarter about x, then a quarter about z: x -> y, y -> z, z -> x, a third about (1, 1, 1).
    (row,) = rt1.convert_actions(np.zeros((1, 3)), [[np.pi / 2, 0, np.pi / 2]], [0.0])
    assert row[3:6] == pytest.approx([2 * np.pi / 3 / np.sqrt(3)] * 3, abs=1e-6)


def test_a_terminate_flag_ends_nothing(tmp_path: Path) -> None:
    mode = np.array([END, END, ARM, BASE, END])  # the first two as in a known episode
    (episode,) = load(lay_out(tmp_path, values(**{"steps/action/terminate_episode": mode.ravel()})))
    assert len(episode.action) == len(episode.views["image"]) == T
    assert episode.idle.tolist() == [True, True, False, True, True]


def test_modes_that_command_the_arm_are_not_idle(tmp_path: Path) -> None:
    mode = np.array([ARM, [0, 1, 1], [0, 0, 0], ARM, ARM])
    (episode,) = load(lay_out(tmp_path, values(**{"steps/action/terminate_episode": mode.ravel()})))
    assert episode.idle is None


@pytest.mark.parametrize(
    ("judged", "success", "undesirable", "expected"),
    [
        (1, 1, 0, True), (1, 0, 0, False), (1, 1, 1, False), (1, 0, 1, False),
        (0, 0, 0, None), (0, 1, 0, None), (0, 1, 1, None), (None, None, None, None),
    ],
)  # fmt: skip
def test_success_is_known_where_somebody_judged(
    tmp_path: Path, judged: int | None, success: int, undesirable: int, expected: bool | None
) -> None:
    told = {"has_aspects": judged, "success": success, "undesirable": undesirable}
    aspects: dict[str, Any] = (
        {} if judged is None else {f"aspects/{k}": np.array([v]) for k, v in told.items()}
    )
    # A reward of 1 on the last step says nothing.
    reward = np.arange(T) == T - 1
    (episode,) = load(lay_out(tmp_path, values(**aspects, **{"steps/reward": reward * 1.0})))
    assert episode.success is expected


def test_quaternions_are_made_unit_or_refused(tmp_path: Path) -> None:
    pose = np.array([[1.0, 2, 3, 0, 0, 0.98 * np.sin(0.2), 0.98 * np.cos(0.2)]])
    assert rt1.convert_poses(pose)[0] == pytest.approx([1, 2, 3, 0, 0, 0.4])
    turn = Rotation.from_euler("xyz", [0.1, -0.2, 0.3])
    opposite = np.concatenate([[[1, 2, 3]], -turn.as_quat()[None]], axis=1)
    assert rt1.convert_poses(opposite)[0, 3:] == pytest.approx(
        [0.1, -0.2, 0.3]
    )  # -q is the same turn
    zeros = values(**{"steps/observation/base_pose_tool_reached": np.zeros(7 * T)})
    with pytest.raises(MediaError, match="quaternion of length 0 at step 0"):
        load(lay_out(tmp_path, zeros))


def test_identity_is_of_instruction_numbers_and_pictures(tmp_path: Path) -> None:
    moved = np.arange(3.0 * T)
    moved[4] += 1e-3
    other_pictures = [jpeg(np.full((256, 320, 3), 7, np.uint8))] * T
    changes: list[dict[str, Any]] = [
        {"steps/observation/natural_language_instruction": [b"pick pepsi can"] * T},
        {"steps/action/world_vector": moved},
        {"steps/observation/image": other_pictures},
        {"steps/observation/natural_language_embedding": np.ones(512 * T)},
    ]
    root = lay_out(tmp_path, values(), *[values(**change) for change in changes])
    first, *others, embedded = [episode.episode_id for episode in load(root)]
    assert len({first, *others}) == 4
    assert embedded == first  # embeddings depend on the encoder's version


def test_what_is_listed_is_by_shard_and_held_out_by_hash(tmp_path: Path) -> None:
    root = lay_out(tmp_path, values(), values())
    found = list(rt1.episodes(root, EpisodeOptions()))
    assert [s.unit for s in found] == [f"fractal20220817_data/0.1.0/{SHARD}#{i}" for i in (0, 1)]
    assert {(s.split, s.version) for s in found} == {("", "0.1.0")}  # the dataset is all train
    with pytest.raises(UserError, match="for bridge and calvin only"):
        load(root, EpisodeOptions(relabel=True))
    with pytest.raises(UserError, match="no view 'wrist': this dataset has image"):
        load(root, EpisodeOptions(views=("wrist",)))
    assert load(root, EpisodeOptions(hz=6.0))[0].hz == 6.0


def test_other_datasets_are_not_taken_for_rt1(tmp_path: Path) -> None:
    root = lay_out(tmp_path, values())
    home = root / "fractal20220817_data/0.1.0"
    steps = {key: leaf for key, leaf in STEPS.items() if key != "action"}
    (home / "features.json").write_text(json.dumps(features_json(steps, EPISODE)))
    with pytest.raises(UserError, match=r"is not RT-1 .* gs://gresearch/robotics/fractal"):
        load(root)
