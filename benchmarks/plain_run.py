"""What `handloom curate` is measured against: the same job as a plain script of an afternoon.

    python benchmarks/plain_run.py DATA OUT [--workers 2] [--model bundled]

DATA holds videos and clips.csv (`listed_videos.py`). Each worker decodes a clip once, looks for
hands in two frames a second with MediaPipe, and encodes five frames of the clips where a tenth of
these show one. OUT is one tar: codes as .npy, the text and the span as .json. There is no resuming,
no report, no measuring, no duplicate, shot or quality; one bad file is one skipped file.
"""

import argparse
import io
import json
import os
import tarfile
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from listed_videos import Row, read
from numpy.typing import NDArray

from handloom.stages.hands.landmarker import MODEL
from handloom.tokenize import vqgan

Picture = NDArray[np.uint8]

PER_SECOND, AT_LEAST = 2.0, 4  # frames that are searched
SHORT_SIDE = 384  # pixels, of the frames that are searched
KEEP_SHARE = 0.1  # of the frames with a hand
FRAMES = 5  # that are encoded

models: dict[str, Any] = {}  # of this process


def load(model: str) -> None:
    """Load the detector and the VQGAN in a worker."""
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    cv2.setNumThreads(1)
    options = vision.HandLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(MODEL)),
        num_hands=2,
        min_hand_detection_confidence=0.5,
        min_hand_presence_confidence=0.3,
    )
    models["hands"] = vision.HandLandmarker.create_from_options(options)
    models["image"] = lambda rgb: mp.Image(image_format=mp.ImageFormat.SRGB, data=rgb)
    models["vqgan"] = vqgan.load(model, threads=1)


def frames_of(path: Path, start_s: float, end_s: float) -> Iterator[Picture]:
    """Frames of a clip at a rate, RGB uint8 [H, W, 3]."""
    step_s = min(1 / PER_SECOND, (end_s - start_s) / AT_LEAST)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if start_s > 1:
            container.seek(int((start_s - 0.1) / stream.time_base), stream=stream)
        next_s = start_s + step_s / 2
        for frame in container.decode(stream):
            if frame.time is None or frame.time < next_s:
                continue
            if frame.time >= end_s:
                return
            yield frame.to_ndarray(format="rgb24")
            next_s += step_s


def shows_hand(rgb: Picture) -> bool:
    """Whether MediaPipe detects a hand."""
    scale = SHORT_SIDE / min(rgb.shape[:2])
    if scale < 1:
        rgb = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return bool(models["hands"].detect(models["image"](np.ascontiguousarray(rgb))).hand_landmarks)


def square(rgb: Picture, side: int) -> Picture:
    """The middle of a frame as the VQGAN wants it."""
    height, width = rgb.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    cut = rgb[top : top + edge, left : left + edge]
    return cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA)


def work(task: tuple[Path, Row]) -> tuple[Row, NDArray[np.uint16] | None]:
    """A clip's codes [T, I, J]; None where no hand shows or the file cannot be read."""
    root, row = task
    name, start_s, end_s, _ = row
    try:
        frames = list(frames_of(root / name, start_s, end_s))
    except (av.FFmpegError, OSError):
        return row, None
    if not frames or np.mean([shows_hand(frame) for frame in frames]) < KEEP_SHARE:
        return row, None
    shown = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
    side = models["vqgan"].resolution
    return row, models["vqgan"].encode(np.stack([square(frames[i], side) for i in shown]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--model", default="bundled")
    args = parser.parse_args()
    tasks = [(args.data, row) for row in read(args.data)]
    kept = 0
    pool = get_context("spawn").Pool(args.workers, load, (args.model,))
    with pool, tarfile.open(args.out, "w") as tar:
        for row, codes in pool.imap_unordered(work, tasks):
            if codes is None:
                continue
            npy = io.BytesIO()
            np.save(npy, codes)
            for suffix, content in (("npy", npy.getvalue()), ("json", json.dumps(row).encode())):
                member = tarfile.TarInfo(f"{kept:06d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            kept += 1
    print(f"{len(tasks)} clips, {kept} kept")


if __name__ == "__main__":
    main()
