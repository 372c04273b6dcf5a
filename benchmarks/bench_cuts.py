"""What it costs to cut a folder's videos, and how much of the time with hands the clips hold.

    python benchmarks/bench_cuts.py [FOLDER...]

For each cut: processor seconds a minute of video, the share of the time that is in clips, and where
a folder holds frame_labels.csv (file, frames, labels: a character for each half second, 1 for a
hand, 0 for none) the share of the frames with a hand, and of those without, that is in a clip.
Without a folder it takes rendered recordings of 1080p, with a key frame each second as of phones.
"""

import csv
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from handloom.errors import MediaError
from handloom.stages.datasets.videos import SUFFIXES
from handloom.stages.hands import activity
from handloom.stages.ingest import cutting
from handloom.stages.ingest.cut_file import cut_file
from handloom.stages.ingest.cutting import Piece
from handloom.stages.ingest.folder import FolderIngest
from handloom.stages.media.video import MediaFacts, probe
from handloom.stages.miniatures import videos
from handloom.stages.miniatures.encode import VideoEncoding, write_file

DEFAULT = FolderIngest()
SAMPLES_S = (1.0, 0.5)


@dataclass
class Tally:
    """Sums over all videos of one cut."""

    cpu_s: float = 0.0
    video_s: float = 0.0
    clips_s: list[float] = field(default_factory=list)
    frames: dict[str, list[bool]] = field(default_factory=lambda: {"0": [], "1": []})

    def add(self, pieces: list[Piece], facts: MediaFacts, labels: str, cpu_s: float) -> None:
        kept = [piece for piece in pieces if not (piece.reason or piece.error)]
        self.cpu_s += cpu_s
        self.video_s += facts.duration_s - facts.start_s
        self.clips_s += [piece.end_s - piece.start_s for piece in kept]
        for time_s, label in labelled(facts, labels):
            if label in self.frames:
                inside = any(piece.start_s <= time_s < piece.end_s for piece in kept)
                self.frames[label].append(inside)

    def line(self, name: str) -> str:
        shares = [f"{sum(found) / len(found):6.1%}" if found else "     -" for found in
                  (self.frames["1"], self.frames["0"])]  # fmt: skip
        mean_s = sum(self.clips_s) / max(1, len(self.clips_s))
        return (
            f"{name:<18}{self.cpu_s / self.video_s * 60:8.2f}{len(self.clips_s):8}{mean_s:8.1f}"
            f"{sum(self.clips_s) / self.video_s:9.1%}{shares[0]:>9}{shares[1]:>9}"
        )


def labelled(facts: MediaFacts, labels: str) -> Iterator[tuple[float, str]]:
    """Times of the labelled frames: each half second, or evenly in a shorter file."""
    seconds = facts.duration_s - facts.start_s
    step_s = 0.5 if seconds >= 2 else seconds / max(1, len(labels))
    for number, label in enumerate(labels):
        yield facts.start_s + (number + 0.5) * step_s, label


def read_labels(root: Path) -> dict[str, str]:
    path = root / "frame_labels.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {row["file"]: row["labels"] for row in csv.DictReader(file)}


def render(root: Path) -> None:
    """Four recordings of 1080p."""
    encoding = VideoEncoding("h264", "mp4", Fraction(30), 10, (1920, 1080))
    for number in range(4):
        frames = videos._recording(0, number).frames()
        write_file(root / f"{number}.mp4", frames, encoding)


def measure(root: Path, cuts: dict[str, Tally]) -> None:
    labels = read_labels(root)
    for path in sorted(root.rglob("*")):
        if not path.name.lower().endswith(SUFFIXES):
            continue
        try:
            facts = probe(path)
            for name, tally in cuts.items():
                began_s = time.process_time()
                pieces = cut(name, path, facts)
                spent_s = time.process_time() - began_s
                tally.add(pieces, facts, labels.get(path.relative_to(root).as_posix(), ""), spent_s)
        except MediaError:
            continue


def cut(name: str, path: Path, facts: MediaFacts) -> list[Piece]:
    span, (kind, _, step) = (facts.start_s, facts.duration_s), name.partition(" ")
    if kind == "stride":
        return cutting.strides(*span, DEFAULT.stride_s)
    return cut_file(path, *span, kind == "hands", float(step), DEFAULT.max_seconds)


def main(folders: list[str]) -> None:
    names = ["stride", *(f"{kind} {s:g}" for s in SAMPLES_S for kind in ("shots", "hands"))]
    cuts = {name: Tally() for name in names}
    activity.load()
    with tempfile.TemporaryDirectory() as rendered:
        if not folders:
            render(Path(rendered))
        for folder in folders or [rendered]:
            measure(Path(folder), cuts)
    print("cut, seconds        CPU s/   clips    mean  time in  of hand of other")
    print("between samples     minute               s    clips   frames   frames")
    for name, tally in cuts.items():
        print(tally.line(name))


if __name__ == "__main__":
    main(sys.argv[1:])
