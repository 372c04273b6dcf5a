"""Robot demonstrations in HDF5 files: robomimic, robosuite, LIBERO, ALOHA."""

import fcntl
import io
import json
import multiprocessing
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

from handloom.errors import MediaError, UserError
from handloom.stages.datasets import hdf5
from handloom.stages.datasets.source import Episode, EpisodeOptions, SourceEpisode

AUTO = EpisodeOptions()
STORED = EpisodeOptions(action_kind="as_stored")
STEPS = 6

# As robomimic and robosuite 1.4 write it, shortened.
OSC = {
    "type": "OSC_POSE", "input_max": 1, "input_min": -1, "control_delta": True,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
}  # fmt: skip


def environment(name: str = "Lift", **controller: Any) -> dict[str, Any]:
    return {
        "env_name": name,
        "type": 1,
        "env_kwargs": {"control_freq": 20, "controller_configs": OSC | controller},
    }


def pictures(seed: int, steps: int = STEPS) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (steps, 8, 10, 3), np.uint8)


def told(seed: int, arms: int = 1, steps: int = STEPS) -> NDArray[np.float64]:
    values = np.random.default_rng(seed).uniform(-0.9, 0.9, (steps, 7 * arms))
    values[:, 6::7] = np.sign(values[:, 6::7])
    return values


def turned(seed: int, steps: int = STEPS) -> Rotation:
    return Rotation.from_rotvec(np.random.default_rng(seed).uniform(-1, 1, (steps, 3)))


Parts = dict[str, Any]


def robomimic_demo(seed: int, arms: int = 1, steps: int = STEPS) -> Parts:
    parts: Parts = {
        "actions": told(seed, arms, steps),
        "states": np.zeros((steps, 4)),
        "rewards": np.eye(steps)[-1],
        "dones": np.eye(steps)[-1],
        "obs/agentview_image": pictures(seed, steps),
        "obs/robot0_eye_in_hand_image": pictures(seed + 1, steps),
        "obs/agentview_depth": np.zeros((steps, 8, 10, 1), np.float32),
        "obs/normals": np.zeros((steps, 8, 10, 3), np.float32),
        "obs/object": np.zeros((steps, 10)),
    }
    for arm in range(arms):
        parts[f"obs/robot{arm}_eef_pos"] = told(seed + arm, 1, steps)[:, :3]
        parts[f"obs/robot{arm}_eef_quat"] = turned(seed + arm, steps).as_quat()
        parts[f"obs/robot{arm}_gripper_qpos"] = np.tile([0.04, -0.04], (steps, 1))
    return parts


def libero_demo(seed: int) -> Parts:
    return {
        "actions": told(seed),
        "states": np.zeros((STEPS, 4)),
        "rewards": np.eye(STEPS, dtype=np.uint8)[-1],
        "dones": np.eye(STEPS, dtype=np.uint8)[-1],
        "obs/agentview_rgb": pictures(seed),
        "obs/eye_in_hand_rgb": pictures(seed + 1),
        "obs/ee_pos": told(seed)[:, :3],
        "obs/ee_ori": turned(seed).as_rotvec(),
        "obs/gripper_states": np.tile([0.02, -0.02], (STEPS, 1)),
    }


LIBERO: Parts = {
    "env_args": json.dumps(environment("Libero_Kitchen")),
    "problem_info": json.dumps({"language_instruction": "turn on the stove"}),
    "bddl_file_name": "kitchen.bddl",
    "macros_image_convention": "opengl",
    "tag": "libero-v1",
}


