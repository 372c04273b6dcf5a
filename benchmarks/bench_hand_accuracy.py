"""How well `hands` and `select` tell clips with hands from those without, beside a plain loop.

    python benchmarks/bench_hand_accuracy.py LABELLED_FOLDER... [--every-frame]

A labelled folder holds `labels.csv` (file, kind, egocentric), `frame_labels.csv` (file, and for
each frame at (k + 0.5) / 2 seconds `1` a hand, `0` none, `?` unclear), `sources.csv` (file,
repository) and the files they name. Both sides see the same files:

- ours: `Hands` and `Select` with their default options, as a run calls them;
- the plain loop: two frames a second, one detection each (palm 0.5, presence 0.3); a clip is kept
  when a tenth of its frames shows a hand.

Whole clips are the videos, without those of kind `mixed` and `odd`. Spans are 4 s long, one after
the other, of videos of 6 s or more, and a rest of 3 s or more: with hands where two labels or more
say so, without where none does and at most half are unclear; others are left out. Frames are all
labelled ones of the videos, in which `--hands.no-until-clear` searches for hands. Intervals are
95 %, from 2,000 resamples of the repositories: clips of one are no independent evidence. Files that
constants were chosen on say little; other footage decides.
"""

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image, ImageOps

from handloom.errors import MediaError
from handloom.stages.hands.landmarker import detect_hands
from handloom.stages.hands.recheck import detect, recheck, shows_hand
from handloom.stages.hands.rows import HandRow
from handloom.stages.hands.stage import Hands
from handloom.stages.media.key_frames import SmallVideo
from handloom.stages.media.video import probe
from handloom.stages.select import CLIP_COLUMNS, DUPLICATE_COLUMNS, HAND_COLUMNS, Select
from handloom.stages.tables.rows import Clip

KEEP_SHARE = 0.1
PLAIN = 2, 0.5, 0.3  # hands at most, detection and presence confidence
SPAN_S, SHORTEST_SPAN_S, LONG_S = 4.0, 3.0, 6.0
RESAMPLES = 2000
GROUPS = "whole clips", "spans", "spans, first person", "frames", "frames, first person", "pictures"


@dataclass(frozen=True)
class Labelled:
    """A file and what is known of it."""

    path: Path
    kind: str
    first_person: bool
    labels: str
    repository: str
    duration_s: float
    """0 for a picture."""

    @property
    def step_s(self) -> float:
        """Seconds from one label to the next."""
        return 0.5 if self.duration_s >= 2 else self.duration_s / len(self.labels)

    def within(self, start_s: float, end_s: float) -> str:
        """The labels of a span."""
        times_s = (np.arange(len(self.labels)) + 0.5) * self.step_s
        return "".join(np.array(list(self.labels))[(times_s >= start_s) & (times_s < end_s)])


@dataclass
class Answers:
    """Decisions of both sides on what one group of the report holds."""

    truth: list[bool] = field(default_factory=list)
    plain: list[bool] = field(default_factory=list)
    ours: list[bool] = field(default_factory=list)
    repository: list[str] = field(default_factory=list)
    name: list[str] = field(default_factory=list)

    def add(self, one: Labelled, name: str, truth: bool, plain: bool, ours: bool) -> None:
        self.truth.append(truth)
        self.plain.append(plain)
        self.ours.append(ours)
        self.repository.append(one.repository)
        self.name.append(name)


@dataclass(frozen=True)
class Decision:
    """What a run decides on a span of a file."""

    keep: bool
    reason: str
    row: HandRow


