"""Bad files among good ones: of a whole run every good one comes out, every bad one by name."""

import csv
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from handloom.stages.tables import funnel
from handloom.stages.tables.parts import open_tables
from handloom.tokenize.shards import ShardDataset, verify
from tests.helpers.bad_files import KEEP_ALL, WAYS, write

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.long
def test_every_good_file_comes_out_and_every_bad_one_is_named(
    here: Cli, tiny_vqgan: Path, tmp_path: Path
) -> None:
    good, bad = write(tmp_path / "data", good=30, bad=2 * len(WAYS))
    small = ["--tokens.model", tiny_vqgan, "--tokens.resolution", 64, "--run.workers", 2]
    places = ["--data", tmp_path / "data", "--out", tmp_path / "out"]
    run = here("curate", "kinetics700", *places, *small, *KEEP_ALL, "--run.clip-timeout-s", 30)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    samples = ShardDataset(tmp_path / "out/shards", split="train")
    assert sorted(samples[i]["source_id"] for i in range(len(samples))) == sorted(good)
    assert verify(tmp_path / "out/shards") == []
    result = funnel.count(open_tables(tmp_path / "out"))
    assert result.kept == len(good)
    with (tmp_path / "out/failed.csv").open(newline="") as file:
        named = {row["media_path"]: row["error"] for row in csv.DictReader(file)}
    for name, way in bad.items():
        (error,) = [error for path, error in named.items() if name in path]
        assert len(error) < 300, way
        assert "Error:" not in error, f"{way}: {error}"  # a sentence, no exception's name
