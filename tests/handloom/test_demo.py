"""The demo knows what is done, goes on where it was stopped, and does again what has changed."""

import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from handloom.cli import main
from handloom.demo import DemoConfig, Step, run, steps
from handloom.errors import RunError
from tests.helpers.folders import CHECKOUT

Cli = Callable[..., subprocess.CompletedProcess[str]]


def two_steps(seed: int = 0) -> list[Step]:
    """Two commands of about a second each, the second of which is said to use the first."""
    raw = Step(
        "raw", ".complete.json", (), f"sample tabletop --clips 1 --seed {seed} --tasks open_drawer"
    )
    return [raw, Step("video", ".complete.json", ("raw",), "sample ssv2 --clips 1")]


def ran(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """The names of the steps that were run, not found done."""
    lines = capfd.readouterr().out.splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("handloom ")]
    return [Path(words[-1]).name for words in commands]


@pytest.mark.long
def test_what_is_done_is_not_done_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(two_steps(), tmp_path)
    assert ran(capfd) == ["raw", "video"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    run(two_steps(), tmp_path)
    assert ran(capfd) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    run(two_steps(seed=1), tmp_path)
    assert ran(capfd) == ["raw", "video"]
    (tmp_path / "video/.complete.json").unlink()
    run(two_steps(seed=1), tmp_path)
    assert ran(capfd) == ["video"]


@pytest.mark.long
def test_a_step_that_fails_is_where_it_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    raw, video = two_steps()
    broken = Step(video.name, video.marker, video.after, "sample ssv2 --clip 1")
    with pytest.raises(RunError, match=r"handloom sample ssv2 --clip 1 .* ended with status 2"):
        run([raw, broken], tmp_path)
    assert "did you mean --clips?" in capfd.readouterr().err
    run([raw, video], tmp_path)
    assert ran(capfd) == ["video"]


@pytest.mark.long
def test_scores_older_than_their_model_are_taken_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scores = Step("scores", ".complete.json", ("stage2",), "sample ssv2 --clips 1")
    model = tmp_path / "stage2/summary.json"
    model.parent.mkdir()
    model.touch()
    run([scores], tmp_path)
    run([scores], tmp_path)
    assert ran(capfd) == ["scores"]
    later = time.time() + 60
    os.utime(model, (later, later))
    run([scores], tmp_path)
    assert ran(capfd) == ["scores"]


@pytest.mark.long
def test_a_demo_that_is_ended_ends_its_step_and_goes_on_later(tmp_path: Path) -> None:
    code = (
        "from handloom.demo import Step, run; from pathlib import Path\n"
        "line = 'sample tabletop --clips 12 --tasks open_drawer'\n"
        f"run([Step('raw', '.complete.json', (), line)], Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=CHECKOUT)
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("raw/*/*/*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(600) == 128 + signal.SIGTERM
    frames = len(list(tmp_path.glob("raw/*/*/*.npz")))
    assert frames
    assert not (tmp_path / "raw/.complete.json").exists()
    time.sleep(1.0)
    assert len(list(tmp_path.glob("raw/*/*/*.npz"))) == frames  # nobody writes on
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=True)
    assert (tmp_path / "raw/.complete.json").is_file()


def test_every_step_is_a_command_line_that_handloom_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made: set[str] = set()
    for step in steps(DemoConfig(out=tmp_path / "with space")):
        assert set(step.after) <= made
        made.add(step.name)
        with pytest.raises(SystemExit) as stop:
            main([*shlex.split(step.line), "--out", str(tmp_path), "--help"])
        assert stop.value.code == 0
    assert "--out" in capsys.readouterr().out


@pytest.mark.slow
def test_a_whole_demo_and_a_second_one_that_takes_seconds(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = ["--episodes", 10, "--tasks", "open_drawer", "close_drawer", "--tries", 2]
    small += ["--stage1-steps", 4, "--stage2-steps", 4, "--picture-steps", 2]
    command = [sys.executable, "-m", "handloom", "demo", "--out", out, *small]
    words = list(map(str, command))
    subprocess.run(words, cwd=CHECKOUT, check=True, timeout=1800)
    assert (out / "report.html").is_file()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    again = subprocess.run(words, cwd=CHECKOUT, check=True, capture_output=True, text=True)
    assert again.stdout.count("done: handloom ") == len(steps(DemoConfig()))
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 10
