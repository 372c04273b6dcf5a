"""Folding parts while a stage works: the same rows at any moment, the same bytes in the end."""

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from zlib import crc32

import pytest

from handloom.errors import RunError
from handloom.pipeline.ahead import Unseen
from handloom.stages.tables import folding, listing, merging
from handloom.stages.tables.folding import Folding, end_killed_round, fold_parts
from handloom.stages.tables.folds import is_fold, leaf_names
from handloom.stages.tables.listing import MERGING
from handloom.stages.tables.merging import complete_merges, drop_repeated, merge_parts
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Clip, Row
from tests.helpers.dying import dying
from tests.helpers.random_tables import clip_row

PRINT = "0123456789abcdef"
BUCKETS = ("0a", "17", "ff")


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"EVERY": 8, "MOST": 24, "RADIX": 4, "ROUND": 64}.items():
        monkeypatch.setattr(folding, name, value)


def batches(count: int, seed: int = 0) -> Iterator[tuple[str, str, list[Clip]]]:
    """Batches of clips with ids of their own, in random buckets and of random sizes."""
    rng = random.Random(seed)
    for number in range(count):
        ids = [f"{seed:05d}{number:05d}{n:010d}" for n in range(rng.randrange(1, 6))]
        rows = [clip_row(one, rng.random(), 9.0, text="é" * rng.randrange(9)) for one in ids]
        yield rng.choice(BUCKETS), f"{rng.getrandbits(48):012x}", rows


def write(table: Table, count: int, seed: int = 0) -> list[str]:
    """Write so many parts; returns the ids of their clips."""
    written = []
    for bucket, name, rows in batches(count, seed):
        table.write(bucket, name, rows, Clip)
        written += [row.clip_id for row in rows]
    return sorted(written)


def ids(table: Table) -> list[str]:
    return sorted(row.clip_id for row in table.read(Row))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def folded_now_and_then(table: Table, count: int, seed: int) -> None:
    rng = random.Random(seed)
    for bucket, name, rows in batches(count):
        table.write(bucket, name, rows, Clip)
        if rng.random() < 0.2:
            fold_parts(table)


def test_a_folded_table_reads_as_before(tmp_path: Path) -> None:
    table = Table(tmp_path, PRINT)
    written = write(table, 60)
    before = {row.clip_id: row for row in table.read(Clip)}
    assert fold_parts(table)
    assert any(is_fold(path.name) for path in table.parts())
    assert len(table.parts()) < 20
    assert ids(table) == written
    assert {row.clip_id: row for row in table.read(Clip)} == before
    assert table.find(Clip, written[::7]) == {one: before[one] for one in written[::7]}
    assert table.row_count() == table.clip_count() == len(written)
    assert sorted(table.columns(["clip_id"])["clip_id"].to_pylist()) == written
    assert table.values("clip_id") == set(written)


@pytest.mark.parametrize("large_bytes", [64 << 20, 60_000])
@pytest.mark.parametrize("seed", range(4))
def test_a_finished_table_has_the_same_bytes_folded_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, large_bytes: int
) -> None:
    monkeypatch.setattr(merging, "LARGE_BYTES", large_bytes)
    never, often = Table(tmp_path / "never", PRINT), Table(tmp_path / "often", PRINT)
    count = (9, 40, 80, 200)[seed]  # of 9 parts no bucket has as many as are merged in the end
    write(never, count)
    folded_now_and_then(often, count, seed)
    if seed == 0:
        monkeypatch.setattr(folding, "MOST", 2)
        fold_parts(often)
    assert any(is_fold(path.name) for path in often.parts())
    for table in (never, often):
        merge_parts(table)
    assert content(often.folder) == content(never.folder)


def deaths() -> Iterator[int]:
    """Numbers of changes after which a process ends: the first ones, then every fifth."""
    yield from range(1, 12)
    yield from range(12, 400, 5)


