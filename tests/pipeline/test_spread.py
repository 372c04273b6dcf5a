"""Steps divided by buckets: the same parts wherever they are done, and what a kill leaves stays."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray

from handloom.pipeline.crew import Crew
from handloom.pipeline.dag import run_stage
from handloom.pipeline.job import Job
from handloom.pipeline.recipes import ego4d
from handloom.pipeline.spread import PIECES_A_TASK, PIECES_HERE, spread
from handloom.stages.select import Select
from handloom.stages.tables.parts import Tables, read_marker, write_marker
from handloom.stages.tables.rows import Clip
from tests.helpers.clusters import QUIET
from tests.helpers.random_tables import clip, row_of

BUCKETS = [f"{number:02x}" for number in range(PIECES_HERE + 2 * PIECES_A_TASK)]


@dataclass(frozen=True)
class BucketByBucket(Select):
    """`select` whose pieces are single buckets."""

    def pieces(self, tables: Tables) -> list[list[str]]:
        """Each bucket by itself."""
        return [[bucket] for bucket in tables["hands"].buckets()]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A run whose clips are ingested and searched, in more buckets than are decided on at once."""
    for name in ("ego4d.json", "annotations/narration.json"):  # whose hashes settings name
        path = tmp_path / "v2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    job = Job("ego4d", tmp_path, tmp_path / "out", replace(ego4d(), select=BucketByBucket()))
    rng = np.random.default_rng(0)
    for bucket in BUCKETS:
        clips = [clip(rng, bucket, number) for number in range(5)]
        job.tables["ingest"].write(bucket, "0", clips, Clip)
        for name in ("hands", "duplicates"):
            kind = job.stages[name].row_type
            rows = [row_of(name, one, rng) for one in clips]
            job.tables[name].write(bucket, "0", rows, kind)
    return job


@pytest.fixture
def two_cores() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, **QUIET)
    yield
    ray.shutdown()


def select(job: Job) -> dict[str, int]:
    """Run the stage; the names of its parts, and when each was written."""
    (job.out / ".lock").write_text(job.run_id)
    run_stage("select", job, {}, Crew())
    return {path.name: path.stat().st_mtime_ns for path in job.tables["select"].parts()}


def plain_parts(job: Job, out: Path) -> set[str]:
    """Names of the parts that the stage writes by itself."""
    table = replace(job.tables["select"], folder=out)
    list(BucketByBucket().write(job.tables, table))
    return {path.name for path in table.parts()}


def test_workers_write_what_one_process_writes(job: Job, two_cores: None, tmp_path: Path) -> None:
    assert select(job).keys() == plain_parts(job, tmp_path / "plain")
    marker = read_marker(job.folder("select"))
    assert (marker["computed"], marker["stored"]) == (5 * len(BUCKETS),) * 2


def test_a_killed_stage_goes_on_with_the_buckets_left(
    job: Job, two_cores: None, tmp_path: Path
) -> None:
    whole = select(job)
    gone = list(whole)[::6]
    for name in gone:
        (job.folder("select") / name).unlink()
    marker = read_marker(job.folder("select"))
    rows = job.tables["select"].row_count()
    killed = {k: v for k, v in marker.items() if k != "stored"} | {"finished": False, "rows": rows}
    write_marker(job.folder("select"), killed | {"computed": rows})
    again = select(replace(job))
    assert again.keys() == whole.keys() == plain_parts(job, tmp_path / "plain")
    assert {name for name in whole if again[name] != whole[name]} == set(gone)
    assert read_marker(job.folder("select"))["computed"] == 5 * len(BUCKETS)


def test_a_part_deleted_by_hand_is_made_again_alone(job: Job, two_cores: None) -> None:
    whole = select(job)
    gone = next(iter(whole))
    (job.folder("select") / gone).unlink()
    again = select(replace(job))
    assert again.keys() == whole.keys()
    assert [name for name in whole if again[name] != whole[name]] == [gone]


def test_a_part_that_was_copied_counts_once(job: Job, two_cores: None) -> None:
    select(job)
    folder, rows = job.folder("select"), job.tables["select"].row_count()
    part = job.tables["select"].parts()[0]
    copy = part.with_name(f"{part.name.rpartition('-')[0]}-{'f' * 12}.parquet")
    shutil.copy(part, copy)
    (folder / "_shuffle" / "0f").mkdir(parents=True)
    again = select(replace(job))
    assert copy.name not in again
    assert job.tables["select"].row_count() == rows == read_marker(folder)["stored"]
    assert not (folder / "_shuffle").exists()


def test_what_was_decided_from_other_rows_is_decided_again(
    job: Job, two_cores: None, tmp_path: Path
) -> None:
    whole = select(job)
    rng = np.random.default_rng(1)
    more = [clip(rng, "00", number) for number in range(3)]
    job.tables["ingest"].write("00", "1", more, Clip)
    for name in ("hands", "duplicates"):
        rows = [row_of(name, one, rng) for one in more]
        job.tables[name].write("00", "1", rows, job.stages[name].row_type)
    again = select(replace(job))
    assert again.keys() == plain_parts(job, tmp_path / "plain") != whole.keys()
    assert all(again[name] > written for name, written in whole.items() if name in again)


def test_results_come_in_order_here_and_on_workers(two_cores: None, tmp_path: Path) -> None:
    tasks = [partial(divmod, number, 7) for number in range(30)]
    for here in (True, False):
        assert list(spread(tmp_path, tasks, here)) == [divmod(number, 7) for number in range(30)]


def test_an_error_of_a_task_is_raised_as_it_is(two_cores: None, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(spread(tmp_path, [partial(divmod, 1, 0)], here=False))
    assert type(caught.value) is ZeroDivisionError
