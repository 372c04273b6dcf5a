"""How fast HowTo100M's captions are streamed, and in how much memory; ijson for comparison.

    python benchmarks/bench_annotations.py [--megabytes 2000] [--with-media 1000]

Writes a caption file of that size to a temporary folder, with empty video files for some of its
entries, reads it through the adapter, and its first part with ijson. Prints megabytes per second
and the peak of the resident memory. docs/decisions.md quotes it.
"""

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

import ijson

from handloom.stages.datasets.howto100m import adapter as howto100m
from handloom.stages.datasets.source import CutRule

WORDS = ("now", "we", "add", "some", "olive", "oil", "to", "the", "pan", "and", "you're", "cut")
LINES = 110  # of a video, as many as HowTo100M has on average
VARIANTS = 50
COMPARED = 3000  # videos that ijson reads


def captions(chance: random.Random) -> str:
    """One video's captions: rolling lines, each shown while the next one is spoken."""
    starts = [round(i * 2.1, 2) for i in range(LINES)]
    texts = [" ".join(chance.choices(WORDS, k=8)) for _ in starts]
    return json.dumps({"start": starts, "end": [s + 4.2 for s in starts], "text": texts})


def write(root: Path, megabytes: int, with_media: int) -> int:
    """Write the caption file and some empty video files; returns the number of entries."""
    chance = random.Random(0)
    variants = [captions(chance) for _ in range(VARIANTS)]
    count = 0
    with (root / "raw_caption.json").open("w") as file:
        file.write("{")
        while file.tell() < megabytes * 1_000_000:
            for _ in range(1000):
                file.write(f'{", " if count else ""}"{count:011d}": {variants[count % VARIANTS]}')
                count += 1
        file.write("}")
    for i in range(min(with_media, count)):
        (root / f"{i * (count // with_media):011d}.mp4").touch()
    return count


def stream(root: Path) -> float:
    """Read the file through the adapter; megabytes per second."""
    start = time.perf_counter()
    found = with_file = 0
    for video in howto100m.videos(root, CutRule(2.0, 15.0)):
        found += 1
        with_file += video.raw is not None
    seconds = time.perf_counter() - start
    print(f"{found} videos, {with_file} with a file, {seconds:.1f} s")
    return (root / "raw_caption.json").stat().st_size / 1e6 / seconds


def stream_with_ijson(root: Path) -> float:
    """Read the first videos of the file with ijson; megabytes per second."""
    start = time.perf_counter()
    with (root / "raw_caption.json").open("rb") as file:
        entries = ijson.kvitems(file, "", use_float=True, buf_size=1 << 20)
        for _ in zip(range(COMPARED), entries, strict=False):
            pass
        return file.tell() / 1e6 / (time.perf_counter() - start)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--with-media", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        count = write(root, options.megabytes, options.with_media)
        print(f"{count} entries written; peak so far {peak_megabytes():.0f} MB")
        print(f"adapter: {stream(root):.0f} MB/s, peak {peak_megabytes():.0f} MB")
        rate = stream_with_ijson(root)
        print(f"ijson ({ijson.backend}): {rate:.0f} MB/s, peak {peak_megabytes():.0f} MB")


if __name__ == "__main__":
    main()
