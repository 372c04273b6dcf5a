"""Hands, against a plain loop: CPU time a clip, and how often both decide alike.

    python benchmarks/bench_hands.py [--videos DIR] [--clips 20] [--folder DIR]

The plain loop decodes every frame from the key frame before a clip to its end, takes two a second,
looks for hands in each and keeps the clip when a tenth of them shows one. Both sides run in this
process, one thread each, on the same clips: long 720p videos, cut as narrations cut them, and short
files with a single key frame. The pictures are the miniature's; `--videos` takes
real footage from DIR, from its folders `hands` and `none` in turn if it has them. Times are of
the process's CPU.
"""

import argparse
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np

from handloom.stages import landmarker
from handloom.stages.hands import Hands
from handloom.stages.miniatures import cast
from handloom.stages.miniatures.encode import write_video
from handloom.stages.records import Clip
from handloom.stages.select import Select
from handloom.stages.video import probe

SECONDS, LOOPS, FPS, PIECE_S = 48, 5, 30, 6
SHORT_FILES = 8
ENCODERS = {
    "h264": ["-c:v", "libx264", "-preset", "veryfast", "-crf", "23"],
    "vp9": ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "2M"],
}
KEEP_SHARE = Select().min_hand_share
HANDS = Hands()
PLAIN = 2, 0.5, 0.3  # hands at most, detection and presence confidence


@dataclass(frozen=True)
class Case:
    """Clips of the same kind of file."""

    codec: str
    gop: str
    clips: list[tuple[Path, float, float]]
    """File, start and end in seconds."""


@dataclass(frozen=True)
class Result:
    """CPU seconds and the decision for one clip."""

    decode_s: float
    look_s: float
    keep: bool


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="keeps the videos for the next run")
    args = parser.parse_args()
    HANDS.setup()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        base = folder / "base.mp4"
        if not base.exists():
            write_base(base, pieces(args.videos, folder))
        print(f"{'codec':6}{'GOP':>7}{'clips':>7}{'plain':>9}{'720 px':>9}{'ours':>9}", end="")
        print(f"{'ratio':>8}{'same':>7}{'kept':>6}   (CPU ms a clip)")
        for case in cases(base, folder, args.clips):
            print(report(case), flush=True)
        print_detector(base)


def report(case: Case) -> str:
    """A line of the table."""
    plain = [plain_loop(*clip, HANDS.short_side) for clip in case.clips]
    full = [plain_loop(*clip, None) for clip in case.clips[::4]]  # detection alone differs
    mine = [ours(*clip) for clip in case.clips]
    plain_ms, ours_ms = milliseconds(plain), milliseconds(mine)
    full_ms = 1000 * np.mean([r.look_s for r in full]) + 1000 * np.mean([r.decode_s for r in plain])
    same = np.mean([a.keep == b.keep for a, b in zip(plain, mine, strict=True)])
    kept = np.mean([r.keep for r in plain])
    line = f"{case.codec:6}{case.gop:>7}{len(plain):7}{plain_ms:9.0f}{full_ms:9.0f}{ours_ms:9.0f}"
    return f"{line}{plain_ms / ours_ms:7.1f}x{same:7.0%}{kept:6.0%}"


def milliseconds(results: list[Result]) -> float:
    return 1000 * float(np.mean([r.decode_s + r.look_s for r in results]))


