"""Key frames of a long video in a store: by ranges of the file, or from a copy of the whole?

    python benchmarks/bench_ranges.py [--minutes 5] [--blocks-kb 64 256 1024]

A 720p H.264 video of 3 Mbit/s with a key frame every 2 s lies on an S3 server on loopback (moto, in
this process; every GET waits --latency-ms, as those of a store in the same region do). Wanted are
the key frames of 8-second clips that make up a share of the video. `copy` fetches the file and
reads it on disk, as handloom does; `ranges` seeks in it through fsspec, with a cache of blocks of
a size. Prints bytes fetched over the bytes of the file, requests, and seconds. docs/decisions.md
quotes it.
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg

from handloom.stores import download, filesystem
from tests.helpers.s3_server import BUCKET, ENVIRONMENT, S3Server, s3_server

KEY_S, CLIP_S = 2.0, 8.0
KEY = f"{BUCKET}/long.mp4"


def make(path: Path, minutes: float) -> None:
    """Write the video."""
    source = ["-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=30", "-vf", "noise=alls=12:allf=t"]
    coding = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "60", "-b:v", "3M"]
    length = ["-t", str(60 * minutes), "-movflags", "+faststart", str(path)]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *source, *coding, *length]
    subprocess.run(command, check=True)


def wanted(seconds: float, share: float) -> list[float]:
    """Times of the key frames of clips that are spread evenly over the video."""
    starts = [i * CLIP_S / share for i in range(int(seconds * share / CLIP_S))]
    keys = int(CLIP_S / KEY_S)
    return [KEY_S * round(start / KEY_S) + KEY_S * k for start in starts for k in range(keys)]


def key_frames(file: Any, times_s: Iterable[float]) -> int:
    """Seek to each time and decode the key frame there; returns how many."""
    count = 0
    with av.open(file) as container:
        stream = container.streams.video[0]
        for time_s in times_s:
            container.seek(int(time_s / stream.time_base), stream=stream)
            count += sum(1 for _ in zip(container.decode(stream), range(1), strict=False))
    return count


def copy(times_s: list[float], scratch: Path) -> int:
    """Fetch the whole file, then read it."""
    path = scratch / "copy.mp4"
    download(f"s3://{KEY}", KEY, path)
    return key_frames(str(path), times_s)


def ranges(times_s: list[float], block_kb: int) -> int:
    """Read the file where it lies."""
    store = filesystem("s3")
    with store.open(KEY, block_size=block_kb << 10, cache_type="background") as file:
        return key_frames(file, times_s)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--blocks-kb", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.2, 0.5, 1.0])
    parser.add_argument("--latency-ms", type=float, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, s3_server() as server:
        os.environ.update({**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url})
        video = Path(name, "long.mp4")
        make(video, options.minutes)
        store = filesystem("s3")
        store.mkdir(BUCKET)
        store.put_file(str(video), KEY)
        server.fault = partial(late, options.latency_ms / 1000)
        print(f"{video.stat().st_size / 1e6:.0f} MB, {options.minutes:g} minutes")
        for share in options.shares:
            times_s = wanted(60 * options.minutes, share)
            report(server, video, f"{share:4.0%} copy", times_s, partial(copy, scratch=Path(name)))
            for block in options.blocks_kb:
                label = f"{share:4.0%} ranges, {block} kB"
                report(server, video, label, times_s, partial(ranges, block_kb=block))


def late(latency_s: float, method: str, _: str) -> int:
    """A fault that only takes its time."""
    time.sleep(latency_s * (method == "GET"))
    return 0


Read = Callable[[list[float]], int]


def report(server: S3Server, video: Path, label: str, times_s: list[float], read: Read) -> None:
    """Run one way and print what it cost."""
    server.requests.clear()
    server.sent.clear()
    began = time.monotonic()
    assert read(times_s) == len(times_s)
    took_s = time.monotonic() - began
    share = sum(server.sent.values()) / video.stat().st_size
    print(f"{label:<22} {len(times_s):4} frames  {share:5.2f} x the bytes  "
          f"{sum(server.requests.values()):4} requests  {took_s:6.2f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
