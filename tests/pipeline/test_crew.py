"""Workers go on from pool to pool in their processes; the idle give their cores back."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import ray

from handloom.pipeline import crew as crews
from handloom.pipeline.batch import Batch
from handloom.pipeline.crew import Crew
from handloom.pipeline.pool import Pool
from handloom.stages.datasets.source import SourceVideo, Span
from handloom.stages.ingest.videos import Ingest
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Row


@dataclass(frozen=True)
class TheirOwn(Stage):
    """A stage of a user's own; its rows say in which process it ran."""

    name: ClassVar[str] = "their_own"
    row_type: ClassVar[type[Row]] = Row

    def __call__(self, video: SourceVideo) -> Iterator[Row]:
        yield Row(clip_id=f"{video.video_id} in {os.getpid()}")


@pytest.fixture(scope="module", autouse=True)
def workers_know_this_file(shared_ray: None) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.dismiss()


def run(folder: Path, stage: Stage, crew: Crew, number: int = 3) -> list[str]:
    """Let one worker go through some videos whose files are missing; returns their ids."""
    spans = (Span(0.0, 2.0, "cut the bread"),)
    videos = [
        SourceVideo(f"v{i}", "", "", "1", spans, reason="missing_file") for i in range(number)
    ]
    table = Table(folder, "f" * 64)
    batches = [Batch("00", (video.unit,), ((video,),), 1) for video in videos]
    counts = list(Pool(stage, table, {}, 1, 60.0, crew=crew).run(iter(batches)))
    assert sum(sum(count.values()) for count in counts) == number
    return [row.clip_id for row in table.read(Row)]


def process() -> int:
    return os.getpid()


def process_of(crew: Crew) -> int:
    """The process in which the crew calls a function."""
    pid: int = crew.start(process)()
    return pid


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)


def is_free(cores: float) -> bool:
    return bool(ray.available_resources().get("CPU", 0) >= cores)


def test_a_worker_goes_on_to_the_next_pool_and_then_to_single_tasks(
    tmp_path: Path, crew: Crew
) -> None:
    run(tmp_path / "a", Ingest(), crew)
    first = process_of(crew)
    run(tmp_path / "b", Ingest(dataset="other"), crew)
    assert process_of(crew) == first


def test_a_stage_of_the_users_own_neither_gets_nor_leaves_a_worker(
    tmp_path: Path, crew: Crew
) -> None:
    run(tmp_path / "a", Ingest(), crew)
    ours = process_of(crew)
    (theirs,) = {row.split()[-1] for row in run(tmp_path / "b", TheirOwn(), crew)}
    assert int(theirs) not in (ours, process_of(crew))
    until(lambda: not Path(f"/proc/{theirs}").exists())


def test_a_worker_that_died_between_pools_costs_nothing(tmp_path: Path, crew: Crew) -> None:
    run(tmp_path / "a", Ingest(), crew)
    os.kill(process_of(crew), signal.SIGKILL)
    assert len(run(tmp_path / "b", Ingest(), crew, 5)) == 5


def test_tasks_queue_at_the_worker_that_holds_the_core(tmp_path: Path, crew: Crew) -> None:
    run(tmp_path / "a", Ingest(), crew)
    waiting = [crew.start(process) for _ in range(3)]
    assert len({wait() for wait in waiting}) == 1  # one after the other: no core is asked for


def test_idle_workers_give_their_cores_back(
    tmp_path: Path, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores: Any = ray.cluster_resources()["CPU"]
    until(lambda: is_free(cores))
    monkeypatch.setattr(crews, "IDLE_S", 3.0)
    run(tmp_path / "a", Ingest(), crew)
    assert not is_free(cores)
    until(lambda: is_free(cores))