def write(path: Path, demos: dict[str, Parts], attributes: Parts | None = None) -> Path:
    """A file of demonstrations; by default with robomimic's attributes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    default = {"env_args": json.dumps(environment()), "total": 1}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs.update(default if attributes is None else attributes)
        for name, parts in demos.items():
            for where, values in parts.items():
                data[f"{name}/{where}"] = values
    return path


def aloha(path: Path, seed: int = 0, width: int = 14, **parts: Any) -> Path:
    rng = np.random.default_rng(seed)
    found: Parts = {
        "action": rng.normal(size=(STEPS, width)).astype(np.float32),
        "observations/qpos": rng.normal(size=(STEPS, width)).astype(np.float32),
        "observations/images/cam_left_wrist": pictures(seed),
        "observations/images/cam_high": pictures(seed + 1),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for where, values in (found | parts).items():
            if values is not None:
                file[where] = values
    return path


def listed(root: Path) -> list[SourceEpisode]:
    return list(hdf5.episodes(root, AUTO))


def loaded(root: Path, options: EpisodeOptions = AUTO) -> Episode:
    (source,) = listed(root)
    assert (source.reason, source.error) == ("", "")
    return hdf5.load(root, source, options)


def seen(episode: Episode, camera: str) -> NDArray[np.uint8]:
    return np.stack([episode.views[camera][i] for i in range(len(episode.views[camera]))])


def refused(root: Path, options: EpisodeOptions = AUTO) -> str:
    """What loading the one demonstration says."""
    with pytest.raises(MediaError) as caught:
        loaded(root, options)
    assert str(root) not in str(caught.value)
    return str(caught.value)


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
    assert success(np.zeros(STEPS), last) is False  # done is any last step
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


# ALOHA


def jpegs(seed: int, length: int = 4096) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """JPEG rows padded with zeros [T, length], and what they show."""
    rows, shown = np.zeros((STEPS, length), np.uint8), []
    for i, picture in enumerate(pictures(seed)):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=50)
        rows[i, : file.tell()] = np.frombuffer(file.getvalue(), np.uint8)
        shown.append(np.asarray(Image.open(file).convert("RGB")))
    return rows, np.stack(shown)


def test_aloha(tmp_path: Path) -> None:
    path = aloha(tmp_path / "open_the_cup/episode_3.hdf5", base_action=np.zeros((STEPS, 2)))
    episode = loaded(tmp_path)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(episode.action, file["action"][()])
        np.testing.assert_array_equal(episode.state, file["observations/qpos"][()])
    assert (episode.action_kind, episode.hz, episode.success) == ("joints", 50, None)
    assert (episode.text, loaded(tmp_path, EpisodeOptions(text="b")).text) == ("open the cup", "b")
    assert episode.flags == ("text_from_folder", "base_action_left_out")
    assert list(episode.views) == ["cam_high", "cam_left_wrist"]
    np.testing.assert_array_equal(seen(episode, "cam_high"), pictures(1))
    swapped = loaded(tmp_path, EpisodeOptions(bgr=True, views=("cam_high",), hz=25))
    np.testing.assert_array_equal(seen(swapped, "cam_high"), pictures(1)[..., ::-1])
    assert (list(swapped.views), swapped.hz) == (["cam_high"], 25)


def test_compressed_aloha_is_told_by_the_number_of_axes(tmp_path: Path) -> None:
    rows, shown = jpegs(7)
    lengths = np.zeros((1, STEPS), np.float32)  # not used: a JPEG tells where it ends
    aloha(tmp_path / "a/episode_0.hdf5", compress_len=lengths, **{
        "observations/images/cam_high": rows, "observations/images/cam_left_wrist": None,
    })  # fmt: skip
    episode = loaded(tmp_path)
    np.testing.assert_array_equal(seen(episode, "cam_high"), shown)
    np.testing.assert_array_equal(  # it is for pictures stored uncompressed
        seen(loaded(tmp_path, EpisodeOptions(bgr=True)), "cam_high"), shown
    )
    print_of = episode.views["cam_high"].fingerprint
    assert print_of(0) == bytes(rows[0]).rstrip(b"\0") != print_of(1)


def test_aloha_that_does_not_fit_together(tmp_path: Path) -> None:
    path = tmp_path / "a/episode_0.hdf5"
    aloha(path, **{"observations/qpos": np.zeros((STEPS - 1, 14))})
    assert "has 5 states for 6 actions" in refused(tmp_path)
    aloha(path, **{"observations/images/cam_high": pictures(0, 4)})
    assert "has 4 pictures for 6 actions" in refused(tmp_path)
    aloha(path, width=16)
    assert loaded(tmp_path).action_kind == "as_stored"
    assert "expected 7 for each arm" in refused(tmp_path, EpisodeOptions(action_kind="ee_delta"))
    assert "expected top; see --ingest.views" in refused(tmp_path, EpisodeOptions(views=("top",)))
    aloha(path, **{f"observations/images/{x}": None for x in ("cam_high", "cam_left_wrist")})
    assert [s.reason for s in listed(tmp_path)] == ["no_pictures"]


# The container


def test_identity_is_the_content(tmp_path: Path) -> None:
    """Neither the file's name, nor the number, nor how it is stored."""
    write(tmp_path / "a/x.hdf5", {"demo_1": robomimic_demo(1), "demo_2": robomimic_demo(2)})
    one, two = (hdf5.load(tmp_path / "a", s, AUTO) for s in listed(tmp_path / "a"))
    write(tmp_path / "b/y.h5", {"demo_7": robomimic_demo(1)})
    same = loaded(tmp_path / "b", STORED)
    assert one.episode_id == same.episode_id != two.episode_id


