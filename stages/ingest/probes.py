"""What probing found in media files, kept beside the tables so that no file is probed twice.

A file counts as known while its size and its modification time stay the same. Workers add a part
after each batch; damaged files are remembered too, until they change or `--retry-failed` asks.
"""

from dataclasses import asdict, dataclass, fields
from functools import cache
from hashlib import blake2b
from pathlib import Path

from handloom.errors import MediaError
from handloom.stages.datasets.source import stat_file
from handloom.stages.media.video import MediaFacts, probe
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Row

VERSION = "probe-2"  # raised whenever `probe` finds other facts in the same file


@dataclass(frozen=True, kw_only=True)
class Probe(Row):
    """What was found in one file; `clip_id` is its path below the data folder."""

    size: int
    mtime_ns: int
    start_s: float = 0.0
    duration_s: float = 0.0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    codec: str = ""
    rotation: int = 0
    pixel_aspect: float = 1.0
    offset_s: float = 0.0
    is_mirrored: bool = False
    is_cut: bool = False
    is_variable: bool = False


def probe_table(folder: Path) -> Table:
    """The table of all probes of a run."""
    return Table(folder / "probes", VERSION)


Version = tuple[str, int, int]  # of a file: path, size, modification time


class Probes:
    """The probes that this process knows of, by bucket and path."""

    def __init__(self, folder: Path | None) -> None:
        self._table = probe_table(folder) if folder else None
        self._known: dict[str, dict[Version, Probe]] = {}
        self._new: dict[str, list[Probe]] = {}

    @staticmethod
    @cache
    def of(folder: Path | None) -> "Probes":
        """The one object of this process for a folder; without a folder nothing is kept."""
        return Probes(folder)

    def probe(self, root: Path, path: str, bucket: str, max_pixels: int = 0) -> MediaFacts:
        """Facts of a file below `root`, from the table where the file is unchanged.

        Raises:
            MediaError: the file cannot be read as a video, or its pictures are too large.
        """
        stat = stat_file(root, path)
        version = (path, stat.st_size, stat.st_mtime_ns)
        found = self._bucket(bucket).get(version)
        if found is None:
            found = _probed(root, *version)
            self._bucket(bucket)[version] = found
            self._new.setdefault(bucket, []).append(found)
        if found.status == "failed":
            raise MediaError(found.error)
        return MediaFacts(**{f.name: getattr(found, f.name) for f in fields(MediaFacts)})

    def knows(self, root: Path, path: str, bucket: str) -> bool:
        """Whether a file below `root` was probed as it is now, so that `probe` would not open it.

        Raises:
            MediaError: there is no such file.
        """
        stat = stat_file(root, path)
        return (path, stat.st_size, stat.st_mtime_ns) in self._bucket(bucket)

    def flush(self) -> None:
        """Write what is new."""
        for bucket, rows in self._new.items():
            if self._table:
                names = "/".join(f"{row.clip_id}:{row.mtime_ns}" for row in rows)
                part = blake2b(names.encode(), digest_size=6).hexdigest()
                self._table.write(bucket, part, rows, Probe)
        self._new.clear()

    def _bucket(self, bucket: str) -> dict[Version, Probe]:
        if bucket not in self._known:
            if len(self._known) > 8:  # batches come by bucket: earlier ones are not asked for again
                self.flush()
                self._known.clear()
            rows = self._table.read(Probe, bucket) if self._table else ()
            known = {(row.clip_id, row.size, row.mtime_ns): row for row in rows}
            self._known[bucket] = known
        return self._known[bucket]


def _probed(root: Path, path: str, size: int, mtime_ns: int) -> Probe:
    if size == 0:
        error = f"{path}: the file is empty, expected a video: download it again"
        return Probe(clip_id=path, status="failed", error=error, size=0, mtime_ns=mtime_ns)
    try:
        facts = asdict(probe(root / path))
    except MediaError as error:
        return Probe(clip_id=path, status="failed", error=str(error), size=size, mtime_ns=mtime_ns)
    return Probe(clip_id=path, size=size, mtime_ns=mtime_ns, **facts)
