"""Where videos were cut, kept beside the tables: another split or text opens no file again.

A file counts as known while its size and its modification time stay the same, as in `probes.py`.
"""

from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path

from handloom.stages.datasets.source import SourceVideo, stat_file
from handloom.stages.ingest.cutting import Piece
from handloom.stages.tables.parts import Table, bucket_of
from handloom.stages.tables.rows import Row


@dataclass(frozen=True, kw_only=True)
class Cut(Row):
    """The pieces of a unit; `clip_id` is its name. Lists are parallel."""

    size: int
    mtime_ns: int
    starts_s: list[float]
    ends_s: list[float]
    reasons: list[str]
    errors: list[str]

    def pieces(self) -> list[Piece]:
        """The pieces, in the order of time."""
        columns = self.starts_s, self.ends_s, self.reasons, self.errors
        return [Piece(*values) for values in zip(*columns, strict=True)]


Version = tuple[str, int, int]  # of a unit: its name, its file's size and modification time


class Cuts:
    """The cuts under one setting that this process knows of, by bucket and unit."""

    def __init__(self, folder: Path | None, setting: str) -> None:
        self._table = Table(folder / "cuts", setting) if folder else None
        self._known: dict[str, dict[Version, Cut]] = {}
        self._new: dict[str, list[Cut]] = {}

    @staticmethod
    @cache
    def of(folder: Path | None, setting: str) -> "Cuts":
        """The one object of this process for a folder and a setting, such as a fingerprint."""
        return Cuts(folder, setting)

    def get(self, root: Path, video: SourceVideo) -> list[Piece] | None:
        """The pieces of a unit; None where they are not known.

        Raises:
            MediaError: there is no such file.
        """
        found = self._bucket(bucket_of(video.bucket_key)).get(_version(root, video))
        return found.pieces() if found else None

    def put(self, root: Path, video: SourceVideo, pieces: list[Piece]) -> None:
        """Keep the pieces of a unit."""
        name, size, mtime_ns = version = _version(root, video)
        cut = Cut(
            clip_id=name,
            size=size,
            mtime_ns=mtime_ns,
            starts_s=[piece.start_s for piece in pieces],
            ends_s=[piece.end_s for piece in pieces],
            reasons=[piece.reason for piece in pieces],
            errors=[piece.error for piece in pieces],
        )
        bucket = bucket_of(video.bucket_key)
        self._bucket(bucket)[version] = cut
        self._new.setdefault(bucket, []).append(cut)

    def flush(self) -> None:
        """Write what is new."""
        for bucket, cuts in self._new.items():
            if self._table:
                names = "/".join(f"{cut.clip_id}:{cut.mtime_ns}" for cut in cuts)
                part = blake2b(names.encode(), digest_size=6).hexdigest()
                self._table.write(bucket, part, cuts, Cut)
        self._new.clear()

    def _bucket(self, bucket: str) -> dict[Version, Cut]:
        if bucket not in self._known:
            if len(self._known) > 8:  # batches come by bucket: earlier ones are not asked for again
                self.flush()
                self._known.clear()
            rows = self._table.read(Cut, bucket) if self._table else ()
            self._known[bucket] = {(row.clip_id, row.size, row.mtime_ns): row for row in rows}
        return self._known[bucket]


def _version(root: Path, video: SourceVideo) -> Version:
    stat = stat_file(root, video.media_path)
    return video.unit, stat.st_size, stat.st_mtime_ns
