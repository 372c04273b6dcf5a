"""Every adapter lists and reads in an object store what it does on a disk."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.errors import MediaError
from handloom.files import whole
from handloom.places import trust
from handloom.stages.datasets.catalog import VIDEO_FORMATS, robot_adapter, video_adapter
from handloom.stages.datasets.source import (
    CutRule,
    Episode,
    EpisodeOptions,
    RobotAdapter,
    SourceEpisode,
)
from handloom.stages.ingest.videos import inputs
from handloom.stages.media.container import Container
from tests.helpers.miniatures import WRITERS, Written, marked, writer

OPTIONS = EpisodeOptions(joint_unit="radians", hz=5.0)  # what some of them do not say
READS = 3  # episodes or videos of each


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return writer(tmp_path_factory)


@pytest.fixture
def both(request: pytest.FixtureRequest, written: Written, folder: Path) -> tuple[Path, Path]:
    """A miniature on this disk, and the same in the store."""
    local, remote = written(request.param), folder / "data"
    with whole(remote) as target:
        shutil.copytree(local, target, ignore=links_out_of(local))
    trust(remote)
    return local, remote


def links_out_of(root: Path) -> Any:
    """A store has no links: those of a miniature's dirt are left out."""
    return lambda folder, names: [n for n in names if (Path(folder) / n).is_symlink()]


def without_links(local: Path, listed: list[Any]) -> list[Any]:
    def is_link(path: str) -> bool:
        parts = Path(path).parts
        return any((local / Path(*parts[:n])).is_symlink() for n in range(1, len(parts) + 1))

    return [one for one in listed if not is_link(one.media_path)]


def facts(episode: Episode) -> dict[str, Any]:
    pictures = {name: view[0].tobytes() for name, view in episode.views.items()}
    return {
        "id": episode.episode_id, "text": episode.text, "hz": episode.hz, "facts": episode.facts,
        "state": episode.state.tobytes(), "action": episode.action.tobytes(), "first": pictures,
        "steps": [len(view) for view in episode.views.values()],
    }  # fmt: skip


# The videos of egocentric10k lie in tars: tests/stages/ingest/test_tars.py reads them in a store.
FILES = [name for name in WRITERS if name in VIDEO_FORMATS and name != "egocentric10k"]


@pytest.mark.parametrize("both", marked(FILES), indirect=True)
def test_videos_in_a_store_are_those_of_the_disk(
    both: tuple[Path, Path], request: pytest.FixtureRequest
) -> None:
    local, remote = both
    name = request.node.callspec.params["both"]
    adapter = video_adapter(name)
    ours = without_links(local, list(adapter.videos(local, CutRule())))
    theirs = list(adapter.videos(remote, CutRule()))
    assert len(ours) > 3
    assert {one.unit: one for one in theirs if one.media_path} == {
        one.unit: one for one in ours if one.media_path
    }
    assert inputs(name, adapter, remote) == inputs(name, adapter, local)
    present = [one for one in theirs if one.media_path][:READS]
    widths = [width(remote / one.media_path) for one in present]
    assert widths == [width(local / one.media_path) for one in present]
    assert max(n for n in widths if isinstance(n, int)) > 0


def width(path: Path) -> int | str:
    """Of a video's pictures, or what is wrong with the file."""
    try:
        with Container(path) as container:
            return int(container.stream.width)
    except MediaError as error:
        return str(error)


@pytest.mark.parametrize(
    "both", marked(n for n in WRITERS if n not in VIDEO_FORMATS), indirect=True
)
def test_episodes_in_a_store_are_those_of_the_disk(
    both: tuple[Path, Path], request: pytest.FixtureRequest
) -> None:
    local, remote = both
    name = str(request.node.callspec.params["both"])
    name = name.partition("_")[0]
    adapter = robot_adapter(name)
    ours = list(adapter.episodes(local, OPTIONS))
    assert list(adapter.episodes(remote, OPTIONS)) == ours
    assert inputs(name, adapter, remote) == inputs(name, adapter, local)
    good = [one for one in ours if not one.reason and not one.error]
    chosen = [good[i] for i in np.linspace(0, len(good) - 1, min(READS, len(good))).astype(int)]
    assert chosen
    for source in chosen:
        expected = loaded(adapter, local, source)
        assert loaded(adapter, remote, source) == expected


def loaded(adapter: RobotAdapter, root: Path, source: SourceEpisode) -> dict[str, Any] | str:
    """An episode, or what is wrong with it."""
    try:
        return facts(adapter.load(root, source, OPTIONS))
    except MediaError as error:
        return str(error).replace(str(root), "")
