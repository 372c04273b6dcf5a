"""Tables of `ingest` and `hands` of made-up clips, in buckets, for the search for duplicates."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from handloom.stages.duplicates.candidates import ClipFrames
from handloom.stages.tables.parts import Table, bucket_of, write_marker

PRINT = "0" * 64


def write_tables(out: Path, clips: Sequence[ClipFrames], status: str = "ok") -> dict[str, Table]:
    """Tables of the clips, each in the bucket of its group; `select` keeps all."""
    tables = {name: Table(out / "tables" / name, PRINT) for name in ("ingest", "hands", "select")}
    by_bucket: dict[str, list[ClipFrames]] = defaultdict(list)
    for clip in clips:
        by_bucket[bucket_of(clip.group)].append(clip)
    for bucket, some in by_bucket.items():
        count, ids = len(some), [clip.clip_id for clip in some]
        columns = {
            "ingest": {
                "status": ["ok"] * count,
                "bucket": [bucket] * count, "dataset": ["d"] * count,
                "video_id": [clip.group for clip in some], "split": ["train"] * count,
                "width": [320] * count, "height": [240] * count,
            },
            "hands": {
                "status": [status] * count,
                "times_s": pa.array([c.times_s.tolist() for c in some], pa.list_(pa.float64())),
                "fingerprints": [clip.fingerprints.tobytes() for clip in some],
            },
            "select": {"status": ["ok"] * count},
        }  # fmt: skip
        for name, values in columns.items():
            path = tables[name].folder / f"{bucket}-{PRINT[:12]}-part.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"clip_id": ids} | values), path)
    for table in tables.values():
        table.folder.mkdir(parents=True, exist_ok=True)
        write_marker(table.folder, {"fingerprint": PRINT})
    return tables
