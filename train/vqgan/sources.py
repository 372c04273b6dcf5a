"""Sources of frames for a VQGAN's training, as lists of items; no file is decoded here.

A source is named `PATH` or `PATH=WEIGHT`, and PATH is one of

- the output folder of `handloom curate`, whose tables say which spans of which files were kept;
- its `shards/` folder: codes are no pictures, so the run around it is read;
- a folder of videos and images, searched recursively.

What is found is a list of items: an image, a clip of a video, or a robot episode.
"""

import hashlib
import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from handloom.errors import UserError
from handloom.stages.media.clip_frames import ClipFrames, Framing, whole
from handloom.stages.media.episode_views import EpisodeViews
from handloom.stages.media.runs import RecordedRun
from handloom.stages.tables.rows import Clip, EpisodePlace
from handloom.tars import tar_of

VIDEOS = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v"}
IMAGES = {".jpg", ".jpeg", ".png", ".webp"}
MOST_ITEMS = 200_000
"""Items listed of a run, so that one of 38 million clips stays in memory. Buckets are hashes of
videos: the first ones that fill it are a fair sample."""


@dataclass(frozen=True)
class ImageItem:
    """A picture; it makes a pair with itself."""

    key: str
    path: Path
    group: str

    def identity(self) -> tuple[str, int]:
        """Name, and size in bytes: a resumed run must find the same ones."""
        return self.key, size_of(self.path)


@dataclass(frozen=True)
class ClipItem:
    """A clip of a run, or all of a video file that is of none."""

    pictures: ClipFrames
    clip: Clip
    framing: Framing

    @property
    def key(self) -> str:
        """The clip's id, or the file's place in its folder."""
        return self.clip.clip_id

    @property
    def group(self) -> str:
        """The source video."""
        return self.clip.video_id

    def identity(self) -> tuple[str, int]:
        """Name, and size of the video in bytes."""
        return self.key, size_of(self.pictures.data / self.clip.media_path)


@dataclass(frozen=True)
class EpisodeItem:
    """One robot episode; a pair is of one of its cameras."""

    pictures: EpisodeViews
    place: EpisodePlace

    @property
    def key(self) -> str:
        """The episode's id, a hash that its own length is part of."""
        return self.place.clip_id

    @property
    def group(self) -> str:
        """The episode's own id in its dataset."""
        return self.place.video_id

    def identity(self) -> tuple[str, int]:
        """Name alone; it covers the content."""
        return self.key, 0


Item = ImageItem | ClipItem | EpisodeItem
"""`key` names an item whatever folder it lies in; items of one `group`, a source video or an
episode, are never on both sides of training and validation."""


@dataclass(frozen=True)
class Source:
    """The items of one `--frames`, divided into training and validation."""

    name: str
    weight: float
    train: tuple[Item, ...]
    held_out: tuple[Item, ...]
    official: bool
    """True where the source itself names what is held out; else a hash decided."""


Split = tuple[tuple[Item, ...], tuple[Item, ...], bool]


def find(text: str, held_out: bool) -> Source:
    """List what a source holds.

    Args:
        text: PATH or PATH=WEIGHT.
        held_out: use all of it for validation.

    Raises:
        UserError: no such folder, nothing in it, or a weight that is no number above 0.
    """
    path, weight = parse(text)
    run = _run_of(path)
    split = _of_run(run) if run else _of_folder(path)
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
            items.append(_whole_file(folder, key))
    if not items:
        raise UserError(
            f"--frames {folder} holds neither videos nor images, and no run.yaml that would make "
            "it the output of `handloom curate`: name another folder."
        )
    return _divided(items, set())


def _whole_file(folder: Path, path: str) -> ClipItem:
    """A video that no run knows, as a clip from its start to its end."""
    clip = Clip(
        clip_id=path, video_id=path, unit=path, media_path=path, start_s=0.0, end_s=math.inf,
        dataset="", version="", split="", licence="", bucket="", text="", text_kind="",
    )  # fmt: skip
    return ClipItem(ClipFrames(folder, scattered=True), clip, whole(clip))


def _of_run(out: Path) -> Split:
    """The clips that a run kept; its `val` is held out, or without one a tenth of its videos."""
    run = RecordedRun(out)
    if not run.data.is_dir():
        raise UserError(
            f"--frames {out}: its media lay in {run.data}, which is not a folder here: bring it "
            f"back, or write where it is now as `data` into {out / 'run.yaml'}."
        )
    items: list[Item] = []
    validation = set()
    for clip, framing in islice(run.kept(), MOST_ITEMS):
        item = _item(run, clip, framing)
        items.append(item)
        if clip.split != "train":
            validation.add(item.group)
    if not items:
        raise UserError(
            f"--frames {out}: its tables hold no clip that was kept: run `handloom curate` to its "
            "end, or look at `handloom status` for why clips were rejected."
        )
    return _divided(sorted(items, key=lambda item: item.key), validation)


def _item(run: RecordedRun, clip: Clip, framing: Framing) -> Item:
    if isinstance(run.pictures, EpisodeViews):
        assert isinstance(clip, EpisodePlace)
        return EpisodeItem(run.pictures, clip)
    return ClipItem(run.pictures, clip, framing)


def _divided(items: list[Item], held_out: set[str]) -> Split:
    """Training and held-out items; without official ones, the tenth of smallest hashes."""
    official = bool(held_out)
    if not official:
        groups = sorted({item.group for item in items}, key=_digest)
        held_out = set(groups[: len(groups) // 10 or min(1, len(groups) - 1)])
    kept = tuple(item for item in items if item.group not in held_out)
    return kept, tuple(item for item in items if item.group in held_out), official


def size_of(path: Path) -> int:
    """Bytes of a file, of a member of a tar those of the tar; 0 for one that is not there, which
    counts as unreadable later."""
    path = tar_of(path) or path
    return path.stat().st_size if path.is_file() else 0


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
