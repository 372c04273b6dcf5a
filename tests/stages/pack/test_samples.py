"""Blocks of rows become shards as columns, with the bytes of their samples one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from handloom.stages.pack.samples import blocks, parts, sample_block, samples
from handloom.tokenize.shards import SPLITS, Sample, SampleBlock, write_shard
from tests.helpers.random_tables import BUCKETS, random_run

BOXES = [[0.0, 0.0, 1.0, 1.0], [0.0, 0.1, 1.0, 0.9], [0.0, -0.0, 1.0, 1.0], []]
Block = pa.Table


def all_blocks(out: Path) -> list[Block]:
    """Blocks of random tables, whose pictures are whole, cut, or said in no numbers."""
    tables, rng, found = random_run(out, 3), np.random.default_rng(0), list[Block]()
    for bucket in BUCKETS:
        for _, block in blocks(tables, bucket, SPLITS):
            some = [BOXES[number] for number in rng.integers(0, len(BOXES), block.num_rows)]
            found.append(with_column(block, "hands.picture_xyxy", some))
    return found


def with_column(block: Block, name: str, values: list[Any]) -> Block:
    """The block with other values in a column."""
    place = block.column_names.index(name)
    return block.set_column(place, name, pa.array(values, block.schema.field(name).type))


def test_columns_give_the_bytes_of_samples(tmp_path: Path) -> None:
    found = all_blocks(tmp_path)
    columns = [one for block in found for one in parts(block, "samples")]
    assert len(columns) == len(found) > 3
    assert all(isinstance(one, SampleBlock) for one in columns)
    expected = write_shard(tmp_path / "a" / "0.tar", (s for block in found for s in samples(block)))
    assert write_shard(tmp_path / "b" / "0.tar", columns) == expected


@pytest.mark.parametrize(
    ("column", "value"),
    [("caption.caption", None), ("hands.shot_start_s", None), ("tokens.shape", [2, 2]),
     ("tokens.times_s", [0.5, None]), ("tokens.codes", b"short")],
)  # fmt: skip
def test_a_block_with_something_odd_goes_sample_by_sample(
    tmp_path: Path, column: str, value: Any
) -> None:
    block = all_blocks(tmp_path)[0]
    values = block[column].to_pylist()
    odd = with_column(block, column, [value, *values[1:]])
    assert sample_block(odd) is None
    if column not in ("tokens.shape", "tokens.codes"):
        assert all(isinstance(one, Sample) for one in parts(odd, "samples"))


def test_the_packed_layout_takes_samples(tmp_path: Path) -> None:
    block = all_blocks(tmp_path)[0]
    assert all(isinstance(one, Sample) for one in parts(block, "packed"))


@pytest.mark.parametrize("most_bytes", [1, 40, 200])
def test_a_large_bucket_gives_the_same_rows(tmp_path: Path, most_bytes: int) -> None:
    tables = random_run(tmp_path, 3)
    for bucket in BUCKETS:
        whole = list(blocks(tables, bucket, SPLITS))
        several = list(blocks(tables, bucket, SPLITS, most_bytes))
        assert len(several) > len(whole)
        for split in SPLITS:
            rows, again = (
                [row for name, block in found if name == split for row in block.to_pylist()]
                for found in (whole, several)
            )
            assert rows == again
            assert rows
