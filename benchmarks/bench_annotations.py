"""Speed and memory of reading annotations, and the time until `handloom plan` shows something.

    python benchmarks/bench_annotations.py [--megabytes 1000] [--rows 650000] [--media 100000]

Writes captions like HowTo100M's in several spellings, a narration file like Ego4D's, lists like
Kinetics' and empty video files to a temporary folder. Each is read by its adapter in a process of
its own: CPU seconds without imports, and the peak of the resident memory, in brackets that of
imports alone. Then `handloom plan` runs on two of them: seconds to its first output and to its end.
docs/scale.md quotes it.
"""

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import ijson

from handloom.stages.datasets.catalog import video_adapter
from handloom.stages.datasets.source import CutRule

WORDS = ("now", "we", "add", "some", "olive", "oil", "to", "the", "pan", "and", "you're", "cut")
FOREIGN = ("jetzt", "für", "加入橄榄油", "切洋葱", "これを", "→")
LINES = 110  # of a video, as many as HowTo100M has on average
NARRATIONS = 200  # of a video and pass
VARIANTS = 50
COMPARED = 3000  # videos that ijson reads


def captions(chance: random.Random, words: tuple[str, ...] = WORDS) -> dict[str, list[object]]:
    """One video's captions: rolling lines, each shown while the next one is spoken."""
    starts = [round(i * 2.1, 2) for i in range(LINES)]
    texts = [" ".join(chance.choices(words, k=8)) for _ in starts]
    return {"start": [*starts], "end": [s + 4.2 for s in starts], "text": [*texts]}


def with_cell(entry: dict[str, list[object]], column: str, value: object) -> bytes:
    return json.dumps(entry | {column: [*entry[column][:-1], value]}).encode()


Spelling = Callable[[random.Random], bytes]
SPELLINGS: dict[str, Spelling] = {
    "plain": lambda chance: json.dumps(captions(chance)).encode(),
    "other languages, escaped": lambda chance: json.dumps(captions(chance, FOREIGN)).encode(),
    "other languages, UTF-8": lambda chance: json.dumps(
        captions(chance, FOREIGN), ensure_ascii=False
    ).encode(),
    "NaN in every entry": lambda chance: with_cell(captions(chance), "start", float("nan")),
    "braces in every entry": lambda chance: with_cell(captions(chance), "text", "a {brace}"),
    "not UTF-8 in every entry": lambda chance: with_cell(captions(chance), "text", "caf#").replace(
        b"#", b"\xe9"
    ),
}


def write_captions(root: Path, megabytes: int, spelling: str = "plain") -> None:
    chance = random.Random(0)
    variants = [SPELLINGS[spelling](chance) for _ in range(VARIANTS)]
    count = 0
    root.mkdir()
    with (root / "raw_caption.json").open("wb") as file:
        file.write(b"{")
        while file.tell() < megabytes * 1_000_000:
            for _ in range(1000):
                comma = b", " if count else b""
                file.write(b'%s"%011d": %s' % (comma, count, variants[count % VARIANTS]))
                count += 1
        file.write(b"}")


def write_narrations(root: Path, megabytes: int) -> None:
    chance = random.Random(0)
    entries = [json.dumps(narrations(chance)) for _ in range(VARIANTS)]
    (root / "annotations").mkdir(parents=True)
    (root / "full_scale").mkdir()
    count = 0
    with (root / "annotations/narration.json").open("w") as file:
        while file.tell() < megabytes * 1_000_000:
            file.write(f'{", " if count else "{"}"{count:036d}": {entries[count % VARIANTS]}')
            count += 1
        file.write("}")
    videos = [{"video_uid": f"{number:036d}"} for number in range(count)]
    (root / "ego4d.json").write_text(json.dumps({"videos": videos}))


