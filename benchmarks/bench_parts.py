"""A stage that goes on over very many small parts: seconds and memory until it has work.

    python benchmarks/bench_parts.py /tmp/parts write --parts 100000
    python benchmarks/bench_parts.py /tmp/parts start          # as an interrupted run finds it
    python benchmarks/bench_parts.py /tmp/parts fold
    python benchmarks/bench_parts.py /tmp/parts start

`write` makes parts of `--rows` rows in 256 buckets, and the ids of all clips beside them, of which
the last bucket lacks a part: so a stage looks through all of the others before it has work. `start`
lists and counts the parts, as a stage does, then looks for clips without a row, bucket by bucket;
with `--buckets` through that many. Nothing else is computed.
"""

import argparse
import os
import resource
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from handloom.pipeline.record import Record
from handloom.stages.tables.merging import complete_merges
from handloom.stages.tables.parts import BUCKETS, Table
from handloom.stages.tables.rows import Row, arrow_schema

PRINT = "ab" * 32
ID = 20  # characters of a clip id


def main() -> None:
    """Write, fold or look through the table of a stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("step", choices=["write", "start", "fold"])
    parser.add_argument("--parts", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--buckets", type=int, default=BUCKETS)
    parser.add_argument("--list-each", action="store_true", help="list anew for each bucket")
    options = parser.parse_args()
    clips, table = Table(options.out / "clips", PRINT), Table(options.out / "stage", PRINT)
    if options.step == "write":
        write(clips, table, options.parts, options.rows)
    elif options.step == "fold":
        fold(table)
    else:
        start(clips, table, options.buckets, options.list_each)


def write(clips: Table, table: Table, parts: int, rows: int) -> None:
    """Write all clips, and parts of the stage: one file, in which the ids alone are exchanged."""
    for each in (clips, table):
        each.folder.mkdir(parents=True)
    template, places = part_bytes(rows)
    for number in range(BUCKETS):
        bucket, ids = f"{number:02x}", []
        for part in range(number, parts, BUCKETS):
            names = [f"{part:012x}{row:08x}" for row in range(rows)]
            ids += names
            content = bytearray(template)
            for place, name in zip(places, names, strict=True):
                content[place : place + ID] = name.encode()
            if part + BUCKETS < parts or number < BUCKETS - 1:
                table.part(bucket, f"{part:012x}").write_bytes(content)
        stored = pa.table({"clip_id": ids, "status": ["ok"] * len(ids)})
        pq.write_table(stored, clips.part(bucket, "0"), compression="zstd")


def part_bytes(rows: int) -> tuple[bytes, list[int]]:
    """A part without compression, and where its ids lie."""
    ids = [f"{row:020x}" for row in range(rows)]
    table = pa.Table.from_pylist([vars(Row(clip_id=one)) for one in ids], schema=arrow_schema(Row))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none", use_dictionary=False, write_statistics=False)
    content = sink.getvalue().to_pybytes()
    return content, [content.index(one.encode()) for one in ids]


def start(clips: Table, table: Table, buckets: int, list_each: bool) -> None:
    """What a stage does before it hands out its first batch."""
    timed("files", lambda: f"{len(os.listdir(table.folder)):,}")
    timed("remains of folds", lambda: complete_merges(table) or "")
    timed("clear", lambda: table.clear_stale() or "")
    record = timed("count, first", lambda: Record(table, {"fingerprint": PRINT}, "run"))
    timed("count, again", lambda: (record.begin(), f"{record.rows:,} rows")[1])
    every = timed("list", clips.listed)
    own = table if list_each else timed("list", table.listed)
    began = time.perf_counter()
    missing = timed("look for clips", lambda: look(every, own, buckets))
    scaled = (time.perf_counter() - began) * BUCKETS / buckets
    print(f"{missing:,} clips in {buckets} buckets; all buckets would take {scaled:.1f} s")


def look(clips: Table, table: Table, buckets: int) -> int:
    """Number of clips without a row, in the last buckets."""
    found = 0
    for bucket in clips.buckets()[-buckets:]:
        stored = table.columns(["clip_id"], [bucket])["clip_id"]
        ids = clips.columns(["clip_id"], [bucket])["clip_id"]
        found += pc.sum(pc.invert(pc.is_in(ids, value_set=stored))).as_py()
    return found


def fold(table: Table) -> None:
    """Fold all parts that an interrupted run has left, and then those of the buckets' ends."""
    from handloom.stages.tables.folding import fold_parts

    cpu_s, files = time.process_time(), len(os.listdir(table.folder))
    while timed("round", lambda: fold_parts(table)):
        pass
    cpu_s = time.process_time() - cpu_s
    left = len(os.listdir(table.folder))
    print(f"{files:,} -> {left:,} files, {cpu_s / files * 1e3:.2f} CPU ms each")


def timed(what: str, step):  # type: ignore[no-untyped-def]
    """Call a step, print what it took, and return what it returns."""
    began, cpu_s = time.perf_counter(), time.process_time()
    result = step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    said = result if isinstance(result, str | int) else ""
    print(
        f"{what:<18}{time.perf_counter() - began:8.2f} s {time.process_time() - cpu_s:8.2f} CPU s"
        f" {peak:8,.0f} MB  {said}",
        flush=True,
    )
    return result


if __name__ == "__main__":
    main()
