"""A run whose data and output lie in a store gives the bytes of a local one, also if killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handloom.files import whole
from handloom.listings import forget_listings
from handloom.places import place
from handloom.stores import filesystem
from tests.helpers.folders import CHECKOUT
from tests.helpers.s3_server import BUCKET, S3Server

Cli = Callable[..., subprocess.CompletedProcess[str]]

SAME = ("*.parquet", "*.tar", "*.arrow", "manifest.json", "_flow.json", "failed.csv")


def options(data: object, out: object, vqgan: Path) -> list[str]:
    small = ["--tokens.model", vqgan, "--tokens.resolution", 64, "--tokens.frames", 3]
    small += ["--run.workers", 1, "--run.num-cpus", 2]
    return list(map(str, ["curate", "sample", "--data", data, "--out", out, *small]))


def upload(source: Path, target: str) -> None:
    with whole(place(target)) as folder:
        shutil.copytree(source, folder)


def remote_bytes(out: str) -> dict[str, bytes]:
    """What lies in a run, less what holds times, counts of seconds or places."""
    opened: Any = filesystem("s3")
    root = out.removeprefix("s3://") + "/"
    found = {path.removeprefix(root): path for path in opened.find(root)}
    return {n: opened.cat_file(p) for n, p in found.items() if is_comparable(Path(n))}


def is_comparable(path: Path) -> bool:
    return path.parts[0] != "cache" and any(path.match(pattern) for pattern in SAME)


def local_bytes(out: Path) -> dict[str, bytes]:
    found = (path for path in out.rglob("*") if path.is_file())
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in found
        if is_comparable(path.relative_to(out))
    }


@pytest.mark.slow
def test_a_run_in_a_store_is_killed_and_goes_on_to_the_same_bytes(
    miniature: Path, tiny_vqgan: Path, cli: Cli, s3: S3Server, tmp_path: Path
) -> None:
    local = tmp_path / "local"
    done = cli(*options(miniature, local, tiny_vqgan))
    assert done.returncode == 0, done.stdout + done.stderr
    data, out = f"s3://{BUCKET}/{tmp_path.name}/data", f"s3://{BUCKET}/{tmp_path.name}/out"
    upload(miniature, data)
    s3.sent.clear()
    command = [sys.executable, "-m", "handloom", *options(data, out, tiny_vqgan)]
    process = subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        wait_for_part(process, f"{out}/tables/hands")
        refused = cli(*options(data, out, tiny_vqgan))
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"handloom: another run is writing {out} (process ")
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    again = cli(*options(data, out, tiny_vqgan))
    assert again.returncode == 0, again.stdout + again.stderr
    expected, found = local_bytes(local), remote_bytes(out)
    assert len(expected) > 12
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert not filesystem("s3").call_s3("list_multipart_uploads", Bucket=BUCKET).get("Uploads")
    media = {path: n for path, n in s3.sent.items() if path.endswith(".mp4")}
    sizes = {p.name: p.stat().st_size for p in miniature.rglob("*.mp4")}
    assert sum(media.values()) <= 1.1 * sum(sizes[Path(path).name] for path in media)
    told = cli("status", out)
    assert told.returncode == 0
    assert "clips ingested" in told.stdout


def wait_for_part(process: "subprocess.Popen[str]", folder: str) -> None:
    """Until a stage has written a part."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        forget_listings()
        if any(place(folder).glob("*.parquet")):
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.2)
    raise TimeoutError(folder)
