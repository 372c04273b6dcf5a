"""The CALVIN adapter: windows, segments and frames as the dataset's own writer defines them."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.calvin import adapter as calvin
from handloom.stages.datasets.calvin import files as calvin_files
from handloom.stages.datasets.formats import rotations
from handloom.stages.datasets.source import Episode, EpisodeOptions, SourceEpisode

OPTIONS = EpisodeOptions()
Windows = list[tuple[Any, str]]


def poses(ids: Any) -> NDArray[np.float64]:
    """robot_obs of frames: a slow curve whose roll goes across pi, closed from frame 8 on."""
    at = np.asarray(list(ids), np.float64)
    found = np.zeros((len(at), 15))
    found[:, 0], found[:, 1], found[:, 2] = 0.01 * at, 0.3, 0.5 - 0.002 * at
    found[:, 3] = rotations.wrap_angles(np.pi - 0.1 + 0.02 * at)
    found[:, 4], found[:, 5] = 0.2 + 0.01 * at, 0.03 * at
    found[:, 6], found[:, 14] = 0.08, np.where(at < 8, 1.0, -1.0)
    return found


def frame(at: int, dtype: Any = np.float64, closed: float = -1.0) -> dict[str, NDArray[Any]]:
    """The arrays of a frame, as the dataset's writer makes them of this pose and the next."""
    now, following = poses([at, at + 1])
    grip = 1.0 if following[14] > 0 else closed
    moved = np.append(following[:3] - now[:3], rotations.wrap_angles(following[3:6] - now[3:6]))
    unit = np.array([0.02] * 3 + [0.05] * 3)
    robot = now.copy()
    robot[14] = 1.0 if now[14] > 0 else closed
    return {
        "rgb_static": np.full((20, 20, 3), at % 256, np.uint8),
        "rgb_gripper": np.full((8, 8, 3), [at % 256, 1, 2], np.uint8),
        "depth_static": np.zeros((20, 20), np.float32),
        "actions": np.append(following[:6], grip).astype(dtype),
        "rel_actions": np.append(np.clip(moved / unit, -1, 1), grip).astype(dtype),
        "robot_obs": robot.astype(dtype),
        "scene_obs": np.zeros(24, dtype),
    }


