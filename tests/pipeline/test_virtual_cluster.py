"""Thousands of batches on hundreds of workers: none is lost or counted twice as nodes come and go.

The pool is the real one; its workers, Ray and the clock are those of `benchmarks/bench_cluster.py`.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.virtual_cluster import Cluster, Node
from handloom.pipeline.batch import Batch
from handloom.pipeline.pool import Pool
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Table

SECONDS = {"cores": 3.0, "gpus": 1.0}  # a batch


def made(count: int) -> Iterator[Batch]:
    """Batches of one input whose numbers of clips tell them apart."""
    for number in range(1, count + 1):
        yield Batch("00", (str(number),), ((number,),), number)


def test_no_batch_is_lost_or_counted_twice_as_nodes_come_and_go(tmp_path: Path) -> None:
    cluster = Cluster(lambda name, batch: SECONDS[name] * (1 + batch.clips % 7 / 10))
    for number in range(8):
        cluster.join(60.0 * (number % 3), Node({"CPU": 20, "GPU": 2}))
    for number in range(1, 6):
        cluster.lose(40.0 * number, back_s=20.0)
    table, counts = Table(tmp_path, "f" * 64), {name: Counter[int]() for name in SECONDS}

    def work(name: str, pool: Pool) -> None:
        for one in pool.run(made(5000)):
            counts[name][one["ok"]] += 1

    pools = {
        "cores": Pool(Stage(), table, {}, None, 600.0, spare_cores=4),
        "gpus": Pool(Stage(), table, {}, None, 600.0, gpus=1, cores=4),
    }
    cluster.run({name: partial(work, name, pool) for name, pool in pools.items()})
    for name in SECONDS:
        assert counts[name] == Counter(range(1, 5001))
        assert cluster.tallies[name].lost > 0  # or the losses were no test
