"""Ray job submission: the log comes to its end, and the exit status is the job's."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.helpers.pages import code_of
from tests.helpers.stage1_runs import losses, write_clips

Cli = Callable[..., subprocess.CompletedProcess[str]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray head of two cores on loopback, ended by its pid; yields the dashboard's address."""
    port = free_port()
    ray = Path(sys.executable).parent / "ray"
    command = [ray, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    command += [f"--port={free_port()}", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}"]
    # Any other Ray on this machine has taken the agent's usual port, and jobs go to the agent.
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    # Its workers find the same Python; its log would otherwise fill the test's output.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    log = (tmp_path_factory.mktemp("head") / "log").open("w")
    process = subprocess.Popen(list(map(str, command)), env=env, stdout=log, stderr=log)
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(600)  # a busy machine takes its time
        log.close()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(f"nothing answers on port {port}")


def test_a_submitted_run_streams_its_log_and_leaves_shards(
    head: str, miniature: Path, tiny_vqgan: Path, cli: Cli, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"  # a stage of one's own travels with its configuration
    mine.mkdir()
    (mine / "close_up.py").write_text(code_of("adding-a-stage.md"))
    options = {"stages": ["close_up:CloseUp"], "close_up": {"min_height": 0.31}}
    (mine / "mine.yaml").write_text(yaml.safe_dump(options))
    places = ["--data", miniature, "--out", tmp_path / "out", "--config", mine / "mine.yaml"]
    small = ["--tokens.model", tiny_vqgan, "--tokens.resolution", 64, "--run.workers", 1]
    run = cli("submit", "sample", "--address", head, *places, *small)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "clips ingested =" in run.stdout
    assert re.search(r"close_up .* small_hands", run.stdout)
    assert (tmp_path / "out/shards/manifest.json").is_file()


@pytest.mark.slow
def test_a_submitted_pretraining_runs_in_several_processes(
    head: str, cli: Cli, tmp_path: Path
) -> None:
    run = cli("submit", "pretrain", "--address", head, *pretraining(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "a step is 4 clips: 2 processes on cpu" in run.stdout
    assert len(losses(tmp_path / "out")) == 4
    assert (tmp_path / "out/summary.json").is_file()


@pytest.mark.slow
def test_what_a_process_of_a_pretraining_refuses_is_what_the_job_says(
    head: str, cli: Cli, tmp_path: Path
) -> None:
    run = cli("submit", "pretrain", "--address", head, *pretraining(tmp_path), "--size", "huge")
    assert run.returncode == 2
    assert "unknown size 'huge'" in run.stdout.splitlines()[-1]


def pretraining(folder: Path) -> list[object]:
    options = {"batch-size": 4, "steps": 4, "text-length": 8, "log-every": 2, "workers": 2}
    flags = [text for name, value in options.items() for text in (f"--{name}", value)]
    return ["--shards", write_clips(folder / "shards"), "--out", folder / "out", *flags]


def test_the_exit_status_is_the_jobs(head: str, cli: Cli, tmp_path: Path) -> None:
    run = cli("submit", "ego4d", "--address", head, "--data", tmp_path / "nowhere")
    assert run.returncode == 2
    assert "nowhere is not there" in run.stdout
    assert "ended as FAILED" in run.stderr


def test_no_cluster_is_said_in_one_sentence(cli: Cli) -> None:
    run = cli("submit", "sample", "--address", f"http://127.0.0.1:{free_port()}")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "no Ray job server answers" in run.stderr