def test_a_killed_fold_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in deaths():
        table = Table(tmp_path / str(at), PRINT)
        written = write(table, 20)
        fold_parts(table)
        written += write(table, 20, seed=1)
        with dying(monkeypatch, at) as changes, suppress(KeyboardInterrupt):
            fold_parts(table)
        assert ids(table) == sorted(written)  # of a reader while the killed run lies there
        complete_merges(table)
        table.clear_stale()
        assert ids(table) == sorted(written)
        assert not [name for name in content(table.folder) if not name.endswith(".parquet")]
        if changes[0] < at:
            return
    raise AssertionError("the fold was killed each time")


def test_a_round_whose_process_died_is_ended_while_the_stage_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in deaths():
        table = Table(tmp_path / str(at), PRINT)
        written = write(table, 20)
        fold_parts(table)
        written += write(table, 20, seed=1)
        reader, known = table.listed(), set(written)
        with dying(monkeypatch, at) as changes, suppress(KeyboardInterrupt):
            fold_parts(table)
        written += write(table, 3, seed=2)
        end_killed_round(table)
        assert ids(table) == sorted(written)
        assert known <= set(ids(reader))
        assert not [name for name in content(table.folder) if MERGING in name]
        fold_parts(table)
        assert ids(table) == sorted(written)
        if changes[0] < at:
            return
    raise AssertionError("the fold was killed each time")


@pytest.mark.slow
def test_a_killed_merge_of_folds_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "LARGE_BYTES", 60_000)  # several merged parts from several folds
    for at in deaths():
        table = Table(tmp_path / str(at), PRINT)
        folded_now_and_then(table, 40, seed=1)
        written = ids(table)
        with dying(monkeypatch, at) as changes, suppress(KeyboardInterrupt):
            merge_parts(table)
        assert ids(table) == written
        complete_merges(table)
        table.clear_stale()
        assert ids(table) == written
        merge_parts(table)
        assert ids(table) == written
        assert not any(is_fold(name) or ".merging" in name for name in content(table.folder))
        if changes[0] < at:
            return
    raise AssertionError("the merge was killed each time")


@pytest.mark.slow
def test_the_number_of_files_stays_bounded(tmp_path: Path) -> None:
    table = Table(tmp_path, PRINT)
    most, written = 0, 0
    with Folding(table) as folds:
        for bucket, name, rows in batches(600):
            table.write(bucket, name, rows, Clip)
            written += len(rows)
            folds.advance()
            most = max(most, len(list(tmp_path.iterdir())))
    # After a round at most MOST; while one is under way MOST more are written, and its own.
    assert most <= 3 * folding.MOST + len(BUCKETS)
    assert table.row_count() == written


def test_readers_see_each_row_once_while_parts_are_folded(tmp_path: Path) -> None:
    table = Table(tmp_path, PRINT)
    written: list[str] = []
    ended, wrong = Event(), list[str]()

    def read() -> None:
        try:
            read_again_and_again()
        except Exception as error:
            wrong.append(repr(error))

    def read_again_and_again() -> None:
        once_listed = Table(tmp_path, PRINT).listed()
        while not ended.is_set():
            known = set(written)
            check(ids(Table(tmp_path, PRINT)), known)
            check(Table(tmp_path, PRINT).listed().columns(["clip_id"])[0].to_pylist(), known)
            check(ids(once_listed), set())

    def check(found: list[str], known: set[str]) -> None:
        if len(found) != len(set(found)) or not known <= set(found):
            wrong.append(f"{len(found)} rows, {len(set(found))} different, of {len(known)}")

    thread = Thread(target=read)
    thread.start()
    try:
        with Folding(table) as folds:
            for bucket, name, rows in batches(300):
                table.write(bucket, name, rows, Clip)
                written += [row.clip_id for row in rows]
                folds.advance()
        merge_parts(table)
    finally:
        ended.set()
        thread.join()
    assert not wrong
    assert ids(table) == sorted(written)


