"""The join of fingerprints' keys in `duplicates`: by files, and by four ways of Ray Data.

    pip install --target /tmp/polars polars      # `join` alone needs it
    PYTHONPATH=/tmp/polars python benchmarks/bench_shuffle_engines.py FOLDER [ENGINE ...]

Clips are made up as by bench_duplicates_scale.py; each frame is filed under 6 keys, and its views
under 84. Frames and views that share a key and are alike are candidates. All engines read the same
tables, on two workers.

files    as the stage does: a file for each task, with an index of its partitions
groups   Ray Data's hash shuffle, then the stage's own comparison of a partition of keys
join     Ray Data's join by key, then the comparison of each pair that shares one

`groups-disk` and `join-disk` are the same with Ray Data's shuffle by files, which it calls
disk-based. Its join compares all that share a key, `duplicates` at most 200 of them.

CPU seconds are those of all processes, memory what they hold beside shared pages, and the shared
pages of the process that has most: those of Ray's object store.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from bench_duplicates_scale import PRINT, write_tables

from handloom.files import remove_tree
from handloom.pipeline.session import QUIET, on_loopback
from handloom.stages.duplicates import fingerprints as fp
from handloom.stages.duplicates import tasks
from handloom.stages.duplicates.candidates import (
    CANDIDATE,
    ENTRY,
    MAX_BITS,
    MIN_LIKENESS,
    Candidates,
    Entries,
    index_frames,
    keep_best,
    likeness,
    match_entries,
    sort_entries,
)
from handloom.stages.duplicates.clip_numbers import Source, number_clips
from handloom.stages.duplicates.partitions import read_partition
from handloom.stages.duplicates.shuffle import Shuffle, plan_shuffle
from handloom.stages.duplicates.stage import Duplicates
from handloom.stages.tables.parts import Table

WORKERS, STORE_BYTES = 2, 2 << 30
WATCH_S = 0.2
MOST_MB = 10_000.0  # of memory; an engine that takes more is ended


def main() -> None:
    """Run each engine in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("engines", nargs="*", help=", ".join(ENGINES))
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--here", action="store_true", help="run one engine in this process")
    options = parser.parse_args()
    if options.here:
        measure(options.engines[0], planned(options.folder))
        return
    if not (options.folder / "tables").is_dir():
        write_tables(options.folder, options.clips, 0.0)
    number(planned(options.folder))
    for engine in options.engines or ENGINES:
        subprocess.run([sys.executable, __file__, str(options.folder), engine, "--here"])


def planned(folder: Path) -> Shuffle:
    """The search over the made-up tables."""
    tables = {name: Table(folder / "tables" / name, PRINT) for name in ("ingest", "hands")}
    return plan_shuffle(folder / "work", [Source(tables, is_own=True)], Duplicates().settings())


def number(shuffle: Shuffle) -> None:
    """Number clips and frames, which all engines use."""
    number_clips(shuffle.sources, shuffle.groups, shuffle.folder)


def measure(engine: str, shuffle: Shuffle) -> None:
    """Let one engine find the candidates, and print what that took."""
    spill = shuffle.folder / "spill"
    spill.mkdir(parents=True, exist_ok=True)
    with watched(shuffle.folder) as peaks:
        begun = time.perf_counter()
        found = ENGINES[engine](shuffle, spill)
        wall_s = time.perf_counter() - begun
    remove_tree(spill)
    for path in shuffle.folder.glob("*-*"):
        path.unlink()
    found = keep_best(found)
    same = sum(hash(row) for row in found[["clip", "other", "frame", "other_frame"]].tolist())
    print(
        f"{engine}: {shuffle.numbers.clips:,} clips, {shuffle.numbers.frames:,} frames, "
        f"{shuffle.key_parts} partitions; {wall_s:.0f} s, {peaks['cpu_s']:.0f} CPU s; memory of "
        f"all {peaks['mb']:,.0f} MB, of the largest process {peaks['one_mb']:,.0f}, shared "
        f"{peaks['shared_mb']:,.0f}; disk {peaks['disk_mb']:,.0f} MB; {len(found):,} candidates, "
        f"sum {same & 0xFFFFFFFF:08x}",
        flush=True,
    )


def by_files(shuffle: Shuffle, spill: Path) -> Candidates:
    """The steps `file` and `join` of the stage, by processes."""
    parts = shuffle.key_parts
    with ProcessPoolExecutor(WORKERS) as pool:
        for function, count in ((tasks.file_frames, len(shuffle.groups)), (tasks.join_keys, parts)):
            list(pool.map(partial(function, shuffle), range(count)))
    paths = shuffle.paths("hits", parts)
    hits = [read_partition(paths, CANDIDATE, part) for part in range(shuffle.clip_parts)]
    return np.concatenate(hits)


