"""A whole run on a folder of videos without texts, on request: empty captions, and all say so."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from handloom.stages.miniatures import videos
from handloom.stages.tables import funnel
from handloom.stages.tables.parts import open_tables
from handloom.tokenize.shards import ShardDataset, verify

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
def test_clips_without_texts_go_the_whole_way_on_request(
    here: Cli, tiny_vqgan: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    videos.write(data, clips=8)
    (data / videos.TABLE).unlink()
    (data / "broken.mp4").write_bytes(b"no video")
    places = ["--data", data, "--out", out, "--caption.route", "none"]
    places += ["--ingest.val-percent", 40]
    small = ["--tokens.model", tiny_vqgan, "--tokens.resolution", 64, "--run.workers", 1]
    run = here("curate", "videos", *places, *small)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "5 videos, and 2 other files passed over" in run.stdout
    result = funnel.count(open_tables(out))
    assert result.kept >= 8
    assert result.failed == 1
    assert result.stages["ingest"].rejected["no_hands"] >= 4
    assert verify(out / "shards") == []
    found = ShardDataset(out / "shards", split="train")
    assert {found[i]["caption"] for i in range(len(found))} == {""}
    assert "left empty (route none)" in (out / "report/index.html").read_text()
    size = ["--size", "nano", "--steps", 2, "--batch-size", 2, "--no-tensorboard"]
    trained = here(
        "train", "pretrain", "--shards", out / "shards", "--out", tmp_path / "run", *size
    )
    told = trained.stdout + trained.stderr
    assert "captions are empty (curated with --caption.route none)" in told
    again = here("curate", "videos", *places, *small)
    assert again.returncode == 0, again.stdout + again.stderr
    assert funnel.count(open_tables(out)) == result
