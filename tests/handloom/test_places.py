"""A path in an object store is used as one on disk, and says in a sentence what is wrong."""

import os
import pickle
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handloom import listings, stores
from handloom.copies import copies
from handloom.errors import MediaError, StoreError, UserError
from handloom.files import remove_temporaries, whole, write_text
from handloom.listings import forget_listings, trust_url
from handloom.places import check_bucket, listdir, local, place, scandir, trust
from tests.helpers.s3_server import S3Server


@pytest.fixture
def impatient(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tries, with little between them."""
    monkeypatch.setattr(stores, "PAUSES_S", (0.05,) * 4)
    monkeypatch.setattr(type(stores.filesystem("s3")), "retries", 1)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://b/run/", "s3://b/run"),
        ("s3://b", "s3://b"),
        ("hf://datasets/owner/name/train", "hf://datasets/owner/name/train"),
        ("runs/sample", "runs/sample"),
        ("file:///data/a%20b", "/data/a b"),
        ("/data//x", "/data/x"),
    ],
)
def test_a_place_is_a_path_whose_text_names_it_again(text: str, shown: str) -> None:
    path = place(text)
    assert isinstance(path, Path)
    assert str(path) == shown
    assert place(str(path)) == path
    assert pickle.loads(pickle.dumps(path)) == path


def test_a_url_keeps_what_paths_do_to_names() -> None:
    path = place("s3://b/run") / "tables" / "x.parquet"
    assert (str(path), path.name, path.suffix) == (
        "s3://b/run/tables/x.parquet",
        "x.parquet",
        ".parquet",
    )
    assert path.relative_to(place("s3://b/run")).as_posix() == "tables/x.parquet"
    assert path.with_name("y") == place("s3://b/run/tables/y")
    assert place("s3://b/run") in path.parents
    assert path.absolute() == path.resolve() == path
    assert path != Path("/b/run/tables/x.parquet")
    assert len({path, place(str(path)), Path("/b/run/tables/x.parquet")}) == 2


def test_what_is_written_is_there(folder: Path) -> None:
    path = folder / "a" / "b.txt"
    assert not path.exists()
    assert not folder.is_dir()
    write_text(path, "one\r\ntwo")
    assert path.is_file()
    assert folder.is_dir()
    assert path.read_bytes() == b"one\r\ntwo"
    assert path.stat().st_size == 8
    with path.open() as file:
        assert file.read() == "one\ntwo"
    assert Path(os.fspath(path)).name == "b.txt"
    path.unlink()
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        path.read_bytes()
    with pytest.raises(FileNotFoundError, match=r"b\.txt"):
        path.open()


def test_readers_that_want_a_path_get_the_file(folder: Path) -> None:
    table = pa.table({"x": [1, 2, 3]})
    with whole(folder / "t.parquet") as temporary:
        pq.write_table(table, temporary)
    with whole(folder / "a.npy") as temporary, temporary.open("wb") as file:
        np.save(file, np.arange(5))
    assert pq.read_table(folder / "t.parquet") == table
    assert np.load(folder / "a.npy").tolist() == [0, 1, 2, 3, 4]


def test_a_replaced_file_is_read_anew(folder: Path) -> None:
    for text in ("first", "second", "third!"):
        write_text(folder / "a", text)
        assert (folder / "a").open().read() == text


def test_globs_and_listings_are_those_of_a_disk(folder: Path, tmp_path: Path) -> None:
    names = ["a/1.txt", "a/2.csv", "b/c/3.txt", "top.txt", "b/4.txt"]
    for name in names:
        write_text(folder / name, name)
        write_text(tmp_path / "disk" / name, name)
    disk = tmp_path / "disk"
    for pattern in ("*", "*.txt", "*/*.txt", "*/", "*/*/", "a/?.csv", "b/c/*", "none/*"):
        expected = sorted(p.relative_to(disk).as_posix() for p in disk.glob(pattern))
        assert sorted(p.relative_to(folder).as_posix() for p in folder.glob(pattern)) == expected
    assert sorted(listdir(folder)) == sorted(os.listdir(disk))
    with scandir(folder) as entries:
        assert {e.name: e.is_dir() for e in entries} == {"a": True, "b": True, "top.txt": False}
    with pytest.raises(FileNotFoundError):
        list((folder / "none").iterdir())


def test_a_folder_is_listed_once_and_follows_what_is_written(folder: Path, s3: S3Server) -> None:
    write_text(folder / "t" / "1.parquet", "x")
    table = folder / "t"
    assert len(list(table.glob("*.parquet"))) == 1
    s3.requests.clear()
    write_text(table / "2.parquet", "x")
    (table / "1.parquet").unlink()
    for _ in range(20):
        assert [p.name for p in table.glob("*.parquet")] == ["2.parquet"]
    assert not [r for r in s3.requests if r == "GET /bucket"]
    other = stores.filesystem("s3")  # as another process writes
    other.pipe_file(f"{table.key}/3.parquet", b"x")  # type: ignore[attr-defined]
    forget_listings(table)
    assert [p.name for p in table.glob("*.parquet")] == ["2.parquet", "3.parquet"]


def test_a_failed_write_leaves_the_former_file_and_no_other(folder: Path, tmp_path: Path) -> None:
    write_text(folder / "a.json", "before")

    def fail() -> None:
        with whole(folder / "a.json") as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    remove_temporaries(folder)
    assert (folder / "a.json").read_bytes() == b"before"
    assert [p.name for p in folder.iterdir()] == ["a.json"]
    assert not list((tmp_path / "copies" / "tmp").iterdir())


@pytest.mark.long
def test_a_large_file_is_written_whole_and_fetched_once(
    folder: Path, s3: S3Server, impatient: None, tmp_path: Path
) -> None:
    parts = iter(range(100))

    def third_part(method: str, path: str) -> int:
        return 500 if method == "PUT" and next(parts) >= 2 else 0

    def write() -> None:
        with whole(folder / "large") as temporary, temporary.open("wb") as file:
            file.truncate(120 << 20)  # three parts of 50 MB

    with s3.failing(third_part), pytest.raises(StoreError, match="does not answer"):
        write()
    assert not (folder / "large").exists()
    filesystem = stores.filesystem("s3")
    assert not filesystem.call_s3("list_multipart_uploads", Bucket="bucket").get("Uploads")
    write()
    assert (folder / "large").stat().st_size == 120 << 20
    shutil.rmtree(tmp_path / "copies")  # what is written is kept here as well
    copies.cache_clear()
    large = folder / "large"
    assert local(large).stat().st_size == 120 << 20
    assert s3.sent[f"/{large.key}"] == 120 << 20  # the bytes of the file, once


@pytest.mark.parametrize("status", [503, 500, -1])
def test_a_store_that_stumbles_is_asked_again(
    folder: Path, s3: S3Server, status: int, impatient: None
) -> None:
    write_text(folder / "a", "text")
    left = {"GET": 3, "PUT": 3, "HEAD": 3}

    def stumble(method: str, path: str) -> int:
        left[method] = left.get(method, 0) - 1
        return status if left[method] >= 0 else 0

    with s3.failing(stumble):
        assert (folder / "a").open().read() == "text"
        write_text(folder / "b", "more")
    assert (folder / "b").read_bytes() == b"more"


def test_a_store_that_is_away_is_told_in_a_sentence(
    folder: Path, s3: S3Server, impatient: None
) -> None:
    with s3.failing(lambda method, path: 503), pytest.raises(StoreError) as caught:
        (folder / "a").read_bytes()
    assert str(caught.value).startswith("s3://bucket does not answer")
    assert "run the same command again" in str(caught.value)


def test_a_server_that_is_unplugged_is_told_in_a_sentence(
    folder: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    type(stores.filesystem("s3")).clear_instance_cache()
    with pytest.raises(StoreError, match="s3://bucket does not answer"):
        check_bucket(folder)
    monkeypatch.undo()
    type(stores.filesystem("s3")).clear_instance_cache()


def test_refused_access_names_the_bucket_and_what_to_set(folder: Path, s3: S3Server) -> None:
    with s3.failing(lambda method, path: 403), pytest.raises(StoreError) as caught:
        check_bucket(folder)
    assert str(caught.value).startswith("s3://bucket refuses access")
    assert "AWS_PROFILE" in str(caught.value)


def test_no_credentials_is_told_in_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    type(stores.filesystem("s3")).clear_instance_cache()
    with pytest.raises(StoreError, match=r"s3://bucket refuses access.*AWS_ACCESS_KEY_ID"):
        (folder / "a").read_bytes()
    monkeypatch.undo()
    type(stores.filesystem("s3")).clear_instance_cache()


def test_places_that_cannot_be_are_refused(s3: S3Server) -> None:
    with pytest.raises(UserError, match=r"there is no bucket s3://nobody-has-it;"):
        check_bucket(place("s3://nobody-has-it/run"))
    with pytest.raises(UserError, match="names no bucket"):
        check_bucket(place("s3://"))
    with pytest.raises(UserError, match=r"abc:// is not known"):
        place("abc://x/y")
    if find_spec("gcsfs") is None:
        with pytest.raises(UserError, match=r"gs:// needs gcsfs, .*: pip install gcsfs"):
            place("gs://bucket/run")


def test_a_dataset_file_that_changes_fails_by_name(
    folder: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(folder / "data" / "clip.mp4", "first")
    trust(folder / "data")
    path = folder / "data" / "clip.mp4"
    assert path.open().read() == "first"
    s3.requests.clear()
    assert path.open().read() == "first"
    assert not s3.requests  # neither asked about nor fetched again
    write_text(path, "other")
    monkeypatch.setattr(listings, "ASK_AGAIN_S", 0.0)
    with pytest.raises(MediaError, match=r"clip\.mp4: the file was replaced while it was used"):
        path.open()


def test_a_file_that_is_replaced_while_it_is_fetched_fails_by_name(
    folder: Path, s3: S3Server
) -> None:
    write_text(folder / "data" / "clip.mp4", "first")
    trust_url(f"{folder}/data")
    path = folder / "data" / "clip.mp4"
    is_first = iter([True])

    def replace_before_get(method: str, asked: str) -> int:
        if method == "GET" and asked.endswith("clip.mp4") and next(is_first, False):
            stores.filesystem("s3").pipe_file(path.key, b"other")  # type: ignore[attr-defined]
        return 0

    with s3.failing(replace_before_get), pytest.raises(MediaError, match=r"clip\.mp4: .*replaced"):
        path.open()
