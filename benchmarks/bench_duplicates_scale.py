"""The search for near-duplicates among hundreds of thousands of clips: time, memory, recall.

    python benchmarks/bench_duplicates_scale.py FOLDER [--clips 60000] [--workers 2]

Clips are made up as fingerprints: six frames, half a second apart, of a random image whose
amplitudes fall with frequency as those of photographs do, and which moves. One clip of 50 is a copy
of another one, cropped by up to a tenth, mirrored or not, sampled at other times, with noise. One
of 200 begins with the same title card; `--laboratory 0.01` lets a hundredth of all clips show one
room. Tables are written to FOLDER and searched by tasks in processes with `--memory` bytes each.
"""

import argparse
import resource
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from handloom.stages.duplicates.fingerprints import CHROMA_SIDE, LUMA_SIDE
from handloom.stages.duplicates.stage import Duplicates
from handloom.stages.duplicates.steps import Task
from handloom.stages.tables.parts import Table, Tables

PRINT = "5c" * 32
FRAMES, STEP_S, BUCKETS, WAVES = 6, 0.5, 256, 16
COPIES, TITLES = 50, 200  # one clip of so many
BLOCK = 2000  # clips made at a time, of one bucket


def images(waves: np.ndarray, left: np.ndarray, size: np.ndarray, cells: int) -> np.ndarray:
    """Images [N, F, cells, cells] of a part, [N, 2] each, of waves [N, F, 16, 16]."""
    grid = (np.arange(cells) + 0.5) / cells
    at = left[..., None] + size[..., None] * grid  # [N, 2, cells]
    cosines = np.cos(np.pi * np.arange(WAVES)[:, None] * at[:, :, None]).astype(np.float32)
    down, across = cosines[:, 1, None], cosines[:, 0, None]
    return np.swapaxes(down, 2, 3) @ waves @ across


