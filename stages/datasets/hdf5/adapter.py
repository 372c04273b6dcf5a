"""Robot demonstrations in HDF5 files: robomimic, robosuite, LIBERO, ALOHA.

The four share the container and nothing else, so that each file is told apart by its content:
`robosuite` reads `/data/demo_<number>` (robomimic, LIBERO and what robosuite itself writes),
`aloha` reads `/action` beside `/observations/qpos`. Here the files are found and told apart.
"""

from collections.abc import Iterator
from pathlib import Path

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.formats.hdf5 import Recording
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
    """List the demonstrations of every HDF5 file below a folder; reads names, no arrays.

    A file that does not open is one episode with an error. Left out, with a reason: `no_pictures`
    (simulator states alone, or low-dimensional observations), `no_episodes` (an empty file) and
    `unknown_layout` (none of the layouts above).

    Raises:
        UserError: there is no HDF5 file.
    """
    for path in _files(root):
        try:
            # A list, so that the file is closed before anything is handed out.
            with Recording(root / path, path) as file:
                found = list(_listed(file))
        except MediaError as error:
            found = [SourceEpisode(path, path, (), "", "unknown", error=str(error))]
        yield from found


def load(root: Path, source: SourceEpisode, options: EpisodeOptions) -> Episode:
    """Read one demonstration; its pictures are read later, in blocks.

    Raises:
        MediaError: the file or the demonstration is damaged, or means something that is not told.
    """
    with Recording(root / source.media_path, source.media_path) as file:
        if aloha.fits(file):
            return aloha.load(file, source, options)
        return robosuite.load(file, source, options)


def annotations(root: Path) -> list[Path]:
    """Nothing: what there is to say stands in the files themselves."""
    _files(root)
    return []


def _files(root: Path) -> list[str]:
    paths = list(files_below(root, root, SUFFIXES)) if root.is_dir() else []
    if not paths:
        raise UserError(f"{root} holds no .hdf5 or .h5 file, expected demonstrations. {HOW_TO_GET}")
    return paths


def _listed(file: Recording) -> Iterator[SourceEpisode]:
    reason = "unknown_layout"
    for reader in (aloha, robosuite):
        if reader.fits(file):
            yield from (found := list(reader.episodes(file)))
            if found:
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
