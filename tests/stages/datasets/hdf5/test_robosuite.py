"""Demonstrations of robomimic, robosuite and LIBERO in handloom's convention."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from handloom.stages.datasets.hdf5 import adapter as hdf5
from tests.helpers.hdf5_files import (
    LIBERO,
    OSC,
    STEPS,
    STORED,
    environment,
    libero_demo,
    listed,
    loaded,
    pictures,
    refused,
    robomimic_demo,
    seen,
    told,
    turned,
    write,
)

# robomimic and robosuite


def test_robomimic_in_handlooms_convention(tmp_path: Path) -> None:
    demo = robomimic_demo(1)
    demo["actions"][0, :6] = 3.75  # a space mouse; the controller clips
    write(tmp_path / "lift.hdf5", {"demo_0": demo})
    episode = loaded(tmp_path)
    clipped = demo["actions"].clip(-1, 1)
    np.testing.assert_allclose(episode.action[:, :3], clipped[:, :3] * 0.05, rtol=1e-6)
    np.testing.assert_allclose(episode.action[:, 3:6], clipped[:, 3:6] * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(episode.action[:, 6] == 1, clipped[:, 6] == -1)  # -1 is open
    assert set(episode.action[:, 6]) <= {0.0, 1.0}
    np.testing.assert_allclose(episode.state[:, :3], demo["obs/robot0_eef_pos"], rtol=1e-6)
    again = Rotation.from_euler("xyz", episode.state[:, 3:6])
    assert (again * turned(1).inv()).magnitude().max() < 1e-6
    np.testing.assert_allclose(episode.state[:, 6], 1.0)  # 4 cm each way: wide open
    assert (episode.hz, episode.action_kind, episode.success) == (20, "ee_delta", True)
    assert (episode.text, episode.flags) == (
        "lift the red cube", ("text_from_task_name", "actions_clipped"),
    )  # fmt: skip
    assert list(episode.views) == ["agentview_image", "robot0_eye_in_hand_image"]
    for camera in episode.views:
        np.testing.assert_array_equal(seen(episode, camera), demo[f"obs/{camera}"])


def test_demonstrations_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    demos = {f"demo_{n}": robomimic_demo(n) for n in (10, 2, 1, 30)}
    path = write(tmp_path / "a.hdf5", demos | {"other": {"x": np.zeros(1)}})
    with h5py.File(path, "a") as file:
        for mask, names in (("train", ["demo_1", "demo_2"]), ("valid", ["demo_2", "demo_10"])):
            file[f"mask/{mask}"] = np.array(names, "S8")
        file["mask/20_percent"] = np.array(["demo_30"], "S8")
    found = listed(tmp_path)
    assert [s.unit for s in found] == [f"a.hdf5#demo_{n}" for n in (1, 2, 10, 30)]
    assert [s.place for s in found] == [(1,), (2,), (10,), (30,)]
    assert [s.split for s in found] == ["train", "val", "val", ""]
    for source in found:
        action = hdf5.load(tmp_path, source, STORED).action
        np.testing.assert_array_equal(
            action, demos[f"demo_{source.place[0]}"]["actions"].astype("f4")
        )


def test_two_arms(tmp_path: Path) -> None:
    demo = robomimic_demo(3, arms=2)
    write(tmp_path / "a.hdf5", {"demo_0": demo}, {"env_args": json.dumps(environment("Other"))})
    episode = loaded(tmp_path)
    assert (episode.action.shape, episode.state.shape) == ((STEPS, 14), (STEPS, 14))
    np.testing.assert_allclose(episode.action[:, 7:10], demo["actions"][:, 7:10] * 0.05, rtol=1e-6)
    np.testing.assert_allclose(episode.state[:, 7:10], demo["obs/robot1_eef_pos"], rtol=1e-6)
    # A robot with two arms, as robosuite 1.5 writes it: right before left.
    for arm, side in enumerate(("right", "left")):
        for key in ("eef_pos", "eef_quat", "gripper_qpos"):
            demo[f"obs/robot0_{side}_{key}"] = demo.pop(f"obs/robot{arm}_{key}")
    body = {"right": OSC | {"output_max": [0.1] * 6, "output_min": [-0.1] * 6}, "left": OSC}
    env = {"env_kwargs": {"control_freq": 10, "controller_configs": {"body_parts": body}}}
    write(tmp_path / "a.hdf5", {"demo_0": demo}, {"env_args": json.dumps(env)})
    other = loaded(tmp_path)
    np.testing.assert_array_equal(other.state, episode.state)
    np.testing.assert_allclose(other.action[:, :6], demo["actions"][:, :6] * 0.1, rtol=1e-6)
    np.testing.assert_array_equal(other.action[:, 7:], episode.action[:, 7:])
    assert (other.hz, other.text) == (10, "")


def test_files_without_pictures_are_left_out(tmp_path: Path) -> None:
    raw = {"actions": told(0), "states": np.zeros((STEPS, 32))}
    info = {"date": "11-16-2022", "env": "Lift", "env_info": "{}"}
    write(tmp_path / "demo.hdf5", {"demo_1": raw, "demo_2": raw}, info)
    low = {k: v for k, v in robomimic_demo(0).items() if "image" not in k}
    write(tmp_path / "low_dim.hdf5", {"demo_0": low})
    assert [s.reason for s in listed(tmp_path)] == ["no_pictures"] * 3


def test_attributes_may_be_bytes_or_encoded_twice(tmp_path: Path) -> None:
    once = json.dumps(environment(output_max=[0.1] * 6, output_min=[-0.1] * 6))
    demo = robomimic_demo(1)
    for stored in (once, np.bytes_(once.encode()), json.dumps(once), np.array([once], "O")):
        write(tmp_path / "a.hdf5", {"demo_0": demo}, {"env_args": stored, "tag": [1, 2]})
        action = loaded(tmp_path).action
        np.testing.assert_allclose(action[:, :6], demo["actions"][:, :6] * 0.1, rtol=1e-6)


def test_actions_that_are_no_deltas_are_refused_unless_taken_as_they_are(tmp_path: Path) -> None:
    demo = robomimic_demo(1)
    narrow = demo | {"actions": told(1)[:, :4]}
    for args, parts, message in (
        (environment(control_delta=False), demo, "has absolute actions"),
        ({"env_kwargs": {"controller_configs": {"output_max": 1, "type": "OSC_POSE",
          "input_type": "absolute", "output_min": -1, "input_max": 1, "input_min": -1}}},
         demo, "has absolute actions"),
        (environment(type="JOINT_POSITION"), demo, "names the controller JOINT_POSITION"),
        (environment(input_max=-1), demo, "limits are damaged"),
        (environment(output_max="a"), demo, "limits are damaged"),
        ({}, demo, "names the controller nowhere"),
        (environment(), narrow, "has 4 values an action"),
        ({"env_kwargs": {"controller_configs": [OSC] * 3}}, demo, "3 controllers for 1 arms"),
    ):  # fmt: skip
        write(tmp_path / "a.hdf5", {"demo_0": parts}, {"env_args": json.dumps(args)})
        assert message in (said := refused(tmp_path))
        assert "--ingest.action-kind as_stored" in said
        episode = loaded(tmp_path, STORED)
        np.testing.assert_array_equal(episode.action, parts["actions"].astype("f4"))
        assert (episode.action_kind, episode.state.shape) == ("as_stored", (STEPS, 9))


def test_grippers_and_orientations_that_are_not_known(tmp_path: Path) -> None:
    demo = robomimic_demo(1)
    demo["obs/robot0_gripper_qpos"] = np.zeros((STEPS, 6))
    write(tmp_path / "a.hdf5", {"demo_0": demo})
    assert "gripper has 6 joints" in refused(tmp_path)
    demo = robomimic_demo(1)
    demo["obs/robot0_eef_quat"][2] = 0
    write(tmp_path / "a.hdf5", {"demo_0": demo})
    assert "no quaternion" in refused(tmp_path)
    demo = robomimic_demo(1)
    demo["actions"][2, 3] = np.nan
    write(tmp_path / "a.hdf5", {"demo_0": demo})
    assert "not finite" in refused(tmp_path)


def test_success_is_the_last_reward(tmp_path: Path) -> None:
    def success(rewards: Any, dones: Any = None) -> bool | None:
        demo = robomimic_demo(1) | {"rewards": rewards, "dones": dones}
        demo = {name: values for name, values in demo.items() if values is not None}
        write(tmp_path / "a.hdf5", {"demo_0": demo})
        return loaded(tmp_path).success

    last = np.eye(STEPS)[-1]
    assert success(last) is True
    assert success(np.zeros(STEPS), last) is None  # done is any last step, and nobody rewarded
    assert success(np.linspace(0, 0.5, STEPS)) is None  # a shaped reward
    assert success(None, last) is None


def test_interrupted_conversions(tmp_path: Path) -> None:
    demo = robomimic_demo(1)
    demo["obs/robot0_eye_in_hand_image"] = pictures(0, STEPS - 1)
    write(tmp_path / "a.hdf5", {"demo_0": demo})
    assert "has 5 pictures for 6 actions" in refused(tmp_path)
    write(tmp_path / "a.hdf5", {"demo_0": robomimic_demo(1) | {"actions": told(1, steps=4)}})
    assert "has 6 observations for 4 actions" in refused(tmp_path)
    demo = robomimic_demo(1)
    del demo["actions"]
    write(tmp_path / "a.hdf5", {"demo_0": demo})
    assert "has no dataset data/demo_0/actions" in refused(tmp_path)


# LIBERO


def test_libero_pairs_each_observation_with_the_next_action(tmp_path: Path) -> None:
    demo = libero_demo(1)
    write(
        tmp_path / "libero_10/KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5", {"demo_0": demo}, LIBERO
    )
    episode = loaded(tmp_path)
    following = demo["actions"][1:]
    np.testing.assert_allclose(episode.action[:-1, :3], following[:, :3] * 0.05, rtol=1e-6)
    np.testing.assert_allclose(episode.action[:-1, 3:6], following[:, 3:6] * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(episode.action[:-1, 6], (1 - following[:, 6]) / 2)
    assert np.abs(episode.action[-1, :6]).max() < 1e-9  # nothing is told after the last one
    assert episode.action[-1, 6] == episode.action[-2, 6]
    assert episode.idle is not None
    assert episode.idle.tolist() == [False] * (STEPS - 1) + [True]
    again = Rotation.from_euler("xyz", episode.state[:, 3:6])
    assert (again * turned(1).inv()).magnitude().max() < 1e-6
    np.testing.assert_allclose(episode.state[:, 6], 0.5)
    assert (episode.text, episode.success) == ("turn on the stove", True)
    assert episode.flags == ("rotated_180", "actions_shifted")
    assert listed(tmp_path)[0].version == "libero-v1"


def test_libero_pictures_are_turned_by_180_degrees(tmp_path: Path) -> None:
    demo = libero_demo(1)
    write(tmp_path / "a_demo.hdf5", {"demo_0": demo}, LIBERO)
    upright = seen(loaded(tmp_path), "agentview_rgb")
    np.testing.assert_array_equal(upright, demo["obs/agentview_rgb"][:, ::-1, ::-1])
    write(
        tmp_path / "a_demo.hdf5", {"demo_0": demo}, LIBERO | {"macros_image_convention": "opencv"}
    )
    episode = loaded(tmp_path)
    np.testing.assert_array_equal(seen(episode, "agentview_rgb"), demo["obs/agentview_rgb"])
    assert "rotated_180" not in episode.flags


def test_regenerated_libero_has_no_attributes_and_is_not_shifted(tmp_path: Path) -> None:
    demo = libero_demo(1)
    write(tmp_path / "LIVING_ROOM_SCENE2_put_both_the_cans_demo.hdf5", {"demo_0": demo}, {})
    episode = loaded(tmp_path)
    np.testing.assert_allclose(episode.action[:, :3], demo["actions"][:, :3] * 0.05, rtol=1e-6)
    assert episode.text == "put both the cans"
    assert episode.flags == ("text_from_file_name", "rotated_180")


def test_steps_without_a_command_are_marked(tmp_path: Path) -> None:
    demo = libero_demo(1)
    demo["actions"][:, 6] = 1
    demo["actions"][2:5, :6] = 0
    demo["actions"][4, 6] = -1  # the gripper opens: that is a command
    write(tmp_path / "a_demo.hdf5", {"demo_0": demo}, {})
    episode = loaded(tmp_path)
    assert episode.idle is not None
    assert episode.idle.tolist() == [False, False, True, True, False, False]
    assert "no_ops" in episode.flags


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        ('"pick up the bowl"', "pick up the bowl"),
        (["pick up", "the bowl"], "pick up the bowl"),
        (list("pick up"), "pick up"),
        ("", "open the drawer"),
        (None, "open the drawer"),
    ],
)
def test_libero_instructions(tmp_path: Path, stored: Any, text: str) -> None:
    attributes = LIBERO | {"problem_info": json.dumps({"language_instruction": stored})}
    write(tmp_path / "open_the_drawer_demo.hdf5", {"demo_0": libero_demo(1)}, attributes)
    assert loaded(tmp_path).text == text


def test_success_that_is_recorded_counts(tmp_path: Path) -> None:
    zeros = np.zeros(STEPS)
    for recorded, found in ((np.eye(STEPS)[-1], True), (zeros, False)):
        demo = robomimic_demo(1) | {"rewards": zeros, "success": recorded}
        path = write(tmp_path / "a.hdf5", {"demo_0": demo})
        assert loaded(tmp_path).success is found
        write(path, {"demo_0": robomimic_demo(1) | {"rewards": zeros}})
        with h5py.File(path, "a") as file:
            file["data/demo_0"].attrs["success"] = bool(recorded.any())
        assert loaded(tmp_path).success is found
