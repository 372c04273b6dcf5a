"""A pipe among a robot dataset's files costs its rows, and nobody waits for its writer."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.catalog import robot_adapter
from handloom.stages.datasets.source import EpisodeOptions
from tests.helpers.miniatures import Written, writer

OPTIONS = {
    "hdf5": EpisodeOptions(text="do it"),
    "rlds": EpisodeOptions(hz=10, action_kind="ee_delta"),
    "lerobot": EpisodeOptions(action_kind="ee_delta"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return writer(tmp_path_factory)


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """Whoever waits for the writer of a pipe is woken, and fails."""
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.mark.long
@pytest.mark.parametrize(
    ("layout", "adapter_name", "pattern"),
    [
        ("hdf5", "hdf5", "**/*.hdf5"),
        ("rlds", "rlds", "**/*.tfrecord*"),
        ("rt1", "rt1", "**/*.tfrecord*"),
        ("lerobot", "lerobot", "v2.1/data/**/*_000002.parquet"),
        ("bridge_raw", "bridge", "**/policy_out.pkl"),
    ],
)
def test_a_pipe_instead_of_a_file(
    written: Written, tmp_path: Path, layout: str, adapter_name: str, pattern: str
) -> None:
    root = tmp_path / "data"
    shutil.copytree(written(layout), root)
    root = root / "v2.1" if layout == "lerobot" else root
    replaced = sorted((tmp_path / "data").glob(pattern))[0]
    replaced.unlink()
    os.mkfifo(replaced)
    options = OPTIONS.get(adapter_name, EpisodeOptions())
    adapter, good, said = robot_adapter(adapter_name), 0, []
    for source in adapter.episodes(root, options):
        try:
            if source.error:
                raise MediaError(source.error)
            if source.reason:  # as where the file is missing
                said.append(f"{source.media_path}: not a named pipe, but {source.reason}")
            else:
                adapter.load(root, source, options)
                good += 1
        except (MediaError, UserError) as error:
            said.append(str(error))
    assert good
    assert any("a named pipe" in one for one in said), said
