"""How long `select` takes over many clips, from tables as a run leaves them.

    python benchmarks/bench_select.py [--clips 100000]

Numbers are drawn at random, since `select` decodes nothing; the tables lie in 256 buckets, their
parts merged as at the end of a stage. Medians of five runs.
"""

import argparse
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from handloom.stages.duplicates.rows import DuplicateRow
from handloom.stages.hands.rows import HandRow
from handloom.stages.select import Select
from handloom.stages.tables.parts import BUCKETS, Table
from handloom.stages.tables.rows import Clip, Row, arrow_schema

FRAMES = 6  # of a clip, between the two of an early yes and the sixteen of a full look
PRINT = "0" * 16


def main() -> None:
    """Build the tables, time `select`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=100_000)
    clips = parser.parse_args().clips
    with tempfile.TemporaryDirectory() as folder:
        tables = {name: Table(Path(folder) / name, PRINT) for name in (*KINDS, "select")}
        rng = np.random.default_rng(0)
        for bucket in range(BUCKETS):
            write_bucket(tables, f"{bucket:02x}", clips // BUCKETS, rng)
        seconds, counts = [], Counter[str]()
        for _ in range(5):
            tables["select"].clear()
            started = time.perf_counter()
            counts = sum(Select(max_repeats=3).write(tables, tables["select"]), Counter())
            seconds.append(time.perf_counter() - started)
    print(
        f"{counts.total():,} clips in {statistics.median(seconds):.2f} s "
        f"({min(seconds):.2f} to {max(seconds):.2f}), {counts['ok']:,} kept"
    )


KINDS: dict[str, type[Row]] = {"ingest": Clip, "hands": HandRow, "duplicates": DuplicateRow}
TEXT = {"status": "ok", "text": "pick up the cup", "split": "train"}


def write_bucket(
    tables: dict[str, Table], bucket: str, clips: int, rng: np.random.Generator
) -> None:
    """Every column of every table, of the size that a run would write."""
    ids = [rng.bytes(10).hex() for _ in range(clips)]
    for name, kind in KINDS.items():
        schema = arrow_schema(kind)
        columns = {f.name: column(f.name, f.type, clips, rng) for f in schema}
        own = {"clip_id": ids, "bucket": [bucket] * clips}
        own |= {"video_id": [f"{bucket}-{n // 40}" for n in range(clips)]}
        own |= {"text": [f"pick up cup {n % 9}" for n in range(clips)]}
        own |= {"shot_start_s": [0.0] * clips, "shot_end_s": [8.0] * clips}
        columns |= {key: values for key, values in own.items() if key in columns}
        table = pa.table({key: pa.array(v, schema.field(key).type) for key, v in columns.items()})
        tables[name].write_columns(bucket, table, kind)


def column(name: str, kind: pa.DataType, clips: int, rng: np.random.Generator) -> list[Any]:
    """Values of a type."""
    if name == "times_s":
        return [list(np.arange(FRAMES) * 1.0)] * clips
    if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
        return [[]] * clips if name == "matches" else [[hand(rng)] * 2 for _ in range(clips)]
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return [[]] * clips
    if pa.types.is_list(kind):
        if pa.types.is_boolean(kind.value_type):
            return [[True] * FRAMES] * clips
        whole = pa.types.is_integer(kind.value_type)
        return rng.random((clips, FRAMES)).astype(np.int64 if whole else float).tolist()
    if pa.types.is_string(kind):
        return [TEXT.get(name, "")] * clips
    if pa.types.is_binary(kind):
        return [rng.bytes(FRAMES * 1152) for _ in range(clips)]
    if pa.types.is_integer(kind):
        return [1] * clips
    return rng.random(clips).tolist()


def hand(rng: np.random.Generator) -> dict[str, Any]:
    """A detected hand."""
    return {
        "frame": 0, "handedness": "Left", "score": 0.9, "confidence": 1.0,
        "box_xyxy": [0.1, 0.1, 0.2, 0.2], "landmarks_xyz": rng.random(63).tolist(),
        "world_xyz": rng.random(63).tolist(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
