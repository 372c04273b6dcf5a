"""Near-duplicate search: recall on planted copies, precision, and how its time grows.

    python benchmarks/bench_duplicates.py [--clips 5000] [--copies 500] [--workers 2]
    python benchmarks/bench_duplicates.py --videos DIR

Distinct clips are rendered: textured rooms with objects and a hand. Half of them share a room with
nine others, and four of those ten a fixed camera, so that they differ in a hand and a few objects
only; they are what a search takes for copies first. A copy is rendered once more at 16 frames/s,
changed, passed through H.264, MPEG-4 or VP9 at a low bitrate, and sampled at other times. Besides
500 copies of the kinds that count there are 100 of kinds that combine or go beyond them.

With --videos, files below DIR are cut into spans of two to four seconds, and these and a copy of
each are added. Other pairs of spans of one file are not counted: a still camera repeats itself.
Files that show the same as another are left out first, by their whole frames and not by this
search: one frame each half second, 32x32 grey, of which two differ by less than six levels. Cut
copies and a test card that several files show are such; the first by name is taken.
"""

import argparse
import io
import math
import resource
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from rendered_rooms import HEIGHT, ROOM_CLIPS, WIDTH, Film, Frame, rendered

from handloom.stages.duplicates import candidates as nd
from handloom.stages.duplicates import compare as comparison
from handloom.stages.duplicates.candidates import ClipFrames
from handloom.stages.duplicates.fingerprints import fingerprint

COPY_FPS = 16
FIRST = 500_000  # number of the first clip: lower ones have served to fit the search


# --- copies -------------------------------------------------------------------------------------


def window(frame: Frame, left: float, top: float, right: float, bottom: float) -> Frame:
    """Cut these shares of width and height off."""
    height, width = frame.shape[:2]
    rows = slice(round(top * height), round((1 - bottom) * height))
    return frame[rows, round(left * width) : round((1 - right) * width)]


def scaled(frame: Frame, width: int, height: int) -> Frame:
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class Change:
    """How a copy differs from its original."""

    crop: float = 0.0  # share of width and of height that is gone
    size: tuple[int, int] = (WIDTH, HEIGHT)
    mirror: bool = False
    shift_s: float = 0.0  # the copy's span starts this much later
    bars: bool = False

    def apply(self, frame: Frame, rng: np.random.Generator) -> Frame:
        across, down = self.crop * rng.random(2)
        frame = window(frame, across, down, self.crop - across, self.crop - down)
        frame = scaled(frame, *self.size)
        if self.bars:
            frame = np.pad(frame, ((30, 30), (0, 0), (0, 0)))
        return frame[:, ::-1] if self.mirror else frame


KINDS = {
    "re-encoded": Change(),
    "resized": Change(size=(176, 144)),
    "cropped": Change(crop=0.1),
    "mirrored": Change(mirror=True),
    "a second later": Change(shift_s=1.0),
}
HARDER = {
    "stretched 16:9": Change(size=(320, 180)),
    "letterboxed": Change(bars=True),
    "cropped, later": Change(crop=0.1, shift_s=1.0, size=(224, 176)),
    "mirrored, cropped": Change(crop=0.1, mirror=True, size=(256, 192)),
    "all of it": Change(crop=0.1, mirror=True, shift_s=0.7, size=(240, 160)),
}
CHANGES = KINDS | HARDER


