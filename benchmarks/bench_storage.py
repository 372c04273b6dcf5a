"""A run whose data and output lie in an object store, beside the same run on this disk.

    python benchmarks/bench_storage.py [--clips 60] [--rounds 2]

Whole runs of `handloom curate` on a miniature Ego4D, in turn, each in a process of its own: on this
disk, and with `--data` and `--out` on an S3 server on loopback (moto, in this process). Prints the
time of each, their ratio, the bytes of media that were fetched over those of the files, and the
requests of the run by kind. docs/decisions.md quotes it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from handloom.files import whole
from handloom.places import place
from handloom.stages.miniatures import ego4d
from handloom.stores import filesystem
from tests.helpers.s3_server import BUCKET, ENVIRONMENT, S3Server, s3_server


def run(data: object, out: object, cache: Path) -> float:
    """Seconds of a whole run."""
    small = ["--tokens.frames", "3", "--run.num-cpus", "2"]
    places = ["--data", str(data), "--out", str(out)]
    command = [sys.executable, "-m", "handloom", "curate", "ego4d", *places, *small]
    began = time.monotonic()
    subprocess.run(
        command, check=True, env=os.environ | {"HANDLOOM_CACHE": str(cache)}, capture_output=True
    )
    return time.monotonic() - began


def told(server: S3Server, data: Path) -> str:
    """What the server was asked for."""
    sizes = {path.name: path.stat().st_size for path in data.rglob("*.mp4")}
    fetched = {path: n for path, n in server.sent.items() if path.endswith(".mp4")}
    share = sum(fetched.values()) / sum(sizes[Path(path).name] for path in fetched)
    kinds: Counter[str] = Counter()
    for request, count in server.requests.items():
        method, path = request.split(" ")
        kinds["LIST" if (method, path.strip("/")) == ("GET", BUCKET) else method] += count
    asked = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"media fetched {share:.3f} x the files used; {asked}"


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, s3_server() as server:
        os.environ.update({**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url})
        folder = Path(name)
        filesystem("s3").mkdir(BUCKET)
        ego4d.write(folder / "data", clips=options.clips, seed=0)
        with whole(place(f"s3://{BUCKET}/data")) as target:
            shutil.copytree(folder / "data", target)
        for number in range(options.rounds):
            here = run(folder / "data", folder / f"out{number}", folder / "none")
            server.requests.clear()
            server.sent.clear()
            there = run(f"s3://{BUCKET}/data", f"s3://{BUCKET}/{number}", folder / f"c{number}")
            print(
                f"disk {here:.1f} s, store {there:.1f} s: {there / here:.2f}; "
                + told(server, folder / "data"),
                flush=True,
            )


if __name__ == "__main__":
    main()
