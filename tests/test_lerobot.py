"""LeRobot datasets: what is written as v2.1 or v3.0 comes back as episodes."""

import io
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from handloom.errors import MediaError, UserError
from handloom.stages.datasets import lerobot
from handloom.stages.datasets.source import Episode, EpisodeOptions, SourceEpisode

AUTO = EpisodeOptions()
FPS = 10
CAMERAS = ("observation.images.cam_wrist", "observation.images.cam_high")
TASKS = ["pick up the cup", "put down the cup"]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def level(camera: int, index: int, episode: int = 0) -> int:
    """Grey level of a frame: tells its number, its camera and its episode."""
    return 20 + (6 * index + 100 * camera + 33 * episode) % 210


def write_video(path: Path, levels: list[int], codec: str = "libx264", fps: int = FPS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = Fraction(1, fps)
        for i, grey in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), grey, np.uint8), "rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def shown(episode: Episode, camera: str) -> list[int]:
    """Mean grey level of every picture."""
    pictures = episode.views[camera]
    return [round(float(pictures[i].mean())) for i in range(len(pictures))]


def info(version: str, total: int, **changes: Any) -> dict[str, Any]:
    vector = {"dtype": "float32", "shape": [2], "names": {"motors": ["shoulder", "gripper"]}}
    video = {"dtype": "video", "shape": [48, 64, 3], "info": {"video.is_depth_map": False}}
    depth = {"dtype": "video", "shape": [48, 64, 1], "info": {"is_depth_map": True}}
    return {
        "codebase_version": version,
        "robot_type": "so101",
        "fps": FPS,
        "chunks_size": 2,
        "splits": {"train": f"0:{total}"},
        "features": {
            "observation.state": vector | {"names": [["shoulder", "gripper"]]},
            "action": vector,
            **dict.fromkeys(CAMERAS, video),
            "observation.images.depth": depth,
            "task_index": {"dtype": "int64", "shape": [1], "names": None},
        },
    } | changes


def rows(episode: int, tasks: list[int], start: int = 0) -> pa.Table:
    """An episode's rows: state [frame, episode], action its double."""
    frames = np.arange(len(tasks))
    state = np.stack([frames, np.full(len(tasks), episode)], axis=1).astype(np.float32)
    fixed = pa.list_(pa.float32(), 2)
    return pa.table(
        {
            "observation.state": pa.array(list(state), fixed),
            "action": pa.array(list(2 * state), fixed),
            "timestamp": pa.array((frames / FPS).astype(np.float32)),
            "frame_index": frames,
            "episode_index": np.full(len(tasks), episode),
            "index": frames + start,
            "task_index": np.array(tasks),
        }
    )


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_table(path: Path, table: pa.Table, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)


def write_lines(path: Path, values: list[Any]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def write_v2(root: Path, episodes: list[list[int]], version: str = "v2.1") -> Path:
    """Episodes given as the task of each row, a file for each, two in a chunk."""
    write_json(root / "meta/info.json", info(version, len(episodes)))
    write_lines(
        root / "meta/tasks.jsonl", [{"task_index": i, "task": t} for i, t in enumerate(TASKS)]
    )
    listed = [
        # The list of an episode's tasks is in any order.
        {"episode_index": i, "tasks": [TASKS[t] for t in sorted(set(e), reverse=True)],
         "length": len(e)}
        for i, e in enumerate(episodes)
    ]  # fmt: skip
    write_lines(root / "meta/episodes.jsonl", listed)
    for i, tasks in enumerate(episodes):
        write_table(root / f"data/chunk-00{i // 2}/episode_{i:06d}.parquet", rows(i, tasks))
        for camera, name in enumerate(CAMERAS):
            video = root / f"videos/chunk-00{i // 2}/{name}/episode_{i:06d}.mp4"
            write_video(video, [level(camera, f, i) for f in range(len(tasks))])
    return root


def write_v3(root: Path, episodes: list[list[int]], task_column: str = "__index_level_0__") -> Path:
    """Episodes in one data file; the wrist camera's in one video, the other's in one for each."""
    write_json(root / "meta/info.json", info("v3.0", len(episodes)))
    tasks = {"task_index": range(len(TASKS)), task_column: TASKS}
    write_table(root / "meta/tasks.parquet", pa.table(tasks))
    listed, tables, levels, at = [], [], [], 0
    for i, e in enumerate(episodes):
        tables.append(rows(i, e, at))
        levels += [level(0, f, i) for f in range(len(e))]
        row: dict[str, Any] = {"episode_index": i, "length": len(e), "data/chunk_index": 0}
        row |= {"tasks": [TASKS[t] for t in sorted(set(e), reverse=True)], "data/file_index": 0}
        for name, file, start_s in ((CAMERAS[0], 0, at / FPS), (CAMERAS[1], i + 3, 0.0)):
            row |= {f"videos/{name}/chunk_index": 0, f"videos/{name}/file_index": file}
            # Less than half a frame early or late: the nearest one is meant.
            row |= {f"videos/{name}/from_timestamp": start_s + (-0.03 if i % 2 else 0.03)}
        row |= {"stats/action/min": [[[0.0]]]}
        write_video(
            root / f"videos/{CAMERAS[1]}/chunk-000/file-{i + 3:03d}.mp4",
            [level(1, f, i) for f in range(len(e))],
        )
        listed.append(row)
        at += len(e)
    write_video(root / f"videos/{CAMERAS[0]}/chunk-000/file-000.mp4", levels)
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(listed))
    data = pa.concat_tables(tables)
    write_table(root / "data/chunk-000/file-000.parquet", data, row_group_size=7)
    return root


