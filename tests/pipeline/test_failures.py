"""Failed clips are told on the screen and all of them in a file, whatever their names hold."""

import csv
from pathlib import Path

from handloom.pipeline.failures import FAILURES, failed_clips, sentences, write_failures
from handloom.stages.hands.rows import HandRow
from handloom.stages.hands.stage import Hands
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Clip
from tests.helpers.numbered_clips import clip


def tables(tmp_path: Path, path: str, error: str) -> dict[str, Table]:
    known = {name: Table(tmp_path / "tables" / name, "f" * 64) for name in ("ingest", "hands")}
    one = Clip(**{**clip(1).__dict__, "media_path": path})
    known["ingest"].write(one.bucket, "0" * 12, [one], Clip)
    if error:
        known["hands"].write(one.bucket, "0" * 12, list(Hands().failed(error, one)), HandRow)
    return known


def test_a_failed_clip_is_told_with_its_path(tmp_path: Path) -> None:
    found = tables(tmp_path, "videos/a.mp4", "a.mp4: decoding stops (Invalid data)")
    (line,) = sentences(failed_clips(found))
    assert line == "failed (1 clips) hands: decoding stops (Invalid data) (videos/a.mp4)"
    path = write_failures(list(failed_clips(found)), tmp_path)
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["stage"], row["media_path"], row["attempts"]) == ("hands", "videos/a.mp4", "1")


def test_names_do_not_reach_the_terminal_as_commands(tmp_path: Path) -> None:
    found = tables(tmp_path, "a\x1b]0;title\x07\n.mp4", "the \x1b[31m worker died")
    (line,) = sentences(failed_clips(found))
    assert line.isprintable()
    assert "\\x1b]0;title" in line
    assert "\x1b" not in write_failures(list(failed_clips(found)), tmp_path).read_text()


def test_a_run_that_has_got_well_has_no_list(tmp_path: Path) -> None:
    write_failures([*failed_clips(tables(tmp_path / "sick", "a.mp4", "broken"))], tmp_path)
    assert (tmp_path / FAILURES).is_file()
    write_failures([*failed_clips(tables(tmp_path / "well", "a.mp4", ""))], tmp_path)
    assert not (tmp_path / FAILURES).exists()