def write_frames(folder: Path, ids: Any, name: str = "episode_{:07d}.npz", **kind: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for at in ids:
        save(folder / name.format(at), frame(at, **kind))


def save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    np.savez_compressed(path, allow_pickle=True, **arrays)


def write_windows(folder: Path, windows: Windows, name: str = "lang_annotations") -> Path:
    told = {
        "language": {
            "ann": [text for _, text in windows],
            "task": [text.replace(" ", "_") for _, text in windows],
            "emb": np.zeros((len(windows), 1, 4)),
        },
        "info": {"episodes": [], "indx": [place for place, _ in windows]},
    }
    path = folder / name / "auto_lang_ann.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(told, object), allow_pickle=True)
    return path


def write_segments(folder: Path, *bounds: tuple[int, int]) -> None:
    np.save(folder / "ep_start_end_ids.npy", np.array(bounds, np.int64))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """task_D_D: segments 4-13 and 20-29 of training, 0-5 of validation."""
    training, validation = tmp_path / "task_D_D/training", tmp_path / "task_D_D/validation"
    write_frames(training, [*range(4, 14), *range(20, 30)])
    write_segments(training, (20, 29), (4, 13))
    windows: Windows = [((21, 25), "push it"), ((4, 9), "lift the block"), ((6, 13), "drop it")]
    write_windows(training, windows)
    write_frames(validation, range(6), dtype=np.float32)
    write_segments(validation, (0, 5))
    write_windows(validation, [((1, 4), "open the drawer")])
    return tmp_path


def listed(root: Path, options: EpisodeOptions = OPTIONS) -> dict[str, SourceEpisode]:
    return {source.unit: source for source in calvin.episodes(root, options)}


def read(root: Path, unit: str, options: EpisodeOptions = OPTIONS) -> Episode:
    return calvin.load(root, listed(root)[unit], options)


def test_one_episode_for_each_window(root: Path) -> None:
    found = listed(root)
    assert {unit: (s.split, s.place, s.reason) for unit, s in found.items()} == {
        "task_D_D/training#4-9": ("train", (4, 9), ""),
        "task_D_D/training#6-13": ("train", (6, 13), ""),
        "task_D_D/training#21-25": ("train", (21, 25), ""),
        "task_D_D/validation#1-4": ("val", (1, 4), ""),
    }
    assert {s.version for s in found.values()} == {"task_D_D"}
    within = listed(root / "task_D_D")
    assert list(within) == [unit.removeprefix("task_D_D/") for unit in found]
    ids = [calvin.load(root / "task_D_D", s, OPTIONS).episode_id for s in within.values()]
    assert ids == [calvin.load(root, s, OPTIONS).episode_id for s in found.values()]
    assert len(set(ids)) == 4


def test_ends_are_inclusive_and_pictures_are_those_of_their_frames(root: Path) -> None:
    episode = read(root, "task_D_D/training#4-9")
    assert (episode.text, episode.hz, episode.action_kind) == ("lift the block", 30.0, "ee_delta")
    assert list(episode.views) == ["static", "gripper"]
    static, gripper = episode.views.values()
    assert len(static) == len(gripper) == len(episode.state) == len(episode.action) == 6
    assert [int(static[i][0, 0, 0]) for i in range(6)] == [4, 5, 6, 7, 8, 9]
    assert gripper[5][7, 7].tolist() == [9, 1, 2]
    assert static.fingerprint(0) != static.fingerprint(1)
    overlapping = read(root, "task_D_D/training#6-13").views["static"]
    assert static.fingerprint(2) == overlapping.fingerprint(0)


def test_states_and_actions_follow_the_convention(root: Path) -> None:
    for unit, ids in (("training#6-13", range(6, 14)), ("validation#1-4", range(1, 5))):
        episode = read(root, f"task_D_D/{unit}")
        truth = poses([*ids, ids[-1] + 1])
        assert episode.state.dtype == episode.action.dtype == np.float32
        assert np.allclose(episode.state[:, :6], truth[:-1, :6], atol=1e-6)
        turns = Rotation.from_euler("xyz", truth[:, 3:6])
        assert np.allclose(episode.action[:, :3], np.diff(truth[:, :3], axis=0), atol=1e-6)
        assert np.allclose(episode.action[:, 3:6], rotations.successive_rotvecs(turns), atol=1e-6)
        assert episode.state[:, 6].tolist() == [float(at < 8) for at in ids]
        assert episode.action[:, 6].tolist() == [float(at + 1 < 8) for at in ids]
        assert episode.flags == ()
        assert episode.success is None
        assert episode.idle is None


def test_the_gripper_of_old_files_is_closed_at_0(root: Path) -> None:
    assert calvin.gripper_opening([-1.0, 0.0, 1.0]).tolist() == [0.0, 0.0, 1.0]
    before = read(root, "task_D_D/training#6-13")
    write_frames(root / "task_D_D/training", range(4, 14), closed=0.0)
    after = read(root, "task_D_D/training#6-13")
    assert (before.action == after.action).all()
    assert (before.state == after.state).all()


def test_relabelled_actions_stop_at_the_segment(root: Path) -> None:
    options = EpisodeOptions(relabel=True)
    whole = read(root, "task_D_D/training#4-9", options)
    told = read(root, "task_D_D/training#4-9")
    assert whole.idle is None  # frame 10 is there and of the same segment
    assert np.allclose(whole.action, told.action, atol=1e-6)
    assert whole.flags == ("relabelled",)
    last = read(root, "task_D_D/training#6-13", options)
    assert last.idle is not None
    assert last.idle.tolist() == [False] * 7 + [True]
    assert not last.action[-1, :6].any()
    assert np.allclose(
        last.action[:-1], read(root, "task_D_D/training#6-13").action[:-1], atol=1e-6
    )
    # A frame that follows by number alone is of another segment.
    write_segments(root / "task_D_D/training", (4, 9), (10, 13), (20, 29))
    write_windows(root / "task_D_D/training", [((4, 9), "lift the block")])
    cut = read(root, "task_D_D/training#4-9", options)
    assert cut.idle is not None
    assert cut.idle.tolist() == [False] * 5 + [True]


def test_clipped_and_contradicting_actions_are_told(root: Path) -> None:
    training = root / "task_D_D/training"
    far = frame(22)
    far["rel_actions"][0] = 1.0
    save(training / "episode_0000022.npz", far)
    assert read(root, "task_D_D/training#21-25").flags == ("clipped",)
    for at in (21, 22, 23):
        wrong = frame(at)
        wrong["actions"][0] += 0.01
        save(training / f"episode_{at:07d}.npz", wrong)
    assert read(root, "task_D_D/training#21-25").flags == ("actions_disagree",)


def test_windows_that_cannot_be_cut_have_a_reason(root: Path) -> None:
    training = root / "task_D_D/training"
    os.unlink(training / "episode_0000024.npz")
    good: Windows = [((a, b), "go on") for a in (4, 5, 6) for b in (10, 11, 12)]
    bad = {(21, 25): "missing_frames", (24, 24): "missing_frames", (9, 7): "bad_window",
           (-3, 4): "bad_window", (12, 21): "across_segments", (9, 14): "across_segments",
           (1, 6): "across_segments", (400, 410): "across_segments"}  # fmt: skip
    write_windows(training, good + [(place, "stop") for place in bad])
    found = {s.place: s.reason for s in listed(root).values() if s.split == "train"}
    assert found == {place: "" for place, _ in good} | bad


def test_texts_of_one_window_belong_together(root: Path) -> None:
    windows: Windows = [((4, 9), "b"), ((5, 9), "c"), ((4, 9), " a "), ((4, 9), "b")]
    write_windows(root / "task_D_D/training", windows)
    episode = read(root, "task_D_D/training#4-9")
    assert (episode.text, episode.other_texts) == ("b", ("a",))
    assert episode.facts["task"] == "b"


def test_the_order_of_windows_changes_nothing(root: Path) -> None:
    before = listed(root)
    windows: Windows = [((6, 13), "drop it"), ((21, 25), "push it"), ((4, 9), "lift the block")]
    write_windows(root / "task_D_D/training", windows)
    assert list(listed(root).items()) == list(before.items())
    assert read(root, "task_D_D/training#21-25").text == "push it"


@pytest.mark.parametrize(
    "name", ["episode_{:07d}.npz", "episode_{:05d}.npz", "frame-{}.npz", "{:09d}.npz"]
)
def test_the_naming_is_learned(tmp_path: Path, name: str) -> None:
    training = tmp_path / "training"
    write_frames(training, range(7, 13), name)
    (training / "other_1.npz").write_bytes(b"")
    write_windows(training, [((8, 11), "push it")])
    (source,) = listed(tmp_path).values()
    assert source.reason == ""
    assert source.version == "unknown"
    static = calvin.load(tmp_path, source, OPTIONS).views["static"]
    assert [int(static[i][0, 0, 0]) for i in range(4)] == [8, 9, 10, 11]


def test_without_the_file_of_segments_holes_bound_them(root: Path) -> None:
    training = root / "task_D_D/training"
    (training / "ep_start_end_ids.npy").unlink()
    write_windows(training, [((4, 9), "a"), ((12, 21), "b"), ((6, 13), "c")])
    found = {s.place: s.reason for s in listed(root).values() if s.split == "train"}
    assert found == {(4, 9): "", (6, 13): "", (12, 21): "missing_frames"}
    last = read(root, "task_D_D/training#6-13", EpisodeOptions(relabel=True))
    assert last.idle is not None
    assert last.idle.sum() == 1


def test_annotations_of_another_release(root: Path) -> None:
    """Some windows outside of all segments are a doubt, most of them the known wrong release."""
    training = root / "task_D_D/training"
    path = write_windows(training, [((4, 9), "a"), ((5, 9), "b"), ((100, 109), "c")])
    episode = read(root, "task_D_D/training#4-9")
    assert episode.flags == ("annotations_doubtful",)
    assert episode.facts["windows_outside_segments"] == "1 of 3"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert episode.facts["auto_lang_ann_sha256"] == digest
    write_windows(training, [((4, 9), "a"), ((50, 59), "b"), ((100, 109), "c")])
    with pytest.raises(UserError, match=r"2 of 3 language windows.*16 September 2022.*download"):
        listed(root)


def test_the_scene_is_that_of_the_frame(root: Path) -> None:
    training = root / "task_D_D/training"
    assert "scene" not in read(root, "task_D_D/training#4-9").facts
    scenes = {"calvin_scene_B": (0, 14), "calvin_scene_C": (15, 40)}
    np.save(training / "scene_info.npy", np.array(scenes, object), allow_pickle=True)
    (training / ".hydra").mkdir()
    (training / ".hydra/merged_config.yaml").write_text("scene: calvin_scene_D\n")
    assert read(root, "task_D_D/training#4-9").facts["scene"] == "calvin_scene_B"
    assert read(root, "task_D_D/training#21-25").facts["scene"] == "calvin_scene_C"


def test_the_folder_of_annotations(root: Path) -> None:
    training = root / "task_D_D/training"
    write_windows(training, [((4, 9), "other")], "lang_all-MiniLM-L6-v2")
    assert read(root, "task_D_D/training#4-9").text == "lift the block"
    files = [path.relative_to(root).as_posix() for path in calvin.annotations(root)]
    assert files == [
        "task_D_D/training/lang_annotations/auto_lang_ann.npy",
        "task_D_D/validation/lang_annotations/auto_lang_ann.npy",
        "task_D_D/training/ep_start_end_ids.npy",
        "task_D_D/validation/ep_start_end_ids.npy",
    ]
    (training / "lang_annotations/auto_lang_ann.npy").unlink()
    assert read(root, "task_D_D/training#4-9").text == "other"


class Harm:
    def __reduce__(self) -> Any:
        return os.system, ("touch harm",)


def test_annotations_are_not_run(root: Path) -> None:
    path = root / "task_D_D/training/lang_annotations/auto_lang_ann.npy"
    np.save(path, np.array({"language": Harm()}, object), allow_pickle=True)
    with pytest.raises(UserError, match=r"asks for \w+\.system.*do not trust"):
        listed(root)
    assert not Path("harm").exists()
    for told in ({"a": 1}, {"language": {"ann": ["a"]}, "info": {"indx": [(1, 2), (3, 4)]}}, [1],
                 {"language": {"ann": ["a"]}, "info": {"indx": [("x", 2)]}}):  # fmt: skip
        np.save(path, np.array(told, object), allow_pickle=True)
        with pytest.raises(UserError, match=r"auto_lang_ann\.npy (holds|has)"):
            listed(root)
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(UserError, match=r"not an \.npy file"):
        listed(root)


def test_damaged_frames_cost_their_episode(root: Path) -> None:
    training = root / "task_D_D/training"
    source = listed(root)["task_D_D/training#4-9"]
    path = training / "episode_0000006.npz"
    whole = path.read_bytes()
    stored = frame(6)
    objects = stored | {"robot_obs": np.array([Harm()] * 15, object)}
    for arrays, fault in (
        ({k: v for k, v in stored.items() if k != "rel_actions"}, "rel_actions cannot be read"),
        (stored | {"robot_obs": np.zeros(14)}, "robot_obs is float64"),
        (stored | {"actions": np.full(7, np.nan)}, "finite floats"),
        (stored | {"actions": np.zeros(7, np.int64)}, "expected 7 finite floats"),
        (objects, r"asks for \w+\.system"),
        (stored | {"actions": np.zeros(5_000_000)}, "claims 40000128 bytes"),
    ):
        save(path, arrays)
        with pytest.raises(MediaError, match=rf"^episode_0000006\.npz.*{fault}") as error:
            calvin.load(root, source, OPTIONS)
        assert str(root) not in str(error.value)
    for content in (whole[:-30], whole[: len(whole) // 2], b"", b"noise" * 50):
        path.write_bytes(content)
        with pytest.raises(MediaError, match=r"^episode_0000006\.npz: .*unzip the download again"):
            calvin.load(root, source, OPTIONS)
    path.unlink()
    with pytest.raises(MediaError, match=r"^episode_0000006\.npz is not there"):
        calvin.load(root, source, OPTIONS)


def test_damaged_pictures_are_named(root: Path) -> None:
    source = listed(root)["task_D_D/training#4-9"]
    views = calvin.load(root, source, OPTIONS).views
    path = root / "task_D_D/training/episode_0000006.npz"
    for picture in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 6), np.uint8)):
        save(path, frame(6) | {"rgb_static": picture})
        with pytest.raises(MediaError, match="expected a picture"):
            views["static"][2]
    assert views["static"][1].shape == (20, 20, 3)
    path.unlink()
    with pytest.raises(MediaError, match="not there"):
        views["static"].fingerprint(2)


