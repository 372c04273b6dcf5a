"""How well clips and frames with hands are told from those without, and what it costs.

    python benchmarks/bench_hand_accuracy.py LABELLED_FOLDER

The folder holds `labels.csv` (file, kind, egocentric), `frame_labels.csv` (file, and for each frame
at (k + 0.5) / 2 seconds `1` a hand, `0` none, `?` unclear) and the pictures and videos they name.
A plain loop (detection 0.5, presence 0.3, every frame) and handloom's two passes see the same
frames; both keep a clip when a tenth of its frames shows a hand. Without a folder it says so.
"""

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from handloom.stages.hands.landmarker import detect_hands
from handloom.stages.hands.recheck import DetectOptions, detect, recheck, shows_hand

KEEP_SHARE = 0.1
SHORT_SIDE = 384
FramesHWC = list[npt.NDArray[np.uint8]]


@dataclass
class Labelled:
    """A clip, its frames and what is known of it."""

    file: str
    group: str
    labels: str
    has_hands: bool
    frames: FramesHWC
    times_s: list[float]


def labelled(folder: Path) -> Iterator[Labelled]:
    """The clips of a labelled folder that can be decoded, one at a time."""
    with (folder / "frame_labels.csv").open() as lines:
        frame_labels = {row["file"]: row["labels"] for row in csv.DictReader(lines)}
    with (folder / "labels.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    for row in rows:
        file, hands = row["file"], row["hands_visible_fraction"] not in ("", "0")
        try:
            frames, times_s = decoded(folder / file, len(frame_labels.get(file, "")))
        except (av.FFmpegError, OSError, IndexError) as error:
            print(f"not decoded: {file} ({type(error).__name__})")
            continue
        views = {"yes": "first person", "top-down": "top-down", "no": "third person"}
        group = views[row["egocentric"]] if row["kind"] in ("hands", "mixed") else row["kind"]
        labels = frame_labels.get(file, "?" * len(frames))
        yield Labelled(file, group, labels, hands, frames, times_s)


def decoded(path: Path, count: int) -> tuple[FramesHWC, list[float]]:
    """Frames at the label times, and these; `count` 0 takes as many as there are."""
    if path.parts[-3] == "images":
        still = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        return [small(np.asarray(still))], [0.0]
    times = np.array([time_s for time_s, *_ in shown(path)])
    seconds = len(times) * (times[-1] - times[0]) / max(1, len(times) - 1)
    count = count or (int(seconds * 2) if seconds >= 2 else 4)
    step_s = 0.5 if seconds >= 2 else seconds / count
    nearest = [int(np.abs(times - (k + 0.5) * step_s).argmin()) for k in range(count)]
    wanted = set(nearest)
    frames = {n: picture(*shot) for n, (_, *shot) in enumerate(shown(path)) if n in wanted}
    return [frames[n] for n in nearest], [float(times[n]) for n in nearest]


def shown(path: Path) -> Iterator[tuple[float, av.VideoFrame, float]]:
    """Every frame up to the first that does not decode: its time, itself, its pixels' aspect."""
    with av.open(str(path), metadata_errors="replace") as container:
        stream, start_s = container.streams.video[0], None
        aspect = float(stream.sample_aspect_ratio or 1) or 1.0
        try:
            for frame in container.decode(stream):
                time_s = float((frame.pts or 0) * stream.time_base)
                start_s = time_s if start_s is None else start_s
                yield time_s - start_s, frame, aspect
        except av.FFmpegError:
            return


def picture(frame: av.VideoFrame, aspect: float) -> npt.NDArray[np.uint8]:
    """A frame with square pixels, upright and small."""
    square = frame.to_image().resize((round(frame.width * aspect), frame.height))
    return small(np.rot90(np.asarray(square), k=int(frame.rotation) // 90 % 4))


def small(frame_hwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Shrunk to the short side that the hands stage uses."""
    height, width = frame_hwc.shape[:2]
    scale = min(1.0, SHORT_SIDE / min(height, width))
    size = round(width * scale), round(height * scale)
    return np.asarray(Image.fromarray(frame_hwc).resize(size, Image.Resampling.BILINEAR))


def plainly(clip: Labelled) -> list[bool]:
    """Whether each frame shows a hand, in one pass."""
    return [bool(detect_hands(frame, n, 2, 0.5, 0.3)) for n, frame in enumerate(clip.frames)]


def twice(clip: Labelled) -> list[bool]:
    """The same in two passes."""
    use = DetectOptions()
    found = [detect(frame, n, use) for n, frame in enumerate(clip.frames)]
    return [shows_hand(hands) for hands in recheck(clip.frames, found, use)]


@dataclass
class Score:
    """Counts of right and wrong, for one way of detection."""

    name: str
    detect: Callable[[Labelled], list[bool]]
    clips: npt.NDArray[np.int64]  # [truth, answer]
    frames: dict[str, npt.NDArray[np.int64]]  # of each group, [truth, answer]
    wrong: list[str]
    cpu_s: float = 0.0

    def add(self, clip: Labelled) -> None:
        """Look at a clip and count."""
        started = time.process_time()
        seen = self.detect(clip)
        self.cpu_s += time.process_time() - started
        keep = float(np.mean(seen)) >= KEEP_SHARE
        self.clips[int(clip.has_hands), int(keep)] += 1
        if keep != clip.has_hands:
            self.wrong.append(f"{clip.file} ({np.mean(seen):.2f} of {len(seen)} frames)")
        counts = self.frames.setdefault(clip.group, np.zeros((2, 2), np.int64))
        for label, hit in zip(clip.labels, seen, strict=True):
            if label != "?":
                counts[int(label), int(hit)] += 1

    def report(self) -> None:
        """Print what was counted."""
        (_, false), (missed, right) = self.clips
        print(
            f"\n{self.name}: clips {self.clips.sum()}, precision {ratio(right, right + false)}, "
            f"recall {ratio(right, right + missed)}, "
            f"F1 {ratio(2 * right, 2 * right + false + missed)}"
        )
        total = np.sum(list(self.frames.values()), axis=0)
        for group, counts in [*sorted(self.frames.items()), ("all", total)]:
            (none, false), (missed, right) = counts
            print(
                f"  frames, {group:13} recall {ratio(right, right + missed)} of {right + missed}, "
                f"precision {ratio(right, right + false)}, false {false} of {none + false}"
            )
        for line in self.wrong:
            print(f"  wrong: {line}")


def ratio(part: int, whole: int) -> str:
    """A share with three digits."""
    return f"{part / whole:.3f}" if whole else "  -  "


def main() -> None:
    """Compare the two ways."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    folder = parser.parse_args().folder
    if folder is None:
        print("Skipped: name a folder of labelled pictures and videos to measure accuracy on.")
        return
    scores = [
        Score(name, way, np.zeros((2, 2), np.int64), {}, [])
        for name, way in (("plain loop", plainly), ("two passes", twice))
    ]
    frames = 0
    for clip in labelled(folder):
        frames += len(clip.frames)
        for score in scores:
            score.add(clip)
    for score in scores:
        score.report()
        print(f"  {1000 * score.cpu_s / frames:.1f} ms CPU a frame over {frames} frames")
    print(f"\ntwo passes / plain loop: {scores[1].cpu_s / scores[0].cpu_s:.2f} of the CPU time")


if __name__ == "__main__":
    main()
