"""What a format of an export is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from handloom.export.clips import ExportClip, Pictures
from handloom.export.listing import Listing
from handloom.export.options import Rate
from handloom.export.parts import Limits, Part
from handloom.stages.tables.parts import Tables

Written = tuple[list[Path], dict[str, Any]]
"""The files of a part, and what is to be known of it later, as JSON."""


@dataclass(frozen=True)
class Job:
    """One export.

    Attributes:
        out: the run.
        dest: the folder to write.
        tables: of the run.
        listing: the clips.
        parts: how they are divided.
        pictures: opens the clips; None where the export holds no pictures.
    """

    out: Path
    dest: Path
    tables: Tables
    listing: Listing
    parts: list[Part]
    pictures: Pictures | None


class Format(Protocol):
    """Writes clips in a format of others."""

    @property
    def name(self) -> str:
        """As in `handloom export NAME`."""

    @property
    def form(self) -> int:
        """Raised when the same run and options would give other files."""

    @property
    def limits(self) -> Limits:
        """Where a part ends."""

    @property
    def rate(self) -> Rate:
        """Which steps of robot episodes are exported."""

    @property
    def opens_media(self) -> bool:
        """Whether the export holds pictures."""

    def select(self, listing: Listing) -> Listing:
        """The clips that the format holds. Raises UserError where it cannot hold these."""

    def write_part(self, job: Job, part: Part, clips: Iterator[ExportClip]) -> Written:
        """Write a part's files, each whole or not at all."""

    def finish(self, job: Job, records: Sequence[dict[str, Any]]) -> list[Path]:
        """Write what lies beside the parts, from their records, and return the files."""

    def reading(self, job: Job) -> str:
        """How the folder is read, in Markdown, with a program of a few lines."""

    @property
    def globs(self) -> list[str]:
        """Globs of the files with the data, below the folder."""

    def data_files(self) -> dict[str, str]:
        """Glob of the files of each split below the folder, or of all as `default`."""

    def record_fields(self, job: Job) -> dict[str, str]:
        """Columns of its Parquet files with their Croissant types; {} of other files."""
