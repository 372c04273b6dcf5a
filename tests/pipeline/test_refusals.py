"""What a command line or a folder may hold that cannot be meant, refused in one sentence."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from handloom.errors import RunError, UserError
from handloom.pipeline.configuration import read_command, recorded_job, refuse_numbers
from handloom.pipeline.recipes import RECIPES, recipe
from handloom.stages.outside import load
from handloom.stages.tables.parts import Table, open_tables
from handloom.stages.tables.rows import Row
from tests.helpers.random_tables import random_run

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--select.min-hand-share", "nan"),
        ("--select.min-hand-share", "7"),
        ("--ingest.val-percent", "-5"),
        ("--ingest.val-percent", "101"),
        ("--run.workers", "0"),
        ("--run.num-cpus", "-1"),
        ("--tokens.frames", "0"),
        ("--tokens.spacing-s", "0"),
        ("--tokens.spacing-s", "inf"),
        ("--run.batch-clips", "0"),
        ("--hands.frames-per-second", "0"),
    ],
)
def test_numbers_that_cannot_be_meant(flag: str, value: str) -> None:
    with pytest.raises(UserError, match=f"^{flag} is "):
        read_command(["ssv2", f"{flag}={value}"], "curate")


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_has_such_numbers(name: str) -> None:
    for part, options in vars(recipe(name)).items():
        refuse_numbers(part, options)


def test_a_damaged_part_is_named_with_the_way_out(tmp_path: Path) -> None:
    table = Table(tmp_path, "f" * 64)
    table.write("00", "0" * 12, [Row(clip_id="a")], Row)
    (part,) = table.parts()
    part.write_bytes(part.read_bytes()[:100])
    for read in (lambda: list(table.read(Row)), lambda: table.values("clip_id"),
                 lambda: table.columns(["clip_id"]), lambda: table.find(Row, ["a"]),
                 table.row_count):  # fmt: skip
        with pytest.raises(RunError, match=rf"{part.name} is damaged .*: delete it and run"):
            read()


@pytest.mark.parametrize(
    "content",
    [
        "dataset: 5",
        "dataset: ssv2\nconfig: {hands: {no: 1}}",
        "dataset: ssv2\nconfig: [1]",
        "config: 3\ndataset: a",
    ],
)
def test_an_incomplete_record_of_a_run(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(UserError, match=r"run\.yaml (does not say|is missing or not a record)"):
        recorded_job(tmp_path)


def test_a_run_that_has_just_begun_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("dataset: ssv2\n")
    with pytest.raises(UserError, match="has finished no stage yet; run the same command again"):
        open_tables(tmp_path)


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"stages": {"ingest": ""}}', '{"hands": "ingest"}', '{"a": 1}', "{}"]
)
def test_a_record_of_gates_of_another_shape(tmp_path: Path, content: str) -> None:
    random_run(tmp_path, 1)
    path = tmp_path / "tables" / "_flow.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"_flow\.json does not say .*; delete it, and run"):
        open_tables(tmp_path)
    path.unlink()
    assert open_tables(tmp_path)  # as those of a run that is older than such records


@pytest.mark.parametrize("command", ["plan", "curate"])
def test_a_run_is_not_compared_with_itself(here: Cli, tmp_path: Path, command: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for other in (tmp_path / "out", tmp_path / "data/../out", tmp_path / "link"):
        places = ["--data", tmp_path / "data", "--out", tmp_path / "out"]
        run = here(command, "ssv2", *places, "--duplicates.against", other)
        assert (run.returncode, run.stderr.count("\n")) == (2, 1)
        assert f"--duplicates.against {other} is the run's own folder" in run.stderr
    assert not (tmp_path / "out").exists()


def test_a_module_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raising_module.py").write_text("class X: pass\n1/0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"raising_module\.py, line 2, raises ZeroDivisionError"):
        load("raising_module:X")


def test_the_output_does_not_lie_in_the_data(here: Cli, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    run = here("curate", "ssv2", "--data", tmp_path / "data", "--out", tmp_path / "data/out")
    assert run.returncode == 2
    assert "lies in the data folder" in run.stderr
    assert not (tmp_path / "data/out").exists()


@pytest.mark.parametrize("option", [["--clips", "-3"], ["--seed", "-1"]])
def test_miniatures_of_negative_size(here: Cli, tmp_path: Path, option: list[str]) -> None:
    run = here("sample", "ssv2", "--out", tmp_path / "out", f"{option[0]}={option[1]}")
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert "expected at least" in run.stderr
