"""Laws of the miniatures of robot datasets: one world, the same bytes, official layouts."""

import io
import json
from pathlib import Path

import av
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from handloom.errors import UserError
from handloom.stages.miniatures import hdf5, lerobot
from handloom.stages.miniatures.people.objects import COLORS
from handloom.stages.miniatures.robots.views import static_camera, static_view, wrist_view
from handloom.stages.miniatures.robots.world import INNER_HZ, make_episode, resample
from tests.helpers.bridge_layouts import write_numpy
from tests.helpers.folders import sums
from tests.helpers.miniatures import WRITERS, Written, writer

FOLDERS = {
    "rt1": "fractal20220817_data",
    "bridge": "bridge_dataset",
    "bridge_openx": "bridge",
    "bridge_raw": "bridgedata_raw",
    "bridge_numpy": "bridgedata_numpy",
    "rlds": "my_robot",
    "calvin": "task_D_D",
    "hdf5": "robomimic",
    "lerobot": "v2.1",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return writer(tmp_path_factory)


# The world.


def test_objects_move_with_the_closed_gripper_and_only_then() -> None:
    outcomes = set()
    for index in range(12):
        world = make_episode(0, index)
        low, high = world.poses[:, :3].min(axis=0), world.poses[:, :3].max(axis=0)
        assert (low > (0.2, -0.25, 0.0)).all()
        assert (high < (0.65, 0.25, 0.4)).all()
        assert np.abs(np.diff(world.poses[:, :3], axis=0)).max() < 0.03
        assert (world.places[:, 1:] == world.places[:1, 1:]).all()
        carried = world.places[:, 0, 2] > 0.02
        if world.task == "pick" and world.success:
            offset = world.poses[carried, :3] - world.places[carried, 0, :3]
            assert np.ptp(offset, axis=0).max() < 1e-9
            assert (world.targets[carried] == 0).all()
        outcomes.add((world.task, world.success))
    assert outcomes == {(task, success) for task in ("pick", "push", "put") for success in (0, 1)}


def test_instructions_come_true() -> None:
    for index in range(24):
        world = make_episode(3, index)
        start, end = world.places[0, 0], world.places[-1, 0]
        words = world.instruction.split()
        if words[0] == "push":
            side = 1 if words[-1] == "left" else -1
            assert (side * (end[1] - start[1]) > 0.08) == world.success
        elif words[0] == "put":
            near = np.linalg.norm(end[:2] - world.places[0, 1, :2]) < 0.03
            assert near == world.success
        else:
            assert (end[2] > 0.1) == world.success
        assert world.props[0].name in world.instruction


def test_other_rates_are_the_same_motion() -> None:
    world = make_episode(0, 1)
    tenth = resample(world, 10)
    assert np.allclose(tenth.poses, world.poses[::3])
    assert np.allclose(resample(world, INNER_HZ).poses, world.poses)
    fast = resample(world, 50)
    assert abs((len(fast) - 1) / 50 - (len(world) - 1) / 30) < 1 / 50
    assert np.abs(fast.poses[:, 3]).max() <= np.pi + 1e-9  # roll crosses the wrap, safely
    assert np.abs(np.diff(np.unwrap(fast.poses[:, 3]))).max() < 0.05


def test_pictures_show_each_object_where_it_stands() -> None:
    seen = 0
    for index in range(6):
        world = resample(make_episode(0, index), 2)
        picture = next(static_view(world, (200, 200))).astype(float)
        camera = static_camera((200, 200))
        for prop, place in zip(world.props, world.places[0], strict=True):
            share = 0.0 if prop.kind == "can" else 0.5  # a can has a white label
            middle = place[:3] + np.array([0, 0, share * prop.height])
            ((x, y),), _ = camera.project(middle[None])
            shown = picture[int(y), int(x)]
            wanted = np.asarray(COLORS[prop.color], float)
            cosine = shown @ wanted / np.linalg.norm(shown) / np.linalg.norm(wanted)
            seen += cosine > 0.97
    assert seen >= 17  # of 18: the arm may hide one


def test_the_wrist_camera_moves_with_the_gripper() -> None:
    world = resample(make_episode(0, 0), 3)
    wrist = np.stack(list(wrist_view(world, (84, 84)))).astype(float)
    static = np.stack(list(static_view(world, (84, 84)))).astype(float)
    moved = [(np.abs(np.diff(views, axis=0)).max(axis=3) > 6).mean() for views in (wrist, static)]
    assert moved[0] > 1.5 * moved[1] > 0
    held = wrist[-1, 40:60, 34:50].reshape(-1, 3).mean(axis=0)  # what is held stays in the middle
    assert held.argmax() == 1
    assert world.instruction == "pick up the green block"


# Folders.


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("calvin",) else pytest.mark.slow) for n in FOLDERS]
)
def test_the_same_arguments_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    write, folder = WRITERS[name], FOLDERS[name]
    write(tmp_path / "a", clips=1, seed=5)
    write(tmp_path / "b", clips=1, seed=5)
    assert sums(tmp_path / "a") == sums(tmp_path / "b")
    assert (tmp_path / "a" / folder).is_dir()
    extra = tmp_path / "a" / folder / "note.txt"
    extra.write_text("mine")
    write(tmp_path / "a", clips=1, seed=5)  # finished: left alone
    assert extra.exists()


