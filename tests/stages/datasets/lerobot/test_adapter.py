"""LeRobot datasets: what is written as v2.1 or v3.0 comes back as episodes."""

import io
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from handloom.errors import MediaError
from handloom.stages.datasets.lerobot import adapter as lerobot
from handloom.stages.datasets.source import EpisodeOptions
from handloom.stages.ingest.episodes import EpisodeIngest
from tests.helpers.lerobot_files import (
    AUTO,
    CAMERAS,
    FPS,
    TASKS,
    first,
    info,
    level,
    loaded,
    shown,
    write_json,
    write_v2,
    write_v3,
)
from tests.helpers.videos import write_grey_video

EPISODES = [[0] * 8, [1] * 6, [0, 0, 0, 1, 1, 0, 0], [1]]
UNITS = ["000000", "000001", "000002.1", "000002.2", "000002.3", "000003"]
SPANS = [(0, 0, 8), (1, 0, 6), (2, 0, 3), (2, 3, 5), (2, 5, 7), (3, 0, 1)]


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
        assert episode.episode_id.startswith(f"episode_{unit}-")
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
    write_grey_video(video, [level(0, f) for f in range(5)], FPS, codec)
    told = [level(0, frame) for frame in range(5)]
    np.testing.assert_allclose(shown(loaded(root)[0], CAMERAS[0]), told, atol=3)


def test_videos_may_have_more_frames_than_there_are_rows(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [[0] * 5])
    video = root / f"videos/chunk-000/{CAMERAS[0]}/episode_000000.mp4"
    write_grey_video(video, [level(0, f) for f in range(15)], fps=3 * FPS)
    assert np.allclose(
        shown(loaded(root)[0], CAMERAS[0]), [level(0, 3 * f) for f in range(5)], atol=2
    )


def test_a_folder_of_several_datasets(tmp_path: Path) -> None:
    write_v2(tmp_path / "owner/a", [[0] * 3])
    write_v3(tmp_path / "owner/b", [[1] * 3])
    listed = list(lerobot.episodes(tmp_path, AUTO))
    assert [s.unit for s in listed] == [f"owner/{x}/meta/info.json#000000" for x in "ab"]
    ids = [lerobot.load(tmp_path, s, AUTO).episode_id for s in listed]
    assert len(set(ids)) == 2
    names = {p.relative_to(tmp_path).as_posix() for p in lerobot.annotations(tmp_path)}
    assert names == {
        "owner/a/meta/info.json", "owner/a/meta/tasks.jsonl",
        "owner/b/meta/info.json", "owner/b/meta/tasks.parquet",
    }  # fmt: skip
    shutil.move(tmp_path / "owner", tmp_path / "moved/owner")
    assert [e.episode_id for e in loaded(tmp_path / "moved")] == ids


def test_ids_and_splits_stay_when_folders_above_are_renamed(tmp_path: Path) -> None:
    def identities(data: Path) -> list[tuple[str, str, str]]:
        stage = EpisodeIngest(dataset="lerobot", format="lerobot", val_percent=50).at(data)
        rows = [row for source in stage.sources() for row in stage(source)]
        assert {row.status for row in rows} == {"ok"}
        return [(row.clip_id, row.video_id, row.split) for row in rows]

    write_v2(tmp_path / "a", EPISODES)
    found = identities(tmp_path / "a")
    assert len(set(found)) == len(UNITS)
    assert {split for _, _, split in found} == {"train", "val"}
    assert len({split for _, name, split in found if "000002" in name}) == 1  # of one recording
    assert identities(tmp_path) == found  # named from above
    (tmp_path / "a").rename(tmp_path / "b")
    assert identities(tmp_path) == found
    write_v3(tmp_path / "c", EPISODES)  # the same episodes in the other layout
    assert identities(tmp_path / "c") == found


def test_other_columns_do_not_change_ids(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [[0] * 3])
    swapped = EpisodeOptions(state_key="action", action_key="observation.state")
    one, other = loaded(root)[0], loaded(root, swapped)[0]
    assert (other.state == one.action).all()
    assert other.episode_id == one.episode_id


def test_videos_in_another_folder_are_found_and_told(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [[0] * 3, [1] * 3])
    (root / "videos").rename(root / "video")
    for i, episode in enumerate(loaded(root)):
        assert episode.flags == ("file_found_elsewhere",)
        assert shown(episode, CAMERAS[1]) == pytest.approx(
            [level(1, f, i) for f in range(3)], abs=2
        )
        assert episode.state[0, 1] == i


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
