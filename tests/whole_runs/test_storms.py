"""Nodes and workers killed under whole runs: no clip fails, and the shards are the same."""

import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from handloom.cli import main
from handloom.pipeline.progress import read_run
from handloom.stages.tables import funnel
from handloom.stages.tables.parts import effort, open_tables
from tests.helpers.clusters import cluster, kill_node, shard_digests, small, worker_pids

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_ray")]


def curate(data: Path, out: Path, vqgan: Path) -> int:
    small_pictures = ["--tokens.model", vqgan, "--tokens.resolution", 64, "--tokens.frames", 3]
    places = ["--data", data, "--out", out, "--run.batch-clips", 2]
    return main(list(map(str, ["curate", "sample", *places, *small_pictures])))


def through(storm: Callable[[], None], data: Path, out: Path, vqgan: Path) -> None:
    """A whole run; the storm begins once hands are detected. Only this thread may add nodes."""
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(curate, data, out, vqgan)
        while not run.done() and not list(out.glob("tables/hands/*.parquet")):
            time.sleep(0.1)
        assert not run.done()
        storm()
        assert run.result(400) == 0


def check(out: Path, undisturbed: Path) -> None:
    assert shard_digests(out) == shard_digests(undisturbed)
    count, same = funnel.count(open_tables(out)), funnel.count(open_tables(undisturbed))
    assert (count.ingested, count.kept, count.failed) == (same.ingested, same.kept, same.failed)
    run = read_run(out)
    assert run is not None
    assert run.state == "finished"
    assert not list(out.rglob("*.tmp"))


def test_storms_leave_the_shards_as_they_are(
    miniature: Path, tiny_vqgan: Path, tmp_path: Path
) -> None:
    undisturbed = tmp_path / "undisturbed"
    with cluster(1, 1) as nodes:
        assert curate(miniature, undisturbed, tiny_vqgan) == 0

        def nodes_die() -> None:
            for node in sorted(nodes.worker_nodes, key=str):
                nodes.add_node(**small(1))
                kill_node(node)
                time.sleep(5)

        through(nodes_die, miniature, tmp_path / "nodes", tiny_vqgan)
        check(tmp_path / "nodes", undisturbed)

        def processes_die() -> None:
            for _ in range(6):
                own = [pid for pid in worker_pids() if os.path.exists(f"/proc/{pid}")]
                if own:
                    os.kill(random.Random(len(own)).choice(own), signal.SIGKILL)
                time.sleep(2)

        through(processes_die, miniature, tmp_path / "processes", tiny_vqgan)
        check(tmp_path / "processes", undisturbed)
    computed, _, _ = effort(tmp_path / "undisturbed/tables/hands")
    for storm in ("nodes", "processes"):
        assert effort(tmp_path / storm / "tables/hands")[0] == computed
