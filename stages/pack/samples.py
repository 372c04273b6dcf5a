"""Samples of the kept clips, from the columns of their tables: each row is read once.

Tables are joined a bucket at a time and handed on in blocks of rows, whose columns are named
`<stage>.<column>`. A block becomes samples only where a shard is written.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from handloom.stages.tables.outcomes import Numbers, Outcomes, outcomes
from handloom.stages.tables.parts import Table, Tables
from handloom.stages.tables.reading import check_columns
from handloom.tokenize.shards import Layout, Sample, SampleBlock

BLOCK = 1024  # rows, some megabytes
CODE_BYTES = 512 << 20  # 200,000 clips of 5 frames with 256 codes each
CLIP_ORDER = [(name, "ascending") for name in ("video_id", "start_s", "end_s", "clip_id")]

COLUMNS = {
    "ingest": [
        "text",
        "text_kind",
        "dataset",
        "version",
        "split",
        "licence",
        "video_id",
        "annotation_id",
        "start_s",
        "end_s",
        "fps",
    ],
    "caption": ["caption", "source", "flags"],
    "tokens": ["codes", "shape", "times_s"],
    "hands": ["shot_start_s", "shot_end_s", "picture_xyxy"],
    "episodes": ["hz", "idle", "state", "action"],
}
FIELDS = {
    "caption": "caption.caption",
    "caption_source": "caption.source",
    "caption_flags": "caption.flags",
    "text": "ingest.text",
    "text_kind": "ingest.text_kind",
    "dataset": "ingest.dataset",
    "version": "ingest.version",
    "split": "ingest.split",
    "licence": "ingest.licence",
    "source_id": "ingest.video_id",
    "annotation_id": "ingest.annotation_id",
    "start_s": "ingest.start_s",
    "end_s": "ingest.end_s",
    "fps": "ingest.fps",
    "frame_times_s": "tokens.times_s",
}
"""Metadata of every sample, by field: the columns they come from."""
WHOLE = [0.0, 0.0, 1.0, 1.0]
OF_EPISODES = ["views", "hz", "action_kind", "success", "unit", "facts"]


def blocks(
    tables: Tables, bucket: str, splits: Sequence[str], most_bytes: int = CODE_BYTES
) -> Iterator[tuple[str, pa.Table]]:
    """The joined rows of a bucket's kept clips, split by split, in the order of the shards.

    Args:
        tables: of a run.
        bucket: whose clips.
        splits: in which order they come.
        most_bytes: of codes, to hold at a time; of a bucket with more they are read several times.
    """
    columns = {stage: list(names) for stage, names in COLUMNS.items() if stage in tables}
    if "episodes" in tables:
        columns["ingest"] += OF_EPISODES
    passes = -(-_code_bytes(tables["tokens"], bucket) // most_bytes)
    if passes > 1:
        columns["tokens"].remove("codes")
    found = outcomes(tables, bucket, columns)
    ingest = found.stages["ingest"]
    stored = {name: found.stages[name].table.combine_chunks() for name in columns}
    keys = stored["ingest"].select([*(name for name, _ in CLIP_ORDER), "split"])
    at_a_time = -(-len(ingest.clip) // max(passes, 1))
    for split in splits:
        rows = np.flatnonzero(found.kept[ingest.clip] & pc.equal(keys["split"], split).to_numpy())
        order = pc.sort_indices(keys.take(pa.array(rows)), CLIP_ORDER).to_numpy()
        clips = ingest.clip[rows[order]]
        for start in range(0, len(clips), at_a_time):
            held = clips[start : start + at_a_time]
            codes = _codes(tables["tokens"], bucket, found, held) if passes > 1 else None
            for first in range(0, len(held), BLOCK):
                joined = _joined(found, stored, columns, held[first : first + BLOCK])
                if codes is not None:
                    joined["tokens.codes"] = codes.slice(first, BLOCK)
                yield split, pa.table(joined)


def _joined(
    found: Outcomes, stored: Mapping[str, pa.Table], columns: dict[str, list[str]], clips: Numbers
) -> dict[str, Any]:
    """The columns of some clips, by `<stage>.<column>`."""
    joined = {"clip_id": found.clip_ids.take(pa.array(clips))}
    for stage, names in columns.items():
        at = found.stages[stage].row[clips]
        taken = stored[stage].select(names).take(pa.array(at, mask=at < 0))
        joined |= {f"{stage}.{name}": taken[name] for name in names}
    return joined


def _code_bytes(table: Table, bucket: str) -> int:
    """Bytes of all codes of a bucket, from the parts' metadata."""
    total = 0
    for path in table.parts(bucket):
        found = pq.read_metadata(path)
        names = [found.schema.column(number).path for number in range(found.num_columns)]
        check_columns(path, names, ["codes"])
        at = names.index("codes")
        groups = map(found.row_group, range(found.num_row_groups))
        total += sum(group.column(at).total_uncompressed_size for group in groups)
    return total


