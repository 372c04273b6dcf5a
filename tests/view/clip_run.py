"""A small run with real media for the tests of the clip's page."""

import tarfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import yaml
from numpy.typing import NDArray

from handloom.stages.caption.rows import CaptionRow
from handloom.stages.duplicates.rows import DuplicateRow, Match
from handloom.stages.hands.rows import Hand
from handloom.stages.media.clip_frames import ClipFrames, uniform_times, whole
from handloom.stages.select import SelectRow
from handloom.stages.tables.parts import write_marker
from handloom.stages.tables.rows import Clip
from handloom.stages.tokens import TokenRow
from handloom.tokenize import vqgan
from handloom.tokenize.frames import center_square
from tests.helpers.numbered_clips import picture
from tests.helpers.recorded_runs import FINGERPRINT, clip_row, hands_row, write_run

FPS, FRAMES = 10, 40
HOSTILE = "<img src=x onerror=alert(1)>\u202e </script>"
HAND_AT_S = 1.5


def number_of(frame: int) -> int:
    """What frame number so many of the video shows."""
    return 37 * frame + 5


def write_numbers(path: Path, codec: str = "libx264", frames: int = FRAMES) -> None:
    """A video of FPS frames a second, each of which shows its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=FPS, options={"crf": "10"})
        stream.width = stream.height = 64
        stream.pix_fmt, stream.gop_size = "yuv420p", 12
        for frame in range(frames):
            shown = av.VideoFrame.from_ndarray(picture(number_of(frame)), "rgb24")
            file.mux(stream.encode(shown))
        file.mux(stream.encode(None))


@dataclass(frozen=True)
class Made:
    """The run, and what its tests compare with.

    Attributes:
        out: folder of the run.
        data: folder of its media.
        squares_thwc: frames of the clip `kept` as they were encoded.
        codes_tij: their codes.
    """

    out: Path
    data: Path
    squares_thwc: NDArray[np.uint8]
    codes_tij: NDArray[np.uint16]


def clips(folder: Path) -> list[Clip]:
    """Rows of `ingest`; the media lie in a folder below `folder`."""
    facts = {"codec": "h264", "width": 64, "height": 64, "duration_s": FRAMES / FPS}
    rows = [
        clip_row("kept", 1.0, 2.55, text=HOSTILE, other_texts=["another"], **facts),
        clip_row("twin", 0.0, 1.0, **facts),
        clip_row("dark", 2.0, 3.0, **facts),
        clip_row("gone", 0.0, 1.0, media_path="videos/gone.mp4", **facts),
        clip_row("outside", 0.0, 1.0, media_path="../secret.mp4", **facts),
        clip_row("absolute", 0.0, 1.0, media_path=str(folder / "secret.mp4"), **facts),
        clip_row("link", 0.0, 1.0, media_path="videos/link.mp4", **facts),
        clip_row("avi", 1.0, 2.0, media_path="videos/a.avi", **facts | {"codec": "mpeg4"}),
        clip_row("tarred", 1.0, 2.0, media_path="videos/t.tar/a.mp4", **facts),
        clip_row("broken", 0.0, float("inf"), media_path="videos/broken.mp4", duration_s=0.0),
    ]
    failed = {"status": "failed", "error": "broken.mp4: not a readable video file"}
    return [replace(row, **failed) if row.clip_id == "broken" else row for row in rows]


def write(folder: Path, model: Path) -> Made:
    """Write the media and the run; `model` is a tiny tokenizer for 64 pixels."""
    data, out = folder / "data", folder / "out"
    write_numbers(data / "videos/a.mp4")
    write_numbers(data / "videos/a.avi", "mpeg4")
    with tarfile.open(data / "videos/t.tar", "w") as tar:
        tar.add(data / "videos/a.mp4", "a.mp4")
    write_numbers(folder / "secret.mp4")
    (data / "videos/link.mp4").symlink_to(folder / "secret.mp4")
    (data / "videos/broken.mp4").write_bytes(b"no video")
    rows = clips(folder)
    ok = [row for row in rows if row.status == "ok"]
    kept = ok[0]
    squares, codes, times_s = encoded(data, kept, model)
    bytes_ = {"codes": codes.astype("<u2").tobytes(), "shape": [1, *codes.shape]}
    tokens = TokenRow(clip_id="kept", times_s=times_s, width=64, height=64, **bytes_)
    write_run(out, data, {
        "ingest": rows,
        "hands": [_hands(row) for row in ok],
        "duplicates": [_matches(row.clip_id) for row in ok],
        "select": [_selected(row.clip_id) for row in ok],
        "caption": [CaptionRow(clip_id="kept", caption=HOSTILE, flags=["no_tag"])],
        "tokens": [tokens],
    })  # fmt: skip
    wrote = {"settings": {"models": vqgan.describe(str(model), resolution=64)}}
    write_marker(out / "tables/tokens", {"fingerprint": FINGERPRINT, "finished": True} | wrote)
    options = {"tokens": {"model": str(model), "resolution": 64, "frames": 3}, "ingest": {}}
    record = {"dataset": "ego4d", "data": str(data), "config": options}
    (out / "run.yaml").write_text(yaml.safe_dump(record))
    return Made(out, data, squares, codes)


def encoded(
    data: Path, clip: Clip, model: Path
) -> tuple[NDArray[np.uint8], NDArray[np.uint16], list[float]]:
    """Squares, codes and times of three frames, as `tokens` makes them."""
    times_s = uniform_times(whole(clip), 3)
    frames = ClipFrames(data).frames(clip, whole(clip), times_s)
    squares = np.stack([center_square(frame, 64) for frame in frames])
    return squares, vqgan.load(str(model), resolution=64).encode(squares), times_s.tolist()


def _hands(clip: Clip) -> Any:
    """Two frames were looked at; the second shows a hand."""
    row = hands_row(clip, whole(clip))
    points = [value / 63 for value in range(63)]
    hand = Hand(frame=1, handedness="Left", score=0.9, confidence=1.0, landmarks_xyz=points,
                box_xyxy=[0.25, 0.5, 0.75, 1.0], world_xyz=points)  # fmt: skip
    lists = {"brightness": [0.5, 0.5], "contrast": [0.5, 0.5], "sharpness": [0.5, 0.5]}
    return replace(
        row, times_s=[clip.start_s, clip.start_s + 0.5], detector_ran=[True, True],
        hand_counts=[0, 1], confidence=[0.0, 1.0], flat_share=[0.0, 0.0], detections=[hand],
        **lists,
    )  # fmt: skip


def _matches(clip_id: str) -> DuplicateRow:
    twins = {"kept": "twin", "twin": "kept"}
    others = [twins[clip_id], "elsewhere"] if clip_id in twins else []
    matches = [
        Match(clip_id=one, dataset="ego4d", split="train", similarity=0.75, better=one == "kept")
        for one in others
    ]
    return DuplicateRow(clip_id=clip_id, similarity=0.0, leak_similarity=0.0, matches=matches)


def _selected(clip_id: str) -> SelectRow:
    scores = {f.name: 0.0 for f in fields(SelectRow) if f.type is float}
    good = {"hand_share": 1.0, "sharpness": 1.0, "change": 1.0, "shot_share": 1.0}
    row = SelectRow(clip_id=clip_id, searched_frames=2, **scores | good)
    if clip_id == "kept":
        return row
    if clip_id == "dark":
        return replace(row, status="rejected", reason="dark", dark_share=0.9)
    return replace(row, status="rejected", reason="no_hands", hand_share=0.0)
