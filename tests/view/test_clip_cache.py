"""What was made for the page is kept within bounds, made once, and made again when it is gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from handloom.view.clip_cache import FileCache
from tests.helpers.folders import CHECKOUT
from tests.helpers.recorded_runs import clip_row, write_run


def writer(made: list[str], name: str, size: int = 10) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        made.append(name)
        path.write_bytes(name.encode().ljust(size))

    return make


def test_no_more_bytes_are_kept_than_allowed_and_the_oldest_go_first() -> None:
    cache, made = FileCache(most_bytes=30), list[str]()
    paths = {name: cache.get(name, ".jpg", writer(made, name)) for name in "abc"}
    cache.get("a", ".jpg", writer(made, "a"))  # used: `b` is the oldest now
    cache.get("d", ".jpg", writer(made, "d"))
    assert {name for name, path in paths.items() if path.exists()} == {"a", "c"}
    folder = paths["a"].parent
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 30
    cache.get("b", ".jpg", writer(made, "b"))
    assert made == ["a", "b", "c", "d", "b"]


def test_one_that_is_larger_than_all_others_may_be_is_still_served() -> None:
    cache = FileCache(most_bytes=5)
    assert cache.get("a", ".webm", writer([], "a", size=100)).stat().st_size == 100


def test_many_that_ask_at_once_wait_for_one_maker() -> None:
    cache, made, gate = FileCache(), list[str](), threading.Event()

    def make(path: Path) -> None:
        gate.wait(5)
        writer(made, "a")(path)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(cache.get, "a", ".jpg", make) for _ in range(8)]
        gate.set()
        assert len({one.result() for one in asked}) == 1
    assert made == ["a"]


def test_what_fails_leaves_nothing_and_is_tried_again() -> None:
    cache, made = FileCache(), list[str]()

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.get("a", ".jpg", fail)
    path = cache.get("a", ".jpg", writer(made, "a"))
    assert path.read_bytes().strip() == b"a"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_somebody_removed_is_made_again() -> None:
    cache, made = FileCache(), list[str]()
    cache.get("a", ".jpg", writer(made, "a")).unlink()
    assert cache.get("a", ".jpg", writer(made, "a")).exists()
    assert made == ["a", "a"]


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_behind_when_the_viewer_is_ended(
    tmp_path: Path, ended_by: signal.Signals
) -> None:
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    clip = clip_row("c", 0.0, 1.0)
    write_run(out, tmp_path, {"ingest": [clip]})
    temporary.mkdir()
    command = [sys.executable, "-m", "handloom", "view", str(out), "--no-browser"]
    env = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(command, cwd=CHECKOUT, env=env, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert "open http" in run.stdout.readline()
        wait_for(lambda: any(temporary.glob("handloom-view-*")))
        time.sleep(1.0)  # until the server has begun
        run.send_signal(ended_by)
        assert run.wait(timeout=20) in (0, 130)
    assert list(temporary.glob("handloom-view-*")) == []


def wait_for(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.02)
    raise TimeoutError