@pytest.mark.parametrize("seed", range(6))
def test_a_folder_that_is_folded_twice_while_it_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """A listing holds some names as they were before, and some as they are after."""
    table = Table(tmp_path, PRINT)
    written = write(table, 60)
    names, calls = listing.file_names, list[int]()

    def is_early(name: str) -> bool:
        return is_fold(name) if seed == 0 else bool(crc32(name.encode(), seed) & 1)

    def slow_names(folder: Path) -> list[str]:
        before = names(folder)
        calls.append(len(before))
        if len(calls) == 1:
            with monkeypatch.context() as patch:
                patch.setattr(listing, "file_names", names)
                fold_parts(table)
                write(table, 60, seed=1)
                fold_parts(table)
        after = names(folder)
        return [n for n in before if is_early(n)] + [n for n in after if not is_early(n)]

    monkeypatch.setattr(listing, "file_names", slow_names)
    found = ids(Table(tmp_path, PRINT))
    assert set(written) <= set(found)
    assert len(found) == len(set(found))


@pytest.mark.slow
def test_what_goes_ahead_sees_each_row_once(tmp_path: Path) -> None:
    table = Table(tmp_path, PRINT)
    unseen, found, written = Unseen(table), list[str](), list[str]()
    rng = random.Random(2)

    def look() -> None:
        for parts in unseen.parts().values():
            old, names = unseen.seen_clips(parts), leaf_names(parts)
            clip_ids = [row.clip_id for row in table.of_parts(parts).read(Row)]
            found.extend(one for one in clip_ids if one not in old)
            unseen.mark(names)

    for bucket, name, rows in batches(300):
        table.write(bucket, name, rows, Clip)
        written += [row.clip_id for row in rows]
        if rng.random() < 0.1:
            fold_parts(table)
        if rng.random() < 0.1:
            look()
    look()
    assert sorted(found) == sorted(written)
    merge_parts(table)
    assert not unseen.parts()


def test_a_part_that_a_lost_worker_writes_again_counts_once(tmp_path: Path) -> None:
    table = Table(tmp_path, PRINT)
    written = write(table, 60)
    again = list(batches(60))[:5]
    fold_parts(table)
    for bucket, name, rows in again:
        assert table.part_values(bucket, name, "clip_id") == [row.clip_id for row in rows]
        table.write(bucket, name, rows, Clip)
    assert table.part_values("0a", "nowhere", "clip_id") is None
    merge_parts(table)
    assert ids(table) == written


def test_rows_of_a_fold_are_dropped_one_by_one(tmp_path: Path) -> None:
    kept, folded = Table(tmp_path / "kept", PRINT), Table(tmp_path / "folded", PRINT)
    for table in (kept, folded):
        write(table, 60)
        for number, bucket in enumerate(BUCKETS * 2):
            statuses = ["failed", "ok", "failed"][: 1 + number % 3]
            rows = [
                replace(clip_row(f"f{number}{n}", 0.0, 1.0), status=status, attempts=2)
                for n, status in enumerate(statuses)
            ]
            table.write(bucket, f"failed{number}", rows, Clip)
    fold_parts(folded)
    dropped = [table.drop("status", ["failed"]) for table in (kept, folded)]
    assert dropped[0] == dropped[1] == {
        f"f{number}{n}": 2 for number in range(6) for n in (0, 2) if n <= number % 3
    }  # fmt: skip
    assert ids(folded) == ids(kept)
    drop_repeated(folded, "clip_id")
    assert ids(folded) == ids(kept)
    merge_parts(folded)
    assert ids(folded) == ids(kept)


def test_a_damaged_part_is_named_when_it_is_folded(tmp_path: Path) -> None:
    table = Table(tmp_path, PRINT)
    write(table, 60)
    bad = table.parts()[3]
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(RunError, match=f"{bad.name} is damaged"), Folding(table):
        pass


def test_a_table_in_a_store_is_folded_alike(folder: Path, tmp_path: Path) -> None:
    table, local = Table(folder / "tables", PRINT), Table(tmp_path / "table", PRINT)
    written = write(table, 40)
    write(local, 40)
    reader = table.listed()
    assert fold_parts(table)
    assert any(is_fold(path.name) for path in table.parts())
    assert ids(reader) == ids(table) == written
    for each in (table, local):
        merge_parts(each)
    assert content(table.folder) == content(local.folder)