def _codes(table: Table, bucket: str, found: Outcomes, clips: Numbers) -> pa.Array:
    """Codes of some clips, in their order, from one pass over the bucket."""
    rows = found.stages["tokens"].row[clips]
    order, taken, start = np.argsort(rows), list[pa.Array](), 0
    wanted = rows[order]
    for path in table.parts(bucket):
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(batch_size=BLOCK, columns=["codes"]):
                first, last = np.searchsorted(wanted, [start, start + batch.num_rows])
                taken.append(batch.column(0).take(pa.array(wanted[first:last] - start)))
                start += batch.num_rows
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return pa.concat_arrays(taken).take(pa.array(place))


def parts(block: pa.Table, layout: Layout) -> Iterator[Sample | SampleBlock]:
    """What a shard is written from: a block as a whole where that can be, else sample by sample."""
    whole = sample_block(block) if layout == "samples" else None
    if whole is None:
        yield from samples(block)
    else:
        yield whole


def sample_block(block: pa.Table) -> SampleBlock | None:
    """The samples of a block as columns; None of robots, and where something is missing or odd."""
    row = {name: block[name].combine_chunks() for name in block.column_names}
    if not block.num_rows or "episodes.state" in row or any(map(_has_nulls, row.values())):
        return None
    if not (pc.list_value_length(row["tokens.shape"]).to_numpy() == 4).all():
        return None
    shapes_n4 = pc.list_flatten(row["tokens.shape"]).to_numpy().reshape(-1, 4)
    meta = {field: row[name] for field, name in FIELDS.items()}
    if "hands.shot_start_s" in row:
        meta |= {"start_s": row["hands.shot_start_s"], "end_s": row["hands.shot_end_s"]}
        meta["picture_xyxy"] = _without_whole(row["hands.picture_xyxy"])
    found = SampleBlock(row["clip_id"], row["tokens.codes"], shapes_n4, meta, {"views": ["main"]})
    return found if found.is_plain else None


def _has_nulls(column: pa.Array) -> bool:
    flat = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    return bool(column.null_count or flat.null_count)


def _without_whole(pictures: pa.Array) -> pa.Array:
    """The pictures' boxes, null where one is the whole picture: [0, 0, 1, 1]."""
    is_whole = pc.list_value_length(pictures).to_numpy() == len(WHOLE)
    if is_whole.all():
        is_whole = (pc.list_flatten(pictures).to_numpy().reshape(-1, len(WHOLE)) == WHOLE).all(1)
    else:
        is_whole = np.array([picture == WHOLE for picture in pictures.to_pylist()])
    return pictures.take(pa.array(np.arange(len(pictures)), mask=is_whole))


def samples(block: pa.Table) -> Iterator[Sample]:
    """The samples of a block of rows."""
    columns = [column.to_pylist() for column in block.columns]
    for values in zip(*columns, strict=True):
        yield _sample(dict(zip(block.column_names, values, strict=True)))


def _sample(row: dict[str, Any]) -> Sample:
    codes = np.frombuffer(row["tokens.codes"], "<u2").reshape(row["tokens.shape"])
    meta, arrays = _metadata(row), {}
    if row.get("hands.shot_start_s") is not None:
        meta |= _visible(row)
    if "episodes.state" in row:
        meta |= _trajectory(row)
        arrays = {name: np.asarray(row[f"episodes.{name}"], np.float32) for name in
                  ("state", "action")}  # fmt: skip
    return Sample(row["clip_id"], codes.astype(np.uint16, copy=False), meta, arrays)


def _visible(row: dict[str, Any]) -> dict[str, Any]:
    """The part of the clip in its codes: its longest shot, without bars."""
    span = {"start_s": row["hands.shot_start_s"], "end_s": row["hands.shot_end_s"]}
    picture = row["hands.picture_xyxy"]
    return span if picture == WHOLE else span | {"picture_xyxy": picture}


def _trajectory(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "views": row["ingest.views"],
        "fps": row["episodes.hz"],
        "source_hz": row["ingest.hz"],
        "action_kind": row["ingest.action_kind"],
        "idle_steps": np.flatnonzero(row["episodes.idle"]).tolist(),
        "success": row["ingest.success"],
        "unit": row["ingest.unit"],
        "facts": row["ingest.facts"],
    }


def _metadata(row: dict[str, Any]) -> dict[str, Any]:
    """The sample's provenance; docs/shard-format.md shows the fields."""
    return {field: row[name] for field, name in FIELDS.items()} | {"views": ["main"]}