def test_an_unfinished_folder_is_written_anew(tmp_path: Path) -> None:
    write_numpy(tmp_path, clips=1)
    whole = sums(tmp_path)
    (tmp_path / ".complete.json").unlink()
    (tmp_path / "bridgedata_numpy/left_over.npy").write_text("")
    write_numpy(tmp_path, clips=1)
    assert sums(tmp_path) == whole
    write_numpy(tmp_path, clips=1, seed=1)
    assert sums(tmp_path) != whole


@pytest.mark.parametrize("name", FOLDERS)
def test_a_real_dataset_is_not_overwritten(name: str, tmp_path: Path) -> None:
    write, folder = WRITERS[name], FOLDERS[name]
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "real").write_text("data")
    with pytest.raises(UserError, match="not a miniature"):
        write(tmp_path, clips=1)
    assert sorted(p.name for p in tmp_path.rglob("*")) == sorted([folder, "real"])


# CALVIN.


@pytest.mark.long
def test_calvin_frames_hold_the_next_pose_as_action(written: Written) -> None:
    folder = written("calvin") / "task_D_D/training"
    bounds = np.load(folder / "ep_start_end_ids.npy")
    assert bounds[0, 0] > 0
    assert (np.load(folder / "ep_lens.npy") == bounds[:, 1] - bounds[:, 0] + 1).all()
    gaps = bounds[1:, 0] - bounds[:-1, 1]
    assert gaps[0] == 1
    assert gaps[1] > 100
    there = {int(path.stem[8:]) for path in folder.glob("episode_*.npz")}
    expected = {i for first, last in bounds for i in range(first, last + 1)}
    assert len(expected - there) == 1
    assert not there - expected
    assert {len(path.name) for path in folder.glob("episode_*.npz")} == {len("episode_0000123.npz")}
    frames = [
        dict(np.load(folder / f"episode_{i:07d}.npz")) for i in range(bounds[0, 0], bounds[0, 1])
    ]
    assert {name: (value.shape, str(value.dtype)) for name, value in frames[0].items()} == {
        "rgb_static": ((200, 200, 3), "uint8"), "rgb_gripper": ((84, 84, 3), "uint8"),
        "rgb_tactile": ((160, 120, 6), "uint8"), "depth_static": ((200, 200), "float32"),
        "depth_gripper": ((84, 84), "float32"), "depth_tactile": ((160, 120, 2), "float32"),
        "actions": ((7,), "float64"), "rel_actions": ((7,), "float64"),
        "robot_obs": ((15,), "float64"), "scene_obs": ((24,), "float64"),
    }  # fmt: skip
    seen, told, relative = (np.stack([f[k] for f in frames])
                            for k in ("robot_obs", "actions", "rel_actions"))  # fmt: skip
    assert (told[:-1, :6] == seen[1:, :6]).all()
    assert (told[:-1, 6] == seen[1:, 14]).all()
    assert np.abs(relative).max() <= 1
    moved = np.clip(told[:, :3] - seen[:, :3], -0.02, 0.02)
    assert np.allclose(relative[:, :3] * 0.02, moved)
    turned = (told[:, 3:6] - seen[:, 3:6] + np.pi) % (2 * np.pi) - np.pi
    assert np.allclose(relative[:, 3:6] * 0.05, np.clip(turned, -0.05, 0.05))
    assert (np.abs(relative[:, 6]) == 1).all()