def test_files_that_do_not_open_cost_only_themselves(tmp_path: Path) -> None:
    good = write(tmp_path / "good.hdf5", {"demo_0": robomimic_demo(1)})
    whole = good.read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.hdf5").touch()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    with h5py.File(tmp_path / "void.h5", "w") as file:
        file.create_group("data")
    found = {s.media_path: s for s in listed(tmp_path)}
    assert "truncated file: eof" in found["cut.hdf5"].error
    assert "does not open as HDF5" in found["empty.hdf5"].error
    assert found["other.h5"].reason == "unknown_layout"
    assert found["void.h5"].reason == "no_episodes"
    assert not any(str(tmp_path) in s.error for s in found.values())
    assert hdf5.load(tmp_path, found["good.hdf5"], AUTO).action.shape == (STEPS, 7)
    with pytest.raises(UserError, match=r"no \.hdf5 or \.h5 file.*robomimic"):
        list(hdf5.episodes(tmp_path / "nowhere", AUTO))


@contextmanager
def another_user() -> Iterator[None]:
    """Not root, to whom no file is closed."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_closed_and_locked_files() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        os.chmod(folder, 0o755)
        root = Path(folder)
        path = write(root / "a.hdf5", {"demo_0": robomimic_demo(1)})
        with path.open("rb") as file:  # as a writer on a network disk leaves it
            fcntl.flock(file, fcntl.LOCK_EX)
            assert len(loaded(root).action) == STEPS
        path.chmod(0o000)
        with another_user():
            (source,) = listed(root)
        assert "may not be read by this user" in source.error


def linked(path: Path, make: Any) -> None:
    """A demonstration whose agentview_image is what `make` puts there."""
    demo = robomimic_demo(1)
    stored = demo.pop("obs/agentview_image")
    write(path, {"demo_0": demo})
    with h5py.File(path, "a") as file:
        make(file, file["data/demo_0/obs"], stored)


def test_links_within_the_file_are_followed_and_others_are_not(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/secret.hdf5", {"demo_0": robomimic_demo(5)})
    secret = str(tmp_path / "elsewhere/secret.hdf5")
    root = tmp_path / "root"

    def soft(file: Any, obs: Any, stored: Any) -> None:
        file["kept/pictures"] = stored
        obs["agentview_image"] = h5py.SoftLink("/kept/pictures")

    linked(root / "a.hdf5", soft)
    np.testing.assert_array_equal(seen(loaded(root), "agentview_image"), pictures(1))

    def external(file: Any, obs: Any, stored: Any) -> None:
        obs["agentview_image"] = h5py.ExternalLink(secret, "data/demo_0/obs/agentview_image")

    def soft_then_external(file: Any, obs: Any, stored: Any) -> None:
        file["kept"] = h5py.ExternalLink(secret, "data/demo_0/obs")
        obs["agentview_image"] = h5py.SoftLink("/kept/agentview_image")

    def group(file: Any, obs: Any, stored: Any) -> None:
        del file["data"]
        file["data"] = h5py.ExternalLink(secret, "data")

    for make in (external, soft_then_external, group):
        linked(root / "a.hdf5", make)
        (source,) = listed(root)
        assert "is a link into another file" in source.error

    def circle(file: Any, obs: Any, stored: Any) -> None:
        obs["agentview_image"] = h5py.SoftLink("/data/demo_0/obs/agentview_image")

    linked(root / "a.hdf5", circle)
    assert list(loaded(root).views) == ["robot0_eye_in_hand_image"]


def test_data_that_lies_in_other_files_is_not_read(tmp_path: Path) -> None:
    shape = (STEPS, 8, 10, 3)
    (tmp_path / "raw").write_bytes(bytes(STEPS * 240))

    def raw(file: Any, obs: Any, stored: Any) -> None:
        place = [(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]
        obs.create_dataset("agentview_image", shape, np.uint8, external=place)

    def virtual(file: Any, obs: Any, stored: Any) -> None:
        layout = h5py.VirtualLayout(shape, np.uint8)
        layout[:] = h5py.VirtualSource(str(tmp_path / "x.hdf5"), "x", shape)
        obs.create_virtual_dataset("agentview_image", layout)

    for make in (raw, virtual):
        linked(tmp_path / "root/a.hdf5", make)
        assert "keeps its data in other files" in refused(tmp_path / "root")


def test_filters_that_need_a_plugin_are_named(tmp_path: Path) -> None:
    def blosc(file: Any, obs: Any, stored: Any) -> None:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk(stored.shape)
        plan.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (0,))
        space = h5py.h5s.create_simple(stored.shape)
        kind = h5py.h5t.NATIVE_UINT8
        made = h5py.h5d.create(obs.id, b"agentview_image", kind, space, plan)
        made.write_direct_chunk((0, 0, 0, 0), b"not what zlib would write", 0)

    linked(tmp_path / "a.hdf5", blosc)
    assert "compressed with blosc (filter 32001)" in refused(tmp_path)


@pytest.mark.parametrize(
    "options", [{"compression": "gzip"}, {"compression": "lzf"}, {"chunks": (1, 8, 10, 3)}]
)
def test_compressed_and_chunked_pictures(tmp_path: Path, options: Parts) -> None:
    linked(tmp_path / "a.hdf5", lambda file, obs, stored: obs.create_dataset(
        "agentview_image", data=stored, **options))  # fmt: skip
    np.testing.assert_array_equal(seen(loaded(tmp_path), "agentview_image"), pictures(1))


def test_a_damaged_chunk_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    linked(path, lambda file, obs, stored: obs.create_dataset(
        "agentview_image", data=stored, compression="gzip", chunks=stored.shape))  # fmt: skip
    with h5py.File(path) as file:
        chunk = file["data/demo_0/obs/agentview_image"].id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * 64)
    with pytest.raises(MediaError, match="agentview_image cannot be read"):
        seen(loaded(tmp_path), "agentview_image")


def test_sizes_are_checked_before_anything_is_allocated(tmp_path: Path) -> None:
    huge = 10**9
    for where, shape, chunks, message in (
        ("actions", (huge, 7), (1000, 7), "claims 1000000000 steps"),
        ("actions", (STEPS, huge), (1, 1000), "expected numbers that fit into 256 MB"),
        ("obs/agentview_image", (STEPS, huge, huge, 3), (1, 8, 8, 3), "MB for each step"),
        ("obs/agentview_image", (STEPS, 20_000, 20_000, 3), (1, 20_000, 20_000, 3), "in chunks of"),
    ):
        demo = robomimic_demo(1)
        del demo[where]
        path = write(tmp_path / "a.hdf5", {"demo_0": demo})
        with h5py.File(path, "a") as file:
            file["data/demo_0"].create_dataset(where, shape, np.uint8, chunks=chunks)
        assert path.stat().st_size < 1 << 20
        assert message in refused(tmp_path)


def test_long_recordings_are_read_in_blocks_in_any_order(tmp_path: Path) -> None:
    many = np.random.default_rng(0).integers(0, 256, (40, 480, 640, 3), np.uint8)
    parts = {"action": np.zeros((40, 14)), "observations/qpos": np.zeros((40, 14))}
    parts["observations/images/cam_left_wrist"] = None
    aloha(tmp_path / "a.hdf5", **parts, **{"observations/images/cam_high": many})
    shown = loaded(tmp_path).views["cam_high"]
    for step in (39, 0, 8, 9, 10, 1, 30):
        np.testing.assert_array_equal(shown[step], many[step])
    assert len(pickle.dumps(shown)) < 40 * many[0].nbytes / 2
    assert shown.fingerprint(1) != shown.fingerprint(2)


def fingerprints(pictures: Any) -> list[bytes]:
    return [pictures.fingerprint(i) for i in range(len(pictures))]


def test_pictures_cross_a_fork(tmp_path: Path) -> None:
    aloha(tmp_path / "a.hdf5")
    shown = loaded(tmp_path).views["cam_high"]
    before = fingerprints(shown)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(fingerprints, [shown] * 4) == [before] * 4


def test_a_file_rewritten_meanwhile_is_noticed(tmp_path: Path) -> None:
    aloha(tmp_path / "a.hdf5")
    shown = loaded(tmp_path).views["cam_high"]
    aloha(tmp_path / "a.hdf5", **{"observations/images/cam_high": pictures(0, 3)})
    with pytest.raises(MediaError, match="was rewritten"):
        shown[0]
    shutil.rmtree(tmp_path)
    with pytest.raises(MediaError, match="does not open"):
        shown[0]