def make_block(number: int, count: int, laboratory: float) -> dict[str, list[Any]]:
    """Columns of some clips; the copies of one block are of clips of the same block."""
    rng = np.random.default_rng([7, number])
    frequency = np.hypot(*np.mgrid[:WAVES, :WAVES])
    frequency[0, 0] = 1
    amplitude = (frequency**-1.2).astype(np.float32)
    amplitude[0, 0] = 0
    rooms = rng.standard_normal((count, 1, WAVES, WAVES), np.float32)
    lab = rng.random(count) < laboratory
    rooms[lab] = np.random.default_rng(1).standard_normal((1, WAVES, WAVES), np.float32)
    moves = 0.5 * rng.standard_normal((count, 2, WAVES, WAVES), np.float32)
    copied = np.arange(0, count - count // COPIES, COPIES)
    copies = copied + 1
    rooms[copies], moves[copies], lab[copies] = rooms[copied], moves[copied], lab[copied]
    times_s = np.tile(np.arange(FRAMES) * STEP_S, (count, 1))
    late_s = np.zeros(count)
    late_s[copies] = rng.uniform(0, 0.5, len(copies))
    phase = 1.3 * (times_s + late_s[:, None])
    sway = np.stack([np.sin(phase), np.cos(phase)], axis=2).astype(np.float32)
    waves = (rooms + np.einsum("nfk,nkuv->nfuv", sway, moves)) * amplitude
    left, size = np.zeros((count, 2)), np.ones((count, 2))
    size[copies] -= rng.uniform(0, 0.1, (len(copies), 1))
    left[copies] = rng.random((len(copies), 2)) * (1 - size[copies])
    mirrored = copies[rng.random(len(copies)) < 0.3]
    left[mirrored, 0], size[mirrored, 0] = left[mirrored, 0] + size[mirrored, 0], -size[mirrored, 0]
    fingerprints = encoded(images(waves, left, size, LUMA_SIDE), waves, left, size, rng)
    title = np.random.default_rng(2).integers(20, 230, (4, 4), np.uint8)
    first = np.flatnonzero(rng.random(count) < 1 / TITLES)
    fingerprints[first, 0, : LUMA_SIDE**2] = np.kron(title, np.ones((8, 8), np.uint8)).ravel()
    ids = [rng.bytes(10).hex() for _ in range(count)]
    return {
        "clip_id": ids,
        "times_s": times_s.tolist(),
        "fingerprints": [clip.tobytes() for clip in fingerprints],
        "copy_of": [ids[n - 1] if n in set(copies.tolist()) else "" for n in range(count)],
        "lab": lab.tolist(),
    }


def encoded(
    luma: np.ndarray,
    waves: np.ndarray,
    left: np.ndarray,
    size: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Fingerprints [N, F, 1152], with the noise of a lossy codec."""
    scale = 40 / luma.std(axis=(1, 2, 3), keepdims=True)
    luma = 120 + scale * luma + rng.normal(0, 2, luma.shape)
    chroma = np.stack(
        [images(np.roll(waves, k + 1, 2), left, size, CHROMA_SIDE) for k in (0, 1)], 2
    )
    chroma = 128 + 0.5 * scale[..., None] * chroma + rng.normal(0, 2, chroma.shape)
    flat = [values.reshape(*values.shape[:2], -1) for values in (luma, chroma)]
    return np.concatenate(flat, axis=2).round().clip(0, 255).astype(np.uint8)


def write_tables(out: Path, clips: int, laboratory: float) -> dict[str, str]:
    """Write the tables `ingest` and `hands`; returns the original of each copy."""
    copies: dict[str, str] = {}
    blocks = -(-clips // BLOCK)
    for number in range(blocks):
        made = make_block(number, min(BLOCK, clips - number * BLOCK), laboratory)
        copies |= {i: o for i, o in zip(made["clip_id"], made["copy_of"], strict=True) if o}
        count, bucket = len(made["clip_id"]), f"{number % BUCKETS:02x}"
        same = {"clip_id": made["clip_id"], "status": ["ok"] * count}
        hands = same | {n: made[n] for n in ("times_s", "fingerprints")}
        facts = {"bucket": bucket, "dataset": "made", "split": "train"}
        ingest = same | {n: [v] * count for n, v in facts.items()}
        ingest |= {"video_id": made["clip_id"], "width": [320] * count, "height": [240] * count}
        for name, columns in (("hands", hands), ("ingest", ingest)):
            path = out / "tables" / name / f"{bucket}-{PRINT[:12]}-{number:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(columns), path, compression="zstd")
    return copies


def limit(most_bytes: int) -> None:
    """Give a worker so much memory of its own."""
    resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))


def timed(task: Task) -> tuple[float, float]:
    """Do a task; returns its CPU seconds and the worker's peak memory in MB."""
    started = time.process_time()
    task()
    return time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def search(tables: Tables, workers: int, memory: int) -> Iterator[tuple[str, int, float, float]]:
    """Do all steps; yields the name, tasks, CPU seconds and largest worker's MB of each."""
    with ProcessPoolExecutor(workers, initializer=limit, initargs=(memory,)) as pool:
        for tasks in Duplicates().steps(tables):
            costs = list(pool.map(timed, tasks))
            cpu_s = sum(cost for cost, _ in costs)
            yield tasks[0].function.__name__, len(tasks), cpu_s, max(mb for _, mb in costs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=60_000)
    parser.add_argument("--laboratory", type=float, default=0.0, help="share of clips of one room")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", type=int, default=2_000_000_000, help="bytes of each worker")
    args = parser.parse_args()
    started = time.perf_counter()
    copies = write_tables(args.folder, args.clips, args.laboratory)
    print(f"{args.clips:,} clips written in {time.perf_counter() - started:.0f} s", flush=True)
    tables = {n: Table(args.folder / "tables" / n, PRINT) for n in ("ingest", "hands")}
    total, started = 0.0, time.perf_counter()
    for name, count, cpu_s, mb in search(tables, args.workers, args.memory):
        disk = sum(p.stat().st_size for p in (args.folder / "tables/duplicates").rglob("*-*"))
        print(f"  {name:14} {count:5} tasks {cpu_s:8.1f} CPU s {mb:6.0f} MB, {disk / 1e9:.2f} GB")
        total += cpu_s
    before = time.process_time()
    found, counts = set[frozenset[str]](), Counter[str]()
    for _, rows in Duplicates().rows(tables):
        for row in rows.filter(
            pa.compute.greater(pa.compute.list_value_length(rows["matches"]), 0)
        ).to_pylist():
            for match in row["matches"]:
                if match["similarity"] >= 0.5:
                    found.add(frozenset((row["clip_id"], match["clip_id"])))
        counts["rows"] += rows.num_rows
    total += time.process_time() - before
    planted = {frozenset(pair) for pair in copies.items()}
    print(
        f"{args.clips:,} clips, {total:.0f} CPU s, {time.perf_counter() - started:.0f} s; "
        f"{counts['rows']:,} rows; recall {len(found & planted) / max(1, len(planted)):.4f} of "
        f"{len(planted):,} copies, {len(found - planted)} other pairs",
        flush=True,
    )
    shutil.rmtree(args.folder / "tables")


if __name__ == "__main__":
    main()