@pytest.mark.long
def test_calvin_windows_overlap_and_one_crosses_the_hole(written: Written) -> None:
    folder = written("calvin") / "task_D_D/training"
    told = np.load(folder / "lang_annotations/auto_lang_ann.npy", allow_pickle=True).item()
    windows, bounds = told["info"]["indx"], np.load(folder / "ep_start_end_ids.npy")
    assert len(windows) == len(told["language"]["ann"]) == len(told["language"]["task"])
    assert told["language"]["emb"].shape[:2] == (len(windows), 1)
    crossing = [w for w in windows if not any(a <= w[0] and w[1] <= b for a, b in bounds)]
    assert len(crossing) == 1
    assert windows[0][1] > windows[1][0]
    scene = np.load(folder / "scene_info.npy", allow_pickle=True).item()
    assert scene == {"calvin_scene_D": (bounds[0, 0], bounds[-1, 1])}
    assert (folder.parent / "validation/lang_annotations/embeddings.npy").is_file()


# HDF5.


@pytest.mark.long
def test_robomimic_files(written: Written) -> None:
    home = written("hdf5") / "robomimic/lift/ph"
    with h5py.File(home / "image_v15.hdf5") as file:
        demos = file["data"]
        assert list(demos) == ["demo_0", "demo_1", "demo_10"]
        assert json.loads(demos.attrs["env_args"])["env_kwargs"]["control_freq"] == 20
        lengths = [len(demo["actions"]) for demo in demos.values()]
        pictures = [len(demo["obs/agentview_image"]) for demo in demos.values()]
        # The conversion of the last one was interrupted.
        assert [a - b for a, b in zip(lengths, pictures, strict=True)] == [0, 0, 4]
        assert demos.attrs["total"] == sum(lengths)
        masked = [*file["mask/train"][()], *file["mask/valid"][()]]
        assert {name.decode() for name in masked} == set(demos)
        demo = demos["demo_0"]
        place, next_place = (demo[f"{of}/robot0_eef_pos"][:] for of in ("obs", "next_obs"))
        assert np.allclose(place + demo["actions"][:, :3] * 0.05, next_place)
        quaternions = (demo[f"{of}/robot0_eef_quat"][:] for of in ("obs", "next_obs"))
        here, there = map(Rotation.from_quat, quaternions)
        turned = Rotation.from_rotvec(demo["actions"][:, 3:6] * 0.5)
        assert (turned * here * there.inv()).magnitude().max() < 1e-6
    with h5py.File(home / "demo_v15.hdf5") as file:
        assert set(file["data/demo_0"]) == {"actions", "dones", "rewards", "states"}


@pytest.mark.long
def test_libero_observes_after_acting_upside_down(written: Written) -> None:
    paths = sorted((written("hdf5") / "libero_spatial").glob("*_demo.hdf5"))
    assert len(paths) == 2
    for path, index in zip(paths, hdf5.LIBERO_EPISODES, strict=True):
        world = hdf5.make_demos(0, index, 1)[0]
        with h5py.File(path) as file:
            demo = file["data/demo_0"]
            told = json.loads(file["data"].attrs["problem_info"])["language_instruction"]
            assert "".join(told).strip('"').replace(" ", "_") + "_demo.hdf5" == path.name
            place, action = demo["obs/ee_pos"][:], demo["actions"][:]
            assert len(place) == len(action) == len(world) - 1 - 5
            assert np.allclose(place[:-1] + 0.05 * action[1:, :3], place[1:])
            assert np.allclose(place, world.poses[6:, :3])
            upright = list(static_view(world, (128, 128)))[6]
            assert (demo["obs/agentview_rgb"][0][::-1, ::-1] == upright).all()
            assert (demo["rewards"][-1], demo["rewards"][:-1].any()) == (1, False)


