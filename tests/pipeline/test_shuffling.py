"""A stage's tasks on the cluster: the same files as in one process, and lost ones done again."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import ray

from handloom.errors import RunError, UserError
from handloom.pipeline import shuffling
from handloom.pipeline.crew import Crew
from handloom.stages.duplicates.candidates import ClipFrames
from handloom.stages.duplicates.stage import Duplicates
from handloom.stages.tables.parts import Table, Tables
from tests.helpers.duplicate_runs import write_tables
from tests.stages.duplicates.test_candidates import clip, noisy


@pytest.fixture(scope="module", autouse=True)
def workers_know_this_file(shared_ray: None) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def everything_on_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shuffling, "CLIPS_HERE", 0)


@dataclass(frozen=True)
class Named:
    """A stage with given tasks, in one step."""

    tasks: tuple[Callable[[], None], ...]
    name: ClassVar[str] = "named"

    def steps(self, tables: Tables) -> Iterator[tuple[Callable[[], None], ...]]:
        yield self.tasks

    def work_bytes(self, tables: Tables) -> float:
        return 0.0


def die_at_first(folder: Path, number: int) -> None:
    path = folder / f"{number}"
    if not path.exists():
        path.touch()
        os._exit(9)
    path.write_text("done")


def complain() -> None:
    raise UserError("clip a has no times")


def some_clips() -> list[ClipFrames]:
    return [*(clip(f"c{seed}", seed) for seed in range(5)), clip("d", 2, 0.2, noisy)]


@pytest.mark.usefixtures("everything_on_workers")
def test_tasks_on_workers_leave_the_files_that_rows_are_made_of(tmp_path: Path) -> None:
    alone, spread = (write_tables(tmp_path / name, some_clips()) for name in ("alone", "spread"))
    expected = [rows for _, rows in Duplicates().rows(alone)]
    count = sum(1 for _ in shuffling.work_divided(spread, tmp_path, Duplicates(), Crew()))
    assert count >= 6
    assert list(Duplicates().steps(spread)) == []  # nothing is left to do
    assert [rows for _, rows in Duplicates().rows(spread)] == expected


@pytest.mark.usefixtures("everything_on_workers")
def test_a_task_whose_process_dies_is_done_again(tmp_path: Path) -> None:
    tables: dict[str, Table] = write_tables(tmp_path, some_clips()[:1])
    stage = Named(tuple(partial(die_at_first, tmp_path, number) for number in range(3)))
    assert list(shuffling.work_divided(tables, tmp_path, stage, Crew())) == [1, 2, 3]
    assert [(tmp_path / f"{n}").read_text() for n in range(3)] == ["done"] * 3


@pytest.mark.usefixtures("everything_on_workers")
def test_an_error_of_a_task_keeps_its_kind_and_its_sentence(tmp_path: Path) -> None:
    tables = write_tables(tmp_path, some_clips()[:1])
    with pytest.raises(UserError, match=r"^clip a has no times$"):
        list(shuffling.work_divided(tables, tmp_path, Named((complain,)), Crew()))


@pytest.mark.usefixtures("everything_on_workers")
def test_a_file_that_is_gone_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    tables = write_tables(tmp_path, some_clips())
    steps = shuffling.work_divided(tables, tmp_path, Duplicates(), Crew())
    for _ in range(2):  # numbers, frames
        next(steps)
    for path in (tmp_path / "tables" / "duplicates" / "_shuffle").glob("*/views-*"):
        path.unlink()
    with pytest.raises(RunError, match=r"views-00000 is missing"):
        list(steps)
