"""Where the frames of a VQGAN's training come from, before any of them is decoded.

A source is named `PATH` or `PATH=WEIGHT`, and PATH is one of

- the output folder of `handloom curate`, whose tables say which spans of which files were kept;
- its `shards/` folder: codes are no pictures, so the run around it is read;
- a folder of videos and images, searched recursively.

What is found is a list of items: an image, a span of a video, or one camera of a robot episode.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from numpy import uint8
from numpy.typing import NDArray

from handloom.errors import UserError
from handloom.train.vqgan.config import Reopen

VIDEOS = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v"}
IMAGES = {".jpg", ".jpeg", ".png", ".webp"}
MOST_ITEMS = 200_000
"""Of a run, so that listing one of 38 million clips stays in memory. Buckets are hashes of videos:
the first ones that fill it are a fair sample."""


@dataclass(frozen=True)
class ImageItem:
    """A picture; it makes a pair with itself."""

    key: str
    path: Path
    group: str

    def identity(self) -> tuple[str, int]:
        """What a run that goes on compares: the name, and the size in bytes."""
        return self.key, size_of(self.path)


@dataclass(frozen=True)
class SpanItem:
    """Some seconds of a video, or all of it where `end_s` is infinite."""

    key: str
    path: Path
    group: str
    start_s: float = 0.0
    end_s: float = math.inf

    def identity(self) -> tuple[str, int]:
        """As `ImageItem.identity`."""
        return self.key, size_of(self.path)


@dataclass(frozen=True)
class EpisodeItem:
    """One robot episode, opened by whoever knows its files; a pair is of one of its cameras."""

    key: str
    run: Path
    row: dict[str, Any]
    group: str
    reopen: Reopen

    def identity(self) -> tuple[str, int]:
        """As `ImageItem.identity`; an episode's key is a hash that its own length is part of."""
        return self.key, 0

    def views(self) -> dict[str, Sequence[NDArray[uint8]]]:
        """The episode's pictures, by camera."""
        views: dict[str, Sequence[NDArray[uint8]]] = self.reopen(self.run, self.row)
        return views


Item = ImageItem | SpanItem | EpisodeItem
"""`key` names an item whatever folder it lies in; items of one `group`, a source video or an
episode, are never on both sides of training and validation."""


@dataclass(frozen=True)
class Source:
    """What one `--frames` names."""

    name: str
    weight: float
    train: tuple[Item, ...]
    held_out: tuple[Item, ...]
    official: bool
    """Whether the source itself says what is held out; else a hash decided."""


Split = tuple[tuple[Item, ...], tuple[Item, ...], bool]


def find(text: str, held_out: bool, reopen: Reopen | None) -> Source:
    """List what a source holds.

    Args:
        text: PATH or PATH=WEIGHT.
        held_out: whether all of it is for validation.
        reopen: opens robot episodes.

    Raises:
        UserError: no such folder, nothing in it, or a weight that is no number above 0.
    """
    path, weight = parse(text)
    run = _run_of(path)
    split = _of_run(run, reopen) if run else _of_folder(path)
    name = (run or path).resolve().name
    if held_out:
        return Source(name, weight, (), split[0] + split[1], True)
    return Source(name, weight, *split)


def parse(text: str) -> tuple[Path, float]:
    """Take PATH or PATH=WEIGHT apart; a folder whose name holds `=` is found all the same."""
    path, equals, number = str(text).rpartition("=")
    if not equals or Path(text).exists():
        path, number = str(text), "1"
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise UserError(f"--frames {text}: the weight {number!r} has to be a number above 0.")
    if not Path(path).is_dir():
        raise UserError(
            f"--frames {path} is not a folder: name the output of `handloom curate`, or a folder "
            "of videos or images."
        )
    return Path(path), weight


def _run_of(path: Path) -> Path | None:
    """The run that a folder is, or whose shards it is; None for a plain folder."""
    if (path / "run.yaml").is_file():
        return path
    if not (path / "manifest.json").is_file():
        return None
    parent = path.resolve().parent
    if (parent / "run.yaml").is_file():
        return parent
    raise UserError(
        f"--frames {path} holds token shards, and codes cannot be turned back into true frames: "
        "name the output folder of the `handloom curate` that made them."
    )