@pytest.mark.long
def test_aloha_files(written: Written) -> None:
    home = written("hdf5") / "sim_transfer"
    with h5py.File(home / "episode_0.hdf5") as file:
        assert file["action"].shape == file["observations/qpos"].shape
        assert (file["action"].shape[1], file["action"].dtype) == (14, np.float32)
        assert file["observations/images/top"].ndim == 4
    with h5py.File(home / "episode_1.hdf5") as file:
        for number, camera in enumerate(("top", "right_wrist")):
            rows = file[f"observations/images/{camera}"][:]
            lengths = file["compress_len"][number].astype(int)
            assert not any(row[n:].any() for row, n in zip(rows, lengths, strict=True))
            picture = Image.open(io.BytesIO(rows[-1].tobytes()))
            assert picture.size == (160, 120)
    with pytest.raises(OSError, match="truncated"):
        h5py.File(home / "episode_2.hdf5")


# LeRobot.


@pytest.mark.long
def test_lerobot_v21_has_a_file_per_episode_and_accidents(written: Written) -> None:
    home = written("lerobot") / "v2.1"
    info = json.loads((home / "meta/info.json").read_text())
    assert info["total_episodes"] == 4
    lines = (home / "meta/episodes.jsonl").read_text().splitlines()
    lengths = [json.loads(line)["length"] for line in lines[:-1]]
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[-1])
    row = 0
    for number, length in enumerate(lengths):
        rows = pq.read_table(home / info["data_path"].format(episode_chunk=0, episode_index=number))
        assert str(rows.schema.field("action").type).startswith("fixed_size_list<")
        assert rows["frame_index"].to_pylist() == list(range(length))
        assert rows["index"].to_pylist() == list(range(row, row + length))
        row += length
    videos = {path.parent.name[19:] + path.stem[-1]: path for path in home.rglob("*.mp4")}
    assert set(videos) == {"front0", "front1", "front2", "front3", "wrist0", "wrist2", "wrist3"}
    assert videos["wrist2"].read_bytes().startswith(b"version https://git-lfs")
    assert len(videos["wrist2"].read_bytes()) < 200


@pytest.mark.long
def test_lerobot_v30_joins_episodes(written: Written) -> None:
    home = written("lerobot") / "v3.0"
    info = json.loads((home / "meta/info.json").read_text())
    table = pq.read_table(home / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    tasks = pq.read_table(home / "meta/tasks.parquet")
    assert tasks.column_names == ["task_index", "__index_level_0__"]
    assert [len(row["tasks"]) for row in table] == [1, 2, 1, 1]
    inexact = 0
    for camera in lerobot.CAMERAS:
        ends: dict[int, float] = {}
        for row in table:
            start, end = (row[f"videos/{camera}/{at}_timestamp"] for at in ("from", "to"))
            assert start == ends.get(row[f"videos/{camera}/file_index"], 0.0)
            ends[row[f"videos/{camera}/file_index"]] = end
            frames = (end - start) * info["fps"]
            assert abs(frames - row["length"]) < 1e-6
            inexact += frames != row["length"]
        for number, end in ends.items():
            path = info["video_path"].format(video_key=camera, chunk_index=0, file_index=number)
            with av.open(str(home / path)) as video:
                shown = sum(1 for _ in video.decode(video=0))
                assert video.streams.video[0].codec_context.name == "h264"
            assert shown == round(end * info["fps"])
    assert inexact
    kinds = ["data", *(f"videos/{camera}" for camera in lerobot.CAMERAS)]
    files = {tuple(row[f"{kind}/file_index"] for kind in kinds) for row in table}
    assert files == {(0, 0, 0), (0, 1, 0), (1, 1, 0)}
    rows = pq.read_table(home / "data/chunk-000/file-000.parquet")
    assert pq.ParquetFile(home / "data/chunk-000/file-000.parquet").num_row_groups == 3
    second = [t for t, e in zip(rows["task_index"].to_pylist(), rows["episode_index"].to_pylist(),
                                strict=True) if e == 1]  # fmt: skip
    assert len(set(second)) == 2
