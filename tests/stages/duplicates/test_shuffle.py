"""The search in tasks: the same bytes however it is divided, killed or begun again."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handloom.errors import DiskError, RunError, UserError
from handloom.files import write_bytes
from handloom.listings import forget_listings
from handloom.stages.duplicates.candidates import ClipFrames, near_duplicates
from handloom.stages.duplicates.clip_numbers import Source
from handloom.stages.duplicates.fingerprints import BYTES
from handloom.stages.duplicates.outcome import duplicate_rows
from handloom.stages.duplicates.partitions import is_complete, partitioned, read_partition
from handloom.stages.duplicates.shuffle import Shuffle, Sizes, plan_shuffle
from handloom.stages.duplicates.stage import Duplicates
from handloom.stages.duplicates.steps import Task, steps
from handloom.stages.tables.parts import Table, Tables, bucket_of
from tests.helpers.duplicate_runs import PRINT, write_tables
from tests.helpers.small_disks import mounted, remount
from tests.stages.duplicates.test_candidates import clip, cropped, noisy

MANY = Sizes(group_bytes=20_000, key_bytes=100_000, clips=5)
OTHERS = [
    MANY,
    Sizes(group_bytes=60_000, key_bytes=1 << 20, clips=11),
    Sizes(group_bytes=1, key_bytes=30_000, clips=1 << 14),
]
NUMBER = np.dtype([("number", "<i8")])


@pytest.fixture(scope="module")
def clips() -> list[ClipFrames]:
    """Eighteen clips, and copies of six of them."""
    copies = [clip(f"d{seed:02d}", seed, 0.3, noisy) for seed in range(3)]
    copies += [clip(f"e{seed:02d}", seed, 0.0, cropped) for seed in range(2, 5)]
    return [clip(f"c{seed:02d}", seed) for seed in range(18)] + copies


@pytest.fixture(scope="module")
def tables(clips: list[ClipFrames], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    return write_tables(tmp_path_factory.mktemp("run"), clips)


@pytest.fixture(scope="module")
def expected(tables: dict[str, Table], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    return rows_of(finish(plan(folder, tables, Sizes())))


def plan(folder: Path, tables: Tables, sizes: Sizes, **settings: object) -> Shuffle:
    return plan_shuffle(
        folder, [Source(tables, is_own=True)], {"min_similarity": 0.3} | settings, sizes
    )


def finish(shuffle: Shuffle) -> Shuffle:
    for tasks in steps(shuffle):
        for task in tasks:
            task()
    return shuffle


def rows_of(shuffle: Shuffle) -> bytes:
    """All rows as bytes, bucket by bucket."""
    sink = pa.BufferOutputStream()
    for bucket, rows in duplicate_rows(shuffle):
        sink.write(bucket.encode())
        rows = rows.combine_chunks()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows)
    return bytes(sink.getvalue())


def pairs_of(rows: Iterator[tuple[str, pa.Table]]) -> dict[tuple[str, str], float]:
    return {
        tuple(sorted((row["clip_id"], match["clip_id"]))): match["similarity"]
        for _, table in rows
        for row in table.to_pylist()
        for match in row["matches"]
    }


def test_the_pairs_are_those_found_in_memory(
    clips: list[ClipFrames], tables: dict[str, Table], tmp_path: Path
) -> None:
    found = pairs_of(duplicate_rows(finish(plan(tmp_path, tables, MANY))))
    known = {(p.clip_id, p.other_id): p.similarity for p in near_duplicates(clips, 0.3)}
    assert len(known) >= 6
    assert found == known


@pytest.mark.parametrize("number", range(len(OTHERS)))
def test_partitions_and_the_order_of_tasks_change_no_byte(
    number: int, tables: dict[str, Table], expected: bytes, tmp_path: Path
) -> None:
    shuffle, rng = plan(tmp_path, tables, OTHERS[number]), np.random.default_rng(number)
    for tasks in steps(shuffle):
        for place in rng.permutation(len(tasks)):
            tasks[place]()
    assert shuffle.key_parts > 1 or shuffle.clip_parts > 1
    assert rows_of(shuffle) == expected


class Killed(BaseException):
    """The process ends here."""


def run_until(shuffle: Shuffle, count: int) -> list[Task]:
    """Do `count` tasks, then die in the middle of the next one."""
    done: list[Task] = []
    for tasks in steps(shuffle):
        for task in tasks:
            if len(done) == count:
                for path in task.results:
                    path.with_name(f"{path.name}.0000.tmp").write_bytes(b"cut off")
                raise Killed
            task()
            done.append(task)
    return done


def test_a_killed_run_loses_the_task_in_work_alone(
    tables: dict[str, Table], expected: bytes, tmp_path: Path
) -> None:
    total = len(run_until(plan(tmp_path / "whole", tables, MANY), 10_000))
    assert total > 30
    for count in range(0, total, 7):
        folder = tmp_path / f"{count}"
        with pytest.raises(Killed):
            run_until(plan(folder, tables, MANY), count)
        left = run_until(plan(folder, tables, MANY), 10_000)
        assert len(left) == total - count
        shuffle = plan(folder, tables, MANY)
        assert not list(shuffle.folder.glob("*.tmp"))
        assert rows_of(shuffle) == expected


def test_files_of_another_state_are_not_trusted(tables: dict[str, Table], tmp_path: Path) -> None:
    first = plan(tmp_path, tables, MANY)
    with pytest.raises(Killed):
        run_until(first, 5)
    second = plan(tmp_path, tables, MANY, code_version=99)
    assert second.folder != first.folder
    next(steps(second))
    assert not first.folder.exists()


def test_a_file_that_was_cut_off_is_written_again(
    tables: dict[str, Table], expected: bytes, tmp_path: Path
) -> None:
    shuffle = plan(tmp_path, tables, MANY)
    with pytest.raises(Killed):
        run_until(shuffle, 3)
    path = shuffle.path("views", 0)
    path.write_bytes(path.read_bytes()[:-5])
    assert not is_complete(path)
    assert rows_of(finish(plan(tmp_path, tables, MANY))) == expected


def test_a_file_deleted_by_hand_is_named(tables: dict[str, Table], tmp_path: Path) -> None:
    shuffle = finish(plan(tmp_path, tables, MANY))
    shuffle.path("pairs", 1).unlink()
    with pytest.raises(
        RunError, match=r"pairs-00001 is missing.*delete the folder .* run the same"
    ):
        rows_of(shuffle)


@pytest.mark.parametrize("name", ["pairs-00001", "home.npy", "first.npy"])
@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_a_damaged_file_is_named(
    name: str, content: bytes, tables: dict[str, Table], tmp_path: Path
) -> None:
    finish(plan(tmp_path, tables, MANY))
    shuffle = plan(tmp_path, tables, MANY)
    (shuffle.folder / name).write_bytes(content)
    with pytest.raises(RunError, match=rf"{name} is damaged or of another version; delete"):
        rows_of(shuffle)


def test_the_stage_leaves_no_file_behind(clips: list[ClipFrames], tmp_path: Path) -> None:
    tables = write_tables(tmp_path, clips[:4])
    counts = sum(rows.num_rows for _, rows in Duplicates().rows(tables))
    assert counts == 4
    assert not (tmp_path / "tables" / "duplicates" / "_shuffle").exists()


def test_clips_that_hands_did_not_decode_have_no_rows(
    clips: list[ClipFrames], tmp_path: Path
) -> None:
    tables = write_tables(tmp_path, clips[:4], status="failed")
    assert sum(rows.num_rows for _, rows in Duplicates().rows(tables)) == 0


def test_fingerprints_of_another_form_are_named(tmp_path: Path) -> None:
    wrong = ClipFrames("abc", "g", np.zeros(2), np.zeros((2, BYTES + 1), np.uint8))
    tables = write_tables(tmp_path, [wrong])
    with pytest.raises(UserError, match=r"clip abc has 2 times and 2306 bytes.*expected 1152"):
        list(Duplicates().rows(tables))


def test_clips_without_their_ingest_rows_are_named(clips: list[ClipFrames], tmp_path: Path) -> None:
    tables = write_tables(tmp_path, clips[:4])
    for path in tables["ingest"].parts():
        path.unlink()
    with pytest.raises(RunError, match=r"clip .* is in the table `hands` and not in `ingest`"):
        list(Duplicates().rows(tables))


def test_another_run_is_compared_with_this_one_and_not_with_itself(
    clips: list[ClipFrames], tmp_path: Path
) -> None:
    own, other = clips[:18], clips[18:]
    tables, _ = write_tables(tmp_path / "run", own), write_tables(tmp_path / "other", other)
    found = pairs_of(Duplicates(against=(tmp_path / "other",)).rows(tables))
    known = {
        (p.clip_id, p.other_id): p.similarity
        for p in near_duplicates(clips, 0.3)
        if not {p.clip_id[0], p.other_id[0]} <= {"d", "e"}
    }
    assert found == known
    assert len(known) < len(list(near_duplicates(clips, 0.3)))  # c02, d02 and e02 are three pairs


def test_a_clip_of_both_runs_is_taken_once(clips: list[ClipFrames], tmp_path: Path) -> None:
    tables = write_tables(tmp_path / "run", clips)
    write_tables(tmp_path / "other", clips[18:])
    found = pairs_of(Duplicates(against=(tmp_path / "other",)).rows(tables))
    assert found == pairs_of(Duplicates().rows(tables))


@pytest.mark.parametrize("parts", [1, 3, 70_000])
def test_partitions_hold_what_was_put_into_them_in_its_order(parts: int, tmp_path: Path) -> None:
    rng, paths = np.random.default_rng(parts), [tmp_path / "a", tmp_path / "b"]
    every, places = np.arange(4000).astype(np.int64), rng.integers(0, parts, 4000)
    for path, half in zip(paths, (slice(0, 2000), slice(2000, 4000)), strict=True):
        with partitioned(path, NUMBER, parts) as file:
            for some in np.array_split(np.arange(4000)[half], 3):
                file.add(every[some].view(NUMBER), places[some])
    for part in {0, parts // 2, parts - 1}:
        read = read_partition(paths, NUMBER, part)["number"]
        assert read.tolist() == every[places == part].tolist()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path, "200k") as disk:
        yield disk


def test_a_full_disk_ends_the_run_and_a_rerun_goes_on(
    tables: dict[str, Table], expected: bytes, small_disk: Path
) -> None:
    with pytest.raises(DiskError, match=r"cannot be written \(the disk is full"):
        finish(plan(small_disk, tables, MANY))
    shuffle = plan(small_disk, tables, MANY)
    kept = [path for path in shuffle.paths("views", len(shuffle.groups)) if is_complete(path)]
    assert kept
    remount(small_disk, "size=20m")
    left = next(steps(shuffle))
    assert len(left) == len(shuffle.groups) - len(kept)
    assert rows_of(finish(plan(small_disk, tables, MANY))) == expected


def test_a_run_in_an_object_store_has_the_same_rows(
    clips: list[ClipFrames], tmp_path: Path, folder: Path
) -> None:
    local = write_tables(tmp_path, clips[-12:])
    for path in (tmp_path / "tables").rglob("*-part.parquet"):
        write_bytes(folder / path.relative_to(tmp_path), path.read_bytes())
    stored = {name: Table(folder / "tables" / name, PRINT) for name in local}
    expected = [rows for _, rows in Duplicates().rows(local)]
    assert [rows for _, rows in Duplicates().rows(stored)] == expected
    forget_listings()
    assert not list((folder / "tables" / "duplicates").glob("*"))


def test_clips_that_no_longer_come_have_no_rows(clips: list[ClipFrames], tmp_path: Path) -> None:
    tables = write_tables(tmp_path, [*clips[:3], clips[18]])  # the last is like the first
    tables["hands"] = Table(tables["hands"].folder, PRINT, gate="ingest")
    assert len(pairs_of(Duplicates().rows(tables))) == 1
    (part,) = tables["ingest"].parts(bucket_of(clips[18].group))
    rows = pq.read_table(part)
    pq.write_table(rows.filter(pa.compute.not_equal(rows["clip_id"], clips[18].clip_id)), part)
    found = list(Duplicates().rows(tables))
    assert sorted(i for _, rows in found for i in rows["clip_id"].to_pylist()) == [
        "c00",
        "c01",
        "c02",
    ]
    assert pairs_of(iter(found)) == {}
