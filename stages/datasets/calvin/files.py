"""CALVIN's files: one .npz for each frame, the segments of play, and the language windows."""

import functools
import hashlib
import operator
import os
import re
import struct
import zipfile
import zlib
from array import array
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.formats import pickles

LANGUAGE = "auto_lang_ann.npy"
SEGMENTS = "ep_start_end_ids.npy"
MAX_MEMBER = 16 << 20  # bytes of one array of a frame; the largest has 160 kB

MAX_ID = 10**15

_FRAME = re.compile(r"(.*?)([0-9]{1,15})\.npz")
_DAMAGED = (
    zipfile.BadZipFile, OSError, EOFError, KeyError, ValueError, NotImplementedError, RuntimeError,
    struct.error, zlib.error,
)  # fmt: skip

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Naming:
    """How frame files are called: a prefix and the id with at least so many digits."""

    prefix: str
    digits: int

    def name(self, frame: int) -> str:
        """The file of a frame."""
        return f"{self.prefix}{frame:0{self.digits}d}.npz"


@dataclass(frozen=True)
class Language:
    """The language windows of a split.

    Attributes:
        texts: instructions by (first, last frame), each with its task; in the order of the file.
        sha256: of the file, which tells releases apart.
    """

    texts: dict[tuple[int, int], tuple[tuple[str, str], ...]]
    sha256: str


def naming(name: str) -> Naming | None:
    """What the name of one frame's file tells; None for other files."""
    match = _FRAME.fullmatch(name)
    return Naming(match[1], len(match[2])) if match else None


def frame_ids(folder: Path) -> tuple[Naming, Ids]:
    """The naming of a folder's frames and their ids, sorted; millions of files in one pass.

    The prefix is that of most files, the digits are the fewest: with zeros in front all names have
    the same number, without them the fewest is right for all.
    """
    ids: dict[str, array[int]] = defaultdict(functools.partial(array, "q"))
    digits: dict[str, int] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _FRAME.fullmatch(entry.name)
            if match:
                prefix, number = match.groups()
                ids[prefix].append(int(number))
                digits[prefix] = min(digits.get(prefix, 99), len(number))
    if not ids:
        raise UserError(
            f"{folder} holds no frames, expected episode_0000000.npz and so on; unzip it again."
        )
    prefix = max(ids, key=lambda name: (len(ids[name]), name))
    return Naming(prefix, digits[prefix]), np.unique(np.frombuffer(ids[prefix], np.int64))


@functools.lru_cache(maxsize=8)
def _segments(path: Path, _version: tuple[int, int]) -> Ids:
    bounds = pickles.load_npy(path)
    if bounds.ndim != 2 or bounds.shape[1] != 2 or bounds.dtype.kind not in "iu":
        raise MediaError(
            f"{path.name} holds {bounds.dtype} {list(bounds.shape)}, expected integers [segments, "
            "2]: first and last frame of each; download it again"
        )
    return bounds[np.argsort(bounds[:, 0])].astype(np.int64)


def segments(folder: Path) -> Ids | None:
    """First and last frame of the segments of play, int64 [segments, 2], or None if not there.

    Raises:
        MediaError: the file is damaged.
    """
    path = folder / SEGMENTS
    return _segments(path, _version(path)) if path.is_file() else None


def inside_segment(bounds: Ids, start: int, end: int) -> bool:
    """Whether two frames and what is between them lie in one segment; both ends are inclusive."""
    at = int(np.searchsorted(bounds[:, 0], start, side="right")) - 1
    return at >= 0 and end <= int(bounds[at, 1])


def language_file(folder: Path) -> Path | None:
    """The annotations of a split: those of lang_annotations, or of the first other lang_ folder.

    The others, lang_all-MiniLM-L6-v2 and so on, hold the same texts with other embeddings.
    """
    found = sorted(folder.glob(f"lang_*/{LANGUAGE}"), key=lambda path: path.parent.name)
    found.sort(key=lambda path: path.parent.name != "lang_annotations")
    return found[0] if found else None


def language(path: Path) -> Language:
    """Read the language windows; kept while the file stays the same.

    Raises:
        MediaError: the file is damaged, or asks for more than arrays and containers.
    """
    return _language(path, _version(path))


