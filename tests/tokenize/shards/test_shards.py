"""Laws of the shard format, on real bytes."""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from handloom.errors import UserError
from handloom.tokenize.shards import (
    Sample,
    ShardDataset,
    build_index,
    permute,
    verify,
    verify_shard,
    write_index,
    write_manifest,
    write_shards,
)

TOKENIZER = {"name": "t", "weights_sha256": "0" * 64, "codebook_size": 1024}


def make_samples(count: int, split: str = "train") -> list[Sample]:
    rng = np.random.default_rng(count)
    return [
        Sample(
            f"{split}{i:04d}",
            rng.integers(0, 1024, (1, 5, 4, 4)).astype(np.uint16),
            {"caption": f"pick up the cup é {i}", "split": split, "dataset": "test"},
            {"state": rng.normal(size=(5, 7)).astype(np.float32)} if i == 0 else {},
        )
        for i in range(count)
    ]


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Path, list[Sample]]:
    samples = make_samples(23)
    infos = {"train": write_shards(tmp_path, "train", samples, samples_per_shard=10)}
    infos["val"] = write_shards(tmp_path, "val", make_samples(3, "val"))
    write_manifest(tmp_path, infos, TOKENIZER)
    return tmp_path, samples


def test_what_is_written_is_read_back(shards: tuple[Path, list[Sample]]) -> None:
    root, samples = shards
    dataset = ShardDataset(root)
    assert len(dataset) == 23
    for i, sample in enumerate(samples):
        got = dataset[i]
        np.testing.assert_array_equal(got["tokens"], sample.codes_vtij)
        assert (got["clip_id"], got["caption"]) == (sample.clip_id, sample.meta["caption"])
    np.testing.assert_array_equal(dataset[0]["state"], samples[0].arrays["state"])
    assert len(ShardDataset(root, split="val")) == 3


def test_stock_webdataset_and_tarfile_read_a_shard(shards: tuple[Path, list[Sample]]) -> None:
    root, samples = shards
    urls = sorted(str(p) for p in (root / "train").glob("*.tar"))
    stock = webdataset.WebDataset(urls, shardshuffle=False).decode()
    for got, sample in zip(stock, samples, strict=True):
        assert got["__key__"] == sample.clip_id
        assert got["mp"]["meta"] == sample.meta
        codes = np.frombuffer(got["mp"]["codes"], "<u2").reshape(got["mp"]["shape"])
        np.testing.assert_array_equal(codes, sample.codes_vtij)
        for name, array in sample.arrays.items():
            np.testing.assert_array_equal(got[f"{name}.npy"], array)
    with tarfile.open(urls[0]) as tar:
        member = tar.extractfile(f"{samples[0].clip_id}.mp")
        assert member is not None
        assert msgpack.unpackb(member.read())["meta"] == samples[0].meta


def test_tar_the_program_unpacks_a_shard(shards: tuple[Path, list[Sample]], tmp_path: Path) -> None:
    root, samples = shards
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        ["tar", "-xf", root / "train/000000.tar", "-C", out], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_array_equal(
        np.load(out / f"{samples[0].clip_id}.state.npy"), samples[0].arrays["state"]
    )
    assert len(list(out.glob("*.mp"))) == 10


def test_index_is_rebuilt_from_the_tar_byte_for_byte(shards: tuple[Path, list[Sample]]) -> None:
    root, _ = shards
    index = root / "train/000001.index.arrow"
    before = index.read_bytes()
    index.unlink()
    write_index(build_index(root / "train/000001.tar"), index)
    assert index.read_bytes() == before


def test_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    first = write_shards(tmp_path / "a", "train", make_samples(7))
    assert write_shards(tmp_path / "b", "train", make_samples(7)) == first


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/000000.tar.0123abcd.tmp").write_bytes(b"half a shard")
    write_shards(tmp_path, "train", make_samples(2))
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == [
        "000000.index.arrow", "000000.tar",
    ]  # fmt: skip


def test_batches_do_not_depend_on_the_number_of_ranks(shards: tuple[Path, list[Sample]]) -> None:
    dataset = ShardDataset(shards[0])
    whole = dataset.batches(8, seed=3)
    halves = [dataset.batches(8, seed=3, rank=r, world_size=2) for r in range(2)]
    for _ in range(5):
        expected = next(whole)["clip_id"]
        assert [c for half in halves for c in next(half)["clip_id"]] == expected


def test_batches_resume_at_any_position(shards: tuple[Path, list[Sample]]) -> None:
    dataset = ShardDataset(shards[0])
    stream = dataset.batches(8, seed=3)
    skipped = [next(stream) for _ in range(4)]
    resumed = dataset.batches(8, seed=3, start=skipped[-1]["position"])
    assert next(resumed)["clip_id"] == next(stream)["clip_id"]


def test_an_epoch_holds_every_sample_once(shards: tuple[Path, list[Sample]]) -> None:
    dataset = ShardDataset(shards[0])
    stream = dataset.batches(23, seed=0)
    first, second = next(stream)["clip_id"], next(stream)["clip_id"]
    assert sorted(first) == sorted(second) == sorted(s.clip_id for s in shards[1])
    assert first != second


@given(n=st.integers(1, 300), key=st.text(max_size=5))
def test_permute_is_a_permutation(n: int, key: str) -> None:
    assert sorted(permute(i, n, key) for i in range(n)) == list(range(n))


def test_a_flipped_byte_is_found_with_its_sample(shards: tuple[Path, list[Sample]]) -> None:
    root, samples = shards
    assert verify(root) == []
    path = root / "train/000000.tar"
    row = build_index(path).to_pylist()[4]
    data = bytearray(path.read_bytes())
    data[row["offset"] + row["size"] // 2] ^= 1
    path.write_bytes(data)
    (problem,) = verify(root)
    assert samples[4].clip_id in problem
    assert samples[3].clip_id not in problem
    assert "000000.tar" in problem
    (same,) = verify_shard(path)
    assert samples[4].clip_id in same


def test_unfinished_newer_or_incomplete_folders_are_refused(
    shards: tuple[Path, list[Sample]], tmp_path: Path
) -> None:
    root, _ = shards
    with pytest.raises(UserError, match=r"no manifest\.json"):
        ShardDataset(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no split 'test'"):
        ShardDataset(root, split="test")
    newer = shutil.copytree(root, tmp_path / "newer")
    manifest = json.loads((newer / "manifest.json").read_text()) | {"version": 2}
    (newer / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="version 2"):
        ShardDataset(newer)
    (root / "train/000000.tar").unlink()
    with pytest.raises(UserError, match=r"000000\.tar"):
        ShardDataset(root)


def test_ranks_must_divide_the_batch(shards: tuple[Path, list[Sample]]) -> None:
    with pytest.raises(UserError, match="multiple of the ranks"):
        next(ShardDataset(shards[0]).batches(5, seed=0, world_size=2))
