"""Robot episodes as a LeRobot dataset: what went in comes out, and can be taken in again."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from handloom.errors import UserError
from handloom.export.lerobot import dataset
from handloom.export.lerobot.statistics import ImageStatistics, merged, of_values
from handloom.export.options import LeRobotExport
from handloom.export.parts import Limits
from handloom.export.run import lerobot as export
from handloom.stages.datasets.source import Episode
from handloom.stages.media.display import FrameHWC
from tests.helpers.exported_runs import curated_episodes, digests, greys
from tests.helpers.lerobot_files import CAMERAS, FPS, TASKS, loaded, shown, write_v3

LENGTHS = (9, 11, 8, 10)
VAL = 3
"""The first episode of the split val."""
EPISODES = [[number % 2] * length for number, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_v3(tmp_path_factory.mktemp("data"), EPISODES)
    info = json.loads((folder / "meta/info.json").read_text())
    info["splits"] = {"train": f"0:{VAL}", "val": f"{VAL}:{len(EPISODES)}"}
    (folder / "meta/info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return curated_episodes(tmp_path_factory.mktemp("run"), data)


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("exports") / "lerobot"
    export(LeRobotExport(run, dest))
    return dest


def by_number(episodes: list[Episode]) -> dict[int, Episode]:
    """Episodes by the second number of their states, which tells which one it is."""
    return {int(episode.state[0, 1]): episode for episode in episodes}


def test_what_comes_out_is_what_went_in(data: Path, exported: Path) -> None:
    before, after = by_number(loaded(data)), by_number(loaded(exported))
    assert before.keys() == after.keys() == set(range(len(LENGTHS)))
    for number, episode in after.items():
        source = before[number]
        np.testing.assert_array_equal(episode.state, source.state)
        np.testing.assert_array_equal(episode.action, source.action)
        assert (episode.text, episode.hz) == (source.text, source.hz)
        assert list(episode.views) == list(source.views)
        assert episode.flags == ()
        for camera in episode.views:
            pairs = zip(shown(episode, camera), shown(source, camera), strict=True)
            assert all(abs(one - other) < 3 for one, other in pairs)  # 6 levels a frame


def test_splits_are_ranges_of_episodes(run: Path, exported: Path) -> None:
    splits = json.loads((exported / "meta/info.json").read_text())["splits"]
    first, middle = map(int, splits["train"].split(":"))
    assert (first, splits["val"]) == (0, f"{middle}:{len(LENGTHS)}")
    rows = [
        row
        for path in exported.glob("meta/provenance/*/*")
        for row in pq.read_table(path).to_pylist()
    ]
    told = {row["episode_index"]: row["split"] for row in rows}
    assert told == {i: "train" if i < middle else "val" for i in range(len(LENGTHS))}
    assert {row["split"] for row in rows} == {"train", "val"}
    assert all(row["caption"] in TASKS and row["licence"] == "unknown" for row in rows)


def test_numbers_count_through_all_files(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset.LeRobot, "limits", Limits(1 << 40, 1e9, clips=1))
    export(LeRobotExport(run, tmp_path / "out", workers=1))
    files = sorted((tmp_path / "out/data/chunk-000").iterdir())
    assert [path.name for path in files] == [f"file-{i:03d}.parquet" for i in range(len(LENGTHS))]
    steps = [row for path in files for row in pq.read_table(path).to_pylist()]
    assert [row["index"] for row in steps] == list(range(sum(LENGTHS)))
    assert len(by_number(loaded(tmp_path / "out"))) == len(LENGTHS)


def test_the_tables_agree_with_the_videos(exported: Path) -> None:
    info = json.loads((exported / "meta/info.json").read_text())
    rows = [
        row
        for path in sorted(exported.glob("meta/episodes/*/*"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert [row["episode_index"] for row in rows] == list(range(info["total_episodes"]))
    assert rows[-1]["dataset_to_index"] == info["total_frames"] == sum(LENGTHS)
    assert (info["fps"], type(info["fps"])) == (FPS, int)
    for camera in CAMERAS:
        frames = sum(len(greys(path)) for path in exported.glob(f"videos/{camera}/*/*.mp4"))
        assert frames == sum(LENGTHS)
        for row in rows:
            seconds = row[f"videos/{camera}/to_timestamp"] - row[f"videos/{camera}/from_timestamp"]
            assert round(seconds * FPS, 6) == row["length"]


def test_the_task_table_reads_as_pandas_writes_it(exported: Path) -> None:
    import pandas

    tasks = pandas.read_parquet(exported / "meta/tasks.parquet")
    assert list(tasks.columns) == ["task_index"]
    assert sorted(tasks.index) == sorted(TASKS)
    assert tasks["task_index"].tolist() == [0, 1]


def test_a_second_export_of_the_export_has_the_same_numbers(exported: Path, tmp_path: Path) -> None:
    again = curated_episodes(tmp_path / "run", exported)
    export(LeRobotExport(again, tmp_path / "again"))
    first, second = by_number(loaded(exported)), by_number(loaded(tmp_path / "again"))
    for number, episode in first.items():
        np.testing.assert_array_equal(episode.state, second[number].state)
        np.testing.assert_array_equal(episode.action, second[number].action)
        assert episode.text == second[number].text


def test_the_same_run_gives_the_same_bytes(run: Path, exported: Path, tmp_path: Path) -> None:
    export(LeRobotExport(run, tmp_path / "again"))
    assert digests(tmp_path / "again") == digests(exported)


def test_a_chosen_camera_is_exported_alone(run: Path, tmp_path: Path) -> None:
    export(LeRobotExport(run, tmp_path / "one", views=(CAMERAS[1],)))
    assert [path.name for path in (tmp_path / "one/videos").iterdir()] == [CAMERAS[1]]
    assert all(list(episode.views) == [CAMERAS[1]] for episode in loaded(tmp_path / "one"))
    with pytest.raises(UserError, match=r"no kept episode has the cameras rear; there are observ"):
        export(LeRobotExport(run, tmp_path / "none", views=("rear",)))


def test_joints_leave_at_their_own_rate_or_at_the_common_one(data: Path, tmp_path: Path) -> None:
    options = {"action_kind": "joints", "joint_unit": "degrees", "hz": 20.0}
    run = curated_episodes(tmp_path / "run", data, **options)
    export(LeRobotExport(run, tmp_path / "common"))
    export(LeRobotExport(run, tmp_path / "source", rate="source"))
    for name, hz, every in (("common", 10, 2), ("source", 20, 1)):
        info = json.loads((tmp_path / name / "meta/info.json").read_text())
        steps = sum(-(-length // every) for length in LENGTHS)
        assert (info["fps"], info["total_frames"]) == (hz, steps)
    states = [episode.state for episode in by_number_of_joints(tmp_path / "source")]
    for number, state in enumerate(states):
        np.testing.assert_allclose(state[:, 0], np.deg2rad(np.arange(LENGTHS[number])), atol=1e-6)


def by_number_of_joints(root: Path) -> list[Episode]:
    """Episodes in the order of their grippers, which tell which one it is."""
    return sorted(loaded(root), key=lambda episode: float(episode.state[0, 1]))


def test_statistics_of_all_are_those_of_the_whole() -> None:
    random = np.random.default_rng(0)
    parts = [random.normal(i, 1 + i, (20 + i, 3)).astype(np.float32) for i in range(4)]
    found, whole = merged([of_values(part) for part in parts]), of_values(np.concatenate(parts))
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-6)


def test_statistics_of_pictures_are_those_of_their_pixels() -> None:
    frames: list[FrameHWC] = list(
        np.random.default_rng(0).integers(0, 256, (9, 24, 32, 3), dtype=np.uint8)
    )
    statistics = ImageStatistics(len(frames))
    for frame in frames:
        statistics.add(frame)
    pixels = np.stack(frames).reshape(-1, 3) / 255
    found = statistics.stats()
    assert np.shape(found["mean"]) == (3, 1, 1)
    assert found["count"] == [9]
    np.testing.assert_allclose(np.ravel(found["mean"]), pixels.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(np.ravel(found["std"]), pixels.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(np.ravel(found["q50"]), np.median(pixels, axis=0), atol=1 / 255)