def by_groups(shuffle: Shuffle, spill: Path, disk: bool = False) -> Candidates:
    """Entries of frames and of views in one dataset, shuffled by partition of keys."""
    import ray

    parts = shuffle.key_parts

    def entries(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for some, is_view in entries_of(shuffle, row["item"]):
            yield columns_of(some) | {
                "part": tasks._key_part(some, parts).astype(np.int16),
                "is_view": np.full(len(some), is_view),
            }

    def join(group: pa.Table) -> pa.Table:
        all_entries, is_view = records(group), group["is_view"].to_numpy()
        index = sort_entries(all_entries[~is_view])
        views = all_entries[is_view]
        found = [np.empty(0, CANDIDATE)]
        for whole, view in match_entries(index, views):
            found.append(tasks._of_other_videos(shuffle, index[whole], views[view]))
        return as_table(keep_best(np.concatenate(found)))

    with cluster(spill, disk):
        made = read_groups(shuffle, entries)
        joined = made.groupby("part", num_partitions=parts).map_groups(join, batch_format="pyarrow")
        return gathered(joined, ray)


def by_join(shuffle: Shuffle, spill: Path, disk: bool = False) -> Candidates:
    """Ray Data's join of frames and views by key."""
    import ray

    def side(row: dict[str, Any], views: bool) -> Iterator[dict[str, Any]]:
        for some, is_view in entries_of(shuffle, row["item"]):
            if is_view == views:
                yield {
                    f"{n}_{views:d}" if n != "key" else n: v for n, v in columns_of(some).items()
                }

    def alike(pairs: pa.Table) -> pa.Table:
        keys = pairs["key"].to_numpy()
        whole, view = (
            records(pa.table({"key": keys} | {n: pairs[f"{n}_{one}"] for n in ENTRY.names[1:]}))
            for one in (0, 1)
        )
        near = np.bitwise_count(whole["signature"] ^ view["signature"]) <= MAX_BITS
        whole, view = whole[near], view[near]
        close = likeness(whole, view) >= MIN_LIKENESS
        return as_table(tasks._of_other_videos(shuffle, whole[close], view[close]))

    with cluster(spill, disk):
        frames, views = (
            read_groups(shuffle, partial(side, views=is_view)) for is_view in (False, True)
        )
        pairs = frames.join(views, "inner", shuffle.key_parts, on=("key",))
        return gathered(pairs.map_batches(alike, batch_format="pyarrow", batch_size=1 << 20), ray)


def entries_of(shuffle: Shuffle, group: int) -> Iterator[tuple[Entries, bool]]:
    """Entries of frames and of views of some buckets, as the stage makes them."""
    for _, fingerprints, numbers, _ in tasks._read_frames(shuffle, group, times=False):
        for is_view, count in ((False, 1), (True, len(fp.VIEWS))):
            yield index_frames(fingerprints, numbers, count), is_view


def columns_of(entries: Entries) -> dict[str, Any]:
    """Entries as columns."""
    return {name: np.ascontiguousarray(entries[name]) for name in ENTRY.names}


def records(table: pa.Table) -> Entries:
    """Entries of columns."""
    found = np.empty(table.num_rows, ENTRY)
    for name in ENTRY.names:
        found[name] = table[name].to_numpy()
    return found


def as_table(found: Candidates) -> pa.Table:
    """Candidates as columns."""
    return pa.table({name: np.ascontiguousarray(found[name]) for name in CANDIDATE.names})


def read_groups(shuffle: Shuffle, function: Callable[[dict[str, Any]], Any]) -> Any:
    """A dataset of what a function makes of each group of buckets, a batch of columns at a time."""
    import ray

    def batches(numbers: pa.Table) -> Iterator[pa.Table]:
        for item in numbers["item"].to_pylist():
            for columns in function({"item": item}):
                yield pa.table(columns)

    items = ray.data.from_items(
        list(range(len(shuffle.groups))), override_num_blocks=len(shuffle.groups)
    )
    return items.map_batches(batches, batch_format="pyarrow", batch_size=1)


def gathered(dataset: Any, ray: Any) -> Candidates:
    """All candidates, in this process."""
    parts = [np.empty(0, CANDIDATE)]
    for table in dataset.iter_batches(batch_format="pyarrow", batch_size=None):
        found = np.empty(table.num_rows, CANDIDATE)
        for name in CANDIDATE.names:
            found[name] = table[name].to_numpy()
        parts.append(found)
    return np.concatenate(parts)


@contextmanager
def cluster(spill: Path, disk: bool) -> Iterator[None]:
    """A Ray of as many cores as there are workers, whose object store spills into a folder."""
    import ray

    options = {"object_store_memory": STORE_BYTES, "object_spilling_directory": str(spill)}
    os.environ["TMPDIR"] = str(spill)  # where a shuffle by files puts them
    with on_loopback():
        ray.init(address="local", num_cpus=WORKERS, _temp_dir="/tmp/ray", **options, **QUIET)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars, context.use_disk_based_hash_shuffle = False, disk
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def watched(folder: Path) -> Iterator[dict[str, float]]:
    """Yields peaks of this process and its children: memory, CPU seconds, bytes in a folder."""
    peaks = dict.fromkeys(("mb", "one_mb", "shared_mb", "disk_mb", "cpu_s"), 0.0)
    cpu_s, ends = dict[int, float](), Event()

    def look() -> None:
        held: list[tuple[int, int]] = []
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            try:
                facts, times = process.memory_info(), process.cpu_times()
            except psutil.Error:
                continue
            held.append((facts.rss - facts.shared, facts.shared))
            cpu_s[process.pid] = times.user + times.system
        disk = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        now = {
            "mb": sum(own for own, _ in held), "one_mb": max(own for own, _ in held),
            "shared_mb": max(shared for _, shared in held), "disk_mb": disk,
        }  # fmt: skip
        peaks.update({name: max(peaks[name], value / 1e6) for name, value in now.items()})
        peaks["cpu_s"] = sum(cpu_s.values())
        if peaks["mb"] + peaks["shared_mb"] > MOST_MB:
            print(f"ended at {MOST_MB:,.0f} MB: {peaks}", flush=True)
            os._exit(3)

    def watch() -> None:
        while not ends.wait(WATCH_S):
            try:
                look()
            except FileNotFoundError:
                continue

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ends.set()
        thread.join()


ENGINES: dict[str, Callable[[Shuffle, Path], Candidates]] = {
    "files": by_files, "groups": by_groups, "groups-disk": partial(by_groups, disk=True),
    "join": by_join, "join-disk": partial(by_join, disk=True),
}  # fmt: skip


if __name__ == "__main__":
    main()