def _of_folder(folder: Path) -> Split:
    """All videos and images of a folder; the tenth with the smallest hashes is held out."""
    items: list[Item] = []
    for path in sorted(folder.rglob("*")):
        key, kind = path.relative_to(folder).as_posix(), path.suffix.lower()
        if kind in IMAGES:
            items.append(ImageItem(key, path, key))
        elif kind in VIDEOS:
            items.append(SpanItem(key, path, key))
    if not items:
        raise UserError(
            f"--frames {folder} holds neither videos nor images, and no run.yaml that would make "
            "it the output of `handloom curate`: name another folder."
        )
    return _divided(items, set())


def _of_run(run: Path, reopen: Reopen | None) -> Split:
    """What a run kept; its `val` is held out, or without one a tenth of its videos."""
    data = Path(_recorded_data(run))
    if not data.is_dir():
        raise UserError(
            f"--frames {run}: its media lay in {data}, which is not a folder here: bring it back, "
            f"or write where it is now as `data` into {run / 'run.yaml'}."
        )
    items: list[Item] = []
    validation = set()
    for row in islice(_kept(run), MOST_ITEMS):
        item = _item(run, data, row, reopen)
        items.append(item)
        if row["split"] != "train":
            validation.add(item.group)
    if not items:
        raise UserError(
            f"--frames {run}: its tables hold no clip that was kept: run `handloom curate` to its "
            "end, or look at `handloom status` for why clips were rejected."
        )
    return _divided(sorted(items, key=lambda item: item.key), validation)


def _item(run: Path, data: Path, row: dict[str, Any], reopen: Reopen | None) -> Item:
    path = data / row["media_path"]
    if "place" not in row:
        return SpanItem(row["clip_id"], path, row["video_id"], row["start_s"], row["end_s"])
    if reopen is None:
        raise UserError(
            f"--frames {run} is a run of robot episodes, which `handloom train vqgan` reads and "
            "this call was given no means to: pass `reopen`."
        )
    return EpisodeItem(row["clip_id"], run, row, row["video_id"], reopen)


def _divided(items: list[Item], held_out: set[str]) -> Split:
    """Training and held-out items; without official ones, the tenth of smallest hashes."""
    official = bool(held_out)
    if not official:
        groups = sorted({item.group for item in items}, key=_digest)
        held_out = set(groups[: len(groups) // 10 or min(1, len(groups) - 1)])
    kept = tuple(item for item in items if item.group not in held_out)
    return kept, tuple(item for item in items if item.group in held_out), official


def size_of(path: Path) -> int:
    """Bytes of a file; 0 for one that is not there, which counts as unreadable later."""
    return path.stat().st_size if path.is_file() else 0


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _recorded_data(run: Path) -> str:
    try:
        record = yaml.safe_load((run / "run.yaml").read_text())
        return str(record["data"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"{run / 'run.yaml'} does not say where the data lies ({type(error).__name__}): run "
            "`handloom curate` again, or name a folder of videos."
        ) from error


def _kept(run: Path) -> Iterator[dict[str, Any]]:
    """Rows of `ingest` that no later stage has rejected or failed, bucket by bucket."""
    buckets = {path.name.split("-")[0] for path in (run / "tables/ingest").glob("*.parquet")}
    gates = [stage for stage in ("select", "episodes") if (run / "tables" / stage).is_dir()]
    for bucket in sorted(buckets):
        passed = [{row["clip_id"] for row in _rows(run, gate, bucket)} for gate in gates]
        for row in _rows(run, "ingest", bucket):
            if all(row["clip_id"] in ids for ids in passed):
                yield row


# Whatever else a table holds is larger, and frames need none of it.
_WANTED = {"clip_id", "status", "reason", "error", "attempts", "dataset", "version", "split"}
_WANTED |= {"licence", "bucket", "unit", "video_id", "start_s", "end_s", "text", "text_kind"}
_WANTED |= {"media_path", "duration_s", "fps", "width", "height", "place", "views", "steps"}
_WANTED |= {"facts"}


def _rows(run: Path, stage: str, bucket: str) -> Iterator[dict[str, Any]]:
    """The rows of a bucket with status ok; parts of older settings are left aside."""
    folder = run / "tables" / stage
    for path in sorted(folder.glob(f"{bucket}-{_fingerprint(folder)}*.parquet")):
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in _WANTED]
            for batch in file.iter_batches(columns=columns):
                yield from (row for row in batch.to_pylist() if row["status"] == "ok")


def _fingerprint(folder: Path) -> str:
    """How the names of a table's current parts go on after their bucket; "" if it has no marker."""
    try:
        return str(json.loads((folder / "_stage.json").read_text())["fingerprint"])[:12]
    except (OSError, ValueError, KeyError):
        return ""
