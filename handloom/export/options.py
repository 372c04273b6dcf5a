"""Options of `handloom export`, by format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from handloom.errors import UserError

Rate = Literal["common", "source"]
PLACES = frozenset({"out", "dest", "data", "skip_missing", "workers"})
"""Options that change no byte of the export: where things lie, and who works."""


@dataclass(frozen=True)
class ExportOptions:
    """Options of every format."""

    out: Annotated[Path, tyro.conf.Positional]
    """The folder given to `handloom curate` as --out; the run must be finished."""
    dest: Annotated[Path, tyro.conf.Positional]
    """The folder to write: new, empty, or that of an interrupted export, which goes on."""
    data: Path | None = None
    """Where the videos or episodes lie now, if they were moved after the run."""
    leave_out: tuple[str, ...] = ()
    """Clips to leave out, by id."""
    skip_missing: bool = False
    """Leave out clips whose file is gone, and count them; by default the command ends and names
    the files."""

    workers: int = 0
    """Processes that decode and encode; 0 is one for each core. Each takes up to 2 GB."""

    def __post_init__(self) -> None:
        check_range("workers", self.workers, 0, 1 << 16)
        check_range("crf", getattr(self, "crf", 0), 0, 51)
        check_range("jpeg-quality", getattr(self, "jpeg_quality", 1), 1, 100)


@dataclass(frozen=True)
class EpisodeExport(ExportOptions):
    """Options of formats that hold robot episodes alone."""

    rate: Rate = "common"
    """Steps a second: `common`, those of the shards (10 Hz unless --episodes.hz says otherwise), or
    `source`, those of the recording. Both are in handloom's convention of states and actions."""
    views: tuple[str, ...] = ()
    """Cameras to export, by name; by default all of them. Episodes without one are left out."""
    kind: int = 0
    """Which episodes, where a run holds several kinds (rates, widths or cameras): the number that
    the command's message gives to the kind."""


@dataclass(frozen=True)
class LeRobotExport(EpisodeExport):
    """Write the kept robot episodes of a run as a LeRobot dataset, v3.0."""

    crf: int = 20
    """Quality of the H.264 videos, 0 (best, largest) to 51."""


@dataclass(frozen=True)
class RldsExport(EpisodeExport):
    """Write the kept robot episodes of a run as RLDS: TFRecords that tensorflow_datasets reads."""

    jpeg_quality: int = 95
    """Quality of the JPEG images, 1 to 100 (best, largest)."""


@dataclass(frozen=True)
class WebDatasetExport(ExportOptions):
    """Write the kept clips or episodes of a run as WebDataset tars: an MP4 for each camera and a
    JSON for each clip, and the states and actions of robots as .npy."""

    rate: Rate = "common"
    """Of robot episodes, steps a second: `common`, those of the shards, or `source`, those of the
    recording."""
    crf: int = 20
    """Quality of the H.264 videos, 0 (best, largest) to 51."""


@dataclass(frozen=True)
class ParquetExport(ExportOptions):
    """Write the kept clips or episodes of a run as Parquet, a row each: caption, span, provenance,
    states and actions, and an MP4 for each camera."""

    rate: Rate = "common"
    """Of robot episodes, steps a second: `common`, those of the shards, or `source`, those of the
    recording."""
    videos: bool = True
    """Put the MP4 files into the rows; without them no media are opened."""
    crf: int = 20
    """Quality of the H.264 videos, 0 (best, largest) to 51."""


def check_range(name: str, value: int, least: int, most: int) -> None:
    """Raise UserError for a number outside its range."""
    if not least <= value <= most:
        raise UserError(f"--{name} is {value}, expected a number from {least} to {most}.")