@functools.lru_cache(maxsize=4)
def _language(path: Path, _version: tuple[int, int]) -> Language:
    held = pickles.load_npy(path)
    told = held.item() if held.shape == () else None
    try:
        spoken = told["language"]  # type: ignore[index]
        texts, tasks = list(spoken["ann"]), list(spoken.get("task") or [])
        bounds = [(operator.index(a), operator.index(b)) for a, b in told["info"]["indx"]]  # type: ignore[index]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise MediaError(
            f"{path.name} holds no language/ann and info/indx of pairs of frames: it is not "
            "CALVIN's; download it again"
        ) from None
    if any(not -MAX_ID < frame < MAX_ID for pair in bounds for frame in pair):
        raise MediaError(f"{path.name} has windows of frames beyond {MAX_ID}; download it again")
    if len(texts) != len(bounds) or not all(isinstance(text, str) for text in texts):
        raise MediaError(
            f"{path.name} has {len(texts)} texts and {len(bounds)} windows; download it again"
        )
    tasks = [str(task) for task in tasks] if len(tasks) == len(texts) else [""] * len(texts)
    found: dict[tuple[int, int], dict[str, str]] = defaultdict(dict)
    for place, text, task in zip(bounds, texts, tasks, strict=True):
        found[place].setdefault(text.strip(), task)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Language({place: tuple(said.items()) for place, said in found.items()}, digest)


def scene(folder: Path, frame: int) -> str:
    """The scene a frame belongs to, such as calvin_scene_A, or empty where nothing tells.

    Only scene_info.npy does; the configuration in .hydra names scene D in every download.
    """
    path = folder / "scene_info.npy"
    try:
        ranges = _scenes(path, _version(path)) if path.is_file() else {}
    except MediaError:  # nothing but this remark hangs on the file
        return ""
    return next((name for name, (a, b) in ranges.items() if a <= frame <= b), "")


@functools.lru_cache(maxsize=4)
def _scenes(path: Path, _version: tuple[int, int]) -> dict[str, tuple[int, int]]:
    held = pickles.load_npy(path)
    told = held.item() if held.shape == () else None
    try:
        return {
            str(name): (operator.index(a), operator.index(b))
            for name, (a, b) in told.items()  # type: ignore[union-attr]
        }
    except (TypeError, ValueError, AttributeError):
        raise MediaError(f"{path.name} does not tell first and last frame of scenes") from None


def _version(path: Path) -> tuple[int, int]:
    """What changes when a file is replaced; a key of the caches, nothing else."""
    state = path.stat()
    return state.st_mtime_ns, state.st_size


def members(path: Path, keys: tuple[str, ...]) -> list[NDArray[Any]]:
    """Some arrays of a frame; the others are not read.

    Raises:
        MediaError: the file is not there, is cut or lacks one of them.
    """
    return [pickles.parse_npy(raw_member(path, key), f"{path.name}: {key}") for key in keys]


def raw_member(path: Path, key: str) -> bytes:
    """The .npy file that holds one array of a frame, unpacked. Raises MediaError as `members`."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(f"{key}.npy")
            if entry.file_size > MAX_MEMBER:
                raise MediaError(
                    f"{path.name}: {key} claims {entry.file_size} bytes, expected at most "
                    f"{MAX_MEMBER}: this is no frame of CALVIN"
                )
            return archive.read(entry)
    except FileNotFoundError:
        raise MediaError(f"{path.name} is not there; unzip the download again") from None
    except _DAMAGED as error:
        raise MediaError(
            f"{path.name}: {key} cannot be read ({_plain(error)}); unzip the download again"
        ) from None


def has_member(path: Path, key: str) -> bool:
    """Whether a frame holds an array. Raises MediaError where it is no .npz file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{key}.npy" in archive.namelist()
    except _DAMAGED as error:
        raise MediaError(
            f"{path.name} cannot be read ({_plain(error)}); unzip the download again"
        ) from None


def _plain(error: Exception) -> str:
    """A message without the file's path, which OSError adds."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class FramePictures:
    """One camera's pictures: an array in the file of each frame, read when asked for.

    Args:
        files: of the frames, in order.
        key: name of the array.
    """

    def __init__(self, files: list[Path], key: str) -> None:
        self.files = files
        self.key = key

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.files)

    def __getitem__(self, step: int) -> NDArray[np.uint8]:
        """One picture, RGB uint8 [H, W, 3]. Raises MediaError if it cannot be read."""
        (picture_hwc,) = members(self.files[step], (self.key,))
        if picture_hwc.dtype != np.uint8 or picture_hwc.ndim != 3 or picture_hwc.shape[2] != 3:
            raise MediaError(
                f"{self.files[step].name}: {self.key} is {picture_hwc.dtype} "
                f"{list(picture_hwc.shape)}, expected a picture [height, width, 3] of uint8"
            )
        return picture_hwc

    def fingerprint(self, step: int) -> bytes:
        """A hash of the array's bytes, unpacked."""
        return hashlib.blake2b(raw_member(self.files[step], self.key), digest_size=16).digest()
