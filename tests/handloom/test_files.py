"""A file is whole or absent, whatever happens while it is written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from handloom.files import remove_temporaries, whole, write_text


def fail_halfway(path: Path, sync: bool) -> None:
    with whole(path, sync=sync) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError


@pytest.mark.parametrize("sync", [True, False])
def test_a_failed_write_leaves_the_former_file(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "a.json"
    write_text(path, "before", sync)
    with pytest.raises(ZeroDivisionError):
        fail_halfway(path, sync)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_no_name(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from handloom.files import whole\n"
        "with whole(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.json")])
    assert run.returncode == -signal.SIGKILL
    assert not (tmp_path / "a.json").exists()
    assert len(list(tmp_path.iterdir())) == 1
    remove_temporaries(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for names in (["one", "two"], ["two", "three"]):
        with whole(tmp_path / "folder") as temporary:
            temporary.mkdir()
            for name in names:
                (temporary / name).write_text(name)
        assert sorted(os.listdir(tmp_path / "folder")) == sorted(names)


def test_writers_that_choose_by_suffix_see_it(tmp_path: Path) -> None:
    with whole(tmp_path / "clip.mp4", suffix=".mp4") as temporary:
        assert temporary.suffix == ".mp4"
        temporary.write_bytes(b"0")
    assert (tmp_path / "clip.mp4").read_bytes() == b"0"
