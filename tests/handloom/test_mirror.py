"""A command that appends and renames works in a mirror on disk; the store holds what it wrote."""

import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from handloom import mirror
from handloom.errors import UserError
from handloom.files import whole, write_text
from handloom.listings import forget_listings
from handloom.mirror import mirrored, on_this_disk
from tests.helpers.s3_server import S3Server


def contents(folder: Path) -> dict[str, bytes]:
    forget_listings()
    if not folder.is_dir():
        return {}
    found: dict[str, bytes] = {}
    for path in folder.iterdir():
        if path.is_dir():
            found |= {f"{path.name}/{n}": data for n, data in contents(path).items()}
        elif path.name != ".lease":
            found[path.name] = path.read_bytes()
    return found


def pointed(folder: Path) -> str:
    try:
        return (folder / "checkpoints" / "latest").read_bytes().decode()
    except FileNotFoundError:
        return "none"


def save(out: Path, step: int) -> None:
    """As the trainer writes a checkpoint, and removes the one before."""
    folder = out / "checkpoints"
    with whole(folder / f"{step:08d}") as partial:
        partial.mkdir(parents=True)
        for name in ("run.json", "weights"):
            (partial / name).write_text(f"{name} {step}")
    before = [p for p in folder.iterdir() if p.is_dir() and p.name != f"{step:08d}"]
    write_text(folder / "latest", f"{step:08d}")
    for old in before:
        shutil.rmtree(old)


def test_what_is_written_is_in_the_store_and_comes_back(folder: Path) -> None:
    with mirrored(folder) as local:  # type: ignore[arg-type]
        (local / "metrics.jsonl").write_text("1\n")
        save(local, 1)
        save(local, 2)
    assert contents(folder) == {
        "metrics.jsonl": b"1\n",
        "checkpoints/latest": b"00000002",
        "checkpoints/00000002/run.json": b"run.json 2",
        "checkpoints/00000002/weights": b"weights 2",
    }
    with mirrored(folder) as again:  # type: ignore[arg-type]
        assert contents(again) == contents(folder)
        with (again / "metrics.jsonl").open("a") as file:
            file.write("2\n")
        (again / "checkpoints" / "latest").unlink()
        shutil.rmtree(again / "checkpoints" / "00000002")
    assert contents(folder) == {"metrics.jsonl": b"1\n2\n"}
    assert not again.exists()


def test_the_store_always_holds_a_whole_checkpoint(
    folder: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at while checkpoints come and go, as another machine would find it after a kill."""
    monkeypatch.setattr(mirror, "EVERY_S", 0.01)
    done, last = threading.Event(), list[int]()
    with mirrored(folder) as local:  # type: ignore[arg-type]

        def train() -> None:
            for step in range(1, 10_000):
                save(local, step)
                time.sleep(0.05)
                if done.is_set():
                    break
            last.append(step)

        thread = threading.Thread(target=train)
        thread.start()
        seen: set[str] = set()
        until = time.monotonic() + 120
        try:
            while len(seen) < 4 and time.monotonic() < until:
                latest = pointed(folder)
                try:
                    found = (folder / "checkpoints" / latest / "weights").read_bytes()
                except FileNotFoundError:  # not begun, or replaced between the two requests
                    assert not seen or pointed(folder) != latest
                    continue
                assert found == f"weights {int(latest)}".encode()
                seen.add(latest)
        finally:
            done.set()
            thread.join()
    assert len(seen) == 4
    assert contents(folder)["checkpoints/latest"] == f"{last[0]:08d}".encode()


def test_half_written_files_are_not_uploaded(folder: Path) -> None:
    with mirrored(folder) as local:  # type: ignore[arg-type]
        (local / "checkpoints" / "00000001.partial").mkdir(parents=True)
        (local / "checkpoints" / "00000001.partial" / "weights").write_text("half")
        (local / "a.json.1234.tmp").write_text("half")
    assert contents(folder) == {}


def test_a_second_command_is_refused(folder: Path) -> None:
    with mirrored(folder), pytest.raises(UserError, match="another run is writing"):  # type: ignore[arg-type]
        mirrored(folder).__enter__()  # type: ignore[arg-type]


@dataclass(frozen=True)
class Options:
    out: Path
    checkpoint: Path | None = None
    steps: int = 3


def test_only_folders_in_a_store_are_replaced(folder: Path, tmp_path: Path) -> None:
    write_text(folder / "export" / "config.json", "{}")
    here = Options(tmp_path, tmp_path / "x")
    with on_this_disk(here) as same:
        assert same is here
    with on_this_disk(Options(folder / "run", folder / "export")) as options:
        assert (options.checkpoint / "config.json").read_text() == "{}"
        assert options.out.name == "run"
        (options.out / "scores.json").write_text("1")
    assert contents(folder)["run/scores.json"] == b"1"
