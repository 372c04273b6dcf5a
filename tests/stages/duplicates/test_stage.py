"""Duplicates on tables: who is kept of two, what is a leak, and other runs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from handloom.stages.duplicates.fingerprints import fingerprint
from handloom.stages.duplicates.rows import DuplicateRow
from handloom.stages.duplicates.stage import Duplicates
from handloom.stages.select import Select
from handloom.stages.tables.parts import Table, write_marker
from handloom.stages.tables.rows import Row

PRINT = "0" * 16
TIMES_S = np.arange(6) * 0.5


def footage(seed: int) -> Iterator[np.ndarray]:
    """Frames of a camera that moves over a patterned plane, uint8 [120, 160, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (12, 20, 3)).astype(np.uint8)
    plane = coarse.repeat(20, axis=0).repeat(20, axis=1)
    for step in range(len(TIMES_S)):
        x, y = 10 + 14 * step, 8 * step
        yield plane[y : y + 120, x : x + 160]


def write_run(out: Path, clips: list[tuple[str, int, str, int]]) -> dict[str, Table]:
    """A run's tables; clips are (id, seed of the footage, split, width)."""
    tables = {name: Table(out / "tables" / name, PRINT) for name in ("ingest", "hands", "select")}
    ids = [clip_id for clip_id, *_ in clips]
    prints = [b"".join(fingerprint(f).tobytes() for f in footage(seed)) for _, seed, *_ in clips]
    columns = {
        "ingest": {
            "clip_id": ids, "bucket": ["00"] * len(ids), "dataset": ["d"] * len(ids),
            "video_id": ids, "split": [split for *_, split, _ in clips],
            "width": [width for *_, width in clips], "height": [100] * len(ids),
        },
        "hands": {
            "clip_id": ids, "status": ["ok"] * len(ids), "fingerprints": prints,
            "times_s": [TIMES_S.tolist()] * len(ids),
        },
        "select": {"clip_id": ids, "status": ["ok"] * len(ids)},
    }  # fmt: skip
    for name, values in columns.items():
        folder = tables[name].folder
        folder.mkdir(parents=True)
        pa.parquet.write_table(pa.table(values), folder / f"00-{PRINT[:12]}-part.parquet")
        write_marker(folder, {"fingerprint": PRINT})
    return tables


def found(tables: dict[str, Table], **options: tuple[Path, ...]) -> dict[str, DuplicateRow]:
    table = Table(tables["ingest"].folder.parent / "duplicates", PRINT)
    counts = sum((c.total() for c in Duplicates(**options).write(tables, table)), 0)
    rows = {row.clip_id: row for row in table.read(DuplicateRow)}
    assert counts == len(rows)
    return rows


LIMIT = Select().max_similarity


def duplicates(rows: dict[str, DuplicateRow]) -> set[str]:
    return {clip_id for clip_id, row in rows.items() if row.similarity > LIMIT}


def leaks(rows: dict[str, DuplicateRow]) -> set[str]:
    return {clip_id for clip_id, row in rows.items() if row.leak_similarity > LIMIT}


def test_of_two_copies_the_larger_is_kept_and_others_stay(tmp_path: Path) -> None:
    clips = [("a", 1, "train", 160), ("b", 1, "train", 320), ("c", 2, "train", 160)]
    rows = found(write_run(tmp_path, clips))
    assert duplicates(rows) == {"a"}
    assert leaks(rows) == set()
    (match,) = rows["a"].matches
    assert (match["clip_id"], match["better"]) == ("b", True)
    assert [m["better"] for m in rows["b"].matches] == [False]


def test_a_copy_across_the_splits_is_a_leak_of_train(tmp_path: Path) -> None:
    rows = found(write_run(tmp_path, [("a", 1, "train", 640), ("b", 1, "val", 160)]))
    assert duplicates(rows) == leaks(rows) == {"a"}


def test_another_run_has_the_first_claim(tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_run(other, [("x", 1, "train", 160), ("y", 2, "train", 160)])
    tables = write_run(tmp_path / "run", [("a", 1, "train", 640), ("b", 2, "val", 640)])
    assert duplicates(found(tables)) == set()
    rows = found(tables, against=(other,))
    assert rows.keys() == {"a", "b"}
    assert duplicates(rows) == {"a", "b"}
    assert leaks(rows) == {"b"}


def test_a_run_without_clips_has_no_rows(tmp_path: Path) -> None:
    tables = {name: Table(tmp_path / "tables" / name, PRINT) for name in ("ingest", "hands")}
    assert found(tables) == {}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_order_of_the_clips_changes_nothing(tmp_path: Path, order: tuple[int, ...]) -> None:
    clips = [("a", 1, "train", 160), ("b", 1, "train", 160), ("c", 1, "train", 160)]
    rows = found(write_run(tmp_path, [clips[i] for i in order]))
    assert duplicates(rows) == {"b", "c"}
    assert isinstance(rows["b"], Row)
