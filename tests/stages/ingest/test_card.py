"""The dataset card is counted anew whenever what it counts has changed, and only then."""

from dataclasses import replace
from pathlib import Path

import pytest

from handloom.stages.ingest import card
from handloom.stages.ingest.probes import Probe, probe_table
from handloom.stages.ingest.videos import Ingest
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Clip


@pytest.fixture
def table(tmp_path: Path) -> Table:
    table = Table(tmp_path / "tables/ingest", "ab" * 32)
    table.write("00", "0", [clip("a"), clip("b")], Clip)
    return table


def clip(name: str) -> Clip:
    return Clip(
        clip_id=name, dataset="ego4d", version="v2", split="train", licence="ego4d", bucket="00",
        unit=name, video_id=name, start_s=0.0, end_s=2.0, text="lifts a cup", text_kind="narration",
        media_path="a.mp4",
    )  # fmt: skip


def test_nothing_is_counted_twice(table: Table, tmp_path: Path) -> None:
    card.write(table, Ingest(), tmp_path)
    path = table.folder / card.NAME
    first, inode = path.read_bytes(), path.stat().st_ino
    card.write(table, Ingest(), tmp_path)
    assert (path.read_bytes(), path.stat().st_ino) == (first, inode)  # the very file
    path.write_text("{")
    card.write(table, Ingest(), tmp_path)
    assert path.read_bytes() == first


def test_whatever_the_card_tells_of_is_noticed(table: Table, tmp_path: Path) -> None:
    card.write(table, Ingest(), tmp_path)
    table.write("00", "1", [clip("c")], Clip)
    card.write(table, Ingest(), tmp_path)
    assert card.read(table.folder)["rows"] == {"train": {"ok": 3}}
    card.write(table, replace(Ingest(), licence="mine"), tmp_path)
    assert card.read(table.folder)["terms"] == "As told by --ingest.licence."
    probe = Probe(clip_id="a.mp4", size=1, mtime_ns=1, codec="h264", duration_s=3600.0)
    probe_table(tmp_path).write("00", "0", [probe], Probe)
    card.write(table, Ingest(), tmp_path)
    assert card.read(table.folder)["media"]["codecs"] == {"h264": 1}
