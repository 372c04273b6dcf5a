"""Readers of video side by side: handloom's own, and decord as it comes and as it would be checked.

    python benchmarks/bench_readers.py FOLDER [--decord PATH] [--odd]

Every reader opens each video of a folder and gives five frames of each four seconds, then all
frames of the first two seconds; CPU milliseconds, the least of three rounds that alternate. --odd
writes the tests' matrix of odd files instead and counts frames that are not those that FFmpeg
shows. --decord names a folder with another build of decord, such as `pip install --target`'s of its
maintained fork decord2.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handloom.stages.media.container import Container
from handloom.stages.media.video import Video, probe
from tests.helpers.odd_videos import ODD, truth

CLIP_S, FRAMES, DENSE_S, ROUNDS = 4.0, 5, 2.0, 3
Times = NDArray[np.float64]
Read = Callable[[Times], NDArray[np.uint8]]


def ours(path: Path) -> Read:
    return Video(path).frames_at


def decord_as_it_comes(path: Path) -> Read:
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    spans = np.asarray(reader.get_frame_timestamp(np.arange(len(reader))), np.float64)
    starts_s = spans[:, 0] - spans[0, 0]

    def read(times_s: Times) -> NDArray[np.uint8]:
        numbers = np.searchsorted(starts_s, times_s + 1e-4, side="right") - 1
        return np.asarray(reader.get_batch(numbers.clip(0)).asnumpy())

    return read


def decord_checked(path: Path) -> Read:
    """Only where its times are those of packets that are shown, and its first frame is ours."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    spans = np.asarray(reader.get_frame_timestamp(np.arange(len(reader))), np.float64)
    with Container(path) as container:
        packets = [p for p in container.packets() if p.size and not p.is_discard]
        shown_s = np.sort([container.time_s(p) or 0.0 for p in packets])
    same = len(shown_s) == len(spans) and np.abs(shown_s - spans[:, 0]).max() < 2e-3
    first = reader[0].asnumpy()
    own = Video(path).frames_at([0.0])[0]
    if not (same and first.shape == own.shape and np.array_equal(first, own)):
        return ours(path)

    def read(times_s: Times) -> NDArray[np.uint8]:
        numbers = np.searchsorted(spans[:, 0], times_s + 1e-4, side="right") - 1
        return np.asarray(reader.get_batch(numbers.clip(0)).asnumpy())

    return read


READERS = {"handloom": ours, "decord": decord_as_it_comes, "decord, checked": decord_checked}


def cpu_ms(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return (time.process_time() - started) * 1e3


def measure(path: Path) -> dict[str, dict[str, float]]:
    facts = probe(path)
    starts_s = np.arange(facts.start_s, max(facts.duration_s - CLIP_S, facts.start_s + 0.1), CLIP_S)
    length_s = min(CLIP_S, facts.duration_s - facts.start_s)
    clips = [s + (np.arange(FRAMES) + 0.5) * length_s / FRAMES for s in starts_s[:20]]
    dense = facts.start_s + np.arange(int(min(DENSE_S, length_s) * facts.fps)) / facts.fps
    found: dict[str, dict[str, float]] = {name: {} for name in READERS}
    for _ in range(ROUNDS):
        for name, make in READERS.items():
            jobs = {"open": partial(make, path), "clips": partial(read, make, path, clips),
                    "dense": partial(read, make, path, [dense])}  # fmt: skip
            took = {part: cpu_ms(job) for part, job in jobs.items()}
            for part, ms in took.items():
                found[name][part] = min(found[name].get(part, np.inf), ms)
    return found


def read(make: Callable[[Path], Read], path: Path, clips: list[Times]) -> None:
    reader = make(path)
    for times_s in clips:
        reader(times_s)


def speed(folder: Path) -> None:
    total: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    files = refused = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            found = measure(path)
        except Exception:  # decord raises errors of its own
            refused += 1
            continue
        files += 1
        for name, took in found.items():
            for part, ms in took.items():
                total[name][part] += ms
    print(f"{files} files, {refused} that one of the readers refuses")
    for name, took in total.items():
        parts = ", ".join(f"{part} {ms / files:.1f} ms" for part, ms in took.items())
        print(f"{name:16} {parts}")


def odd() -> None:
    wrong: dict[str, list[str]] = {name: [] for name in READERS}
    with tempfile.TemporaryDirectory() as folder:
        for one in ODD:
            path = one.write(Path(folder))
            right = truth(path)
            times_s = right.times_s[:: max(1, len(right.times_s) // 20)] + 2e-3
            for name, make in READERS.items():
                try:
                    frames = make(path)(times_s)
                    is_right = all(
                        right.at(t) in right.which(frame)
                        for t, frame in zip(times_s, frames, strict=True)
                    )
                except Exception:  # decord raises errors of its own
                    is_right = name != "handloom"  # an error is no wrong picture
                if not is_right:
                    wrong[name].append(one.name)
    for name, files in wrong.items():
        print(f"{name}: wrong pictures in {len(files)} of {len(ODD)}: {', '.join(files)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--decord", type=Path)
    parser.add_argument("--odd", action="store_true")
    arguments = parser.parse_args()
    if arguments.decord:
        sys.path.insert(0, str(arguments.decord))
    odd() if arguments.odd else speed(arguments.folder)
