"""Hands, against a plain loop: CPU time a clip, and how often both decide alike, and right.

    python benchmarks/bench_hands.py [--videos DIR] [--clips 42] [--cases h264:5,vp9:10]
                                     [--minutes-alike 1] [--labelled DIR] [--folder DIR]

The plain loop decodes every frame from the key frame before a clip to its end, takes two a second,
looks for hands in each and keeps the clip when a tenth of them shows one. Both sides run in this
process, one thread each, on the same clips: parts of 4 to 10 s of long 720p videos, a few after
each other as narrations cut them, and short files with a single key frame. Times are of the
process's CPU.

A long video shows hands for a minute, then none for a minute, and so on: then 12 % of the clips
show both, as do spans of 4 to 10 s of 25 labelled real videos. `--minutes-alike 0.33` changes every
twenty seconds, so that every third clip shows both. The pictures are the miniature's; `--videos`
takes real footage from DIR, from its folders `hands` and `none` in turn. H.264 is x264's `medium`
with B-frames, VP9 libvpx's `good`. `--labelled` adds the videos of a folder with `labels.csv`
(file, kind, hands_visible_fraction), each of them one clip.
"""

import argparse
import csv
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

from handloom.stages.hands import landmarker
from handloom.stages.hands.stage import Hands
from handloom.stages.media.video import probe
from handloom.stages.miniatures.encode import write_video
from handloom.stages.miniatures.people import cast
from handloom.stages.select import Select
from handloom.stages.tables.rows import Clip

FPS, PIECE_S = 30, 20
LOOPED = 219  # frames: no multiple of a GOP, or every key frame would show the same
NEIGHBOURS = 3  # clips that follow each other
SHORT_FILES = 14
ENCODERS = {
    "h264": ["-c:v", "libx264", "-preset", "medium", "-crf", "23"],
    "vp9": ["-c:v", "libvpx-vp9", "-deadline", "good", "-cpu-used", "5", "-crf", "33", "-b:v", "0"],
}
CASES = "h264:1,h264:2,h264:5,h264:10,vp9:1,vp9:2,vp9:5,vp9:10,h264:short,vp9:short"
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
    hands: list[bool]
    """Which of them show hands, in a tenth of their time or more."""


@dataclass(frozen=True)
class Result:
    """CPU seconds and the decision for one clip."""

    decode_s: float
    look_s: float
    keep: bool


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--clips", type=int, default=42)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--minutes-alike", type=float, default=1.0)
    parser.add_argument("--labelled", type=Path)
    parser.add_argument("--folder", type=Path, help="keeps the videos for the next run")
    args = parser.parse_args()
    HANDS.setup()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        bases = write_pieces(args.videos, folder)
        print(
            f"{'codec':6}{'GOP':>7}{'clips':>7}{'plain':>8}{'ours':>7}{'ratio':>8}{'same':>7}",
            end="",
        )
        print(f"{'right: plain':>14}{'ours':>6}{'kept':>6}   (CPU ms a clip)")
        for name in args.cases.split(","):
            codec, gop = name.split(":")
            if gop == "short":
                case = short_files(bases, folder, codec)
            else:
                case = long_video(bases, folder, codec, int(gop), args.clips, args.minutes_alike)
            print(report(case), flush=True)
        if args.labelled:
            print(report(labelled_files(args.labelled)), flush=True)
        print_detector(bases)


def report(case: Case) -> str:
    """A line of the table; both sides take every clip in turn."""
    plain, mine = [], []
    for clip in case.clips:
        plain.append(plain_loop(*clip, HANDS.short_side))
        mine.append(ours(*clip))
    plain_ms, ours_ms = milliseconds(plain), milliseconds(mine)
    line = f"{case.codec:6}{case.gop:>7}{len(plain):7}{plain_ms:8.0f}{ours_ms:7.0f}"
    same = np.mean([a.keep == b.keep for a, b in zip(plain, mine, strict=True)])
    right = [
        float(np.mean([r.keep == hands for r, hands in zip(side, case.hands, strict=True)]))
        for side in (plain, mine)
    ]
    kept = np.mean([r.keep for r in plain])
    line += f"{plain_ms / ours_ms:7.1f}x{same:7.0%}{right[0]:14.0%}{right[1]:6.0%}{kept:6.0%}"
    return line + detail(case, plain, mine)