def main() -> None:
    """Print both sides' figures for each group, and what ours got wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--every-frame", action="store_true", help="search without stopping")
    args = parser.parse_args()
    if not args.folders:
        print("Skipped: name folders of labelled pictures and videos to measure accuracy on.")
        return
    stage = replace(Hands(), until_clear=not args.every_frame)
    stage.setup()
    answers = {group: Answers() for group in GROUPS}
    spent = {"plain": 0.0, "ours": 0.0}
    for folder in args.folders:
        for one in labelled(folder):
            judge(one, stage, answers, spent)
    for group, found in answers.items():
        print_group(group, found)
    print(f"\nCPU s of whole clips: plain loop {spent['plain']:.1f}, ours {spent['ours']:.1f}")


def labelled(folder: Path) -> Iterator[Labelled]:
    """The labelled files of a folder."""
    frames = {row["file"]: row["labels"] for row in rows_of(folder / "frame_labels.csv")}
    sources = {row["file"]: row["repository"] for row in rows_of(folder / "sources.csv")}
    for row in rows_of(folder / "labels.csv"):
        file = row["file"]
        if row["kind"] != "odd":
            path = folder / file
            seconds = 0.0 if file.startswith("images/") else probe(path).duration_s
            first = row["egocentric"] == "yes"
            yield Labelled(path, row["kind"], first, frames[file], sources[file], seconds)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as lines:
        return list(csv.DictReader(lines))


def judge(
    one: Labelled, stage: Hands, answers: dict[str, Answers], spent: dict[str, float]
) -> None:
    """Add a file's clip, spans and frames to the answers."""
    if not one.duration_s:
        return judge_picture(one, stage, answers["pictures"])
    began = time.process_time()
    times_s, hits = plain_loop(one)
    spent["plain"] += time.process_time() - began
    began = time.process_time()
    whole = decide(one, stage, 0.0, one.duration_s)
    spent["ours"] += time.process_time() - began
    if one.kind != "mixed":
        keep = bool(hits.mean() >= KEEP_SHARE)
        name = f"{one.path.name}: {verdict(whole)}"
        answers["whole clips"].add(one, name, one.kind == "hands", keep, whole.keep)
    for start_s, end_s, truth in spans(one):
        part = hits[(times_s >= start_s) & (times_s < end_s)]
        found = decide(one, stage, start_s, end_s)
        name = f"{one.path.name} at {start_s:.0f} s: {verdict(found)}"
        plain = bool(len(part) and part.mean() >= KEEP_SHARE)
        for group in ["spans"] + ["spans, first person"] * one.first_person:
            answers[group].add(one, name, truth, plain, found.keep)
    every = decide(one, replace(stage, until_clear=False), 0.0, one.duration_s)
    judge_frames(one, every.row, hits, answers)


def judge_frames(
    one: Labelled, row: HandRow, hits: npt.NDArray[np.bool_], answers: dict[str, Answers]
) -> None:
    """Add the labelled frames; a frame appears less than half a step before its label's time."""
    for time_s, count in zip(row.times_s, row.hand_counts, strict=True):
        k = int(time_s / one.step_s)
        if k < len(hits) and one.labels[k] != "?":
            name, truth = f"{one.path.name} at {time_s:.2f} s", one.labels[k] == "1"
            for group in ["frames"] + ["frames, first person"] * one.first_person:
                answers[group].add(one, name, truth, bool(hits[k]), count > 0)


def judge_picture(one: Labelled, stage: Hands, answers: Answers) -> None:
    """Add a still, as both passes see it."""
    picture = ImageOps.exif_transpose(Image.open(one.path)).convert("RGB")
    scale = min(1.0, stage.short_side / min(picture.size))
    size = round(picture.width * scale), round(picture.height * scale)
    frame_hwc = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    (hands,) = recheck([frame_hwc], [detect(frame_hwc, 0, stage.look)], stage.look)
    plain = bool(detect_hands(frame_hwc, 0, *PLAIN))
    answers.add(one, one.path.name, one.labels == "1", plain, shows_hand(hands))