def test_chosen_views(root: Path) -> None:
    gripper = EpisodeOptions(views=("rgb_gripper",))
    assert list(read(root, "task_D_D/training#4-9", gripper).views) == ["gripper"]
    swapped = EpisodeOptions(views=("gripper", "static"))
    assert list(read(root, "task_D_D/training#4-9", swapped).views) == ["gripper", "static"]
    with pytest.raises(UserError, match="no view 'wrist': CALVIN has rgb_static, rgb_gripper"):
        listed(root, EpisodeOptions(views=("wrist",)))


def test_folders_that_are_no_calvin(root: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"no CALVIN download.*download_data\.sh"):
        listed(empty)
    with pytest.raises(UserError, match="not a folder"):
        listed(tmp_path / "none")
    (tmp_path / "task_ABC_D/training").mkdir(parents=True)
    with pytest.raises(UserError, match="task_ABC_D, task_D_D, which share frames: name one"):
        listed(root)
    with pytest.raises(UserError, match=r"has no lang_annotations/auto_lang_ann\.npy"):
        listed(root / "task_ABC_D")
    write_windows(root / "task_ABC_D/training", [((1, 2), "a")])
    with pytest.raises(UserError, match="holds no frames"):
        listed(root / "task_ABC_D")


def test_a_replaced_annotation_is_noticed(root: Path) -> None:
    source = listed(root)["task_D_D/training#4-9"]
    path = write_windows(root / "task_D_D/training", [((5, 9), "a")])
    os.utime(path, (1, 1))
    with pytest.raises(MediaError, match="no longer has the window 4 to 9"):
        calvin.load(root, source, OPTIONS)


def test_the_real_index_of_segments() -> None:
    """178 segments; ids do not start at 0 and have holes at 219634 and 399945."""
    folder = Path("/nowhere")
    for candidate in Path(__file__).resolve().parents:
        if (candidate / "shared/samples/metadata/calvin/training_index").is_dir():
            folder = candidate / "shared/samples/metadata/calvin/training_index"
    if not folder.is_dir():
        pytest.skip("the samples are not here")
    bounds = calvin_files.read_segments(folder)
    assert bounds is not None
    assert bounds.shape == (178, 2)
    assert calvin_files.in_one_segment(bounds, 53819, 63233)
    assert not calvin_files.in_one_segment(bounds, 53818, 53900)
    assert not calvin_files.in_one_segment(bounds, 63233, 63234)
    assert not calvin_files.in_one_segment(bounds, 219634, 244285)
    assert not calvin_files.in_one_segment(bounds, 230000, 230001)
    assert (bounds[:, 1] - bounds[:, 0] + 1).sum() == 2_307_122
