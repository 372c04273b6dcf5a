"""Laws of the order: one stream of global batches, whoever reads it and wherever it starts."""

import pickle
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from handloom.errors import UserError
from handloom.tokenize.shards import (
    Mixture,
    Sample,
    ShardDataset,
    TorchBatches,
    write_manifest,
    write_shards,
)
from handloom.tokenize.shards.order import permute, permute_many

STEPS, BATCH = 9, 8
FIELDS = ("clip_id", "tokens", "state")


def write(
    root: Path, name: str, count: int, frames: int = 3, seed: str = "0", per_shard: int = 7
) -> ShardDataset:
    rng = np.random.default_rng(count)
    samples = [
        Sample(
            f"{name}{i:04d}",
            rng.integers(0, 999, (2, frames + i % 2 * (frames > 3), 2, 2)).astype(np.uint16),
            {"caption": f"{name} {i}", "split": "train"},
            {"state": rng.normal(size=(frames + i % 2 * (frames > 3), 3)).astype(np.float32)},
        )
        for i in range(count)
    ]
    infos = write_shards(root / name, "train", samples, per_shard)
    tokenizer = {"name": "t", "weights_sha256": seed * 64, "codebook_size": 999}
    write_manifest(root / name, {"train": infos}, tokenizer)
    return ShardDataset(root / name)


