"""Kinetics in miniature with bad files among good ones, in fifteen ways."""

import csv
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.helpers.odd_videos import Odd, cut_to, run, x264

SECONDS, FPS, SIDE = 2, 10, 64
Way = Callable[[Path], object]

# Options with which every picture is kept, whatever it shows.
KEEP_ALL = (
    "--select.min-hand-share", "None", "--select.max-dark-share", "None",
    "--select.max-blank-share", "None", "--select.max-flat-share", "None",
    "--select.min-sharpness", "None",
    "--select.min-change", "None", "--select.max-bar-share", "None", "--select.max-stereo", "None",
    "--select.max-similarity", "None", "--select.max-repeats", "None",
    "--select.min-shot-share", "None",
)  # fmt: skip


def write(folder: Path, good: int, bad: int) -> tuple[list[str], dict[str, str]]:
    """The dataset; ids of the good files, and of the bad ones with the way in which they are."""
    train = folder / "k700-2020" / "train" / "cutting"
    train.mkdir(parents=True)
    ids = [f"good{i:07d}" for i in range(good)]
    for i, name in enumerate(ids):
        write_good(place(train, name), i)
    ways = {}
    for i in range(bad):
        way = sorted(WAYS)[i % len(WAYS)]
        name = f"bad{i:08d}"
        WAYS[way](place(train, name))
        ways[name] = way
    with (folder / "k700-2020" / "train.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
        rows.writerows(["cutting", name, 0, SECONDS, "train"] for name in [*ids, *ways])
    return ids, ways


def place(folder: Path, name: str) -> Path:
    return folder / f"{name}_{0:06d}_{SECONDS:06d}.mp4"


def write_good(path: Path, seed: int) -> None:
    """A small video of moving squares."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    still = np.kron(tiles, np.ones((8, 8, 1), np.uint8))
    frames = np.stack([np.roll(still, 2 * t, axis=1) for t in range(SECONDS * FPS)])
    run("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIDE}x{SIDE}", "-r", str(FPS), "-i", "-",
        "-pix_fmt", "yuv420p", *x264(10), path, data=frames.tobytes())  # fmt: skip


def encoded(path: Path, **options: object) -> None:
    """A video of the odd kind, under a path of its own."""
    odd = Odd(path.name, **{"encode": x264(), **options})  # type: ignore[arg-type]
    odd.write(path.parent)


def as_other(suffix: str, encode: list[str]) -> Way:
    """A file of another kind, called .mp4."""

    def write_one(path: Path) -> None:
        other = path.with_suffix(suffix)
        encoded(other, encode=encode)
        other.rename(path)

    return write_one


def sock(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def damaged_inside(path: Path) -> None:
    """Noise behind the first 690 bytes of the media, which x264 fills with its settings."""
    encoded(path, encode=[*x264(), "-movflags", "faststart"])
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 8 + 690
    data[at:] = np.random.default_rng(0).bytes(len(data) - at)
    path.write_bytes(bytes(data))


def huge(path: Path) -> None:
    other = path.with_suffix(".avi")
    run("-f", "lavfi", "-i", "color=s=9000x9000:d=1:r=2", "-c:v", "mjpeg", "-q:v", "31", other)
    other.rename(path)


def picture(path: Path) -> None:
    other = path.with_suffix(".jpg")
    run("-f", "lavfi", "-i", "color=s=64x64:d=0.04:r=25", "-frames:v", "1", other)
    other.rename(path)


WAYS: dict[str, Way] = {
    "empty": lambda path: path.write_bytes(b""),
    "a web page": lambda path: path.write_text("<html>404 not found</html>" * 50),
    "noise": lambda path: path.write_bytes(np.random.default_rng(1).bytes(20_000)),
    "no index": lambda path: encoded(path, edit=cut_to(0.5)),
    "damaged inside": damaged_inside,
    "header alone": lambda path: encoded(
        path, encode=[*x264(), "-movflags", "faststart"], edit=cut_to(0.3)
    ),
    "sound alone": lambda path: run("-f", "lavfi", "-i", "sine=duration=2", path),
    "a still picture": picture,
    "a raw stream": as_other(".h264", x264()),
    "huge pictures": huge,
    "a pipe": lambda path: os.mkfifo(path),
    "a socket": sock,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "an encrypted file": lambda path: encoded(
        path,
        encode=[
            *x264(),
            "-encryption_scheme",
            "cenc-aes-ctr",
            "-encryption_key",
            "0" * 32,
            "-encryption_kid",
            "1" * 32,
        ],
    ),
    "a link to itself": lambda path: path.symlink_to(path.name),
}
