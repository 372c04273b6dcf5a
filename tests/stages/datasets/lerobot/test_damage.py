"""LeRobot datasets that are incomplete, damaged or hostile cost no more than they must."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.lerobot import adapter as lerobot
from tests.helpers.folders import another_user
from tests.helpers.lerobot_files import (
    AUTO,
    CAMERAS,
    POINTER,
    TASKS,
    first,
    info,
    write_json,
    write_lines,
    write_v2,
    write_v3,
)


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


def test_files_of_another_user_get_their_own_message(open_folder: Path) -> None:
    root = write_v3(open_folder, [[0] * 3])
    (root / f"videos/{CAMERAS[0]}/chunk-000/file-000.mp4").chmod(0o000)
    source = first(root)
    with another_user(), pytest.raises(MediaError, match=r"by this user.*chmod"):
        lerobot.load(root, source, AUTO)


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