def encoded(frames: list[Frame], rng: np.random.Generator) -> list[Frame]:
    """What is left after a lossy codec at about a tenth of a bit a pixel."""
    codec = ("libx264", "mpeg4", "libvpx-vp9")[int(rng.choice(3, p=(0.7, 0.2, 0.1)))]
    file = io.BytesIO()
    height, width = frames[0].shape[0] // 2 * 2, frames[0].shape[1] // 2 * 2
    with av.open(file, "w", format="matroska") as container:
        stream: Any = container.add_stream(codec, rate=COPY_FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = int(width * height * COPY_FPS * 0.1)
        stream.gop_size, stream.codec_context.thread_count = int(rng.integers(8, 64)), 1
        if codec == "libx264":
            stream.options = {"preset": "veryfast", "crf": str(rng.integers(30, 40))}
        if codec == "libvpx-vp9":
            stream.options = {"cpu-used": "8", "deadline": "realtime"}
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(frame[:height, :width]), format="rgb24"
            )
            picture.pts, picture.time_base = number, Fraction(1, COPY_FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


# --- clips --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A clip of the benchmark; a copy names its original."""

    frames: ClipFrames
    footage_s: np.ndarray  # [F] when each sampled frame is in the footage
    moves: bool
    original: str = ""
    kind: str = ""


def sample(start_s: float, end_s: float, rng: np.random.Generator) -> np.ndarray:
    """Multiples of half a second, or key frames every one to two seconds where they are enough."""
    gap = float(rng.uniform(1, 2))
    keys = np.arange(start_s + rng.uniform(0, gap), end_s, gap)
    if len(keys) >= 4 and rng.random() < 0.6:
        return keys
    return np.arange(math.ceil(start_s * 2), math.ceil(end_s * 2)) / 2


def make_original(
    name: str, film: Film, span_s: tuple[float, float], moves: bool, seed: int
) -> Made:
    times_s = sample(*span_s, np.random.default_rng((3, seed)))
    stack = np.stack([fingerprint(film(t)) for t in times_s])
    return Made(ClipFrames(name, name, times_s, stack), times_s, moves)


def make_copy(
    name: str, film: Film, span_s: tuple[float, float], moves: bool, seed: int, kind: str
) -> Made:
    """Render the span again, change it, encode it, and sample it on a clock of its own."""
    rng, change = np.random.default_rng((4, seed)), CHANGES[kind]
    start_s, seconds = span_s[0] + change.shift_s, span_s[1] - span_s[0]
    clock_s = float(rng.choice((0.0, 1.0, rng.uniform(0, 1))))  # the copy's file begins elsewhere
    rngs = int(rng.integers(1 << 30))
    pictures = [
        change.apply(film(start_s + i / COPY_FPS), np.random.default_rng(rngs))
        for i in range(int(seconds * COPY_FPS))
    ]
    decoded = encoded(pictures, rng)
    times_s = sample(clock_s, clock_s + len(decoded) / COPY_FPS, rng)
    indices = np.clip(((times_s - clock_s) * COPY_FPS).astype(int), 0, len(decoded) - 1)
    stack = np.stack([fingerprint(decoded[i]) for i in indices])
    at_s = start_s + indices / COPY_FPS
    made = ClipFrames(f"copy of {name}", f"copy of {name}", times_s, stack)
    return Made(made, at_s, moves, name, kind)


def make_rendered(number: int, kind: str) -> list[Made]:
    """One rendered clip, and its copy where a kind is given."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng((5, number))
    film, moves = rendered(number)
    start_s = float(rng.uniform(0, 60))
    span_s = start_s, start_s + float(rng.uniform(2, 8))
    made = [make_original(f"r{number}", film, span_s, moves, number)]
    if kind:
        made.append(make_copy(f"r{number}", film, span_s, moves, number, kind))
    return made


def stills(frames: list[Frame]) -> np.ndarray:
    """Small grey pictures that are not flat, one each half second, float32 [N, 1024]."""
    grey = [cv2.cvtColor(scaled(frame, 32, 32), cv2.COLOR_RGB2GRAY) for frame in frames[::8]]
    flat = np.array(grey, np.float32).reshape(-1, 1024)
    return flat[flat.std(axis=1) > 10]


def first_shown(files: list[np.ndarray]) -> list[int]:
    """Numbers of the files of which no still looks like one of a file taken before."""
    taken: list[int] = []
    for number, pictures in enumerate(files):
        known = np.concatenate([np.empty((0, 1024), np.float32), *(files[n] for n in taken)])
        if not any((np.abs(known - p).mean(axis=1) < 6).any() for p in pictures):
            taken.append(number)
    return taken


def make_real(path: str, seed: int) -> tuple[np.ndarray, list[Made]]:
    """The stills of a file; its spans, and a copy of each, its kind by turns."""
    cv2.setNumThreads(1)
    frames, times_s = load(path)
    made: list[Made] = []
    rng = np.random.default_rng((6, seed))
    start_s, end_s = 0.0, times_s[-1] if len(times_s) else 0.0
    while end_s - start_s >= 1.5:
        span_s = start_s, min(end_s, start_s + float(rng.uniform(2, 4)))
        number, name = len(made), f"{path} {start_s:.2f}"

        def film(second: float) -> Frame:
            return frames[int(np.searchsorted(times_s, second + 1e-6, side="right")) - 1]

        made.append(make_original(name, film, span_s, True, seed + number))
        kind = list(CHANGES)[(seed + number // 2) % len(CHANGES)]
        made.append(make_copy(name, film, span_s, True, seed + number, kind))
        start_s = span_s[1]
    return stills(frames), made


def load(path: str) -> tuple[list[Frame], np.ndarray]:
    """The first minute of a file, at most 16 frames/s and 240 pixels high."""
    frames: list[Frame] = []
    times_s: list[float] = []
    try:
        with av.open(path) as container:
            for frame in container.decode(video=0):
                second = float(frame.time or 0.0)
                if second > 60:
                    break
                if not times_s or second >= times_s[-1] + 1 / COPY_FPS - 1e-3:
                    height = min(240, frame.height // 2 * 2)
                    width = round(frame.width * height / frame.height / 2) * 2
                    frames.append(frame.to_ndarray(width=width, height=height, format="rgb24"))
                    times_s.append(second)
    except (av.FFmpegError, IndexError) as error:
        print(f"{path}: read up to {len(frames)} frames ({error})")
    return frames, np.array(times_s) - (times_s[0] if times_s else 0.0)


# --- the search ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a search over some clips gave, and what it cost."""

    similarity: dict[tuple[str, str], float]
    wall_s: float
    cpu_s: float


def compare_part(frames: comparison.FrameTable, candidates: np.ndarray) -> tuple[Any, float]:
    started = time.process_time()
    return comparison.compare_clips(frames, candidates), time.process_time() - started


def find(made: list[Made], pool: ProcessPoolExecutor, workers: int) -> Found:
    """Search on one core, then compare on all; what `near_duplicates` does, spread out by pair."""
    clips = sorted((m.frames for m in made), key=lambda clip: clip.clip_id)
    wall, cpu = time.perf_counter(), time.process_time()
    frames = nd.stack_clips(clips)
    candidates = nd.find_candidates(frames)
    part = (candidates["clip"].astype(np.int64) + candidates["other"]) % (8 * workers)
    jobs = [pool.submit(compare_part, frames, candidates[part == n]) for n in range(8 * workers)]
    results = [job.result() for job in jobs]
    cpu_s = time.process_time() - cpu + sum(seconds for _, seconds in results)
    rows = [row for columns, _ in results for row in zip(*columns, strict=True)]
    pairs = {(clips[a].clip_id, clips[b].clip_id): float(similarity) for a, b, similarity in rows}
    return Found(pairs, time.perf_counter() - wall, cpu_s)


def footage(name: str) -> str:
    """The file a clip is from; a rendered clip is its own."""
    return name.removeprefix("copy of ").split(" ")[0]


def relation(one: Made, other: Made) -> str:
    """What two clips share that are no copies of each other."""
    names = [footage(m.frames.clip_id) for m in (one, other)]
    if not all(name.startswith("r") and name[1:].isdigit() for name in names):
        return "one file" if names[0] == names[1] else "other files"
    first, second = (int(name[1:]) // ROOM_CLIPS for name in names)
    if first != second or first % 2:
        return "other rooms"
    return "one room" if one.moves or other.moves else "one room, one fixed camera"


def show(made: list[Made], found: Found, min_similarity: float) -> None:
    """Precision, and recall by kind, time between samples and camera."""
    clips = {m.frames.clip_id: m for m in made}
    copies = {tuple(sorted((m.frames.clip_id, m.original))): m for m in made if m.original}
    real = {pair for pair, m in copies.items() if "/" in m.original}
    counted = {pair for pair, m in copies.items() if m.kind in KINDS} - real
    strange = {
        pair: relation(*(clips[name] for name in pair)) for pair in found.similarity.keys() - copies
    }
    strange = {pair: shared for pair, shared in strange.items() if shared != "one file"}
    for level in sorted({0.3, 0.4, 0.6, 0.7, min_similarity}):
        hits = {pair for pair, s in found.similarity.items() if s >= level}
        false = Counter(shared for pair, shared in strange.items() if pair in hits)
        for name, some in (
            ("planted", counted), ("harder", copies.keys() - counted - real), ("real", real),
        ):  # fmt: skip
            if some:
                hit, of_files = len(hits & some), false["other files"]
                wrong = of_files if name == "real" else false.total() - of_files
                shares = f"{hit / len(some):.3f} of {len(some)}", f"{hit / max(1, hit + wrong):.4f}"
                print(f"over {level}: {name:8} recall {shares[0]}, precision {shares[1]}")
        print(f"  false pairs: {dict(false)}")
    rows: dict[str, list[bool]] = {}
    for pair, copy in copies.items():
        off_s = np.abs(copy.footage_s[:, None] - clips[copy.original].footage_s).min()
        off = next(limit for limit in (0.07, 0.13, 0.25, 0.5, 9.0) if off_s <= limit)
        group = "real" if pair in real else "rendered"
        for row in (copy.kind, f"samples {off} s apart or less", f"camera moves: {copy.moves}"):
            hit = found.similarity.get(pair, 0) >= min_similarity
            rows.setdefault(f"{group}, {row}", []).append(hit)
    for row in sorted(rows):
        print(f"  {row:45} {np.mean(rows[row]):6.3f} of {len(rows[row])}")
    for pair, shared in sorted(strange.items()):
        if found.similarity[pair] >= min_similarity:
            print(f"  false: {' | '.join(pair)} {found.similarity[pair]:.2f}, {shared}")


def make(args: argparse.Namespace, pool: ProcessPoolExecutor) -> tuple[list[Made], list[Made]]:
    """Rendered and real clips, copies next to their originals."""
    chosen = np.random.default_rng(0).permutation(args.clips)
    counted, harder = np.split(chosen[: args.copies + args.harder], [args.copies])
    kinds = {int(n): list(KINDS)[i % len(KINDS)] for i, n in enumerate(counted)}
    kinds |= {int(n): list(HARDER)[i % len(HARDER)] for i, n in enumerate(harder)}
    wanted = [kinds.get(n, "") for n in range(args.clips)]
    numbers = range(FIRST, FIRST + args.clips)
    sets = list(pool.map(make_rendered, numbers, wanted, chunksize=ROOM_CLIPS))
    spans: tuple[list[Made], ...] = ()
    taken: list[int] = []
    if args.videos:
        files = sorted(str(path) for path in args.videos.rglob("*") if path.is_file())
        pictures, spans = zip(*pool.map(make_real, files, range(0, 7 * len(files), 7)), strict=True)
        taken = first_shown(list(pictures))
        for number in sorted(set(range(len(files))) - set(taken)):
            print(f"left out, shows the same as another file: {files[number]}")
    rendered = [made for group in sets for made in group]
    return rendered, [made for number in taken for made in spans[number]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=5000)
    parser.add_argument("--copies", type=int, default=500)
    parser.add_argument("--harder", type=int, default=100, help="further copies, of other kinds")
    parser.add_argument("--videos", type=Path, help="folder of real videos to add")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--min-similarity", type=float, default=0.5)
    args = parser.parse_args()
    with ProcessPoolExecutor(args.workers) as pool:
        started = time.perf_counter()
        parts = make(args, pool)
        made = [clip for part in parts for clip in part]
        halves = [clip for part in parts for clip in part[: len(part) // 2]]
        frames = sum(len(m.footage_s) for m in made)
        print(f"{len(made)} clips, {frames} frames made in {time.perf_counter() - started:.0f} s")
        half = find(halves, pool, args.workers)
        found = find(made, pool, args.workers)
    show(made, found, args.min_similarity)
    for name, count, result in (("half", len(halves), half), ("all", len(made), found)):
        print(f"{name}: {count} clips in {result.wall_s:.1f} s, {result.cpu_s:.1f} CPU s")
    print(f"twice the clips, {found.cpu_s / half.cpu_s:.2f} times the CPU")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"largest process: {peak:.0f} MB")


if __name__ == "__main__":
    main()
