"""Disks that are full or closed: what was there stays, a sentence names the file, a rerun goes on.

The disk is a real one of 2 MB (tmpfs), which needs the right to mount.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from handloom.errors import DiskError, StoreError
from handloom.files import whole, write_bytes, write_text
from handloom.stages.caption.journal import Journal
from handloom.stages.caption.requests import Answer
from handloom.stages.stage import Stage, run_isolated, sentence
from handloom.stages.tables.parts import Table, read_marker, write_marker
from handloom.stages.tables.rows import Row
from tests.helpers.s3_server import S3Server
from tests.helpers.small_disks import mounted, remount

MEGABYTE = 1 << 20
TAKE = Answer("take a cup", True, 1, 1, 1.0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path, "2m,nr_inodes=64") as disk:
        yield disk


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return filler


def test_a_full_disk_keeps_what_was_there(small_disk: Path) -> None:
    path = small_disk / "run.yaml"
    write_text(path, "before")
    filler = fill(small_disk)
    with pytest.raises(DiskError) as caught:
        write_bytes(path, bytes(MEGABYTE))
    assert str(caught.value).startswith(f"{path} cannot be written (the disk is full: free some")
    assert path.read_text() == "before"
    assert sorted(p.name for p in small_disk.iterdir()) == ["filler", "run.yaml"]
    filler.unlink()
    write_text(path, "after")
    assert path.read_text() == "after"


def test_exhausted_inodes_read_as_a_full_disk(small_disk: Path) -> None:
    write_text(small_disk / "kept", "kept")

    def write_many() -> None:
        for number in range(100):
            write_text(small_disk / f"{number}", "x")

    with pytest.raises(DiskError, match="inodes too"):
        write_many()
    assert (small_disk / "kept").read_text() == "kept"
    assert not list(small_disk.glob("*.tmp*"))


def test_a_disk_that_becomes_read_only(small_disk: Path) -> None:
    path = small_disk / "a"
    write_text(path, "before")
    remount(small_disk, "ro")
    with pytest.raises(DiskError, match="is read-only: mount it for writing"):
        write_text(path, "after")
    assert path.read_text() == "before"
    remount(small_disk, "rw")
    write_text(path, "after")
    assert path.read_text() == "after"


def test_permission_lost_in_the_middle(open_folder: Path) -> None:
    path = open_folder / "a" / "b"
    write_text(path, "before")
    path.parent.chmod(0o555)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)  # root may write everywhere
    try:
        with pytest.raises(DiskError, match="permission denied: give yourself the right"):
            write_text(path, "after")
    finally:
        os.seteuid(user)
    path.parent.chmod(0o755)
    assert path.read_text() == "before"


def test_tables_and_markers_outlive_a_full_disk(small_disk: Path) -> None:
    table = Table(small_disk / "tables" / "x", "f" * 12)
    rows = [Row(clip_id=f"{n:032x}") for n in range(100)]
    table.write("00", "first", rows, Row)
    write_marker(table.folder, {"rows": 100})
    state = table.state()
    filler = fill(small_disk)
    with pytest.raises(DiskError, match=r"00-f+-second\.parquet cannot be written"):
        table.write("00", "second", rows * 100, Row)
    with pytest.raises(DiskError, match=r"_stage\.json cannot be written"):
        write_marker(table.folder, {"rows": 101, "more": "x" * 10_000})
    assert table.state() == state
    assert table.row_count() == 100
    assert read_marker(table.folder) == {"rows": 100}
    filler.unlink()
    table.write("00", "second", rows * 100, Row)
    assert table.row_count() == 10_100


@dataclass(frozen=True)
class Writes(Stage):
    name = "writes"
    row_type = Row
    folder: Path = Path()

    def __call__(self, row: Row) -> Iterator[Row]:
        with whole(self.folder / row.clip_id) as temporary:
            temporary.write_bytes(bytes(3 * MEGABYTE))
        yield row


def test_no_clip_is_blamed_for_a_full_disk(small_disk: Path) -> None:
    with pytest.raises(StoreError, match="clip1 cannot be written"):
        run_isolated(Writes(folder=small_disk), (Row(clip_id="clip1"),))
    assert sentence(ValueError("no")) == "ValueError: no"


def test_answers_that_do_not_fit_end_the_run(small_disk: Path) -> None:
    journal = Journal(small_disk / "answers")
    journal.put("0a", "kept", TAKE)
    fill(small_disk)

    def put_many() -> None:
        for number in range(200):
            journal.put("0a", f"{number}", Answer("x" * 200, True, 1, 1, 1.0))

    with pytest.raises(OSError, match="No space left") as caught:
        put_many()
    with pytest.raises(StoreError, match="the disk is full"):
        sentence(caught.value)
    assert Journal(small_disk / "answers").get("0a", "kept") == TAKE


def test_a_copy_that_does_not_fit_names_the_folder_of_copies(
    folder: Path, s3: S3Server, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from handloom.copies import copies

    write_bytes(folder / "clip.mp4", bytes(3 * MEGABYTE))
    monkeypatch.setenv("HANDLOOM_CACHE", str(small_disk / "copies"))
    copies.cache_clear()
    with pytest.raises(DiskError, match=r"the copy of s3://.*clip\.mp4 in .*/disk/copies cannot"):
        (folder / "clip.mp4").open("rb")
    assert copies().used_bytes() == 0