def detail(case: Case, plain: list[Result], mine: list[Result]) -> str:
    """What the mean hides: cost of clips with and without hands."""
    parts = []
    for hands in (True, False):
        chosen = [i for i, shown in enumerate(case.hands) if shown == hands]
        if chosen:
            ratio = milliseconds([plain[i] for i in chosen]) / milliseconds(
                [mine[i] for i in chosen]
            )
            parts.append(f"{'with' if hands else 'without'} hands {ratio:.1f}x")
    return "   " + ", ".join(parts)


def milliseconds(results: list[Result]) -> float:
    return 1000 * float(np.mean([r.decode_s + r.look_s for r in results]))


def plain_loop(path: Path, start_s: float, end_s: float, short_side: int | None) -> Result:
    """Every frame decoded; two a second looked at, shrunk by swscale or at full size."""
    began = time.process_time()
    wanted = list(start_s + (np.arange(max(1, round(2 * (end_s - start_s)))) + 0.5) / 2)
    taken, look_s, hits = 0, 0.0, 0
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        if start_s:  # animated pictures cannot seek
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
    return landmarker.detect_hands(picture_hwc, 0, *PLAIN)


def ours(path: Path, start_s: float, end_s: float) -> Result:
    began = time.process_time()
    (row,) = HANDS(clip_of(path, start_s, end_s))
    hits, looked = sum(count > 0 for count in row.hand_counts), sum(row.detector_ran)
    lone = hits == 1 and looked >= 4 and max(row.confidence) < 1  # as `select` decides
    return Result(time.process_time() - began, 0.0, hits >= KEEP_SHARE * looked and not lone)


def clip_of(path: Path, start_s: float, end_s: float) -> Clip:
    names = ("dataset", "version", "split", "licence", "bucket", "unit", "text", "text_kind")
    texts: dict[str, Any] = dict.fromkeys(names, "")
    clip = Clip(clip_id="", video_id="", start_s=start_s, end_s=end_s, **texts)
    return replace(clip, media_path=str(path.resolve()), duration_s=duration_s(path))


@cache
def duration_s(path: Path) -> float:
    return probe(path).duration_s


def long_video(
    bases: list[Path], folder: Path, codec: str, gop: int, clips: int, minutes: float
) -> Case:
    """Clips of one video with hands for so many minutes, then none, and so on."""
    times = max(1, round(60 * minutes / PIECE_S))
    path = encode_long(bases, folder, codec, gop, times)
    spans = narrations(clips, len(bases), times * PIECE_S)
    hands = [share_with_hands(*span, times * PIECE_S) >= KEEP_SHARE for span in spans]
    return Case(codec, f"{gop} s", [(path, *span) for span in spans], hands)


