"""What goes ahead of `select` on GPUs changes no byte of the shards, and does go ahead."""

import sys
from pathlib import Path

import pytest
import ray

from handloom.pipeline import dag
from handloom.pipeline.output import claimed
from handloom.stages.tables.parts import open_tables, read_marker
from handloom.stages.tables.rows import Row
from tests.helpers import costly_stages
from tests.helpers.clusters import cluster, shard_digests, small
from tests.helpers.costly_stages import CostlyTokens, costly_job, noted

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_ray")]


@pytest.fixture(scope="module", autouse=True)
def workers_know_the_stages() -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[costly_stages.__name__])


@pytest.fixture(scope="module")
def runs(
    miniature: Path, tiny_vqgan: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run whose tokens waited for `select`, and one whose tokens went ahead of it."""
    folder = tmp_path_factory.mktemp("ahead")
    outs = folder / "behind", folder / "ahead"
    tokens = CostlyTokens(model=str(tiny_vqgan), resolution=64, frames=2, seconds=0.1)
    with cluster() as nodes:
        nodes.add_node(**small(2), num_gpus=1)
        for out, gpu_share in zip(outs, (0.0, 1.0), strict=True):
            job = costly_job(miniature, out, tokens, 1.5, gpu_share=gpu_share)
            with claimed(job):
                dag.curate(job)
    return outs


def test_clips_are_encoded_while_hands_are_looked_for(runs: tuple[Path, Path]) -> None:
    for out, is_ahead in zip(runs, (False, True), strict=True):
        times = noted(out.with_suffix(".log"))
        last_hands = max(done for _, done in times["hands"])
        first_tokens = min(began for began, _ in times["tokens"])
        assert (first_tokens < last_hands) == is_ahead


def test_the_shards_are_the_same(runs: tuple[Path, Path]) -> None:
    digests = [shard_digests(out) for out in runs]
    assert digests[0]
    assert digests[0] == digests[1]


def test_what_was_encoded_for_nothing_is_told(runs: tuple[Path, Path]) -> None:
    behind, ahead = runs
    encoded, needed = ok_clips(ahead, "tokens"), ok_clips(behind, "tokens")
    assert needed <= encoded
    told = read_marker(ahead / "tables/tokens")["rejected_after_all"]
    assert told == len(encoded - needed)


def ok_clips(out: Path, stage: str) -> set[str]:
    table = open_tables(out)[stage]
    return {row.clip_id for row in table.read(Row) if row.status == "ok"}
