"""The stage of docs/adding-a-stage.md and the adapter of docs/adding-a-dataset.md, in whole runs.

Once they lie outside the checkout and are named by a configuration file, once in a copy of the
checkout, where they touch the files that the pages name and no others.
"""

import csv
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from handloom.cli import main
from handloom.stages.datasets import ego4d
from handloom.stages.datasets.source import CutRule
from handloom.stages.tables import funnel
from handloom.stages.tables.parts import open_tables
from handloom.stages.tables.rows import Row
from handloom.tokenize.shards import ShardDataset
from tests.helpers.folders import CHECKOUT
from tests.helpers.pages import code_of

Cli = Callable[..., subprocess.CompletedProcess[str]]
HEIGHT = 0.31
"""Between the tallest hands of the miniature's clips, so that some are kept and some rejected."""


@pytest.fixture(scope="module")
def data(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature's videos of people as the home videos of the page."""
    folder = tmp_path_factory.mktemp("home")
    with (folder / "clips.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "start_s", "end_s", "text"))
        for video in ego4d.ADAPTER.videos(miniature, CutRule()):
            path = miniature / video.media_path
            if not video.reason and path.is_file():
                shutil.copy(path, folder)
                rows.writerows((path.name, s.start_s, s.end_s, s.text) for s in video.spans)
    return folder


@pytest.fixture(scope="module")
def mine(tiny_vqgan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stage, an adapter, a mask and a configuration file that names all three."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "masks.py").write_text("def all_grey(clip, frames):\n    return frames * 0 + 127\n")
    (folder / "close_up.py").write_text(code_of("adding-a-stage.md"))
    (folder / "home_videos.py").write_text(code_of("adding-a-dataset.md"))
    options = {
        "dataset": "home_videos:ADAPTER",
        "stages": ["close_up:CloseUp"],
        "ingest": {"frame_transform": "masks:all_grey"},
        "close_up": {"min_height": HEIGHT},
        "tokens": {"model": str(tiny_vqgan), "resolution": 64, "frames": 2},
        "run": {"workers": 1},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(options))
    return folder


@pytest.fixture(scope="module")
def out(mine: Path, data: Path, here: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run with both."""
    folder = tmp_path_factory.mktemp("run") / "out"
    run = here("curate", "--config", mine / "mine.yaml", "--data", data, "--out", folder)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "small_hands" in run.stdout
    return folder


def check(out: Path) -> None:
    """What must hold of a run with the stage, wherever that lies."""
    tables = open_tables(out)
    assert list(tables) == [
        "ingest", "hands", "duplicates", "select", "close_up", "caption", "tokens"
    ]  # fmt: skip
    found = funnel.count(tables)
    assert found.ingested == found.kept + found.rejected + found.failed
    ours = found.stages["close_up"]
    assert ours.entered == found.stages["select"].kept == ours.kept + ours.rejected["small_hands"]
    assert min(ours.kept, ours.rejected["small_hands"]) > 0
    assert found.stages["caption"].entered == found.stages["tokens"].entered == ours.kept
    passed = {row.clip_id for row in tables["close_up"].read(Row) if row.status == "ok"}
    packed = Counter(
        sample["clip_id"]
        for split in ("train", "val")
        for sample in ShardDataset(out / "shards", split)
    )
    assert passed == packed.keys()
    assert "Rejected: small_hands" in (out / "report/index.html").read_text()


def test_a_stage_and_an_adapter_outside_the_checkout_run_on_the_workers(out: Path) -> None:
    check(out)
    record = yaml.safe_load((out / "run.yaml").read_text())
    assert record["stages"] == ["close_up:CloseUp"]
    assert record["config"]["close_up"] == {"min_height": HEIGHT}
    assert record["config"]["ingest"]["format"] == "home_videos:ADAPTER"
    assert {sample["dataset"] for sample in ShardDataset(out / "shards")} == {"home_videos"}


def test_a_mask_outside_the_checkout_hides_all_that_is_encoded(out: Path) -> None:
    codes = [
        sample["tokens"] for s in ("train", "val") for sample in ShardDataset(out / "shards", s)
    ]
    assert len(codes) > 1
    assert len({tokens.tobytes() for tokens in codes}) == 1


def test_a_plan_finds_nothing_to_do_and_a_changed_option(
    out: Path, mine: Path, data: Path, cli: Cli
) -> None:
    places = ["--config", mine / "mine.yaml", "--data", data, "--out", out]
    run = cli("plan", *places)
    assert re.search(r"close_up: \d+ rows stored, 0 clips to do", run.stdout), run.stdout
    run = cli("plan", *places, "--close-up.min-height", 0.2)
    assert f"close_up: everything again, since min_height {HEIGHT} -> 0.2" in run.stdout


def test_status_and_report_work_without_the_modules(
    out: Path, mine: Path, cli: Cli, tmp_path: Path
) -> None:
    away = shutil.move(mine / "close_up.py", tmp_path)
    try:
        run = cli("status", out)
        assert run.returncode == 0, run.stderr
        assert re.search(r"close_up .* small_hands", run.stdout)
        (out / "report/index.html").unlink()
        run = cli("report", out)
        assert run.returncode == 0, run.stderr
        assert "Rejected: small_hands" in (out / "report/index.html").read_text()
    finally:
        shutil.move(away, mine)


def test_without_the_stage_its_clips_come_back_and_what_is_there_is_kept(
    out: Path, mine: Path, data: Path, here: Cli, copy_of: Callable[[Path, str], Path]
) -> None:
    again = copy_of(out, "again")
    options = yaml.safe_load((mine / "mine.yaml").read_text())
    del options["stages"], options["close_up"]
    (mine / "without.yaml").write_text(yaml.safe_dump(options))
    before = {path.name for path in (again / "tables").glob("*/*.parquet")}
    run = here("curate", "--config", mine / "without.yaml", "--data", data, "--out", again)
    assert run.returncode == 0, run.stdout + run.stderr
    found = funnel.count(open_tables(again))
    assert "close_up" not in found.stages
    assert found.kept == found.stages["select"].kept > funnel.count(open_tables(out)).kept
    assert before <= {path.name for path in (again / "tables").glob("*/*.parquet")}


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["no_such_module:ADAPTER"], "No module named 'no_such_module'"),
        (["json:ADAPTER"], "defines no 'ADAPTER'"),
        (["json:dumps", "--data", "."], "expected one of class Adapter"),
        (["sample", "--stages", "json:JSONDecoder"], "expected a class derived from Stage"),
        (["sample", "--stages", "handloom.stages.select:Select"], "a word that is not taken"),
        (["sample", "--stages", "no_such_module:A"], "No module named 'no_such_module'"),
    ],
)
def test_what_is_no_stage_or_adapter_is_said(
    capsys: pytest.CaptureFixture[str], args: list[str], sentence: str
) -> None:
    assert main(["plan", *args]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert sentence in error


@pytest.mark.slow
def test_in_the_checkout_each_touches_two_files(
    data: Path, tiny_vqgan: Path, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    for folder in ("handloom", "pipeline", "stages", "tokenize", "train"):
        shutil.copytree(CHECKOUT / folder, checkout / folder, symlinks=True)
    (checkout / "stages/close_up.py").write_text(code_of("adding-a-stage.md"))
    (checkout / "stages/datasets/home.py").write_text(code_of("adding-a-dataset.md"))
    recipes, catalog = checkout / "pipeline/recipes.py", checkout / "stages/datasets/catalog.py"
    select = "    select: Select = field(default_factory=Select)\n"
    line = "    close_up: CloseUp = field(default_factory=CloseUp)\n"
    module = "from handloom.stages.close_up import CloseUp\nfrom handloom.stages.stage import"
    text = recipes.read_text().replace(select, select + line)
    recipes.write_text(text.replace("from handloom.stages.stage import", module))
    formats = catalog.read_text().replace('    "ssv2"', '    "home": "home",\n    "ssv2"')
    catalog.write_text(formats)
    small = ["--tokens.model", tiny_vqgan, "--tokens.resolution", 64, "--tokens.frames", 2]
    small += ["--run.workers", 1]
    places = ["--data", data, "--out", tmp_path / "out"]
    words = ["curate", "home", *places, *small, "--close-up.min-height", HEIGHT]
    command = [sys.executable, "-m", "handloom", *map(str, words)]
    env = {"PYTHONPATH": str(checkout), "PATH": ""}
    run = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    check(tmp_path / "out")