def plain_loop(one: Labelled) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Times of two frames a second, and whether a single detection finds a hand in each."""
    video = SmallVideo(one.path, Hands().short_side)
    times_s, hits = [], []
    for k in range(len(one.labels)):
        try:
            frame = video.frame_at((k + 0.5) * one.step_s)
        except MediaError:
            break
        times_s.append((k + 0.5) * one.step_s)
        hits.append(bool(detect_hands(frame.picture_hwc, 0, *PLAIN)))
    video.close()
    return np.array(times_s), np.array(hits, bool)


def spans(one: Labelled) -> Iterator[tuple[float, float, bool]]:
    """Spans of a longer video: start, end, and whether they show hands."""
    if one.duration_s < LONG_S:
        return
    for start_s in np.arange(0.0, one.duration_s - SHORTEST_SPAN_S + 1e-6, SPAN_S):
        end_s = min(start_s + SPAN_S, one.duration_s)
        labels = one.within(start_s, end_s)
        ones, clear = labels.count("1"), len(labels) - labels.count("?")
        if ones >= 2 or (ones == 0 and clear * 2 >= len(labels) > 0):
            yield float(start_s), float(end_s), ones >= 2


def decide(one: Labelled, stage: Hands, start_s: float, end_s: float) -> Decision:
    """What a run decides on a span of a video that has no near-duplicate."""
    names = ("dataset", "version", "split", "licence", "unit", "text", "text_kind")
    texts: dict[str, Any] = dict.fromkeys(names, "")
    place = {"media_path": str(one.path.resolve()), "duration_s": one.duration_s, "bucket": "00"}
    clip = Clip(clip_id="0", video_id="v", start_s=start_s, end_s=end_s, fps=0.0, **(texts | place))
    (row,) = stage(clip)
    hands = pa.Table.from_pylist([{name: getattr(row, name) for name in HAND_COLUMNS}])
    clips = pa.Table.from_pylist([{name: getattr(clip, name) for name in CLIP_COLUMNS}])
    alone = dict.fromkeys(DUPLICATE_COLUMNS[1:], 0.0)
    (decided,) = (
        Select().decide(hands, clips, pa.Table.from_pylist([{"clip_id": "0", **alone}])).to_pylist()
    )
    return Decision(decided["status"] == "ok", decided["reason"], row)


def verdict(decision: Decision) -> str:
    """The decision in a few words, for the list of errors."""
    hits = sum(count > 0 for count in decision.row.hand_counts)
    return f"{decision.reason or 'kept'}, {hits} of {sum(decision.row.detector_ran)} frames"


def print_group(group: str, answers: Answers) -> None:
    """Print both sides' precision, recall and F1, each with its interval, and our errors."""
    truth = np.array(answers.truth, bool)
    print(f"\n{group}: {len(truth)}, {truth.sum()} with hands, ", end="")
    print(f"{len(set(answers.repository))} repositories")
    repository = np.unique(answers.repository, return_inverse=True)[1]
    for side, given in (("plain loop", answers.plain), ("ours", answers.ours)):
        figures = with_intervals(truth, np.array(given, bool), repository)
        print(f"  {side:11}" + ", ".join(figures))
    if group.startswith(("whole", "spans")) and "," not in group:
        for name, shown, given in zip(answers.name, truth, answers.ours, strict=True):
            if shown != given:
                print(f"    wrong: {name}")


def with_intervals(
    truth: npt.NDArray[np.bool_], given: npt.NDArray[np.bool_], repository: npt.NDArray[np.int64]
) -> list[str]:
    """Precision, recall and F1, as text, with 95 % intervals from resampled repositories."""
    right, false, missed = truth & given, ~truth & given, truth & ~given
    counts = np.stack([np.bincount(repository, kind) for kind in (right, false, missed)])
    rng = np.random.default_rng(0)
    sources = counts.shape[1]
    drawn = rng.multinomial(sources, np.full(sources, 1 / sources), RESAMPLES) @ counts.T
    with np.errstate(invalid="ignore"):
        figures, resampled = scores(counts.sum(1)), scores(drawn.T)
    low, high = np.nanpercentile(resampled, [2.5, 97.5], axis=1)
    names = ("precision", "recall", "F1")
    return [
        f"{name} {figure:.3f} ({a:.2f} to {b:.2f})"
        for name, figure, a, b in zip(names, figures, low, high, strict=True)
    ]


def scores(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Precision, recall and F1 [3, ...] of right, false and missed [3, ...]."""
    right, false, missed = counts.astype(float)
    pairs = (right, right + false), (right, right + missed), (2 * right, 2 * right + false + missed)
    return np.stack([part / whole for part, whole in pairs])


if __name__ == "__main__":
    main()
