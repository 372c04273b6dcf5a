"""Shards under Ray Data and Ray Train, as docs/shard-format.md shows it."""

import json
from pathlib import Path

import numpy as np
import pytest

from handloom.tokenize.shards import Sample, ShardDataset, write_manifest, write_shards

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_ray")]
COUNT, BATCH = 24, 8


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of eight samples; each holds its own number."""
    root = tmp_path_factory.mktemp("shards")
    samples = (
        Sample(
            f"{i:04d}", np.full((1, 2, 4, 4), i, np.uint16), {"caption": str(i), "split": "train"}
        )
        for i in range(COUNT)
    )
    infos = write_shards(root, "train", samples, samples_per_shard=8)
    write_manifest(root, {"train": infos}, {"name": "none", "codebook_size": 64})
    return root


def test_ray_data_reads_the_tars_and_the_dataset(shards: Path) -> None:
    import ray

    data = ShardDataset(shards)
    rows = ray.data.range(len(data)).map_batches(
        lambda b: {"tokens": np.stack([data[i]["tokens"] for i in b["id"].tolist()])}
    )
    assert sorted(int(row["tokens"].flat[0]) for row in rows.iter_rows()) == list(range(COUNT))
    tars = [str(path) for path in sorted(shards.glob("train/*.tar"))]
    keys = {row["__key__"] for row in ray.data.read_webdataset(tars).iter_rows()}
    assert keys == {f"{i:04d}" for i in range(COUNT)}


def test_ray_train_workers_share_the_global_batches(shards: Path, tmp_path: Path) -> None:
    import ray.train
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    def train_loop(config: dict[str, str]) -> None:
        context = ray.train.get_context()
        rank, world = context.get_world_rank(), context.get_world_size()
        batches = ShardDataset(config["shards"]).batches(BATCH, seed=0, rank=rank, world_size=world)
        seen = [next(batches)["tokens"][:, 0, 0, 0, 0].tolist() for _ in range(3)]
        (Path(config["out"]) / f"{rank}.json").write_text(json.dumps(seen))

    config = {"shards": str(shards), "out": str(tmp_path)}
    scaling = ray.train.ScalingConfig(num_workers=2)
    run = ray.train.RunConfig(storage_path=str(tmp_path / "ray"))
    DataParallelTrainer(
        train_loop, train_loop_config=config, scaling_config=scaling, run_config=run
    ).fit()
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    alone = ShardDataset(shards).batches(BATCH, seed=0)
    for step in range(3):
        whole = next(alone)["tokens"][:, 0, 0, 0, 0].tolist()
        assert ranks[0][step] + ranks[1][step] == whole
