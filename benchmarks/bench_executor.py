"""The hands stage on handloom's actor pool and on Ray Data, in turn, in one run.

    python benchmarks/bench_executor.py [--clips 60] [--rounds 3]

Both compute the same rows with the same stage object and write Parquet. Ray Data gets an actor pool
of 0.9 cores an actor: with whole cores it hangs where actors take them all. Prints the seconds of
every round, and the ratio of the medians. docs/decisions.md quotes it.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from handloom.pipeline.batch import Batch
from handloom.pipeline.pool import Pool
from handloom.pipeline.session import WORKER_ENV
from handloom.stages.hands.rows import HandRow
from handloom.stages.hands.stage import Hands
from handloom.stages.ingest.videos import Ingest
from handloom.stages.miniatures import ego4d
from handloom.stages.stage import run_isolated
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Clip, arrow_schema

BATCH = 8


def clips_of(data: Path) -> list[Clip]:
    """The clips of a miniature, as `ingest` makes them, a video's clips together."""
    ingest = Ingest(dataset="sample").at(data)
    rows = [clip for v in ingest.sources() for clip in run_isolated(ingest, (v,))]
    return [clip for clip in rows if isinstance(clip, Clip) and clip.status == "ok"]


def with_pool(clips: list[Clip], stage: Hands, out: Path, workers: int) -> int:
    """handloom: actors that write the part they computed."""
    table = Table(out, "f" * 64)
    batches = [clips[i : i + BATCH] for i in range(0, len(clips), BATCH)]
    work = [
        Batch("00", tuple(c.clip_id for c in b), tuple((c,) for c in b), len(b)) for b in batches
    ]
    pool = Pool(stage, table, {}, workers, clip_timeout_s=60.0)
    return sum(sum(counts.values()) for counts in pool.run(iter(work)))


class Mapper:
    """The same stage as a Ray Data callable."""

    def __init__(self, stage: Hands) -> None:
        self.stage = stage
        stage.setup()

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        clips = [Clip(**json.loads(text)) for text in batch["clip"]]
        rows = [asdict(row) for clip in clips for row in run_isolated(self.stage, (clip,))]
        return pa.Table.from_pylist(rows, schema=arrow_schema(HandRow))


def with_ray_data(clips: list[Clip], stage: Hands, out: Path, workers: int) -> int:
    """Ray Data: map_batches on an actor pool, then write_parquet."""
    items = [{"clip": json.dumps(asdict(clip))} for clip in clips]
    dataset = ray.data.from_items(items, override_num_blocks=max(workers, len(clips) // BATCH))
    dataset.map_batches(
        Mapper, fn_constructor_args=(stage,), batch_size=BATCH, concurrency=workers, num_cpus=0.9
    ).write_parquet(str(out))
    return len(clips)


def main() -> None:
    """Run both, in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ.update(WORKER_ENV, RAY_USAGE_STATS_ENABLED="0")
    seconds: dict[str, list[float]] = {"pool": [], "ray_data": []}
    sides: dict[str, Callable[..., int]] = {"pool": with_pool, "ray_data": with_ray_data}
    with tempfile.TemporaryDirectory() as folder:
        ego4d.write(Path(folder) / "data", clips=args.clips)
        clips = clips_of(Path(folder) / "data")
        stage = Hands().at(Path(folder) / "data")
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
        workers = int(ray.cluster_resources()["CPU"])
        for number in range(args.rounds + 1):  # the first is a warm-up
            for name, run in sides.items():
                started = time.monotonic()
                done = run(clips, stage, Path(folder) / f"{name}{number}", workers)
                assert done == len(clips)
                if number:
                    seconds[name].append(round(time.monotonic() - started, 2))
        ray.shutdown()
    print(f"{len(clips)} clips, {workers} workers, seconds a run: {json.dumps(seconds)}")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name}: median {median:.2f} s, {len(clips) / median:.1f} clips/s")
    print(f"ray_data / pool: {medians['ray_data'] / medians['pool']:.2f}")


if __name__ == "__main__":
    main()
