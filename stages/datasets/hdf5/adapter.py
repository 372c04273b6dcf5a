"""Robot demonstrations in HDF5 files: robomimic, robosuite, LIBERO, ALOHA.

The four share only the container, so that the layout of each file is recognised by its content:
robosuite.py reads `/data/demo_<number>` (robomimic, LIBERO and robosuite's own files), aloha.py
reads `/action` beside `/observations/qpos`. This module finds the files and chooses the reader.
"""

from collections.abc import Iterator
from pathlib import Path

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.formats.hdf5 import Hdf5File
from handloom.stages.datasets.hdf5 import aloha, robosuite
from handloom.stages.datasets.media import files_below
from handloom.stages.datasets.source import Episode, EpisodeOptions, RobotAdapter, SourceEpisode

HOW_TO_GET = (
    "robomimic: `python -m robomimic.scripts.download_datasets`, then render the pictures with its "
    "`dataset_states_to_obs` script; LIBERO: `python benchmark_scripts/download_libero_datasets.py`"
    "; ALOHA and ACT: the recordings' episode_<number>.hdf5 as they are."
)
SUFFIXES = (".hdf5", ".h5")


def episodes(root: Path, options: EpisodeOptions) -> Iterator[SourceEpisode]:
    """List the demonstrations of every HDF5 file below a folder; reads names but no arrays.

    A file that does not open is one episode with an error. Reasons for leaving out: `no_pictures`
    (only simulator states or low-dimensional observations), `no_episodes` (an empty file) and
    `unknown_layout` (none of the layouts above).

    Raises:
        UserError: there is no HDF5 file.
    """
    for path in _find_files(root):
        try:
            # A list, so that the file is closed before an episode is yielded.
            with Hdf5File(root / path, path) as file:
                listed = list(_list_episodes(file))
        except MediaError as error:
            listed = [SourceEpisode(path, path, (), "", "unknown", error=str(error))]
        yield from listed


def load(root: Path, source: SourceEpisode, options: EpisodeOptions) -> Episode:
    """Read one demonstration; its images are read later, in blocks.

    Raises:
        MediaError: the file or the demonstration is damaged, or its convention is unknown.
    """
    with Hdf5File(root / source.media_path, source.media_path) as file:
        if aloha.matches_layout(file):
            return aloha.load(file, options)
        return robosuite.load(file, source, options)


def annotations(root: Path) -> list[Path]:
    """No files: what describes the episodes is in the HDF5 files themselves."""
    _find_files(root)
    return []


def _find_files(root: Path) -> list[str]:
    paths = list(files_below(root, root, SUFFIXES)) if root.is_dir() else []
    if not paths:
        raise UserError(f"{root} holds no .hdf5 or .h5 file, expected demonstrations. {HOW_TO_GET}")
    return paths


def _list_episodes(file: Hdf5File) -> Iterator[SourceEpisode]:
    reason = "unknown_layout"
    for reader in (aloha, robosuite):
        if reader.matches_layout(file):
            yield from (listed := list(reader.episodes(file)))
            if listed:
                return
            reason = "no_episodes"
    yield SourceEpisode(file.name, file.name, (), "", "unknown", reason=reason)


ADAPTER = RobotAdapter(
    episodes=episodes,
    load=load,
    annotations=annotations,
    licence="unknown",
    terms="Each set has its own licence, which its files do not tell; set --ingest.licence.",
    how_to_get=HOW_TO_GET,
)
