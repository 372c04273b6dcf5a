"""From a miniature through `handloom curate` and `handloom export` to a dataset that is curated."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from handloom.stages.datasets.source import Episode
from handloom.tokenize.measure.pixels import psnr_db
from handloom.tokenize.shards import ShardDataset
from tests.helpers.lerobot_files import loaded
from tests.helpers.miniatures import writer

Cli = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def curate(here: Cli, tiny_vqgan: Path) -> Callable[[Path, Path], None]:
    """Runs `handloom curate lerobot` with a tiny tokenizer."""

    def run(data: Path, out: Path) -> None:
        small = ["--tokens.model", tiny_vqgan, "--tokens.resolution", 64, "--run.workers", 2]
        done = here("curate", "lerobot", "--data", data, "--out", out, *small)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def frames(episode: Episode, view: str) -> NDArray[np.uint8]:
    images = episode.views[view]
    return np.stack([images[i] for i in range(len(images))])


def by_content(root: Path) -> dict[tuple[str, bytes], Episode]:
    return {(one.text, one.state.tobytes()): one for one in loaded(root)}


def captions(run: Path) -> dict[bytes, str]:
    """Captions in a run's shards, by the states that they describe."""
    manifest = json.loads((run / "shards/manifest.json").read_text())
    datasets = [ShardDataset(run / "shards", split=split) for split in manifest["splits"]]
    samples = [dataset[i] for dataset in datasets for i in range(len(dataset))]
    return {sample["state"].tobytes(): sample["caption"] for sample in samples}


def test_lerobot_in_curated_out_and_in_again(
    here: Cli,
    curate: Callable[[Path, Path], None],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = writer(tmp_path_factory)("lerobot") / "v3.0"
    curate(data, tmp_path / "run")
    done = here("export", "lerobot", tmp_path / "run", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    before, after = by_content(data), by_content(tmp_path / "out")
    assert before.keys() == after.keys()
    for key, episode in after.items():
        np.testing.assert_array_equal(episode.action, before[key].action)
        for view in episode.views:
            pictures = frames(episode, view), frames(before[key], view)
            assert pictures[0].shape == pictures[1].shape
            assert psnr_db(*pictures) > 36
    curate(tmp_path / "out", tmp_path / "again")
    assert captions(tmp_path / "run") == captions(tmp_path / "again")