@pytest.fixture(params=["dataset", "mixture"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> ShardDataset | Mixture:
    if request.param == "dataset":
        return write(tmp_path, "a", 23)
    sources = {"a": write(tmp_path, "a", 23), "b": write(tmp_path, "b", 5)}
    return Mixture(sources, {"a": 3, "b": 1})


def ids(batches: object, steps: int = STEPS) -> list[list[str]]:
    return [batch["clip_id"] for batch in islice(iter(batches), steps)]


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_any_world_size_and_worker_count_give_the_same_global_batches(
    source: ShardDataset | Mixture, world_size: int, workers: int
) -> None:
    expected = list(islice(source.batches(BATCH, seed=3), STEPS))
    ranks = []
    for rank in range(world_size):
        options = {"batch_size": BATCH, "seed": 3, "rank": rank, "world_size": world_size}
        streams = [
            source.batches(**options, worker=w, workers=max(1, workers))
            for w in range(max(1, workers))
        ]
        ranks.append([next(streams[step % len(streams)]) for step in range(STEPS)])
    for step, whole in enumerate(expected):
        parts = [rank[step] for rank in ranks]
        assert [clip for part in parts for clip in part["clip_id"]] == whole["clip_id"]
        np.testing.assert_array_equal(np.concatenate([p["tokens"] for p in parts]), whole["tokens"])
        assert {part["position"] for part in parts} == {whole["position"]}


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_gives_the_same_batches(source: ShardDataset | Mixture, workers: int) -> None:
    stream = TorchBatches(source, batch_size=BATCH, seed=3, start=16)
    context = "spawn" if workers else None  # also shows that a source can be pickled
    loader = DataLoader(
        stream, batch_size=None, num_workers=workers, multiprocessing_context=context
    )
    for got, want in zip(loader, islice(source.batches(BATCH, 3, start=16), STEPS), strict=False):
        assert got["tokens"].dtype == torch.uint16
        np.testing.assert_array_equal(got["tokens"].numpy(), want["tokens"])
        assert (got["clip_id"], got["position"]) == (want["clip_id"], want["position"])


def test_resuming_anywhere_continues_the_stream(source: ShardDataset | Mixture) -> None:
    stream = source.batches(BATCH, seed=5)
    seen = [next(stream) for _ in range(600)]
    for step in (1, 2, 9, 511, 599):
        resumed = next(source.batches(BATCH, seed=5, start=seen[step - 1]["position"]))
        assert resumed["clip_id"] == seen[step]["clip_id"]
    far = next(source.batches(BATCH, seed=5, start=10**12))
    assert len(far["clip_id"]) == BATCH


def test_a_pickled_source_reads_the_same(source: ShardDataset | Mixture) -> None:
    copy = pickle.loads(pickle.dumps(source))
    assert ids(copy.batches(BATCH, 1)) == ids(source.batches(BATCH, 1))


def test_every_epoch_holds_every_sample_once(tmp_path: Path) -> None:
    dataset = write(tmp_path, "a", 23)
    clips = [c for batch in ids(dataset.batches(1, seed=2), 23 * 4) for c in batch]
    epochs = [clips[start : start + 23] for start in range(0, 92, 23)]
    assert all(len(set(epoch)) == 23 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_eight_ranks_of_four_workers_show_every_sample_once_an_epoch(tmp_path: Path) -> None:
    dataset = write(tmp_path, "a", 96)
    steps = 96 // BATCH // 4
    for epoch in range(2):
        shown = Counter(
            clip
            for rank in range(8)
            for worker in range(4)
            for batch in ids(
                ShardDataset(tmp_path / "a").batches(
                    BATCH, 1, rank, 8, start=epoch * 96, worker=worker, workers=4
                ),
                steps,
            )
            for clip in batch
        )
        assert shown == Counter({sample["clip_id"]: 1 for sample in dataset})


def test_each_source_of_a_mixture_shows_each_sample_once_an_epoch_of_its_own(
    tmp_path: Path,
) -> None:
    sources = {"a": write(tmp_path, "a", 23), "b": write(tmp_path, "b", 5)}
    mixture = Mixture(sources, {"a": 0.9, "b": 0.1})
    clips = [c for batch in ids(mixture.batches(64, seed=2), 128) for c in batch]
    for name, dataset in sources.items():
        own = [clip for clip in clips if clip.startswith(name)]
        for start in range(0, len(own) - len(dataset), len(dataset)):
            assert len(set(own[start : start + len(dataset)])) == len(dataset)
    shares = Counter(clip[0] for clip in clips)
    assert shares["b"] / len(clips) == pytest.approx(0.1, abs=1 / 4096)


def test_a_mixture_is_mixed_in_every_stretch(tmp_path: Path) -> None:
    sources = {"a": write(tmp_path, "a", 23), "b": write(tmp_path, "b", 5)}
    stream = Mixture(sources, {"a": 1, "b": 1}).batches(256, seed=0)
    for clips in ids(stream, 32):
        assert 0.3 < Counter(clip[0] for clip in clips)["a"] / 256 < 0.7


def test_mixtures_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    a, b = write(tmp_path, "a", 9), write(tmp_path, "b", 9, seed="1")
    for sources, weights, message in (
        ({"a": a}, {"b": 1.0}, "weights name"),
        ({"a": a}, {"a": 0.0}, "positive"),
        ({"a": a, "c": a}, {"a": 1.0, "c": 1e-6}, "below 1/4,096"),
        ({"a": a, "b": b}, {"a": 1.0, "b": 1.0}, "different tokenizers"),
    ):
        with pytest.raises(UserError, match=message):
            Mixture(sources, weights)


def test_slices_of_views_and_frames_are_those_of_the_whole(tmp_path: Path) -> None:
    whole = write(tmp_path, "a", 23, frames=5)  # every second clip has a frame more
    for views, frames in ((None, slice(1, 3)), ((1,), slice(0, 5)), ((1, 0, -1), slice(2, 4))):
        part = ShardDataset(whole.path, views=views, frames=frames)
        clips = {s["clip_id"]: s for s in whole}
        batch = next(part.batches(23, seed=0, fields=FIELDS))
        for clip, codes, state in zip(*map(batch.get, FIELDS), strict=True):
            want = clips[clip]["tokens"][:, frames]
            want = want if views is None else want[list(views)]
            np.testing.assert_array_equal(codes, want)
            np.testing.assert_array_equal(state, clips[clip]["state"][frames])
        for i in range(23):
            want = whole[i]["tokens"][:, frames]
            want = want if views is None else want[list(views)]
            np.testing.assert_array_equal(part[i]["tokens"], want)


def test_batches_that_cannot_be_made_say_why(tmp_path: Path) -> None:
    uneven = write(tmp_path, "a", 23, frames=5)
    for dataset, options, message in (
        (uneven, {"batch_size": 8}, "choose `views` and a range of `frames`"),
        (uneven, {"batch_size": 8, "fields": ("caption", "state")}, "expected one shape"),
        (uneven, {"batch_size": 8, "fields": ("colour",)}, "unknown fields"),
        (uneven, {"batch_size": 8, "rank": 2, "world_size": 2}, "rank 2 of 2"),
        (ShardDataset(uneven.path, views=(2,)), {"batch_size": 8}, "views"),
    ):
        with pytest.raises(UserError, match=message):
            next(dataset.batches(seed=0, **options))


@settings(deadline=None)
@given(n=st.integers(1, 2000), key=st.text(max_size=5))
def test_many_positions_are_permuted_as_one_is(n: int, key: str) -> None:
    many = permute_many(np.arange(n), n, key).tolist()
    assert sorted(many) == list(range(n))
    assert [permute(i, n, key) for i in range(0, n, 7)] == many[::7]


def test_neighbours_are_spread_evenly() -> None:
    """Where one sample comes, averaged over epochs: the halves and quarters are equally likely."""
    n = 1000
    places = np.array([permute_many(np.arange(n), n, f"0/{epoch}") for epoch in range(400)])
    for column in (0, 1, 499, 999):
        counts = np.bincount(places[:, column] * 4 // n, minlength=4)
        assert counts.min() > 60  # of 100 expected: below, one in 10,000
    steps = np.corrcoef(places[:, :-1].ravel(), places[:, 1:].ravel())[0, 1]
    assert abs(steps) < 0.02
