"""Two runs side by side: every clip has the one change that its rows say."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

from handloom.stages.caption.rows import CaptionRow
from handloom.stages.select import Select
from handloom.stages.tables.parts import open_tables
from tests.view.viewed import all_clips, client, decided, generated, get, opened


def rewritten(out: Path, select: Select) -> None:
    """Let `select` decide anew, and give the captions of one bucket other words."""
    tables = open_tables(out)
    tables["select"].clear()
    for bucket, rows in select.rows(tables):
        tables["select"].write_columns(bucket, rows, select.row_type)
    table = tables["caption"]
    rows = [replace(row, caption=f"do {i}") for i, row in enumerate(table.read(CaptionRow, "00"))]
    for path in table.parts("00"):
        path.unlink()
    table.write("00", "0", rows, CaptionRow)


def test_changes_are_those_of_the_rows(tmp_path: Path) -> None:
    earlier, now = generated(tmp_path / "a"), tmp_path / "b"
    shutil.copytree(earlier, now)
    strict = replace(Select(), min_sharpness=0.8, max_similarity=0.1, max_stereo=0.9)
    rewritten(now, strict)
    page = client(opened(now, earlier))
    was, became = decided(earlier, Select()), decided(now, strict)
    rows = all_clips(page)
    found = Counter(row["change"] for row in rows)
    rejected = {i for i in was if was[i][0] == "ok" and became[i][0] == "rejected"}
    listed = {row["id"] for row in rows if row["change"].endswith("→ rejected")}
    captions = open_tables(earlier)["caption"].read(CaptionRow)
    wordless = {row.clip_id for row in captions if row.status == "rejected"}  # rejected either way
    assert listed == rejected - wordless
    others = {i for i in was if was[i] != became[i] and was[i][0] == became[i][0]}
    assert found["other reason"] == len(others | rejected & wordless)
    for row in rows:
        if row["change"] == "same":
            assert row["was"] == {k: row[k] for k in ("status", "reason", "stage", "text")}
        if row["change"] == "other caption":
            assert row["text"] != row["was"]["text"]
            assert row["status"] == row["was"]["status"]
    assert found["other caption"] > 10
    told = get(page, "/api/compare")
    assert dict(map(tuple, told["changes"])) == found


def test_clips_of_one_run_alone_are_listed_as_such(tmp_path: Path) -> None:
    earlier, now = generated(tmp_path / "a", seed=1, clips=90), generated(tmp_path / "b", clips=60)
    page = client(opened(now, earlier))
    found = Counter(row["change"] for row in all_clips(page))
    assert found == {"only in this run": 60, "only in the earlier run": 90}
    absent = all_clips(page, status="absent")
    assert len(absent) == 90
    assert all(row["was"]["status"] for row in absent)


def test_a_run_is_the_same_as_itself(tmp_path: Path) -> None:
    out = generated(tmp_path / "a", clips=90)
    assert dict(get(client(opened(out, out)), "/api/compare")["changes"]) == {"same": 90}
