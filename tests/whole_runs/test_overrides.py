"""Marks become part of a run: they change the verdicts of their clips, and cost only these."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from handloom.pipeline.configuration import recorded_job
from handloom.stages.report.gallery import gather
from handloom.stages.select import Select, SelectRow
from handloom.stages.tables.parts import effort, open_tables
from handloom.stages.tokens import TokenRow
from tests.helpers.folders import sums

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_marks_move_their_clips_alone_and_can_be_taken_back(
    miniature: Path, tiny_vqgan: Path, here: Cli, tmp_path: Path
) -> None:
    out, marks = tmp_path / "out", tmp_path / "marks.csv"
    small = ["--tokens.model", tiny_vqgan, "--tokens.resolution", 64, "--tokens.frames", 3]
    strict = ["--select.min-hand-share", 0.6, "--select.min-sharpness", 0.75]
    command = ["curate", "sample", "--data", miniature, "--out", out, *small, *strict]
    first = here(*command)
    assert first.returncode == 0, first.stdout + first.stderr
    before, shards = decisions(out), sums(out / "shards")
    dropped = next(i for i, (status, _) in before.items() if status == "ok")
    wanted = next(i for i, (status, _) in before.items() if status == "rejected")

    marks.write_text(f"clip_id,mark,note\n{dropped},drop,\n{wanted},keep,fine\n")
    marked = here(*command, "--select.overrides", marks)
    assert marked.returncode == 0, marked.stdout + marked.stderr
    changed = {dropped: ("rejected", "marked_drop"), wanted: ("ok", "marked_keep")}
    assert decisions(out) == before | changed
    assert effort(out / "tables" / "tokens")[2] == 1  # only the clip that is newly let in
    assert "marked_drop" in marked.stdout
    check_report(out)

    marks.write_text(f"clip_id,mark,note\n{'f' * 20},drop,\n")
    refused = here(*command, "--select.overrides", marks)
    assert refused.returncode == 2
    assert "clips that this run does not hold" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "thrown away" not in refused.stdout
    assert decisions(out) == before | changed
    planned = here("plan", *command[1:], "--select.overrides", marks)
    assert planned.returncode == 2
    assert "clips that this run does not hold" in planned.stderr

    again = here(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert decisions(out) == before
    assert {name: one for name, one in sums(out / "shards").items() if name.endswith(".tar")} == {
        name: one for name, one in shards.items() if name.endswith(".tar")
    }
    assert effort(out / "tables" / "tokens")[2] == 0
    assert "all of it is done" in here("plan", *command[1:]).stdout


def check_report(out: Path) -> None:
    """The report counts as many clips at each threshold's present value as are kept."""
    select = recorded_job(out).stages["select"]
    assert isinstance(select, Select)
    thresholds = gather(open_tables(out), select).thresholds
    assert thresholds
    kept = sum(status == "ok" for status, _ in decisions(out).values())
    for one in thresholds.found:
        assert [step.clips for step in one.steps if step.value == one.present] == [kept]


def decisions(out: Path) -> dict[str, tuple[str, str]]:
    """Status and reason of each clip; every clip that is kept has codes."""
    tables = open_tables(out)
    found = {row.clip_id: (row.status, row.reason) for row in tables["select"].read(SelectRow)}
    encoded = {row.clip_id for row in tables["tokens"].read(TokenRow)}
    assert {clip_id for clip_id, (status, _) in found.items() if status == "ok"} <= encoded
    return found
