"""Clips and episodes as WebDataset tars, Parquet and RLDS: their readers find all of them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from handloom.errors import UserError
from handloom.export.options import LeRobotExport, ParquetExport, RldsExport, WebDatasetExport
from handloom.export.run import lerobot, parquet, rlds
from handloom.export.run import webdataset as tars
from handloom.stages.datasets import rlds as rlds_adapter
from handloom.stages.datasets.source import Episode, EpisodeOptions
from tests.helpers.exported_runs import curated_clips, curated_episodes, greys
from tests.helpers.lerobot_files import CAMERAS, TASKS, level, write_v3

LENGTHS = (9, 11, 8)
SHOWN = {"a1": range(5, 15), "a2": range(20, 35), "b1": range(10, 20)}
"""Numbers of the frames of each clip."""


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    return curated_clips(folder / "run", folder / "data")


@pytest.fixture(scope="module")
def robots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robots")
    data = write_v3(folder / "data", [[i % 2] * n for i, n in enumerate(LENGTHS)])
    return curated_episodes(folder / "run", data, licence="mit")


def told_greys(clip_id: str) -> list[int]:
    """Grey levels of a clip's frames, as `grey_clips` draws them."""
    return [20 + 5 * i + 2 * (clip_id[0] == "b") for i in SHOWN[clip_id]]


def assert_near(found: list[int], expected: list[int]) -> None:
    assert len(found) == len(expected)
    assert all(abs(one - other) < 3 for one, other in zip(found, expected, strict=True))


def samples(folder: Path) -> list[dict[str, Any]]:
    """The samples of all tars of a folder, by stock webdataset."""
    paths = [str(path) for path in sorted(folder.glob("*/*.tar"))]
    return list(webdataset.WebDataset(paths, shardshuffle=False).decode())


def test_stock_webdataset_reads_clips(people: Path, tmp_path: Path) -> None:
    tars(WebDatasetExport(people, tmp_path / "out"))
    found = {sample["__key__"]: sample for sample in samples(tmp_path / "out")}
    assert found.keys() == SHOWN.keys()
    for clip_id, sample in found.items():
        assert_near(greys(io.BytesIO(sample["mp4"])), told_greys(clip_id))
        facts = sample["json"]
        assert sample["__url__"].split("/")[-2] == facts["split"]
        assert facts["caption"] == facts["text"].lower()
        assert round((facts["end_s"] - facts["start_s"]) * facts["fps"]) == len(SHOWN[clip_id])


def test_stock_webdataset_reads_episodes(robots: Path, tmp_path: Path) -> None:
    tars(WebDatasetExport(robots, tmp_path / "out"))
    found = samples(tmp_path / "out")
    assert len(found) == len(LENGTHS)
    for sample in found:
        state, facts = sample["state.npy"], sample["json"]
        episode = int(state[0, 1])
        np.testing.assert_array_equal(sample["action.npy"], 2 * state)
        assert (len(state), facts["caption"]) == (LENGTHS[episode], TASKS[episode % 2])
        for camera, name in enumerate(CAMERAS):
            video = sample[facts["videos"][name]]
            expected = [level(camera, i, episode) for i in range(len(state))]
            assert_near(greys(io.BytesIO(video)), expected)


def test_rows_of_parquet_hold_all_of_a_clip(people: Path, tmp_path: Path) -> None:
    parquet(ParquetExport(people, tmp_path / "out"))
    paths = sorted((tmp_path / "out/data").iterdir())
    assert [path.name for path in paths] == ["train-00000.parquet", "val-00000.parquet"]
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert {row["clip_id"] for row in rows} == SHOWN.keys()
    for row in rows:
        assert_near(greys(io.BytesIO(row["video"]["bytes"])), told_greys(row["clip_id"]))


def test_rows_without_videos_need_no_media(robots: Path, tmp_path: Path) -> None:
    parquet(ParquetExport(robots, tmp_path / "out", data=tmp_path / "gone", videos=False))
    rows = pq.read_table(tmp_path / "out/data").to_pylist()
    assert [len(row["state"]) for row in rows] == [LENGTHS[int(row["state"][0][1])] for row in rows]
    assert not any("video" in name for name in rows[0])
    assert not (tmp_path / "out/pictures").exists()


def test_rlds_is_taken_in_again(robots: Path, tmp_path: Path) -> None:
    rlds(RldsExport(robots, tmp_path / "out"))
    options = EpisodeOptions(hz=10.0)
    adapter = rlds_adapter.ADAPTER
    episodes: list[Episode] = [
        adapter.load(tmp_path / "out", source, options)
        for source in adapter.episodes(tmp_path / "out", options)
    ]
    assert len(episodes) == len(LENGTHS)
    for episode in episodes:
        number = int(episode.state[0, 1])
        np.testing.assert_array_equal(episode.action, 2 * episode.state)
        assert (len(episode.state), episode.text) == (LENGTHS[number], TASKS[number % 2])
        for camera, name in enumerate(CAMERAS):
            view = episode.views[name.replace(".", "_")]
            found = [round(float(view[i].mean())) for i in range(len(view))]
            assert_near(found, [level(camera, i, number) for i in range(len(view))])


def test_people_have_no_states(people: Path, tmp_path: Path) -> None:
    for command, options in ((lerobot, LeRobotExport), (rlds, RldsExport)):
        with pytest.raises(UserError, match=r"no states and actions.*handloom export webdataset"):
            command(options(people, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_card_shows_text_and_does_what_it_says(people: Path, tmp_path: Path) -> None:
    parquet(ParquetExport(people, tmp_path / "out"))
    page = (tmp_path / "out/README.md").read_text()
    assert "turns \\| a \\*screw\\* &lt;b&gt;" in page
    assert "| train | 2 | 0.000694 | 25 |" in page
    for name in (tmp_path / "out/pictures").iterdir():
        assert f"](pictures/{name.name})" in page
    manifest = json.loads((tmp_path / "out/export.json").read_text())
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert {one["path"] for one in manifest["files"]} == files - {"export.json"}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_croissant_describes_the_files(robots: Path, people: Path, tmp_path: Path) -> None:
    import mlcroissant

    def opened(folder: Path) -> mlcroissant.Dataset:
        return mlcroissant.Dataset(
            jsonld=str(folder / "croissant.json")
        )  # raises where it is wrong

    lerobot(LeRobotExport(robots, tmp_path / "lerobot"))
    steps = list(opened(tmp_path / "lerobot").records(record_set="records"))
    assert len(steps) == sum(LENGTHS)
    for step in steps:
        expected = 2 * np.array(step["records/observation.state"])
        np.testing.assert_array_equal(step["records/action"], expected)
    parquet(ParquetExport(people, tmp_path / "parquet"))
    rows = list(opened(tmp_path / "parquet").records(record_set="records"))
    assert {row["records/clip_id"].decode() for row in rows} == SHOWN.keys()
    tars(WebDatasetExport(people, tmp_path / "tars"))
    assert opened(tmp_path / "tars").metadata.license == ["none"]
