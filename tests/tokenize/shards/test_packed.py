"""Laws of the packed layout, of both layouts' size, and of damaged or foreign files."""

import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from handloom.errors import RunError, UserError
from handloom.tokenize.shards import (
    LAYOUTS,
    Layout,
    Sample,
    ShardDataset,
    build_index,
    verify,
    verify_shard,
    write_index,
    write_manifest,
    write_shard,
    write_shards,
)
from handloom.tokenize.shards.inspect import inspect

TOKENIZER = {"name": "t", "weights_sha256": "0" * 64, "codebook_size": 1024}


def make(count: int, robot: bool = True) -> list[Sample]:
    rng = np.random.default_rng(count)
    arrays = {"state": 7, "action": 4} if robot else {}
    return [
        Sample(
            f"{int(rng.integers(1 << 62)):020x}",
            rng.integers(0, 1024, (2, 5, 4, 4)).astype(np.uint16),
            {
                "caption": f"pick up the cup é {i}",
                "split": "train",
                "frame_times_s": [round(float(t), 3) for t in np.sort(rng.uniform(0, 9e3, 5))],
                "fine": [float(x) for x in rng.normal(size=3)],
                "nested": {"a": [i, None, "x"]},
                **({"odd": None} if i % 3 == 0 else {}),
            },
            {n: rng.normal(size=(5, width)).astype(np.float32) for n, width in arrays.items()},
        )
        for i in range(count)
    ]


def write(root: Path, samples: list[Sample], layout: Layout, per_shard: int = 300) -> Path:
    infos = write_shards(root, "train", samples, per_shard, layout)
    write_manifest(root, {"train": infos}, TOKENIZER)
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_layouts_give_back_every_byte(tmp_path: Path, layout: Layout) -> None:
    samples = make(700)
    dataset = ShardDataset(write(tmp_path, samples, layout))
    for got, sample in zip(dataset, samples, strict=True):
        tokens = got.pop("tokens")
        np.testing.assert_array_equal(tokens, sample.codes_vtij)
        for name, array in sample.arrays.items():
            np.testing.assert_array_equal(got.pop(name), array)
        assert got == sample.meta | {"clip_id": sample.clip_id}
    assert verify(tmp_path) == []


def test_both_layouts_give_the_same_batches(tmp_path: Path) -> None:
    samples = make(70)
    fields = ("tokens", "caption", "clip_id", "state", "action", "meta")
    streams = [
        ShardDataset(write(tmp_path / name, samples, name, 30)).batches(16, seed=1, fields=fields)
        for name in LAYOUTS
    ]
    for _ in range(6):
        one, other = next(streams[0]), next(streams[1])
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_index_is_a_function_of_the_tar(tmp_path: Path, layout: Layout) -> None:
    write(tmp_path, make(50), layout)
    index = tmp_path / "train/000000.index.arrow"
    before = index.read_bytes()
    index.unlink()
    write_index(build_index(tmp_path / "train/000000.tar"), index)
    assert index.read_bytes() == before


@pytest.mark.parametrize(("layout", "most"), [("samples", 1.45), ("packed", 1.03)])
def test_bytes_over_those_of_the_codes(tmp_path: Path, layout: Layout, most: float) -> None:
    rng = np.random.default_rng(0)
    words = ["picks", "puts", "holds", "the", "a", "cup", "knife", "left", "hand", "drawer", "from"]
    samples = []
    for i in range(3000):
        start = 4 * (i % 50) + float(rng.integers(0, 999)) / 1000
        caption = " ".join(rng.choice(words, 8))
        meta = {
            "caption": caption, "caption_source": "source", "caption_flags": [],
            "text": f"#C C {caption}", "text_kind": "narration", "dataset": "ego4d",
            "version": "v2", "split": "train", "licence": "ego4d", "start_s": start,
            "source_id": f"0bf6f214-b414-5b4d-b29f-{i // 50:012d}", "end_s": start + 2.5,
            "fps": 30.0, "views": ["main"],
            "frame_times_s": [round(start + 0.5 * k + 0.25, 3) for k in range(5)],
        }  # fmt: skip
        codes = rng.integers(0, 1024, (1, 5, 16, 16)).astype(np.uint16)
        samples.append(Sample(rng.bytes(10).hex(), codes, meta))
    write(tmp_path, samples, layout, 3000)
    size = sum(p.stat().st_size for p in (tmp_path / "train").iterdir())
    assert size <= most * 2 * 5 * 256 * len(samples)


