"""Nodes of a cluster come late and die early, and cost no clip."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import urlopen

import pytest
import ray
from ray.autoscaler.v2.sdk import get_cluster_status

from handloom.errors import UserError
from handloom.pipeline import pool, sameness
from handloom.pipeline.batch import Batch
from handloom.pipeline.pool import Pool
from handloom.pipeline.progress import Reporter
from handloom.pipeline.sameness import Sameness
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Row
from tests.helpers.clusters import cluster, kill_node, small


@dataclass(frozen=True)
class Slow(Stage):
    """A tenth of a second for each clip."""

    name: ClassVar[str] = "slow"
    row_type: ClassVar[type[Row]] = Row

    def __call__(self, word: str) -> Iterator[Row]:
        time.sleep(0.1)
        if word == "ends its node":
            os.kill(os.getppid(), signal.SIGKILL)  # the raylet
            time.sleep(60)
        yield Row(clip_id=word, reason=str(os.getpid()))

    def failed(self, error: str, word: str) -> Iterator[Row]:
        yield Row(clip_id=word, status="failed", error=error)


@pytest.fixture(scope="module", autouse=True)
def workers_know_this_file() -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def batches(count: int, size: int) -> list[Batch]:
    words = [[f"{b}-{i}" for i in range(size)] for b in range(count)]
    return [Batch("00", tuple(b), tuple((w,) for w in b), len(b)) for b in words]


def run(table: Table, work: list[Batch], meanwhile: Callable[[int], None], **options: Any) -> int:
    """Work through batches; `meanwhile` is called after each with their number. Returns clips."""
    settings: dict[str, Any] = {"attempts": {}, "workers": None, "clip_timeout_s": 60.0} | options
    clips = 0
    for done, counts in enumerate(Pool(Slow(), table, **settings).run(iter(work)), 1):
        clips += sum(counts.values())
        meanwhile(done)
    return clips


@pytest.mark.usefixtures("own_ray")
def test_nodes_that_die_and_nodes_that_come_cost_no_clip(tmp_path: Path) -> None:
    table, work = Table(tmp_path, "f" * 64), batches(24, 10)
    with cluster(1, 1) as nodes:
        first, second = sorted(nodes.worker_nodes, key=str)

        def meanwhile(done: int) -> None:
            if done == 3:
                kill_node(first)
            if done == 6:
                nodes.add_node(**small(1))
            if done == 8:
                kill_node(second)

        assert run(table, work, meanwhile) == 240
    rows = list(table.read(Row))
    assert sorted(row.clip_id for row in rows) == sorted(key for b in work for key in b.keys)
    assert {row.status for row in rows} == {"ok"}
    assert {path.name for path in table.parts()} == {  # done again whole, under the same name
        table.part(batch.bucket, batch.name).name for batch in work
    }


@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_workers_killed_one_after_another_cost_no_clip(tmp_path: Path) -> None:
    table, work = Table(tmp_path, "f" * 64), batches(30, 4)
    with cluster(2):

        def meanwhile(done: int) -> None:
            if done % 3 == 0 and done <= 30:
                newest = max(table.parts(), key=lambda path: path.stat().st_mtime_ns)
                pids = table.part_values("00", newest.stem.split("-")[-1], "reason") or []
                with suppress(ProcessLookupError):
                    os.kill(int(pids[0]), signal.SIGKILL)

        assert run(table, work, meanwhile) == 120
    assert {row.status for row in table.read(Row)} == {"ok"}


@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_a_clip_that_ends_its_nodes_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "NODE_LOSSES", 1)
    table, words = Table(tmp_path, "f" * 64), ("innocent", "ends its node", "too")
    with cluster(1) as nodes:

        def watch(workers: int, note: str) -> None:
            if note:
                nodes.add_node(**small(1))

        batch = Batch("00", words, tuple((word,) for word in words), 3)
        assert run(table, [batch], lambda done: None, watch=watch) == 3
    rows = {row.clip_id: row for row in table.read(Row)}
    assert {word: row.status for word, row in rows.items()} == {
        "innocent": "ok", "ends its node": "failed", "too": "ok",
    }  # fmt: skip
    assert "the worker died" in rows["ends its node"].error


@pytest.mark.usefixtures("own_ray")
def test_a_head_without_cores_waits_and_says_for_what(tmp_path: Path) -> None:
    table, notes = Table(tmp_path, "f" * 64), list[str]()
    came = list[float]()
    with cluster() as nodes:

        def watch(workers: int, note: str) -> None:
            if note and not notes:
                notes.append(note)
                nodes.add_node(**small(1))
            if workers and not came:
                came.append(time.monotonic())

        assert run(table, batches(2, 2), lambda done: None, watch=watch) == 4
    assert "waits for a node: a worker takes 1 CPU, and none of the 1 nodes" in notes[0]
    assert came


@pytest.mark.usefixtures("own_ray")
def test_an_autoscaler_sees_what_is_asked_for(tmp_path: Path) -> None:
    table, asked = Table(tmp_path, "f" * 64), list[tuple[dict[str, float], int]]()
    with cluster() as nodes:

        def watch(workers: int, note: str) -> None:
            demands = get_cluster_status(nodes.address).resource_demands.ray_task_actor_demand
            if note and demands and not asked:  # nodes report theirs every second
                (of_workers,) = demands[0].bundles_by_count
                asked.append((of_workers.bundle, of_workers.count))
                nodes.add_node(**small(1))

        assert run(table, batches(2, 2), lambda done: None, watch=watch) == 4
    assert asked == [({"CPU": 1.0}, 2)]  # one for each batch


@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_prometheus_reads_what_status_tells(tmp_path: Path) -> None:
    table, text = Table(tmp_path, "f" * 64), ""
    with cluster(1):
        reporter = Reporter(tmp_path, "slow")
        reporter.start(240)

        def meanwhile(done: int) -> None:
            nonlocal text
            reporter.advance({"ok": 2})
            (port,) = {
                node["MetricsExportPort"]
                for node in ray.nodes()
                if not node["Resources"].get("CPU")
            }
            if "handloom_clips_done{" not in text:
                with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    text = answer.read().decode()

        run(table, batches(120, 2), meanwhile)
    (line,) = (line for line in text.splitlines() if line.startswith("ray_handloom_clips_done{"))
    assert 'stage="slow"' in line
    assert 0 < float(line.split()[-1]) <= 240


@pytest.fixture
def expected(tmp_path: Path) -> Sameness:
    (tmp_path / ".lock").write_text("this run")
    return Sameness(sameness.code_here(), "this run", tmp_path / ".lock", tmp_path, {})


def test_the_machine_of_the_run_is_the_same(expected: Sameness, tmp_path: Path) -> None:
    expected.check(Slow(), Table(tmp_path, "f" * 64))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"code": "0.0.1 (00000000)"}, "has handloom .*, the run was started with 0.0.1"),
        ({"run_id": "another run"}, "does not see the output folder"),
        ({"data": Path("/nowhere")}, "does not see the data folder /nowhere"),
        ({"settings": {"slow": {"models": {"net": "12"}}}}, "has another net than the machine"),
    ],
)
def test_another_machine_is_refused(
    expected: Sameness, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    other = Sameness(**(vars(expected) | change))
    with pytest.raises(UserError, match=sentence):
        other.check(Slow(), Table(tmp_path, "f" * 64))
