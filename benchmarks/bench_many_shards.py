"""Opening, resuming and reading thousands of shards, as 38 million clips are.

    python benchmarks/bench_many_shards.py [STEP…] [--shards 3800] [--layout packed]

Writes four shards of clips of 5 frames of 256 codes and links them under 3,800 names, so that they
take no space; all is read from a warm page cache. Steps run in processes of their own:

    open      the dataset
    first     open it, and the first batch of one of 8 ranks, 256 of 2,048 clips
    middle    the same, resuming in the middle of an epoch
    run       2,000 batches of one of 32 loading processes
    windows   open the dataset's windows, as the trainer does
    workers   `middle` and 20 batches in each of 8 ranks x 4 workers, one process after the other
    epoch     codes of an epoch in 8 ranks x 4 workers, one after the other: every clip comes once

Memory is the peak of the process, in brackets that of imports; `own` is without mapped files, whose
pages the kernel takes back.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
from bench_shard_size import TOKENIZER, samples

from handloom.tokenize.shards import (
    LAYOUTS,
    Layout,
    ShardDataset,
    index_name,
    shard_path,
    write_manifest,
    write_shard,
)
from handloom.tokenize.shards.batches import Batch, Selection
from handloom.tokenize.shards.format import Integers
from handloom.tokenize.shards.order import order
from handloom.tokenize.shards.window_scan import Cut
from handloom.tokenize.shards.windows import ClipWindows

BATCH, RANKS, WORKERS = 2048, 8, 4
DISTINCT = 4
RUN, SHORT_RUN = 2000, 20  # batches


def write(root: Path, shards: int, count: int, layout: Layout) -> None:
    """A folder of shards, of which only the first few are files of their own."""
    infos = [
        write_shard(
            shard_path(root, "train", number),
            islice(samples(count + number, 8), count),
            layout=layout,
        )
        for number in range(min(DISTINCT, shards))
    ]
    for number in range(DISTINCT, shards):
        old, new = (str(shard_path(root, "train", n)) for n in (number % DISTINCT, number))
        os.link(old, new)
        os.link(index_name(old), index_name(new))
    names = [shard_path(root, "train", number).name for number in range(shards)]
    listed = [replace(infos[i % DISTINCT], name=name) for i, name in enumerate(names)]
    write_manifest(root, {"train": listed}, TOKENIZER)


def megabytes(what: str) -> float:
    """A size of this process: VmHWM (largest resident so far), RssAnon or RssFile."""
    status = Path("/proc/self/status").read_text()  # getrusage would tell of the parent too
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


def batches(
    data: ShardDataset, rank: int = 0, worker: int = 0, start: int = 0, **options: Any
) -> Iterator[Batch]:
    """The batches of one of 32 loading processes."""
    place: dict[str, Any] = {
        "rank": rank,
        "world_size": RANKS,
        "worker": worker,
        "workers": WORKERS,
    }
    return data.batches(BATCH, 0, start=start - start % BATCH, **place, **options)


def open_only(root: Path) -> str:
    return f"{len(ShardDataset(root)):,} clips"


def first(root: Path) -> str:
    next(batches(ShardDataset(root)))
    return "1 batch"


def middle(root: Path) -> str:
    data = ShardDataset(root)
    next(batches(data, start=len(data) // 2))
    return "1 batch"


def run(root: Path) -> str:
    stream = batches(ShardDataset(root))
    for _ in islice(stream, RUN // 2):
        pass
    began = time.perf_counter()
    for _ in islice(stream, RUN // 2):
        pass
    rate = RUN // 2 * BATCH // RANKS / (time.perf_counter() - began)
    return f"{RUN} batches, {rate:,.0f} clips/s in the second half"


def windows(root: Path) -> str:
    return f"{len(ClipWindows(ShardDataset(root), Cut(5))):,} windows"


def short_run(root: Path, rank: int, worker: int) -> str:
    began = time.perf_counter()
    data = ShardDataset(root)
    stream = batches(data, rank, worker, len(data) // 2)
    next(stream)
    first_s = time.perf_counter() - began
    for _ in islice(stream, SHORT_RUN):
        pass
    return f"rank {rank}, worker {worker}, first batch after {first_s:.2f} s, {SHORT_RUN} more"


class Recorded(ShardDataset):
    """Notes which samples each batch is made of."""

    samples: ClassVar[deque[Integers]] = deque()

    def select(self, positions: Integers, seed: int, fields: Sequence[str]) -> Selection:
        share = BATCH // RANKS
        self.samples.extend(order(positions, len(self), seed).reshape(-1, share))
        return super().select(positions, seed, fields)


def epoch(root: Path) -> str:
    """Each sample must have come once, over all ranks and workers."""
    data = Recorded(root)
    steps, rest = divmod(len(data), BATCH)
    times = np.zeros(len(data), np.uint8)
    for rank in range(RANKS):
        for worker in range(WORKERS):
            data.samples.clear()
            mine = len(range(worker, steps, WORKERS))
            for batch in islice(batches(data, rank, worker, fields=("tokens",)), mine):
                assert len(batch["tokens"]) == BATCH // RANKS
                times[data.samples.popleft()] += 1
    counts = np.bincount(times, minlength=2)
    if counts[0] != rest or len(counts) != 2:
        raise SystemExit(f"of {len(data):,} clips {counts.tolist()} came 0, 1, 2, … times")
    return f"{counts[1]:,} clips came once, {rest:,} are left for the step that ends the epoch"


STEPS: dict[str, Callable[..., str]] = {
    "open": open_only, "first": first, "middle": middle, "run": run, "windows": windows,
    "workers": short_run, "epoch": epoch,
}  # fmt: skip


def measure(root: Path, step: str, places: Sequence[int]) -> None:
    imports, began, cpu = megabytes("VmHWM"), time.perf_counter(), time.process_time()
    done = STEPS[step](root, *places)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    print(
        f"{step}: {done}: {seconds:.2f} s ({cpu_s:.2f} CPU s), {megabytes('VmHWM'):.0f} MB "
        f"({imports:.0f}), own {megabytes('RssAnon'):.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", help=", ".join(STEPS))
    parser.add_argument("--shards", type=int, default=3800)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--layout", choices=LAYOUTS, nargs="+", default=LAYOUTS)
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--places", type=int, nargs="*", default=(), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        measure(options.here, options.steps[0], options.places)
        return
    for layout in options.layout:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write(root, options.shards, options.samples, layout)
            print(f"{layout}: {options.shards:,} shards of {options.samples:,} clips")
            for step in options.steps or STEPS:
                places = [(r, w) for r in range(RANKS) for w in range(WORKERS)]
                for place in places if step == "workers" else [()]:
                    command = [sys.executable, __file__, step, "--here", str(root)]
                    subprocess.run([*command, "--places", *map(str, place)], check=True)


if __name__ == "__main__":
    main()
