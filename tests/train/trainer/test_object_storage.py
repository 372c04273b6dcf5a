"""Training from shards in a store into a store: killed, and resumed by another machine."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from handloom.files import whole
from tests.helpers.folders import CHECKOUT
from tests.helpers.s3_server import S3Server
from tests.helpers.stage1_runs import write_clips

Cli = Callable[..., subprocess.CompletedProcess[str]]
WEIGHTS = "export/model.safetensors"


def options(shards: object, out: object) -> list[str]:
    small = ["--size", "tiny", "--batch-size", 2, "--warmup", 2, "--text-length", 8]
    small += ["--threads", 1, "--steps", 120, "--val-every", 500, "--save-every", 10]
    small += ["--log-every", 5, "--no-tensorboard"]
    return list(map(str, ["train", "pretrain", "--shards", shards, "--out", out, *small]))


@pytest.mark.slow
def test_a_killed_training_goes_on_from_the_store_to_the_same_weights(
    cli: Cli, folder: Path, s3: S3Server, tmp_path: Path
) -> None:
    clips = write_clips(tmp_path / "clips")
    with whole(folder / "clips") as target:
        shutil.copytree(clips, target)
    local = cli(*options(clips, tmp_path / "local"))
    assert local.returncode == 0, local.stdout + local.stderr
    out = folder / "gpt"
    command = [sys.executable, "-m", "handloom", *options(folder / "clips", out)]
    process = subprocess.Popen(command, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "latest").exists():
        assert process.poll() is None or (out / "checkpoints" / "latest").exists()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = (out / "checkpoints" / "latest").read_bytes().decode()
    assert 0 < int(begun) < 120
    elsewhere = {"HANDLOOM_CACHE": str(tmp_path / "other-machine")}
    again = cli(*options(folder / "clips", out), **elsewhere)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"resumed after step {int(begun)}" in again.stdout
    assert (out / WEIGHTS).read_bytes() == (tmp_path / "local" / WEIGHTS).read_bytes()
    assert (out / "metrics.jsonl").exists()
    assert not list((tmp_path / "other-machine-mirrors").glob("*/*"))
