"""Listing stays in the data folder, and says so where something leads out of it."""

from pathlib import Path

import pytest

from handloom.errors import UserError
from handloom.stages.datasets.media import files_below, read_columns, read_rows
from handloom.stages.datasets.source import is_inside


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder, and a secret beside it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.mp4").touch()
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    for name in ("a/-x.MP4", "a/b.webm", "c.mp4", "a/.hidden.mp4", "notes.txt"):
        (root / name).touch()
    return root


def test_files_are_listed_by_suffix_in_any_case(root: Path) -> None:
    (root / "lost+found").mkdir()
    (root / "lost+found/d.mp4").touch()
    assert sorted(files_below(root, root, (".mp4", ".webm"))) == ["a/-x.MP4", "a/b.webm", "c.mp4"]


def test_links_inside_are_followed_once(root: Path) -> None:
    (root / "again").symlink_to(root / "a")
    (root / "a/up").symlink_to(root)
    (root / "link.mp4").symlink_to(root / "c.mp4")
    found = sorted(files_below(root, root, (".mp4",)))
    assert found in (["a/-x.MP4", "c.mp4", "link.mp4"], ["again/-x.MP4", "c.mp4", "link.mp4"])


def test_what_a_link_leads_out_to_is_listed_and_not_inside(root: Path) -> None:
    (root / "videos").symlink_to(root.parent / "outside")
    found = [path for path in files_below(root, root, (".mp4",)) if not is_inside(root, path)]
    assert found == ["videos/secret.mp4"]


@pytest.mark.parametrize(
    ("path", "stays"),
    [
        ("a/-x.MP4", True), ("not/there.mp4", True), ("a/../c.mp4", False),
        ("../root/c.mp4", False),
        ("/etc/passwd", False), ("a/..\\\\..\\\\x", False), ("nul\0", False), ("out.mp4", False),
    ],
)  # fmt: skip
def test_inside(root: Path, path: str, stays: bool) -> None:
    (root / "out.mp4").symlink_to(root.parent / "outside/secret.mp4")
    assert is_inside(root, path) is stays


def test_rows_keep_every_value_a_string(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b'\xef\xbb\xbfid,start\r\n-abc,1e3\r\n=1+1,0007\r\n"a,b",caf\xff\r\n')
    rows = list(read_rows(table, ["id", "start"]))
    assert [tuple(row.values()) for row in rows] == [
        ("-abc", "1e3"), ("=1+1", "0007"), ("a,b", "caf\ufffd"),
    ]  # fmt: skip
    with pytest.raises(UserError, match="has the columns id, start, expected end"):
        list(read_rows(table, ["end"]))


def test_columns_are_those_of_rows(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b'b,a\r\n1,"x\r\ny"\r\n\r\n2\r\n3,\xff,4\r\n')
    rows = [(row["a"], row["b"], "") for row in read_rows(table, ["a", "b"])]
    assert rows == [("x\r\ny", "1", ""), ("", "2", ""), ("\ufffd", "3", "")]
    assert list(read_columns(table, ["a", "b"], ["c"])) == rows
    with pytest.raises(UserError, match="has the columns b, a, expected c"):
        list(read_columns(table, ["a", "c"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n\0\0\0\0\n", "has NUL bytes in line 3, as of a download that broke off"),
        ("a,b\n1,2\n".encode("utf-16"), "is not UTF-8, but UTF-16"),
        ("a,b\n1,2\n".encode("utf-32-be"), "is not UTF-8, but UTF-16 or UTF-32"),
        (b"", "has the columns none, expected a, b"),
    ],
)
def test_what_is_no_csv_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_columns(table, ["a", "b"]))


def test_a_table_that_grows_while_it_is_read_is_named(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a,b\n" + "1,2\n" * 10_000)
    rows = read_columns(table, ["a", "b"])
    assert next(rows) == ("1", "2")
    with table.open("a") as file:
        file.write("3,4\n")
    with pytest.raises(UserError, match="changed while it was read, from 40,004 to 40,008 bytes"):
        list(rows)
