"""How fast one process reads shuffled clips, beside other readers of the same clips.

    python benchmarks/bench_reader.py [--samples 20000] [--rounds 5] [--million]

All read the same clips of 5 frames of 256 codes, from a warm page cache, in one process and without
loader workers; a round of each follows a round of the others, and the median is printed. Readers
that are not installed are named and left out (`pip install litdata mosaicml-streaming`). What each
was given is its fastest documented way for one process:

    webdataset   the same tars; shards shuffled, buffer of 1,000; codes by numpy.frombuffer
    litdata      TokensLoader, its loader for fixed blocks of tokens, and the default loader;
                 uncompressed chunks of 64 MB, shuffle=True
    mosaicml     MDS with an ndarray column, uncompressed, shuffle=True, predownloaded (local)
    windows      of the same clips: whole, every three frames in a row, and frames taken apart
    memmap       one file of codes, numpy.memmap[indices] of 256 shuffled numbers

Handloom and memmap give collated batches of 256, the others single clips that are not collated.
`--million` opens 1,000,000 clips (a hundred links to one shard of 10,000) in a fresh process.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
from bench_shard_size import SHAPE, TOKENIZER, samples

from handloom.tokenize.shards import (
    ShardDataset,
    index_name,
    shard_path,
    write_manifest,
    write_shard,
    write_shards,
)
from handloom.tokenize.shards.window_scan import Cut
from handloom.tokenize.shards.windows import ClipWindows

BATCH, CODES = 256, int(np.prod(SHAPE))
Reader = Callable[[int], Iterator[int]]  # an epoch's number to the clips of each item it read


def handloom(root: Path, **options: Any) -> Reader:
    dataset = ShardDataset(root)

    def read(epoch: int) -> Iterator[int]:
        steps = len(dataset) // BATCH
        stream = dataset.batches(BATCH, seed=epoch, **options)
        for _ in range(steps):
            yield len(next(stream).get("tokens", ()))

    return read


def windows(root: Path, cut: Cut, **options: Any) -> Reader:
    source = ClipWindows(ShardDataset(root), cut)

    def read(epoch: int) -> Iterator[int]:
        stream = source.batches(BATCH, seed=epoch, **options)
        for _ in range(len(source) // BATCH):
            yield len(next(stream).get("tokens", ()))

    return read


def one_by_one(root: Path) -> Reader:
    dataset = ShardDataset(root)

    def read(epoch: int) -> Iterator[int]:
        for i in np.random.default_rng(epoch).permutation(len(dataset)).tolist():
            yield len(dataset[i]["tokens"])  # one view: one

    return read


def memmap(root: Path, folder: Path) -> Reader:
    path = folder / "codes.bin"
    with path.open("wb", buffering=8 << 20) as file:  # as shards are written
        dataset = ShardDataset(root)
        for i in range(len(dataset)):
            file.write(dataset[i]["tokens"].tobytes())
    codes = np.memmap(path, np.uint16, mode="r", shape=(len(dataset), *SHAPE))

    def read(epoch: int) -> Iterator[int]:
        numbers = np.random.default_rng(epoch).permutation(len(codes))
        for start in range(0, len(codes) - BATCH + 1, BATCH):
            yield len(codes[numbers[start : start + BATCH]])

    return read


def webdataset(root: Path) -> Reader:
    import webdataset as wds

    urls = sorted(str(path) for path in root.glob("train/*.tar"))

    def codes(sample: dict[str, Any]) -> Any:
        return np.frombuffer(sample["mp"], "<u2", CODES, 12).reshape(SHAPE)

    def read(epoch: int) -> Iterator[int]:
        stream = wds.WebDataset(urls, shardshuffle=len(urls), seed=epoch).shuffle(1000).map(codes)
        for sample in stream:
            yield len(sample)  # one view: one

    return read


def litdata(root: Path, folder: Path, tokens: bool) -> Reader:
    import torch
    from litdata import StreamingDataset, TokensLoader
    from litdata.streaming.writer import BinaryWriter

    out = folder / f"litdata-{tokens}"
    out.mkdir()
    loader = {"item_loader": TokensLoader(block_size=CODES)} if tokens else {}
    chunk = {"chunk_size": CODES * 8192} if tokens else {"chunk_bytes": 64_000_000}
    writer = BinaryWriter(str(out), **chunk, **loader)
    dataset = ShardDataset(root)
    for i in range(len(dataset)):
        codes = np.array(dataset[i]["tokens"])
        writer[i] = torch.from_numpy(codes.reshape(-1)) if tokens else {"tokens": codes}
    writer.done()
    writer.merge()

    def read(epoch: int) -> Iterator[int]:
        for item in StreamingDataset(str(out), shuffle=True, seed=epoch, drop_last=False, **loader):
            yield 1 if len(item) else 0

    return read


def mosaicml(root: Path, folder: Path) -> Reader:
    from streaming import MDSWriter, StreamingDataset

    out, dataset = folder / "mds", ShardDataset(root)
    columns = {"tokens": f"ndarray:uint16:{','.join(map(str, SHAPE))}"}
    with MDSWriter(out=str(out), columns=columns) as writer:
        for i in range(len(dataset)):
            writer.write({"tokens": np.array(dataset[i]["tokens"])})
    stream = StreamingDataset(local=str(out), shuffle=True, batch_size=BATCH)

    def read(_: int) -> Iterator[int]:
        for item in stream:  # its epochs count themselves
            yield len(item["tokens"])

    return read


def readers(root: Path, packed: Path, folder: Path) -> dict[str, Reader]:
    found = {
        "handloom, codes": handloom(root, fields=("tokens",)),
        "handloom, codes, caption, id": handloom(root),
        "handloom, windows of whole clips, codes": windows(root, Cut(5), fields=("tokens",)),
        "handloom, windows of 3 frames, codes": windows(root, Cut(3), fields=("tokens",)),
        "handloom, windows of 3 frames, 1 s apart, codes": windows(
            root, Cut(3, 1.0), fields=("tokens",)
        ),
        "handloom packed, codes": handloom(packed, fields=("tokens",)),
        "handloom packed, codes, caption, id": handloom(packed),
        "handloom, dataset[i] with metadata": one_by_one(root),
        "numpy.memmap gather": memmap(root, folder),
        "webdataset": webdataset(root),
    }
    if find_spec("litdata"):
        found["litdata TokensLoader"] = litdata(root, folder, tokens=True)
        found["litdata"] = litdata(root, folder, tokens=False)
    if find_spec("streaming"):
        found["mosaicml-streaming"] = mosaicml(root, folder)
    for name in {"litdata", "streaming"}:
        if not find_spec(name):
            print(f"{name}: not installed")
    return found


def compare(root: Path, packed: Path, folder: Path, rounds: int) -> None:
    speeds: dict[str, list[float]] = {}
    found = readers(root, packed, folder)
    for epoch in range(rounds + 1):
        for name, read in found.items():
            start = time.perf_counter()
            clips = sum(read(epoch))
            speeds.setdefault(name, []).append(clips / (time.perf_counter() - start))
    print_table({name: statistics.median(values[1:]) for name, values in speeds.items()})


def print_table(medians: dict[str, float]) -> None:
    best = medians["handloom, codes"]
    print("\n| reader | clips/s | handloom is |\n|---|---|---|")
    for name, speed in medians.items():
        print(f"| {name} | {speed:,.0f} | {best / speed:.2f} x |")


def open_million(folder: Path) -> None:
    """Open, first batch and resuming of a million clips, in a process that does nothing else."""
    root = folder / "million"
    info = write_shard(shard_path(root, "train", 0), samples(10_000, 8))
    for number in range(1, 100):
        for old, new in zip(pair(root, 0), pair(root, number), strict=True):
            os.link(old, new)
    infos = [replace(info, name=f"{number:06d}.tar") for number in range(100)]
    write_manifest(root, {"train": infos}, TOKENIZER)
    subprocess.run([sys.executable, __file__, "--opened", str(root)], check=True)


def pair(root: Path, number: int) -> tuple[str, str]:
    path = str(shard_path(root, "train", number))
    return path, index_name(path)


def opened(root: Path) -> None:
    imported = megabytes("VmHWM")
    start = time.perf_counter()
    dataset = ShardDataset(root)
    count, seconds = len(dataset), time.perf_counter() - start
    print(f"\nopen {count:,} clips: {seconds * 1000:.1f} ms, {imported:.0f} MB with all imports "
          f"before, {megabytes('VmHWM'):.0f} MB after")  # fmt: skip
    times = []
    for seed, position in enumerate([0, 123_456, 999_999, 10**9, 10**12]):
        start = time.perf_counter()
        next(dataset.batches(BATCH, seed=seed, start=position))
        times.append(time.perf_counter() - start)
    print("resume at 0, 123456, 999999, 1e9, 1e12: "
          + ", ".join(f"{1000 * t:.0f} ms" for t in times))  # fmt: skip
    print(f"after {len(times)} batches {megabytes('RssAnon'):.0f} MB of its own and "
          f"{megabytes('RssFile'):.0f} MB of mapped page cache")  # fmt: skip


def megabytes(what: str) -> float:
    """A size of this process: VmHWM (largest resident so far), RssAnon or RssFile."""
    status = Path("/proc/self/status").read_text()  # getrusage would tell of the parent too
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--million", action="store_true", help="only open a million clips")
    parser.add_argument("--opened", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.opened:
        opened(args.opened)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not args.million:
            for layout in ("samples", "packed"):
                root = folder / layout
                infos = write_shards(root, "train", samples(args.samples, 8), layout=layout)
                write_manifest(root, {"train": infos}, TOKENIZER)
            compare(folder / "samples", folder / "packed", folder, args.rounds)
        open_million(folder)


if __name__ == "__main__":
    main()