def plain_loop(path: Path, start_s: float, end_s: float, short_side: int | None) -> Result:
    """Every frame decoded; two a second looked at, shrunk by swscale or at full size."""
    began = time.process_time()
    wanted = list(start_s + (np.arange(max(1, round(2 * (end_s - start_s)))) + 0.5) / 2)
    taken, look_s, hits = 0, 0.0, 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(int(start_s / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if not wanted or frame.time >= end_s:
                break
            if frame.time < wanted[0] - 1e-4:
                continue
            wanted.pop(0)
            looked = time.process_time()
            hits += bool(find(rgb(frame, short_side)))
            look_s, taken = look_s + time.process_time() - looked, taken + 1
    keep = hits >= KEEP_SHARE * taken
    return Result(time.process_time() - began - look_s, look_s, keep)


def rgb(frame: Any, short_side: int | None) -> np.ndarray:
    scale = min(1.0, (short_side or 10**6) / min(frame.width, frame.height))
    size = round(frame.width * scale), round(frame.height * scale)
    return np.asarray(frame.reformat(*size, "rgb24").to_ndarray())


def find(picture_hwc: np.ndarray) -> list[Any]:
    return landmarker.find_hands(picture_hwc, 0, *PLAIN)


def ours(path: Path, start_s: float, end_s: float) -> Result:
    began = time.process_time()
    (row,) = HANDS(clip_of(path, start_s, end_s))
    hits, looked = sum(count > 0 for count in row.hand_counts), sum(row.looked)
    lone = hits == 1 and looked >= 4  # as `select` decides
    return Result(time.process_time() - began, 0.0, hits >= KEEP_SHARE * looked and not lone)


def clip_of(path: Path, start_s: float, end_s: float) -> Clip:
    names = ("dataset", "version", "split", "licence", "bucket", "unit", "text", "text_kind")
    texts: dict[str, Any] = dict.fromkeys(names, "")
    clip = Clip(clip_id="", video_id="", start_s=start_s, end_s=end_s, **texts)
    return replace(clip, media_path=str(path.resolve()), duration_s=duration_s(path))


@cache
def duration_s(path: Path) -> float:
    return probe(path).duration_s


def cases(base: Path, folder: Path, clips: int) -> Any:
    """Long videos of both codecs and all GOPs, then short files."""
    gops = [("h264", gop) for gop in (1, 2, 5, 10, 0)] + [("vp9", gop) for gop in (1, 2, 5, 10)]
    for codec, gop in gops:
        path = encode_long(base, folder, codec, gop)
        name = f"{gop} s" if gop else "default"
        yield Case(codec, name, [(path, *span) for span in narrations(clips)])
    for codec in ENCODERS:
        yield Case(codec, "one key", short_files(base, folder, codec))


def narrations(count: int) -> list[tuple[float, float]]:
    """Spans of 4 to 10 s, one after the other, a few of them overlapping."""
    rng = np.random.default_rng(0)
    spans, start_s = [], 1.0
    for _ in range(count):
        seconds = float(rng.uniform(4, 10))
        spans.append((round(start_s, 3), round(start_s + seconds, 3)))
        start_s += seconds + float(rng.uniform(-0.5, 2))
    return spans


def short_files(base: Path, folder: Path, codec: str) -> list[tuple[Path, float, float]]:
    """Files of 5 to 6 s without a cut, 340 pixels wide, each of another piece of the base."""
    clips = []
    for i in range(SHORT_FILES):
        seconds = 5 + 0.8 * i / SHORT_FILES
        path = folder / f"short_{codec}_{i}.{'mp4' if codec == 'h264' else 'webm'}"
        if not path.exists():
            start = ["-ss", str(i * PIECE_S + 0.1), "-t", str(seconds)]
            options = ["-vf", "scale=340:192", "-g", "999", *ENCODERS[codec]]
            ffmpeg(*start, "-i", base, *options, *["-sc_threshold", "0"], path)
        clips.append((path, 0.0, seconds))
    return clips


def encode_long(base: Path, folder: Path, codec: str, gop: int) -> Path:
    """The base encoded once and repeated by copying packets; GOP 0 is the encoder's default."""
    suffix = "mp4" if codec == "h264" else "webm"
    once, path = folder / f"once_{codec}_{gop}.{suffix}", folder / f"{codec}_{gop}.{suffix}"
    frames = str(gop * FPS)
    spaced = ["-g", frames, "-keyint_min", frames, "-sc_threshold", "0"] if gop else []
    if not path.exists():
        ffmpeg("-i", base, *ENCODERS[codec], *spaced, once)
        ffmpeg("-stream_loop", str(LOOPS - 1), "-i", once, "-c", "copy", path)
    return path


def pieces(videos: Path | None, folder: Path) -> list[Path]:
    """Videos with hands and without, in turn."""
    if videos is None:
        plan = [video for video in cast.plan(40, 0) if not video.fault and not video.black]
        some = [v for v in plan if v.actions][:4], [v for v in plan if not v.actions][:2] * 2
        files = [[folder / f"{v.uid}.mp4" for v in kind] for kind in some]
        for video in (v for kind in some for v in kind):
            write_video(folder / f"{video.uid}.mp4", video)
    else:
        files = [found(videos / "hands"), found(videos / "none")]
        files = files if all(files) else [found(videos)]
    longest = max(map(len, files))
    return [kind[i % len(kind)] for i in range(longest) for kind in files]


def found(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix in {".mp4", ".mkv", ".avi", ".webm"})


def write_base(base: Path, files: list[Path]) -> None:
    """Pieces of all files, one after the other, as 720p of high quality."""
    count = SECONDS // PIECE_S + 1
    files = (files * count)[: max(count, len(files))]
    inputs = [part for file in files for part in ("-t", str(PIECE_S), "-i", str(file))]
    fit = "scale=1280:720:force_original_aspect_ratio=decrease,pad=1280:720:-1:-1"
    even = f"{fit},setsar=1,fps={FPS},format=yuv420p"
    chains = "".join(f"[{i}:v]{even}[v{i}];" for i in range(len(files)))
    joined = "".join(f"[v{i}]" for i in range(len(files))) + f"concat=n={len(files)}:v=1[out]"
    light = ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "16"]
    ffmpeg(
        *inputs, "-filter_complex", chains + joined, "-map", "[out]", "-t", SECONDS, *light, base
    )


def ffmpeg(*arguments: Any) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, arguments)]
    subprocess.run(command, check=True)


def print_detector(base: Path) -> None:
    """Frames a second and core that the detector alone manages."""
    with av.open(str(base)) as container:
        frames = [f for i, f in enumerate(container.decode(video=0)) if i % (2 * FPS) == 0]
    for short_side in (256, 384):
        spent: dict[bool, list[float]] = {True: [], False: []}
        for picture in [rgb(frame, short_side) for frame in frames]:
            began = time.process_time()
            hands = bool(find(picture))
            spent[hands].append(time.process_time() - began)
        rates = [f"{1 / np.mean(spent[h]):.0f}" if spent[h] else "-" for h in (False, True)]
        print(f"detector, {short_side} px: {rates[0]} frames/s without a hand, {rates[1]} with one")


if __name__ == "__main__":
    main()