def narrations(chance: random.Random) -> dict[str, object]:
    def one(number: int) -> dict[str, object]:
        text = "#C C " + " ".join(chance.choices(WORDS, k=6))
        uid = f"{chance.getrandbits(128):032x}"
        time_s = round(3.7 * number + chance.random(), 7)
        return {"timestamp_sec": time_s, "timestamp_frame": int(30 * time_s),
                "narration_text": text, "annotation_uid": uid}  # fmt: skip

    passes = [{"narrations": [one(i) for i in range(NARRATIONS)]} for _ in range(2)]
    return {"narration_pass_1": passes[0], "narration_pass_2": passes[1], "status": "complete"}


def write_lists(root: Path, rows: int, media: int) -> None:
    """Lists of train and val, a twentieth of the rows, and files for the first rows of train."""
    (root / "annotations").mkdir(parents=True)
    counts = {"train": rows - rows // 20, "val": rows // 20}
    for split, count in counts.items():
        with (root / f"annotations/{split}.csv").open("w") as file:
            file.write("label,youtube_id,time_start,time_end,split\n")
            for i in range(count):
                start = i % 300
                file.write(f'"label {i % 700}, said so",{split[0]}{i:010d},{start},{start + 10},\n')
    (root / "train").mkdir()
    for i in range(min(media, counts["train"])):
        (root / f"train/t{i:010d}_{i % 300:06d}_{i % 300 + 10:06d}.mp4").touch()


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read(name: str, root: Path) -> None:
    """Read a folder through its adapter in this process and print what it took."""
    adapter = video_adapter(name)
    megabytes = sum(path.stat().st_size for path in adapter.annotations(root)) / 1e6
    imports, began = peak_megabytes(), time.process_time()
    videos = with_file = 0
    for video in adapter.videos(root, CutRule(2.0, 15.0)):
        videos += 1
        with_file += bool(video.media_path)
    seconds = time.process_time() - began
    print(
        f"{megabytes:,.0f} MB, {videos:,} videos, {with_file:,} with a file: {seconds:.1f} CPU s, "
        f"{megabytes / seconds:.0f} MB/s, {peak_megabytes():.0f} MB ({imports:.0f})"
    )


def read_with_ijson(root: Path) -> float:
    """Read the first videos of a caption file with ijson; megabytes per CPU second."""
    began = time.process_time()
    with (root / "raw_caption.json").open("rb") as file:
        entries = ijson.kvitems(file, "", use_float=True, buf_size=1 << 20)
        for _ in islice(entries, COMPARED):
            pass
        return file.tell() / 1e6 / (time.process_time() - began)


def plan(name: str, root: Path, out: Path) -> None:
    """Print when `handloom plan` first shows something, and when it is done."""
    command = [sys.executable, "-m", "handloom", "plan", name, "--data", str(root)]
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    first_s = time.monotonic() - began
    process.communicate()
    print(
        f"plan {name}: first output after {first_s:.1f} s ({first.decode().strip()}), done after "
        f"{time.monotonic() - began:.1f} s"
    )


def measure(label: str, name: str, root: Path) -> None:
    print(f"{label}: ", end="", flush=True)
    subprocess.run([sys.executable, __file__, "--read", name, str(root)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=650_000)
    parser.add_argument("--media", type=int, default=100_000)
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(options.read[0], Path(options.read[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for spelling in SPELLINGS:
            write_captions(root / "howto100m", options.megabytes, spelling)
            measure(f"howto100m, {spelling}", "howto100m", root / "howto100m")
            if spelling == "plain":
                rate = read_with_ijson(root / "howto100m")
                print(f"the same with ijson ({ijson.backend}): {rate:.0f} MB/s")
                plan("howto100m", root / "howto100m", root / "out")
            shutil.rmtree(root / "howto100m")
        write_narrations(root / "ego4d", options.megabytes // 10)
        measure("ego4d", "ego4d", root / "ego4d")
        write_lists(root / "kinetics700", options.rows, options.media)
        measure("kinetics700", "kinetics700", root / "kinetics700")
        plan("kinetics700", root / "kinetics700", root / "out")


if __name__ == "__main__":
    main()
