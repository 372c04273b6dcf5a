"""A run is watched from its folder alone, while it goes on and when it has gone silent."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from handloom.pipeline import progress
from handloom.pipeline.progress import Heartbeat, Line, Reporter

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run that has done 3 of 12 clips of `hands` in 6 seconds, one of which failed."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"dataset": "ssv2"}))
    Heartbeat("a", ["ingest", "hands"]).beat(tmp_path)
    reporter = Reporter(tmp_path, "hands")
    reporter.start(12)
    reporter.line.started -= 6
    reporter.advance({"ok": 2, "failed": 1})
    reporter.watch(2, "")
    return tmp_path


def test_json_tells_clips_rates_and_the_time_left(out: Path, cli: Cli) -> None:
    told = json.loads(cli("status", out, "--json").stdout)
    hands = told["stages"]["hands"]
    assert (told["state"], told["stages"]["ingest"]["state"]) == ("running", "waiting")
    assert (hands["done"], hands["total"], hands["failed"], hands["workers"]) == (3, 12, 1, 2)
    assert 0 < hands["clips_per_second"] <= 0.5
    assert hands["eta_s"] == pytest.approx(9 / hands["clips_per_second"], rel=0.2)


def test_a_silent_run_is_called_stopped_and_watching_ends(out: Path, cli: Cli) -> None:
    run = Heartbeat("a", ["ingest", "hands"])
    run.beat(out)
    path = out / "progress/_run.json"
    silent = json.loads(path.read_text()) | {"updated": time.time() - progress.SILENT_S - 5}
    path.write_text(json.dumps(silent))
    seen = cli("status", out, "--watch", "--json")
    (line,) = seen.stdout.splitlines()
    assert json.loads(line)["state"] == "stopped"


def test_a_folder_without_progress_is_told_in_one_sentence(tmp_path: Path, cli: Cli) -> None:
    run = cli("status", tmp_path, "--watch")
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    (tmp_path / "run.yaml").write_text("dataset: ssv2\n")
    run = cli("status", tmp_path, "--json")
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert "tells no progress" in run.stderr


def test_there_is_no_time_left_without_a_total_or_a_clip() -> None:
    assert Line(state="running", started=1.0, done=3).eta_s is None
    assert Line(state="running", started=1.0, total=3).eta_s is None
    assert Line(state="done", started=1.0, total=3, done=3).eta == ""
