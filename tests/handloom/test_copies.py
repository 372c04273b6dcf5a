"""Copies of remote files: each fetched once, never more than fit, none lost while it is used."""

import multiprocessing
import os
import tempfile
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

from handloom import prefetch
from handloom.copies import PINNED, Copies, copies
from handloom.errors import UserError


def writer(content: bytes, log: Path | None = None, pause_s: float = 0.0):  # type: ignore[no-untyped-def]
    def fetch(path: Path) -> None:
        time.sleep(pause_s)
        path.write_bytes(content)
        if log:
            with log.open("ab") as file:
                file.write(b".")

    return fetch


def get(copies: Copies, number: int, size: int, log: Path | None = None) -> Path:
    fetch = writer(bytes([number]) * size, log)
    return copies.get(f"s3://b/{number}.mp4", "tag", size, fetch)


def test_a_file_is_fetched_once_for_each_content(tmp_path: Path) -> None:
    copies, log = Copies(tmp_path / "c", 10_000), tmp_path / "log"
    paths = {get(copies, 1, 100, log) for _ in range(5)}
    assert len(paths) == 1
    assert log.read_bytes() == b"."
    other = copies.get("s3://b/1.mp4", "other", 3, writer(b"new", log))
    assert other.read_bytes() == b"new"
    assert {p.name for p in (*paths, other)} == {"1.mp4"}
    assert log.read_bytes() == b".."


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    copies = Copies(tmp_path, 1_000)
    paths = {}
    for number in range(20):
        paths[number] = get(copies, number, 100)
        os.utime(paths[0].parent)
        assert get(copies, 0, 100) == paths[0]
        assert copies.used_bytes() <= 1_000
    left = [n for n, path in paths.items() if path.exists()]
    assert left[0] == 0
    assert left[1:] == list(range(20 - len(left) + 1, 20))


def test_files_in_use_stay_though_they_do_not_fit(tmp_path: Path) -> None:
    one, other = Copies(tmp_path, 250), Copies(tmp_path, 250)
    used = [get(one, n, 100) for n in range(PINNED)]
    for number in range(10, 20):
        get(other, number, 100)
    assert [path.read_bytes() for path in used] == [bytes([n]) * 100 for n in range(PINNED)]


def test_who_waited_for_a_file_has_it_though_the_one_who_fetched_it_holds_it(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    fetch = writer(b"text", log, pause_s=0.3)

    def want(copies: Copies) -> bytes:
        return copies.get("s3://b/x", "t", 4, fetch).read_bytes()

    both = [Copies(tmp_path / "c", 1_000) for _ in range(2)]  # both hold it until the end
    with ThreadPool(2) as threads:
        assert threads.map_async(want, both).get(timeout=20) == [b"text"] * 2
    assert log.read_bytes() == b"."
    assert not list((tmp_path / "c").glob("*.lock"))


def test_a_file_removed_by_hand_is_fetched_again(tmp_path: Path) -> None:
    copies, other = Copies(tmp_path, 1_000), Copies(tmp_path, 1_000)
    for _ in range(2):
        path = get(copies, 1, 100)
        assert get(other, 1, 100).read_bytes() == bytes([1]) * 100
        path.unlink()
    get(other, 1, 100)
    assert get(copies, 1, 100).exists()


def test_a_failed_fetch_leaves_nothing(tmp_path: Path) -> None:
    copies = Copies(tmp_path, 1_000)

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        copies.get("s3://b/1.mp4", "tag", 100, fail)
    assert copies.used_bytes() == 0
    assert not list((tmp_path / "tmp").iterdir())
    assert get(copies, 1, 100).read_bytes() == b"\x01" * 100


def test_copies_are_closed_to_other_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HANDLOOM_CACHE", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = Copies(tmp_path / "c", 1_000)
    assert own.folder.stat().st_mode & 0o077 == 0
    foreign = tmp_path / f"handloom-{os.getuid()}"
    foreign.mkdir()
    if os.getuid() == 0:  # only root may give files away
        os.chown(foreign, 65534, 65534)
        copies.cache_clear()
        with pytest.raises(UserError, match="belongs to another user"):
            copies()


def work(folder: Path, log: Path, seed: int) -> int:
    copies = Copies(folder, 700)
    for step in range(60):
        number = (step * 7 + seed * 3) % 12
        path = copies.get(f"s3://b/{number}.mp4", "t", 100, writer(bytes([number]) * 100, log))
        if path.read_bytes() != bytes([number]) * 100:
            return 1
    return 0


def test_processes_and_threads_share_whole_files(tmp_path: Path) -> None:
    folder, log = tmp_path / "c", tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        done = pool.starmap_async(work, [(folder, log, seed) for seed in range(3)])
        assert sum(done.get(timeout=60)) == 0
    with ThreadPool(4) as threads:
        done = threads.starmap_async(work, [(folder, log, seed) for seed in range(4)])
        assert sum(done.get(timeout=60)) == 0


def once(folder: Path, log: Path) -> bytes:
    copies = Copies(folder, 1_000)
    return copies.get("s3://b/x", "t", 4, writer(b"text", log, pause_s=0.5)).read_bytes()


def test_two_processes_that_want_a_file_fetch_it_once(tmp_path: Path) -> None:
    arguments = (tmp_path / "c", tmp_path / "log")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap_async(once, [arguments] * 2).get(timeout=60) == [b"text"] * 2
    assert (tmp_path / "log").read_bytes() == b"."


def test_the_next_files_are_fetched_before_their_turn() -> None:
    fetched: list[str] = []
    urls = [f"s3://b/{n}" for n in range(6)]
    prefetch.begin(urls, fetched.append)

    def wait_for(count: int) -> None:
        until = time.monotonic() + 5
        while len(fetched) < count and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.05)
        assert fetched == urls[:count]

    wait_for(2)
    prefetch.reach(urls[0])
    wait_for(3)
    prefetch.reach(urls[0])
    wait_for(3)
    prefetch.reach(urls[3])
    wait_for(6)
