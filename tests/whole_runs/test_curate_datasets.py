"""Whole runs on the miniatures of other datasets: RT-1 always, all of them in `make test-all`."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from handloom.pipeline.configuration import recorded_job
from handloom.stages.episodes.rows import EpisodeRow
from handloom.stages.miniatures.catalog import MINIATURES, miniature
from handloom.stages.pack.fidelity import measure
from handloom.stages.tables import funnel
from handloom.stages.tables.parts import open_tables
from handloom.stages.tokens import EpisodeTokens
from handloom.tokenize.measure.pixels import psnr_db
from handloom.tokenize.shards import ShardDataset, verify
from handloom.tokenize.shards.window_scan import Cut
from handloom.tokenize.shards.windows import ClipWindows
from tests.helpers.miniatures import writer

Cli = Callable[..., subprocess.CompletedProcess[str]]
OPTIONS = {
    "rlds": ["--ingest.hz", 10],  # RLDS tells no rate
    "egocentric10k": ["--caption.route", "none"],  # nobody has described it
}


@pytest.fixture(scope="module")
def rt1(here: Cli, tiny_vqgan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run on a miniature RT-1."""
    folder = tmp_path_factory.mktemp("rt1")
    places = ["--data", writer(tmp_path_factory)("rt1"), "--out", folder / "out"]
    small = ["--tokens.model", tiny_vqgan, "--tokens.resolution", 64]
    run = here("curate", "rt1", *places, *small, "--run.workers", 2)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "out"


def test_episodes_come_out_with_their_trajectories(rt1: Path) -> None:
    assert verify(rt1 / "shards") == []
    rows = {row.clip_id: row for row in open_tables(rt1)["episodes"].read(EpisodeRow)}
    manifest = json.loads((rt1 / "shards/manifest.json").read_text())
    seen = 0
    for split in manifest["splits"]:
        dataset = ShardDataset(rt1 / "shards", split=split)
        for i in range(len(dataset)):
            sample = dataset[i]
            row = rows[sample["clip_id"]]
            views, steps = sample["tokens"].shape[:2]
            assert (views, steps) == (len(sample["views"]), len(row.state))
            np.testing.assert_array_equal(sample["state"], np.float32(row.state))
            np.testing.assert_array_equal(sample["action"], np.float32(row.action))
            assert sample["caption"] == sample["text"].lower()
            assert (sample["fps"], sample["source_hz"]) == (10.0, 3.0)
            seen += 1
    assert seen == sum(row.status == "ok" for row in rows.values()) >= 3


def test_codes_of_robots_are_measured_on_the_pictures_that_they_stand_for(rt1: Path) -> None:
    job, tables = recorded_job(rt1), open_tables(rt1)
    encoder = job.stages["tokens"]
    assert isinstance(encoder, EpisodeTokens)
    told = json.loads((rt1 / "shards/manifest.json").read_text())["tokenizer"]["fidelity"]
    pairs = [p for clip in measure.sample(tables) for p in measure.pairs(tables, encoder, clip)]
    assert (told["clips"], told["frames"]) == (len({p.clip.clip_id for p in pairs}), len(pairs))
    true, decoded = np.stack([p.true for p in pairs]), np.stack([p.decoded for p in pairs])
    model = encoder.vqgan()
    np.testing.assert_array_equal(decoded, model.decode(model.encode(true)))
    assert told["psnr_db"] == pytest.approx(psnr_db(true, decoded), abs=0.006)


def test_totals_add_up_and_the_report_shows_robots(rt1: Path) -> None:
    result = funnel.count(open_tables(rt1))
    assert result.stages["ingest"].rejected["duplicate"] == 1
    assert result.stages["episodes"].rejected["unsuccessful"] >= 1
    assert result.failed == 1  # a truncated shard
    page = (rt1 / "report/index.html").read_text()
    assert "steps at 10 Hz" in page
    assert page.count("data:image/jpeg") > result.kept
    assert "cc-by-4.0" in page


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MINIATURES if name != "rt1"])
def test_every_miniature_goes_through(
    name: str, here: Cli, tiny_vqgan: Path, tmp_path: Path
) -> None:
    miniature(name)(tmp_path / "data")
    places = ["--data", tmp_path / "data", "--out", tmp_path / "out"]
    small = ["--tokens.model", tiny_vqgan, "--tokens.resolution", 64]
    planned = here("plan", name, *places, *OPTIONS.get(name, []))
    assert planned.returncode == 0, planned.stdout + planned.stderr
    small += ["--run.workers", 1]
    run = here("curate", name, *places, *small, *OPTIONS.get(name, []))
    assert run.returncode == 0, run.stdout + run.stderr
    result = funnel.count(open_tables(tmp_path / "out"))
    assert result.kept >= 5
    assert verify(tmp_path / "out/shards") == []
    told = here("status", tmp_path / "out")
    assert told.returncode == 0, told.stdout + told.stderr
    again = here("report", tmp_path / "out")
    assert again.returncode == 0, again.stdout + again.stderr


@pytest.mark.slow
def test_people_and_robots_train_together(
    rt1: Path, here: Cli, tiny_vqgan: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    places = ["--data", writer(tmp_path_factory)("ssv2"), "--out", tmp_path / "ssv2"]
    small = ["--tokens.model", tiny_vqgan, "--tokens.resolution", 64]
    run = here("curate", "ssv2", *places, *small, "--run.workers", 2)
    assert run.returncode == 0, run.stdout + run.stderr
    shards = [tmp_path / "ssv2/shards", rt1 / "shards"]
    size = ["--size", "nano", "--steps", 2, "--batch-size", 4, "--no-tensorboard"]
    run = here("train", "pretrain", "--shards", *shards, "--out", tmp_path / "run", *size)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{shards[1]}/train: " in run.stdout
    windows = ClipWindows(ShardDataset(shards[1]), Cut(5))
    assert len(windows) > len(ShardDataset(shards[1]))
    for i in range(len(windows)):
        sample = windows[i]
        source = np.floor(np.array(sample["frame_times_s"]) * 3 + 1e-6) / 3  # when it was taken
        assert np.abs(source - source[0] - 0.5 * np.arange(5)).max() <= 1 / 6 + 1e-6
        assert (np.diff(source) > 0).all()
