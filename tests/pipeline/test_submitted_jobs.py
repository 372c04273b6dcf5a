"""Jobs on a real cluster: logs come to their end, exit statuses are the jobs', runs resume."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from handloom.errors import JobFailed
from handloom.pipeline.following import follow
from handloom.pipeline.submit import _client
from tests.helpers.folders import CHECKOUT, shard_sums
from tests.helpers.pages import code_of
from tests.helpers.robot_shards import write_robot_shards
from tests.helpers.stage1_runs import losses, write_clips
from tests.helpers.vqgan_training import write_pictures

Cli = Callable[..., subprocess.CompletedProcess[str]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray head of two cores on loopback, ended by its pid; yields the dashboard's address.

    The first `python` on its path is one that does not work: a job has to use Ray's own.
    """
    folder, port = tmp_path_factory.mktemp("head"), free_port()
    for name in ("python", "python3"):
        (folder / name).write_text("#!/bin/sh\necho not this python\nexit 99\n")
        (folder / name).chmod(0o755)
    ray = Path(sys.executable).parent / "ray"
    command = [ray, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    command += [f"--port={free_port()}", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}"]
    # Any other Ray on this machine has taken the agent's usual port, and jobs go to the agent.
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    env = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # or its end takes half a minute
    }
    log = (folder / "log").open("w")  # it would otherwise fill the test's output
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


def test_the_exit_status_is_the_jobs(head: str, cli: Cli, tmp_path: Path) -> None:
    run = cli("submit", "ego4d", "--address", head, "--data", tmp_path / "nowhere")
    assert run.returncode == 2
    assert "nowhere is not there" in run.stdout
    assert "ended as FAILED" in run.stderr
    assert run.stderr.count("\n") == 1  # Ray is silent


@pytest.mark.slow
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


def test_no_cluster_is_said_in_one_sentence(cli: Cli) -> None:
    run = cli("submit", "sample", "--address", f"http://127.0.0.1:{free_port()}")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "no Ray job server answers" in run.stderr


SHORT = ["--actor", "oracle", "--single", "--chains", "2", "--videos", "0"]


@pytest.mark.slow
def test_a_job_is_followed_later_and_ends_as_it_did(head: str, cli: Cli, tmp_path: Path) -> None:
    at = ["--address", head]
    sent = cli("submit", "eval", "rollout", *SHORT, "--out", tmp_path / "out", "--no-wait", *at)
    assert sent.returncode == 0, sent.stderr
    assert "chain 1 / 2" not in sent.stdout
    (line,) = re.findall(r"handloom (submit --follow .*)", sent.stdout)
    for _ in range(2):  # while it runs, and when it has ended
        seen = cli(*line.split())
        assert seen.returncode == 0, seen.stderr
        assert "chain 2 / 2" in seen.stdout
    unknown = cli("submit", "--follow", "raysubmit_nobody", *at)
    assert unknown.returncode == 2
    assert "knows no job raysubmit_nobody" in unknown.stderr


@pytest.mark.slow
def test_a_stopped_run_goes_on_when_it_is_submitted_again(
    head: str, miniature: Path, tiny_vqgan: Path, cli: Cli, tmp_path: Path
) -> None:
    small = ["--tokens.model", tiny_vqgan, "--tokens.resolution", 64]
    slow = ["--run.batch-clips", 1, "--run.workers", 1]  # so that it is met in the middle
    line = ["submit", "curate", "ego4d", "--data", miniature, *small, *slow, "--address", head]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert cli(*line, "--out", whole).returncode == 0

    command = [sys.executable, "-m", "handloom", *map(str, line), "--out", str(out)]
    shown = subprocess.Popen(command, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("tables/hands/*.parquet")):
        assert shown.poll() is None
        time.sleep(0.1)
    shown.send_signal(signal.SIGINT)  # ends the showing, not the job
    said = shown.communicate(timeout=300)[1]
    assert shown.returncode == 130
    (job_id,) = re.findall(r"the job goes on.*--follow (\S+)", said, re.DOTALL)
    assert _client(head).get_job_status(job_id).value == "RUNNING"
    _client(head).stop_job(job_id)
    stopped = cli("submit", "--follow", job_id, "--address", head)
    assert stopped.returncode not in (0, 2)
    assert f"the job {job_id} ended as STOPPED" in stopped.stderr
    parts = set(out.glob("tables/hands/*.parquet"))
    assert not (out / "shards/manifest.json").exists()

    again = cli(*line, "--out", out)
    assert again.returncode == 0, again.stdout + again.stderr
    (done,) = re.findall(r"│ hands +│ +(\d+) │[^│]*│[^│]*│[^│]*│ +(\d+) │", again.stdout)
    assert int(done[1]) <= int(done[0]) - len(parts)  # what was stored is not computed again
    assert shard_sums(out) == shard_sums(whole)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["finetune", "vqgan", "scaling"])
def test_every_training_runs_on_the_cluster(what: str, head: str, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    always = ["--steps", 2, "--batch-size", 2, "--out", out, "--address", head]
    options: dict[str, list[Any]] = {
        "finetune": ["--shards", write_robot_shards(tmp_path / "robot"), "--text-length", 8],
        "vqgan": ["--frames", write_pictures(tmp_path / "pictures"), "--resolution", 64,
                  "--crop", 32, "--widths", 8, 16, 40, "--codes", 32],
        "scaling": ["--shards", write_clips(tmp_path / "clips"), "--text-length", 8,
                    "--sizes", "nano", "micro", "--seeds", 1],
    }  # fmt: skip
    run = cli("submit", "train", what, *always, *options[what])
    assert run.returncode == 0, run.stdout + run.stderr
    written = {"finetune": "summary.json", "vqgan": "config.json", "scaling": "scaling.json"}
    assert list(out.rglob(written[what]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")  # in Ray's client
def test_a_broken_connection_costs_nothing_of_the_log(
    head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = 40
    count = (
        f"i=0; while [ $i -lt {numbers} ]; do echo number $i; i=$((i+1)); sleep 0.2; done; exit 3"
    )
    with cut_now_and_then(head) as address:
        client = _client(address)
        job_id = client.submit_job(entrypoint=count)
        with pytest.raises(JobFailed, match="exit status 3") as failure:
            follow(client, job_id, address)
    assert failure.value.status == 3
    lines = re.findall(r"^number (\d+)$", capsys.readouterr().out, re.MULTILINE)
    assert list(map(int, lines)) == list(range(numbers))


@contextmanager
def cut_now_and_then(address: str, after_s: float = 1.5) -> Iterator[str]:
    """A proxy on loopback that resets every connection after a while; yields its address."""
    target = int(address.rpartition(":")[2])
    server = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    def close(*sockets: socket.socket) -> None:
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.create_connection(("127.0.0.1", target))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()
                threading.Timer(after_s, close, (near, far)).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        close(server)
