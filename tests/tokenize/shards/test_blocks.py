"""A block of samples gives the bytes of its samples written one by one, index and hashes too."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from handloom.tokenize.shards import Sample, SampleBlock, build_index, index_name, write_shard
from handloom.tokenize.shards.write import write_index

TEXTS = [
    "",
    "a",
    "x" * 31,
    "x" * 32,
    "x" * 255,
    "x" * 256,
    "ö" * 40_000,
    "\U0001f44b #C",
    "x" * 1024,
]
NUMBERS = [0.0, -0.0, 1.5, float("nan"), float("inf"), 1e-300]
BOXES = [None, [0.0, 0.1, 1.0, 0.9], [], None]
SHAPES = [(1, 5, 2, 2), (2, 1, 3, 1), (1, 1, 1, 1), (1, 0, 2, 2)]


def random_samples(rng: np.random.Generator, count: int, shapes: int) -> list[Sample]:
    """Samples with lengths around all borders of MessagePack, some of them without a field."""
    samples = []
    for _ in range(count):
        codes = rng.integers(0, 1 << 16, SHAPES[rng.integers(shapes)], np.uint16)
        text, more = TEXTS[rng.integers(len(TEXTS))], TEXTS[rng.integers(len(TEXTS))]
        meta: dict[str, Any] = {
            "split": "train", "caption": text, "text": more, "views": ["main"],
            "start_s": NUMBERS[rng.integers(len(NUMBERS))],
            "frame_times_s": rng.random(rng.choice([0, 1, 5, 15, 16, 70])).tolist(),
            "caption_flags": ["unsure", "ö"][: rng.integers(0, 3)],
        }  # fmt: skip
        if (box := BOXES[rng.integers(len(BOXES))]) is not None:
            meta["picture_xyxy"] = box
        samples.append(Sample(rng.bytes(rng.integers(6, 41)).hex(), codes, meta))
    return samples


def block_of(samples: list[Sample]) -> SampleBlock:
    """The samples as columns; `views` is the same in all."""
    names = {name for sample in samples for name in sample.meta} - {"views"}
    lists = {
        "frame_times_s": pa.float64(),
        "picture_xyxy": pa.float64(),
        "caption_flags": pa.string(),
    }
    kinds = dict.fromkeys(names, pa.string()) | {"start_s": pa.float64()}
    kinds |= {name: pa.list_(kind) for name, kind in lists.items()}
    return SampleBlock(
        pa.array([one.clip_id for one in samples]),
        pa.array([one.codes_vtij.astype("<u2").tobytes() for one in samples], pa.binary()),
        np.array([one.codes_vtij.shape for one in samples]),
        {name: pa.array([one.meta.get(name) for one in samples], kinds[name]) for name in names},
        {"views": ["main"]},
    )


@pytest.mark.parametrize("shapes", [1, len(SHAPES)])
@pytest.mark.parametrize("seed", range(4))
def test_a_block_is_its_samples_one_by_one(tmp_path: Path, seed: int, shapes: int) -> None:
    samples = random_samples(np.random.default_rng(seed), 60, shapes)
    one_by_one = write_shard(tmp_path / "a" / "000000.tar", samples)
    blocks = [block_of(samples[:20]), block_of(samples[20:21]), block_of(samples[21:])]
    assert all(block.is_plain for block in blocks)
    assert write_shard(tmp_path / "b" / "000000.tar", blocks) == one_by_one
    mixed = [blocks[0], *samples[20:]]
    assert write_shard(tmp_path / "c" / "000000.tar", mixed) == one_by_one


def test_the_index_of_blocks_is_that_of_the_tar(tmp_path: Path) -> None:
    path = tmp_path / "000000.tar"
    samples = random_samples(np.random.default_rng(0), 300, 2)
    write_shard(path, [block_of(samples[:128]), block_of(samples[128:])])
    write_index(build_index(path), tmp_path / "again.arrow")
    index = tmp_path / index_name(path.name)
    assert index.read_bytes() == (tmp_path / "again.arrow").read_bytes()


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    samples = random_samples(np.random.default_rng(0), 8, 1)
    blocks = [block_of(samples), block_of(samples[5:6])]
    with pytest.raises(ValueError, match=f"{samples[5].clip_id} comes twice"):
        write_shard(tmp_path / "000000.tar", blocks)
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "a b", "ö", "a\nb", "x" * 81])
def test_keys_that_no_sample_may_have_are_not_plain(tmp_path: Path, key: str) -> None:
    samples = random_samples(np.random.default_rng(0), 3, 1)
    odd = Sample(key, samples[1].codes_vtij, samples[1].meta)
    assert not block_of([samples[0], odd]).is_plain
    with pytest.raises(ValueError, match="is no key of a sample"):
        write_shard(tmp_path / "000000.tar", [odd])


def test_codes_that_are_not_of_the_shape_are_not_plain() -> None:
    block = block_of(random_samples(np.random.default_rng(0), 3, 1))
    assert not SampleBlock(block.keys, block.codes, block.shapes + 1, block.meta).is_plain
    assert not SampleBlock(block.keys, block.codes, -block.shapes, block.meta).is_plain
