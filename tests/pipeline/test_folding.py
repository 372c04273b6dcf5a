"""Parts are folded by a process of its own, whose death loses nothing."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

import psutil
import pytest
import ray

from handloom.errors import RunError
from handloom.pipeline import folding
from handloom.pipeline.folding import FoldElsewhere
from handloom.stages.tables.folding import ROUND, Folding, has_work
from handloom.stages.tables.folds import is_fold
from handloom.stages.tables.merging import merge_parts
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Row

BUCKETS = "0a", "17", "ff"


@pytest.fixture(scope="module", autouse=True)
def workers_know_this_file(shared_ray: None) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "table", "f" * 64)


def write(table: Table, parts: int, start: int = 0) -> list[str]:
    """Write parts of one row; returns the ids of their clips."""
    ids = [f"{number:020x}" for number in range(start, start + parts)]
    for number, clip_id in enumerate(ids):
        table.write(BUCKETS[number % 3], clip_id[8:], [Row(clip_id=clip_id)], Row)
    return ids


def ids(table: Table) -> list[str]:
    return sorted(row.clip_id for row in table.read(Row))


def names(table: Table) -> set[str]:
    return {path.name for path in table.folder.iterdir()}


def processes() -> list[psutil.Process]:
    """Those that fold, among the processes of this one's Ray."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "".join(process.cmdline()[:1]).startswith("ray::Folder"):
                found.append(process)
    return found


def until(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_another_process_folds_and_ends(table: Table) -> None:
    written = write(table, 90)
    with FoldElsewhere() as fold, Folding(table, fold):
        until(processes)
    until(lambda: not processes())
    assert {is_fold(name) for name in names(table) if name.endswith(".parquet")} == {True}
    assert ids(table) == written


def test_no_process_begins_where_there_is_nothing_to_fold(table: Table) -> None:
    written = write(table, 9)
    before = names(table)
    with FoldElsewhere() as fold, Folding(table, fold):
        pass
    assert fold.folder is None
    assert names(table) == before
    assert ids(table) == written


def test_a_killed_process_is_replaced_and_loses_nothing(table: Table) -> None:
    written = write(table, 1200)
    unfolded, kept_on = Table(table.folder.with_name("unfolded"), table.fingerprint), [True]
    write(unfolded, 1500)
    wrong: list[int] = []

    def read() -> None:
        while kept_on[0]:
            found = ids(table)
            if len(set(found)) != len(found) or not set(written) <= set(found):
                wrong.append(len(found))

    reader = Thread(target=read)
    reader.start()
    with FoldElsewhere() as fold, Folding(table, fold):
        until(processes)
        # Once folds lie there under their first name, the process is in the midst of its round.
        until(lambda: any(".merging" in name for name in names(table)))
        os.kill(processes()[0].pid, signal.SIGKILL)
        late = write(table, 300, start=1200)
    kept_on[0] = False
    reader.join()
    assert not wrong
    assert fold.deaths == 0
    assert ids(table) == sorted(written + late)
    assert not [name for name in names(table) if ".merging" in name]
    for each in (table, unfolded):
        merge_parts(each)
    assert {path.name: path.read_bytes() for path in table.folder.iterdir()} == {
        path.name: path.read_bytes() for path in unfolded.folder.iterdir()
    }


class Dies:
    """Stands for a process that the kernel ends for want of memory, each time."""

    def fold(self, table: Table) -> int:
        os._exit(9)


def test_what_dies_again_and_again_ends_the_run_in_a_sentence(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "Folder", Dies)
    written = write(table, 60)
    with (
        pytest.raises(RunError, match=r"folds the parts of .*table died 4 times in a row"),
        FoldElsewhere() as fold,
        Folding(table, fold),
    ):
        pass
    assert ids(table) == written
    assert has_work(table)


def test_a_damaged_part_is_named(table: Table) -> None:
    write(table, 60)
    bad = table.parts()[3]
    bad.write_bytes(bad.read_bytes()[:100])
    with (
        pytest.raises(RunError, match=f"{bad.name} is damaged"),
        FoldElsewhere() as fold,
        Folding(table, fold),
    ):
        pass
    until(lambda: not processes())


@ray.remote(num_cpus=0)
class Stages:
    """Stands for the process of the stages."""

    def fold(self, table: Table) -> int:
        """Fold, and keep the other process."""
        self.elsewhere = FoldElsewhere()
        return self.elsewhere(table)


def test_it_ends_with_the_process_of_the_stages(table: Table) -> None:
    write(table, 60)
    stages = Stages.remote()
    assert 0 < ray.get(stages.fold.remote(table)) < ROUND
    assert len(processes()) == 1
    ray.kill(stages)
    until(lambda: not processes())