EPISODES = [[0] * 8, [1] * 6, [0, 0, 0, 1, 1, 0, 0], [1]]
UNITS = ["000000", "000001", "000002.1", "000002.2", "000002.3", "000003"]
SPANS = [(0, 0, 8), (1, 0, 6), (2, 0, 3), (2, 3, 5), (2, 5, 7), (3, 0, 1)]


def loaded(root: Path, options: EpisodeOptions = AUTO) -> list[Episode]:
    return [lerobot.load(root, s, options) for s in lerobot.episodes(root, options)]


def first(root: Path) -> SourceEpisode:
    return next(iter(lerobot.episodes(root, AUTO)))


@pytest.mark.parametrize("layout", ["v2.0", "v2.1", "v3.0", "v3.0 with a column of tasks"])
def test_every_row_comes_back_with_its_frame_and_its_task(tmp_path: Path, layout: str) -> None:
    if layout.startswith("v2"):
        root = write_v2(tmp_path, EPISODES, layout)
    else:
        root = write_v3(tmp_path, EPISODES, "task" if "column" in layout else "__index_level_0__")
    listed = list(lerobot.episodes(root, AUTO))
    assert [s.unit for s in listed] == [f"meta/info.json#{unit}" for unit in UNITS]
    assert [s.place for s in listed] == SPANS
    assert all((root / s.media_path).is_file() for s in listed)
    for source, (index, start, end), unit in zip(listed, SPANS, UNITS, strict=True):
        episode = lerobot.load(root, source, AUTO)
        frames = np.arange(start, end)
        assert episode.episode_id == f"episode_{unit}"
        np.testing.assert_array_equal(episode.state[:, 0], frames)
        np.testing.assert_array_equal(episode.state[:, 1], index)
        np.testing.assert_array_equal(episode.action, 2 * episode.state)
        assert episode.text == TASKS[EPISODES[index][start]]
        assert (episode.hz, episode.action_kind) == (FPS, "as_stored")
        assert list(episode.views) == [CAMERAS[1], CAMERAS[0]]  # the wrist last, depth left out
        for camera, name in enumerate(CAMERAS):
            told = [level(camera, frame, index) for frame in frames]
            np.testing.assert_allclose(shown(episode, name), told, atol=2)
        assert episode.facts["state_names"] == episode.facts["action_names"] == "shoulder,gripper"
        assert episode.flags == ()
        assert episode.success is None


def test_frames_come_in_any_order_and_from_a_copy_of_the_episode(tmp_path: Path) -> None:
    root = write_v3(tmp_path, [[0] * 40])
    pictures = loaded(root)[0].views[CAMERAS[0]]
    copied = pickle.loads(pickle.dumps(pictures))
    for step in (39, 0, 33, 31, 32, 5):  # across blocks, back and forth
        np.testing.assert_array_equal(pictures[step], copied[step])
        assert float(pictures[step].mean()) == pytest.approx(level(0, step), abs=2)
    assert pictures.fingerprint(3) == copied.fingerprint(3) != copied.fingerprint(4)


def test_av1_is_decoded(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [[0] * 5])
    codec = next((c for c in ("libsvtav1", "libaom-av1") if c in av.codecs_available), None)
    if codec is None:
        pytest.skip("no AV1 encoder here")
    video = root / f"videos/chunk-000/{CAMERAS[0]}/episode_000000.mp4"
    write_video(video, [level(0, f) for f in range(5)], codec)
    told = [level(0, frame) for frame in range(5)]
    np.testing.assert_allclose(shown(loaded(root)[0], CAMERAS[0]), told, atol=3)