def test_a_packed_shard_is_a_plain_tar_of_plain_arrays(tmp_path: Path) -> None:
    samples = make(20)
    write(tmp_path, samples, "packed")
    with tarfile.open(tmp_path / "train/000000.tar") as tar:
        tar.extractall(tmp_path / "out", members=tar.getmembers())  # a filter is Python 3.11.4's
    codes = np.load(tmp_path / "out/000000.tokens.npy")
    np.testing.assert_array_equal(codes, np.stack([s.codes_vtij for s in samples]))
    states = np.load(tmp_path / "out/000000.state.npy")
    np.testing.assert_array_equal(states, np.stack([s.arrays["state"] for s in samples]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_flipped_bit_of_a_code_or_an_action_names_its_sample(
    tmp_path: Path, layout: Layout
) -> None:
    samples = make(20)
    path = write(tmp_path, samples, layout) / "train/000000.tar"
    whole = path.read_bytes()
    for needle in (samples[7].codes_vtij.tobytes(), samples[7].arrays["action"].tobytes()):
        damaged = bytearray(whole)
        damaged[whole.index(needle) + len(needle) // 2] ^= 4
        path.write_bytes(damaged)
        for problems in (verify(tmp_path), verify(tmp_path, splits=("train",)), verify_shard(path)):
            (problem,) = problems
            assert samples[7].clip_id in problem
            assert samples[6].clip_id not in problem
        with pytest.raises(RunError, match=samples[7].clip_id):
            inspect(tmp_path, verify_all=True)
        with pytest.raises(RunError, match=samples[7].clip_id):
            inspect(path, verify_all=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_flipped_byte_is_found(tmp_path: Path, layout: Layout) -> None:
    path = write(tmp_path, make(3), layout) / "train/000000.tar"
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        (problem,) = verify(tmp_path)
        assert "000000.tar" in problem


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_cut_tar_is_refused_before_anything_is_read(tmp_path: Path, layout: Layout) -> None:
    path = write(tmp_path, make(9), layout) / "train/000000.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"000000\.tar"):
        next(ShardDataset(tmp_path).batches(4, seed=0))
    with pytest.raises(UserError, match=r"000000\.tar"):
        build_index(path)


def test_an_index_of_a_newer_version_or_of_something_else_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, make(9), "samples") / "train/000000.tar"
    index = build_index(path)
    for metadata, message in (
        (index.schema.metadata | {b"version": b"2"}, "format version 2.*update handloom"),
        ({}, "no index of a token shard"),
    ):
        changed = index.replace_schema_metadata(metadata)
        write_index(changed, path.with_suffix(".index.arrow"))
        with pytest.raises(UserError, match=message):
            ShardDataset(tmp_path)[0]


def test_a_killed_writer_leaves_no_shard(tmp_path: Path) -> None:
    path = tmp_path / "train/000000.tar"

    def broken() -> list[Sample]:
        yield from make(5)
        raise KeyboardInterrupt

    for layout in LAYOUTS:
        with pytest.raises(KeyboardInterrupt):
            write_shard(path, broken(), layout)
        assert not path.exists()
    assert write_shard(path, make(5)).samples == 5
    assert verify_shard(path) == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples_that_cannot_be_stored_are_named(tmp_path: Path, layout: Layout) -> None:
    good = make(2)
    codes = good[0].codes_vtij
    bad = {
        "dotted": Sample("a.b", codes, good[0].meta),
        "uint8": Sample("aa", codes.astype(np.uint8), good[0].meta),
        "lacks": Sample("aa", codes, {"caption": "x"}),
        "state": Sample("aa", codes, good[0].meta, {"state": np.zeros((5, 2))}),
    }
    for sample in bad.values():
        with pytest.raises(ValueError, match=sample.clip_id):
            write_shard(tmp_path / "000000.tar", [good[0], sample], layout)
    with pytest.raises(ValueError, match="twice"):
        write(tmp_path, [good[0], good[1], good[0]], layout)


def test_packed_refuses_mixed_shapes(tmp_path: Path) -> None:
    first, second = make(2)
    short = Sample(second.clip_id, second.codes_vtij[:, :3], second.meta, second.arrays)
    with pytest.raises(ValueError, match="one shape"):
        write_shard(tmp_path / "000000.tar", [first, short], "packed")


def test_codes_are_aligned_and_not_copied(tmp_path: Path) -> None:
    for layout in LAYOUTS:
        dataset = ShardDataset(write(tmp_path / layout, make(5), layout))
        tokens = dataset[3]["tokens"]
        assert tokens.flags.aligned
        assert not tokens.flags.owndata
        assert not tokens.flags.writeable
    assert pa.ipc.open_file(tmp_path / "samples/train/000000.index.arrow").read_all().num_rows == 5
