"""A clip that kills or hangs its worker costs itself and no other clip."""

import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import ray

from handloom.errors import RunError
from handloom.pipeline.batch import Batch
from handloom.pipeline.pool import Pool
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Row


@dataclass(frozen=True)
class Fragile(Stage):
    """Dies on `die`, hangs on `hang`, raises on `raise`."""

    name: ClassVar[str] = "fragile"
    row_type: ClassVar[type[Row]] = Row
    cannot_start: bool = False

    def setup(self) -> None:
        if self.cannot_start:
            raise RunError("the model file is damaged")

    def __call__(self, word: str) -> Iterator[Row]:
        if word.startswith("die"):
            os._exit(11)
        if word == "hang-with-the-lock":
            re.match("(a+)+b", "a" * 60)  # one call that holds Python's lock
        if word.startswith("hang"):
            time.sleep(600)
        if word.startswith("raise"):
            raise ZeroDivisionError("by zero")
        yield Row(clip_id=word)

    def failed(self, error: str, word: str) -> Iterator[Row]:
        yield Row(clip_id=word, status="failed", error=error)


@pytest.fixture(scope="module", autouse=True)
def workers_know_this_file(shared_ray: None) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def run(table: Table, words: list[list[str]], **options: Any) -> dict[str, Row]:
    batches = [Batch("00", tuple(b), tuple((w,) for w in b), len(b)) for b in words]
    settings = {"attempts": {}, "workers": 2, "clip_timeout_s": 60.0} | options
    counts = list(Pool(Fragile(), table, **settings).run(iter(batches)))
    rows = {row.clip_id: row for row in table.read(Row)}
    assert sum(sum(c.values()) for c in counts) == len(rows)
    return rows


def test_a_clip_that_kills_its_worker_costs_itself(tmp_path: Path) -> None:
    words = [["a", "die", "b"], ["c", "raise"], ["d"]]
    rows = run(Table(tmp_path, "f" * 64), words, attempts={"c": 2})
    assert {w for w, row in rows.items() if row.status == "ok"} == {"a", "b", "c", "d"}
    assert "worker died" in rows["die"].error
    assert rows["raise"].error == "ZeroDivisionError: by zero"
    assert rows["c"].attempts == 3


@pytest.mark.parametrize("hang", ["hang", "hang-with-the-lock"])
def test_a_clip_that_hangs_is_ended(tmp_path: Path, hang: str) -> None:
    many = [f"w{i}" for i in range(40)]
    started = time.monotonic()
    rows = run(Table(tmp_path, "f" * 64), [[*many, hang, "a"], ["b"]], clip_timeout_s=6.0)
    assert {w for w, row in rows.items() if row.status == "ok"} == {*many, "a", "b"}
    assert "took too long" in rows[hang].error
    # Once in its batch and once alone: not so many times as the batch holds clips.
    assert time.monotonic() - started < 20 * 6.0


def test_a_clip_that_kills_a_worker_of_several_batches_costs_itself(tmp_path: Path) -> None:
    words = [["a", "die"], ["b"], ["c", "d"], ["e"], ["f"]]
    rows = run(Table(tmp_path, "f" * 64), words, concurrency=3)
    assert {w for w, row in rows.items() if row.status == "ok"} == set("abcdef")
    assert "worker died" in rows["die"].error


def test_a_model_that_cannot_be_loaded_ends_the_run_with_its_own_words(tmp_path: Path) -> None:
    pool = Pool(Fragile(cannot_start=True), Table(tmp_path, "f" * 64), {}, 1, 60.0)
    with pytest.raises(RunError, match="the model file is damaged"):
        list(pool.run(iter([Batch("00", ("a",), (("a",),), 1)])))