def test_videos_may_have_more_frames_than_there_are_rows(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [[0] * 5])
    video = root / f"videos/chunk-000/{CAMERAS[0]}/episode_000000.mp4"
    write_video(video, [level(0, f) for f in range(15)], fps=3 * FPS)
    assert np.allclose(
        shown(loaded(root)[0], CAMERAS[0]), [level(0, 3 * f) for f in range(5)], atol=2
    )


def test_a_folder_of_several_datasets(tmp_path: Path) -> None:
    write_v2(tmp_path / "owner/a", [[0] * 3])
    write_v3(tmp_path / "owner/b", [[1] * 3])
    listed = list(lerobot.episodes(tmp_path, AUTO))
    assert [s.unit for s in listed] == [f"owner/{x}/meta/info.json#000000" for x in "ab"]
    ids = [lerobot.load(tmp_path, s, AUTO).episode_id for s in listed]
    assert ids == ["owner/a/episode_000000", "owner/b/episode_000000"]
    names = {p.relative_to(tmp_path).as_posix() for p in lerobot.annotations(tmp_path)}
    assert names == {
        "owner/a/meta/info.json", "owner/a/meta/tasks.jsonl",
        "owner/b/meta/info.json", "owner/b/meta/tasks.parquet",
    }  # fmt: skip
    shutil.move(tmp_path / "owner", tmp_path / "moved/owner")
    assert [e.episode_id for e in loaded(tmp_path / "moved")] == ids


def test_videos_in_another_folder_are_found_and_told(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [[0] * 3, [1] * 3])
    (root / "videos").rename(root / "video")
    for i, episode in enumerate(loaded(root)):
        assert episode.flags == ("file_found_elsewhere",)
        assert shown(episode, CAMERAS[1]) == pytest.approx(
            [level(1, f, i) for f in range(3)], abs=2
        )
        assert episode.state[0, 1] == i


def test_absent_files(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [[0] * 3, [1] * 3])
    (root / "data/chunk-000/episode_000001.parquet").unlink()
    assert [s.reason for s in lerobot.episodes(root, AUTO)] == ["", "missing_file"]
    (root / f"videos/chunk-000/{CAMERAS[0]}/episode_000000.mp4").unlink()
    with pytest.raises(MediaError, match=r"episode_000000\.mp4 is not there"):
        lerobot.load(root, first(root), AUTO)


def test_interrupted_recordings_cost_only_what_is_missing(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "v2", [[0] * 3, [1] * 3])
    lines = root / "meta/episodes.jsonl"
    lines.write_text(lines.read_text()[:-20])
    good, cut = lerobot.episodes(root, AUTO)
    assert (good.error, good.place) == ("", (0, 0, 3))
    assert cut.error.startswith("line 2 of meta/episodes.jsonl is not a complete JSON object")

    root = write_v3(tmp_path / "v3", [[0] * 3])
    listed = root / "meta/episodes/chunk-000/file-000.parquet"
    unfinished = root / "meta/episodes/chunk-000/file-001.parquet"
    unfinished.write_bytes(listed.read_bytes()[:200])
    good, cut = lerobot.episodes(root, AUTO)
    assert lerobot.load(root, good, AUTO).text == TASKS[0]
    assert "file-001.parquet has no Parquet footer" in cut.error
    data = root / "data/chunk-000/file-000.parquet"
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(MediaError, match="no Parquet footer: its writer did not finish"):
        lerobot.load(root, good, AUTO)


def test_odd_rows_of_the_episode_table_are_counted(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [[0] * 3])
    lines = root / "meta/episodes.jsonl"
    told = json.loads(lines.read_text())
    odd = [{"episode_index": "0"}, {"episode_index": 10**30}, {"length": 0}, {"length": None}]
    write_lines(lines, [told, told, *(told | change for change in odd), [1]])
    good, again, *others = lerobot.episodes(root, AUTO)
    assert good.error == ""
    assert "names episode 0 again" in again.error
    assert [("expected two numbers" in s.error) for s in others] == [True] * 4 + [False]
    assert "line 7" in others[4].error
    assert len({s.unit for s in (good, again, *others)}) == 7


def test_damage_within_a_table_is_a_sentence(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [[0] * 300])
    path = root / "data/chunk-000/episode_000000.parquet"
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"episode_000000\.parquet is damaged") as caught:
        lerobot.load(root, first(root), AUTO)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("which", ["data/chunk-000/file-000.parquet", "video"])
