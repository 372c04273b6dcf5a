"""An export's folder: resumed after a kill, written by one command, refused where it is another."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from handloom.cli import main
from handloom.errors import DiskError, MediaError, UserError
from handloom.export.folder import WORK, claimed
from handloom.export.options import LeRobotExport, ParquetExport, WebDatasetExport
from handloom.export.parts import Limits
from handloom.export.run import lerobot, parquet, webdataset
from handloom.export.webdataset import WebDataset
from handloom.files import whole
from handloom.listings import forget_listings
from handloom.stages.tables.parts import open_tables, write_marker
from handloom.stages.tables.rows import Clip, EpisodeClip
from tests.helpers.exported_runs import (
    curated_clips,
    curated_episodes,
    digests,
    grey_clips,
    relabelled,
)
from tests.helpers.lerobot_files import write_v2, write_v3
from tests.helpers.recorded_runs import clip_row
from tests.helpers.small_disks import mounted


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return curated_clips(tmp_path / "run", tmp_path / "data")


@pytest.fixture
def one_clip_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WebDataset, "limits", Limits(1 << 40, 1e9, clips=1))


def test_a_finished_export_is_left_as_it_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet(ParquetExport(run, tmp_path / "out"))
    before = digests(tmp_path / "out")
    shutil.rmtree(tmp_path / "out/data")
    capsys.readouterr()
    parquet(ParquetExport(run, tmp_path / "out"))
    assert "holds this export already" in capsys.readouterr().out
    assert not (tmp_path / "out/data").exists()
    assert WORK not in {Path(name).parts[0] for name in before}


@pytest.mark.usefixtures("one_clip_a_part")
def test_an_export_that_broke_off_goes_on(run: Path, tmp_path: Path) -> None:
    webdataset(WebDatasetExport(run, tmp_path / "whole", workers=1))
    broken = tmp_path / "data/videos/b.mp4"
    content = broken.read_bytes()
    broken.write_bytes(b"not a video")
    with pytest.raises(MediaError, match=r"clip b1 of .*b\.mp4 cannot be read.*--leave-out b1"):
        webdataset(WebDatasetExport(run, tmp_path / "out", workers=1))
    first = tmp_path / "out/train/000000.tar"
    written_ns = first.stat().st_mtime_ns
    assert not (tmp_path / "out/export.json").exists()
    (tmp_path / "out/train/000001.tar.1234.tmp").write_bytes(b"cut off")
    broken.write_bytes(content)
    webdataset(WebDatasetExport(run, tmp_path / "out", workers=1))
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert first.stat().st_mtime_ns == written_ns


def test_a_killed_export_goes_on(tmp_path: Path) -> None:
    clips = [clip_row(f"c{i}", 0.0, 4.0, fps=10.0, width=64, height=48) for i in range(12)]
    grey_clips(tmp_path / "data")
    run = curated_clips(tmp_path / "run", tmp_path / "data", clips)
    webdataset(WebDatasetExport(run, tmp_path / "whole"))
    code = (
        "import os, sys; from pathlib import Path\n"
        "from handloom.export import webdataset, run\n"
        "from handloom.export.options import WebDatasetExport\n"
        "members = webdataset._members\n"
        "left = [7]\n"
        "def dying(*args):\n"
        "    left[0] -= 1\n"
        "    if not left[0]: os.kill(os.getpid(), 9)\n"
        "    return members(*args)\n"
        "webdataset._members = dying\n"
        "run.webdataset(WebDatasetExport(Path(sys.argv[1]), Path(sys.argv[2])))\n"
    )
    command = [sys.executable, "-c", code, str(run), str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True).returncode == -9
    assert list((tmp_path / "out").rglob("*.tmp"))
    assert not (tmp_path / "out/export.json").exists()
    webdataset(WebDatasetExport(run, tmp_path / "out"))
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


@pytest.mark.long
@pytest.mark.usefixtures("one_clip_a_part")
def test_any_number_of_workers_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        webdataset(WebDatasetExport(run, tmp_path / str(workers), workers=workers))
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    (tmp_path / "data/videos/b.mp4").write_bytes(b"not a video")
    with pytest.raises(MediaError, match=r"clip b1 of .*b\.mp4 cannot be read"):
        webdataset(WebDatasetExport(run, tmp_path / "out", workers=2))


def test_two_exports_do_not_share_a_folder(run: Path, tmp_path: Path) -> None:
    with claimed(tmp_path / "out"), pytest.raises(UserError, match="another export is writing"):
        parquet(ParquetExport(run, tmp_path / "out"))
    assert not (tmp_path / "out" / WORK).exists()


def test_an_export_of_a_run_that_has_changed_is_named(run: Path, tmp_path: Path) -> None:
    parquet(ParquetExport(run, tmp_path / "out"))
    with pytest.raises(UserError, match=r"--crf was 20, now 30"):
        parquet(ParquetExport(run, tmp_path / "out", crf=30))
    clip = next(iter(open_tables(run)["ingest"].read(Clip)))
    relabelled(run, clip, "another caption, and a longer one")
    with pytest.raises(UserError, match=r"run has been changed since.*its tables caption differ"):
        parquet(ParquetExport(run, tmp_path / "out"))
    with pytest.raises(UserError, match="a parquet export, not webdataset"):
        webdataset(WebDatasetExport(run, tmp_path / "out"))


def test_a_run_that_changes_meanwhile_is_not_exported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = next(iter(open_tables(run)["ingest"].read(Clip)))
    finish = WebDataset.write_part

    def changing(*args: object) -> object:
        relabelled(run, clip, "another caption, and a longer one")
        return finish(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(WebDataset, "write_part", changing)
    status = main(["export", "webdataset", str(run), str(tmp_path / "out"), "--workers", "1"])
    assert status == 1
    assert not (tmp_path / "out/export.json").exists()


def test_folders_that_are_no_export(run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").touch()
    with pytest.raises(UserError, match=r"is not empty and was not written.*cat\.jpg"):
        parquet(ParquetExport(run, photos))
    with pytest.raises(UserError, match="is a file"):
        parquet(ParquetExport(run, photos / "cat.jpg"))
    with pytest.raises(UserError, match="lies in"):
        parquet(ParquetExport(run, tmp_path / "data/out"))
    assert [path.name for path in photos.iterdir()] == ["cat.jpg"]


def test_a_run_that_is_not_finished(run: Path, tmp_path: Path) -> None:
    write_marker(run / "shards", {"finished": False})
    with pytest.raises(UserError, match=r"is not finished \(pack\)"):
        parquet(ParquetExport(run, tmp_path / "out"))
    with pytest.raises(UserError, match="holds no tables"):
        parquet(ParquetExport(tmp_path / "data", tmp_path / "out"))


def test_media_that_have_moved(run: Path, tmp_path: Path) -> None:
    webdataset(WebDatasetExport(run, tmp_path / "before"))
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"data is not there.*name it with --data"):
        webdataset(WebDatasetExport(run, tmp_path / "out"))
    webdataset(WebDatasetExport(run, tmp_path / "out", data=tmp_path / "moved"))
    assert digests(tmp_path / "out") == digests(tmp_path / "before")


def test_media_that_are_gone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "data/videos/a.mp4").unlink()
    with pytest.raises(UserError, match=r"1 of 2 files.*videos/a\.mp4.*their 2 clips.*--skip-m"):
        webdataset(WebDatasetExport(run, tmp_path / "out"))
    webdataset(WebDatasetExport(run, tmp_path / "out", skip_missing=True))
    manifest = json.loads((tmp_path / "out/export.json").read_text())
    assert (sorted(manifest["missing"]), manifest["splits"]["val"]["clips"]) == (["a1", "a2"], 1)
    assert "2 were left out" in (tmp_path / "out/README.md").read_text()


def test_episodes_of_several_kinds(tmp_path: Path) -> None:
    write_v3(tmp_path / "data/one", [[0] * 9, [1] * 8])
    other = write_v2(tmp_path / "data/two", [[0] * 7])
    info = json.loads((other / "meta/info.json").read_text()) | {"fps": 5}
    (other / "meta/info.json").write_text(json.dumps(info))
    run = curated_episodes(tmp_path / "run", tmp_path / "data")
    with pytest.raises(UserError, match=r"of 2 kinds.*so101, as_stored at .*choose with --kind"):
        lerobot(LeRobotExport(run, tmp_path / "out"))
    exported = []
    for kind in (1, 2):
        lerobot(LeRobotExport(run, tmp_path / str(kind), kind=kind))
        found = json.loads((tmp_path / f"{kind}/meta/info.json").read_text())
        exported.append((found["fps"], found["total_episodes"]))
    assert sorted(exported) == [(5, 1), (10, 2)]
    with pytest.raises(UserError, match="--kind 3 is none of them"):
        lerobot(LeRobotExport(run, tmp_path / "out", kind=3))
    assert sum(1 for _ in open_tables(run)["ingest"].read(EpisodeClip)) == 3


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    clips = [clip_row(f"c{i}", 0.0, 4.0, fps=10.0, width=64, height=48) for i in range(40)]
    grey_clips(tmp_path / "data")
    run = curated_clips(tmp_path / "run", tmp_path / "data", clips)
    with mounted(tmp_path, "200k") as disk:
        with pytest.raises(DiskError, match=r"cannot be written \(the disk is full"):
            webdataset(WebDatasetExport(run, disk / "out", crf=0))
        assert not list((disk / "out").rglob("*.tmp"))
        assert not (disk / "out/export.json").exists()


def test_numbers_that_cannot_be(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [str(run), str(tmp_path / "out")]
    assert main(["export", "parquet", *places, "--crf", "60"]) == 2
    assert "--crf is 60, expected a number from 0 to 51" in capsys.readouterr().err
    assert main(["export", "lerobt", *places]) == 2
    assert "did you mean 'lerobot'?" in capsys.readouterr().err


@pytest.mark.long
def test_a_bucket_holds_the_same_bytes(
    run: Path, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    webdataset(WebDatasetExport(run, tmp_path / "here"))
    for _ in range(2):
        webdataset(WebDatasetExport(run, folder / "out"))
    assert "holds this export already" in capsys.readouterr().out
    for name in digests(tmp_path / "here"):
        assert (folder / "out" / name).read_bytes() == (tmp_path / "here" / name).read_bytes(), name
    forget_listings()
    with whole(folder / "run") as copy:
        shutil.copytree(run, copy)
    webdataset(WebDatasetExport(folder / "run", tmp_path / "from_bucket"))
    found, expected = digests(tmp_path / "from_bucket"), digests(tmp_path / "here")
    assert {n: d for n, d in found.items() if n.endswith(".tar")} == {
        n: d for n, d in expected.items() if n.endswith(".tar")
    }
