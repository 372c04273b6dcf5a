"""Edited videos made of labelled takes: cuts, dissolves and fades at known times.

A take is a video without any shot change. Pieces of 2 to 5 s are joined at random and encoded as
H.264 of 426 x 240, as a strict encoder or a frugal one does; every draw comes from the seed.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]
"""[T, H, W, 3], RGB."""

WIDTH, HEIGHT = 426, 240
GRADUAL = "dissolve", "fade to black", "fade to white"
KINDS = "cut", *GRADUAL
PIECE_S, GRADUAL_S = (2.0, 5.0), (0.25, 1.5)
PIECES = 5
# What the labels do not say: these are edited, jump in time, or are damaged (seen frame by frame).
NO_TAKES = {
    "stir_fry", "cartoon_rabbit", "arm_wrestling", "panda_can", "panda_lift", "rtx_nyu_door"
}  # fmt: skip


@dataclass(frozen=True)
class Take:
    """A video of one shot."""

    path: Path
    source: str
    """The repository that it comes from."""


@dataclass(frozen=True)
class Transition:
    """One shot change; a cut starts where it ends, at the first frame of the new shot."""

    kind: str
    start_s: float
    end_s: float


def takes_of(folder: Path) -> list[Take]:
    """Takes of a labelled folder (`labels.csv`, `sources.csv`, `videos/`), in order of name."""
    with (folder / "sources.csv").open() as sources:
        source_of = {row["file"]: row["repository"] for row in csv.DictReader(sources)}
    with (folder / "labels.csv").open() as labels:
        rows = list(csv.DictReader(labels))
    names = [row["file"] for row in rows if row["kind"] != "odd"]
    videos = [name for name in names if name.startswith("videos/")]
    return [
        Take(folder / name, source_of[name])
        for name in sorted(videos)
        if Path(name).stem not in NO_TAKES
    ]


def compose(takes: list[Take], seed: int, path: Path) -> list[Transition]:
    """Write an edit of `PIECES` different takes, and tell its transitions."""
    draw = np.random.default_rng(seed)
    fps = int(draw.choice([24, 25, 30]))
    shots: list[Frames] = []
    for number in draw.permutation(len(takes)):
        piece = cut_out(takes[number].path, fps, draw)
        if len(piece) >= PIECE_S[0] * fps:
            shots.append(piece)
        if len(shots) == PIECES:
            break
    edit, transitions = shots[0], []
    for shot in shots[1:]:
        kind = str(draw.choice(KINDS))
        count = 0 if kind == "cut" else round(draw.uniform(*GRADUAL_S) * fps)
        start = len(edit) - (count if kind == "dissolve" else 0)
        edit = join(edit, shot, kind, count)
        if kind.startswith("fade"):  # half of it lies at the end of one shot, half in the next
            start -= count // 2
        transitions.append(Transition(kind, start / fps, (start + count) / fps))
    encode(edit, fps, path, crf=int(draw.integers(20, 33)))
    return transitions


def join(before: Frames, after: Frames, kind: str, count: int) -> Frames:
    """Both shots, one after the other, over a transition of some frames."""
    weight = ((np.arange(count) + 1) / (count + 1)).reshape(-1, 1, 1, 1)
    if kind == "cut":
        return np.concatenate([before, after])
    if kind == "dissolve":
        blend = before[-count:] * (1 - weight) + after[:count] * weight
        return np.concatenate([before[:-count], blend.astype(np.uint8), after[count:]])
    half, rest = count // 2, count - count // 2
    level = 0 if kind == "fade to black" else 255
    down, up = (np.arange(half) + 1) / half, (np.arange(rest) + 1) / rest
    out = before[-half:] + (level - before[-half:]) * down.reshape(-1, 1, 1, 1)
    into = level + (after[:rest] - float(level)) * up.reshape(-1, 1, 1, 1)
    return np.concatenate(
        [before[:-half], out.astype(np.uint8), into.astype(np.uint8), after[rest:]]
    )


def cut_out(path: Path, fps: int, draw: np.random.Generator) -> Frames:
    """A random piece of a take at a rate, [T, HEIGHT, WIDTH, 3]; empty where the take is short."""
    seconds = draw.uniform(*PIECE_S)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        frames = [(float(frame.time or 0), frame) for frame in container.decode(stream)]
        start_s, end_s = frames[0][0], frames[-1][0]
        first_s = draw.uniform(start_s, max(start_s, end_s - seconds))
        wanted_s = first_s + np.arange(int(min(seconds, end_s - first_s) * fps)) / fps
        times_s = np.array([time_s for time_s, _ in frames])
        shown = np.searchsorted(times_s, wanted_s + 1e-6, side="right") - 1
        pictures = {n: fitted(frames[n][1].to_ndarray(format="rgb24")) for n in set(shown)}
    if not len(shown):
        return np.zeros((0, HEIGHT, WIDTH, 3), np.uint8)
    return np.stack([pictures[number] for number in shown])


def fitted(picture_hwc: Frames) -> Frames:
    """The middle of a picture at the edit's size."""
    height, width = picture_hwc.shape[:2]
    scale = max(WIDTH / width, HEIGHT / height)
    size = max(WIDTH, round(width * scale)), max(HEIGHT, round(height * scale))
    large = cv2.resize(picture_hwc, size, interpolation=cv2.INTER_AREA)
    top, left = (large.shape[0] - HEIGHT) // 2, (large.shape[1] - WIDTH) // 2
    return np.asarray(large[top : top + HEIGHT, left : left + WIDTH], np.uint8)


def encode(edit: Frames, fps: int, path: Path, crf: int) -> None:
    """Write frames as H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
        for frame in packets(edit, stream):
            container.mux(frame)


def packets(edit: Frames, stream: "av.VideoStream") -> Iterator["av.Packet"]:
    """Encoded packets of all frames."""
    for picture in edit:
        yield from stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
    yield from stream.encode()