def test_git_lfs_pointers_are_named(tmp_path: Path, which: str) -> None:
    root = write_v3(tmp_path, [[0] * 3])
    path = f"videos/{CAMERAS[1]}/chunk-000/file-003.mp4" if which == "video" else which
    (root / path).write_bytes(POINTER)
    with pytest.raises(MediaError, match=f"{path} is a Git LFS pointer.*git lfs pull"):
        lerobot.load(root, first(root), AUTO)


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


def test_files_of_another_user_get_their_own_message() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        os.chmod(folder, 0o755)
        root = write_v3(Path(folder), [[0] * 3])
        (root / f"videos/{CAMERAS[0]}/chunk-000/file-000.mp4").chmod(0o000)
        source = first(root)
        with another_user(), pytest.raises(MediaError, match=r"by this user.*chmod"):
            lerobot.load(root, source, AUTO)


def change_v2(root: Path, **columns: Any) -> Path:
    """The first episode's table with some columns replaced, or dropped if None."""
    path = root / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns(name)
        if values is not None:
            table = table.append_column(name, values)
    pq.write_table(table, path)
    return root


def test_rows_are_ordered_by_frame_and_not_by_place(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [[0] * 6])
    path = root / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take([3, 1, 5, 0, 2, 4]), path)
    np.testing.assert_array_equal(loaded(root)[0].state[:, 0], range(6))
    pq.write_table(table.take([0, 1, 2, 2, 3, 4]), path)
    with pytest.raises(MediaError, match="frames of episode 0 twice"):
        loaded(root)
    pq.write_table(table.slice(0, 4), path)
    with pytest.raises(MediaError, match=r"4 rows of episode 0.* say 6"):
        loaded(root)


def test_time_stamps_are_checked(tmp_path: Path) -> None:
    def flags(times: list[float] | None) -> tuple[str, ...]:
        column = None if times is None else pa.array(times, pa.float32())
        return loaded(change_v2(root, timestamp=column))[0].flags

    root = write_v2(tmp_path, [[0] * 3])
    assert flags([0.0, 0.10000001, 0.2]) == ()
    assert flags([0.0, 0.101, 0.2]) == ("timestamps_inexact",)
    assert flags([0.0, 0.3, 0.7]) == ("timestamps_irregular",)
    assert flags([0.0, 0.2, 0.1]) == ("timestamps_irregular",)
    assert flags(None) == ("no_timestamps",)


def test_other_names_and_variable_lists(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [[0] * 3])
    told = info("v2.1", 1)
    for usual, other in (("observation.state", "state"), ("action", "actions")):
        told["features"][other] = told["features"].pop(usual)
    told["features"]["reached"] = {"dtype": "float32", "shape": [1], "names": None}
    write_json(root / "meta/info.json", told)
    lists = pa.array([[1.0, 2.0, 3.0]] * 3, pa.list_(pa.float64()))
    change_v2(root, state=lists, actions=lists, reached=pa.array([4.0, 5.0, 6.0]))
    episode = loaded(root)[0]
    assert episode.action.tolist() == [[1, 2, 3]] * 3
    assert episode.action.dtype == np.float32
    options = EpisodeOptions(state_key="reached", action_kind="joints", views=(CAMERAS[0],), hz=5)
    chosen = lerobot.load(root, first(root), options)
    assert chosen.state.tolist() == [[4], [5], [6]]
    assert (chosen.action_kind, list(chosen.views), chosen.hz) == ("joints", [CAMERAS[0]], 5)
    for wrong, message in (
        (EpisodeOptions(action_key="nothing"), "expected nothing; set --ingest.action-key"),
        (EpisodeOptions(views=("front",)), "expected front; see --ingest.views"),
        (EpisodeOptions(action_kind="ee_delta"), "expected 7 for each arm"),
    ):
        with pytest.raises(MediaError, match=message):
            lerobot.load(root, first(root), wrong)
    ragged = pa.array([[1.0], [2.0, 3.0], [4.0]], pa.list_(pa.float64()))
    for bad, message in (
        (ragged, "of several lengths"),
        (pa.array([[1.0], None, [2.0]], pa.list_(pa.float64())), "of several lengths"),
        (pa.array([1.0, None, 2.0]), "or gaps"),
        (pa.array(["a", "b", "c"]), "expected numbers"),
        (pa.array([1.0, float("nan"), 2.0]), "not finite"),
        (None, "has no column actions"),
    ):
        change_v2(root, actions=bad)
        with pytest.raises(MediaError, match=message):
            lerobot.load(root, first(root), AUTO)