def narrations(count: int, stretches: int, stretch_s: float) -> list[tuple[float, float]]:
    """Spans of 4 to 10 s, groups of them one after the other, spread over all stretches."""
    rng = np.random.default_rng(0)
    spans: list[tuple[float, float]] = []
    total_s, groups = stretches * stretch_s, -(-count // NEIGHBOURS)
    for group in range(groups):
        start_s = (group + float(rng.uniform(0, 1))) * total_s / groups
        for _ in range(NEIGHBOURS):
            seconds = float(rng.uniform(4, 10))
            start_s = min(start_s, total_s - seconds - 1)
            spans.append((round(start_s, 3), round(start_s + seconds, 3)))
            start_s += seconds + float(rng.uniform(-0.5, 2))
    return spans[:count]


def share_with_hands(start_s: float, end_s: float, stretch_s: float) -> float:
    """Of a span; hands are in every other stretch, the first one included."""
    times_s = np.linspace(start_s, end_s, 1000, endpoint=False)
    return float(np.mean(times_s // stretch_s % 2 == 0))


def encode_long(bases: list[Path], folder: Path, codec: str, gop: int, times: int) -> Path:
    """Each piece encoded once, repeated by copying packets, and all joined."""
    suffix = "mp4" if codec == "h264" else "webm"
    path = folder / f"long_{codec}_{gop}_{times}.{suffix}"
    spaced = ["-g", gop * FPS, "-keyint_min", gop * FPS]
    spaced += ["-sc_threshold", "0"] if codec == "h264" else []
    once = [folder / f"once_{codec}_{gop}_{i}.{suffix}" for i in range(len(bases))]
    for base, piece in zip(bases, once, strict=True):
        if not piece.exists():
            ffmpeg("-i", base, *ENCODERS[codec], *spaced, piece)
    if not path.exists():
        lines = [f"file '{piece.resolve()}'" for piece in once for _ in range(times)]
        (folder / "list.txt").write_text("\n".join(lines))
        ffmpeg("-f", "concat", "-safe", 0, "-i", folder / "list.txt", "-c", "copy", path)
    return path


def short_files(bases: list[Path], folder: Path, codec: str) -> Case:
    """Files of 5 to 6 s, 340 pixels wide, each of another piece."""
    clips = []
    for i, base in enumerate(bases[:SHORT_FILES]):
        seconds = 5 + 0.8 * i / SHORT_FILES
        path = folder / f"short_{codec}_{i}.{'mp4' if codec == 'h264' else 'webm'}"
        if not path.exists():
            options = ["-vf", "scale=340:192", "-g", "999", *ENCODERS[codec]]
            options += ["-sc_threshold", "0"] if codec == "h264" else []
            ffmpeg("-ss", 0.1, "-t", seconds, "-i", base, *options, path)
        clips.append((path, 0.0, seconds))
    return Case(codec, "short", clips, [i % 2 == 0 for i in range(len(clips))])


def labelled_files(folder: Path) -> Case:
    """Videos as they are, of all kinds but the broken ones."""
    clips, hands = [], []
    with (folder / "labels.csv").open() as lines:
        for row in csv.DictReader(lines):
            if row["file"].startswith("videos/") and row["kind"] != "odd":
                path = folder / row["file"]
                clips.append((path, 0.0, duration_s(path)))
                hands.append(float(row["hands_visible_fraction"]) >= KEEP_SHARE)
    return Case("real", "files", clips, hands)


def write_pieces(videos: Path | None, folder: Path) -> list[Path]:
    """Each video's first seconds, again and again, as 720p; with hands and without in turn."""
    bases = []
    loop = f"fps={FPS},loop=-1:{LOOPED}:0"
    fit = "scale=1280:720:force_original_aspect_ratio=decrease,pad=1280:720:-1:-1,setsar=1"
    light = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-crf", "16"]
    for i, file in enumerate(sources(videos, folder)):
        bases.append(folder / f"piece_{i}.mp4")
        if not bases[-1].exists():
            ffmpeg("-i", file, "-an", "-vf", f"{loop},{fit}", "-t", PIECE_S, *light, bases[-1])
    return bases


def sources(videos: Path | None, folder: Path) -> list[Path]:
    """Videos with hands and without, in turn."""
    if videos is None:
        plan = [video for video in cast.plan(40, 0) if not video.fault and not video.black]
        some = [v for v in plan if v.actions][:4], [v for v in plan if not v.actions][:4]
        for video in (v for kind in some for v in kind):
            write_video(folder / f"{video.uid}.mp4", video)
        files = [[folder / f"{v.uid}.mp4" for v in kind] for kind in some]
    else:
        files = [found(videos / "hands"), found(videos / "none")]
    return [file for pair in zip(*files, strict=False) for file in pair]


def found(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix in {".mp4", ".mkv", ".avi", ".webm"})


def ffmpeg(*arguments: Any) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, arguments)]
    subprocess.run(command, check=True)


def print_detector(bases: list[Path]) -> None:
    """Frames a second and core that the detector alone manages."""
    frames = []
    for base in bases:
        with av.open(str(base)) as container:
            frames += [f for i, f in enumerate(container.decode(video=0)) if i % (4 * FPS) == 0]
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