def test_image_datasets(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), np.uint8)
    cells = []
    for picture in pixels:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        cells.append({"bytes": file.getvalue(), "path": None})
    root = write_v2(tmp_path, [[0] * 3])
    told = info("v2.1", 1)
    told["features"]["image"] = {"dtype": "image", "shape": [8, 6, 3], "names": None}
    write_json(root / "meta/info.json", told)
    change_v2(root, image=pa.array(cells))
    options = EpisodeOptions(views=("image",))
    pictures = lerobot.load(root, first(root), options).views["image"]
    np.testing.assert_array_equal([pictures[i] for i in range(len(pictures))], pixels)
    change_v2(root, image=pa.array([{"bytes": None, "path": "a.png"}] * 3))
    with pytest.raises(MediaError, match="are not in the table"):
        lerobot.load(root, first(root), options)


def test_success_is_what_the_columns_say(tmp_path: Path) -> None:
    def success(**columns: Any) -> bool | None:
        found = {name.replace("_", "."): pa.array(values) for name, values in columns.items()}
        return loaded(change_v2(root, **found))[0].success

    root = write_v2(tmp_path, [[0] * 3])
    assert success(next_done=[False, False, True]) is None
    assert success(next_reward=[0.0, 0.0, 0.0]) is None  # nobody may have given any
    assert success(next_reward=[0.0, 0.5, 1.0]) is True
    assert success(next_success=[False, False, False]) is False
    assert success(next_success=[False, False, True]) is True


def test_splits_are_half_open_and_train_alone_is_none(tmp_path: Path) -> None:
    def splits(**told: str) -> list[str]:
        write_json(root / "meta/info.json", info("v2.1", 3, splits=told))
        return [s.split for s in lerobot.episodes(root, AUTO)]

    root = write_v2(tmp_path, [[0] * 2] * 3)
    assert splits(train="0:3") == ["", "", ""]
    assert splits(train="0:1", validation="1:2", test="2:3") == ["train", "val", "test"]
    assert splits(train="0:2", val="1:2") == ["train", "val", ""]


def test_hostile_templates_are_refused(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", [[0] * 2])
    shutil.copy(root / "data/chunk-000/episode_000000.parquet", tmp_path / "outside.parquet")
    for template, message in (
        ("../outside.parquet", "leads out of the data folder"),
        (str(tmp_path / "outside.parquet"), "leads out of the data folder"),
        ("data/{episode_index.__class__}", "whose fields are not known"),
        ("data/{episode_index:0999999999d}", "whose fields are not known"),
    ):
        write_json(root / "meta/info.json", info("v2.1", 1, data_path=template))
        assert message in first(root).error


def test_a_small_file_cannot_claim_a_large_table(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [[0] * 2])
    path = root / "data/chunk-000/episode_000000.parquet"
    zeros = pa.array(np.zeros(1 << 25, np.int8))
    pq.write_table(pa.table({"task_index": zeros}), path, row_group_size=1 << 25)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(MediaError, match="claims 33554432 rows"):
        lerobot.load(root, first(root), AUTO)


def test_wrong_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected meta/info\.json, found nothing.*huggingface"):
        list(lerobot.episodes(tmp_path, AUTO))
    path = tmp_path / "meta/info.json"
    for told, message in (
        ({"codebase_version": "v1.6", "fps": 10, "features": {}}, r"'v1\.6'.*convert older"),
        ({"codebase_version": "v2.1", "fps": 0, "features": {}}, "a rate above 0"),
        ({"codebase_version": "v2.1"}, "is not the info.json of a LeRobot dataset"),
        ([1], "is not the info.json of a LeRobot dataset"),
    ):
        write_json(path, told)
        with pytest.raises(UserError, match=message):
            list(lerobot.episodes(tmp_path, AUTO))
    path.write_bytes(POINTER)
    with pytest.raises(UserError, match=r"is not the info\.json"):
        list(lerobot.episodes(tmp_path, AUTO))


@pytest.mark.skipif("LEROBOT_DATASET" not in os.environ, reason="names a folder written by lerobot")
def test_a_dataset_written_by_the_library() -> None:
    root = Path(os.environ["LEROBOT_DATASET"])
    listed = list(lerobot.episodes(root, AUTO))
    assert listed
    for source in listed:
        episode = lerobot.load(root, source, AUTO)
        assert episode.text
        for pictures in episode.views.values():
            assert len(pictures) == len(episode.state)
            assert pictures[len(pictures) - 1].ndim == 3
