"""CALVIN's files: one .npz a frame, the segments of play, and the language windows."""

import functools
import hashlib
import operator
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
from handloom.places import scandir
from handloom.stages.datasets.formats import pickles
from handloom.stages.datasets.media import cached_by_file

LANGUAGE = "auto_lang_ann.npy"
SEGMENTS = "ep_start_end_ids.npy"
MAX_ARRAY = 16 << 20  # bytes of one array of a frame; the largest has 160 kB
MAX_ID = 10**15

_FRAME = re.compile(r"(.*?)([0-9]{1,15})\.npz")
_DAMAGED = (
    zipfile.BadZipFile, OSError, EOFError, KeyError, ValueError, NotImplementedError, RuntimeError,
    struct.error, zlib.error,
)  # fmt: skip

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class FrameNaming:
    """Naming of frame files: a prefix, and the id with at least `digits` digits."""

    prefix: str
    digits: int

    def name(self, frame: int) -> str:
        """Name of the file of a frame."""
        return f"{self.prefix}{frame:0{self.digits}d}.npz"


@dataclass(frozen=True)
class LanguageWindows:
    """The language windows of a split.

    Attributes:
        texts: instructions of each (first, last frame), each with its task, in the file's order.
        sha256: hash of the file, which identifies the release.
    """

    texts: dict[tuple[int, int], tuple[tuple[str, str], ...]]
    sha256: str


def parse_frame_name(name: str) -> FrameNaming | None:
    """The naming that one file name follows; None if it is not a frame's."""
    match = _FRAME.fullmatch(name)
    return FrameNaming(match[1], len(match[2])) if match else None


def list_frames(folder: Path) -> tuple[FrameNaming, Ids]:
    """The naming of a folder's frames, and their sorted ids; lists millions of files in one pass.

    The prefix is that of most files. The digits are the fewest of any name: zero-padded names all
    have the same number of digits, and for others the fewest suit every id.
    """
    ids: dict[str, array[int]] = defaultdict(functools.partial(array, "q"))
    digits: dict[str, int] = {}
    with scandir(folder) as entries:
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
    return FrameNaming(prefix, digits[prefix]), np.unique(np.frombuffer(ids[prefix], np.int64))


@cached_by_file(maxsize=8)
def _read_segments(path: Path) -> Ids:
    bounds = pickles.load_npy(path)
    if bounds.ndim != 2 or bounds.shape[1] != 2 or bounds.dtype.kind not in "iu":
        raise MediaError(
            f"{path.name} holds {bounds.dtype} {list(bounds.shape)}, expected integers [segments, "
            "2]: first and last frame of each; download it again"
        )
    return bounds[np.argsort(bounds[:, 0])].astype(np.int64)


def read_segments(folder: Path) -> Ids | None:
    """First and last frame of the segments of play, int64 [segments, 2]; None without the file.

    Raises:
        MediaError: the file is damaged.
    """
    path = folder / SEGMENTS
    return _read_segments(path) if path.is_file() else None


def in_one_segment(bounds: Ids, start: int, end: int) -> bool:
    """Whether the frames from start to end, both inclusive, lie in one segment."""
    at = int(np.searchsorted(bounds[:, 0], start, side="right")) - 1
    return at >= 0 and end <= int(bounds[at, 1])


def find_language_file(folder: Path) -> Path | None:
    """The annotations of a split, in lang_annotations or else the first other lang_ folder.

    The others, lang_all-MiniLM-L6-v2 and so on, hold the same texts with other embeddings.
    """
    files = sorted(folder.glob(f"lang_*/{LANGUAGE}"), key=lambda path: path.parent.name)
    files.sort(key=lambda path: path.parent.name != "lang_annotations")
    return files[0] if files else None


@cached_by_file(maxsize=4)
def read_language(path: Path) -> LanguageWindows:
    """The language windows of a split.

    Raises:
        MediaError: the file is damaged, or holds more than arrays and containers.
    """
    array = pickles.load_npy(path)
    content = array.item() if array.shape == () else None
    try:
        annotation = content["language"]  # type: ignore[index]
        texts, tasks = list(annotation["ann"]), list(annotation.get("task") or [])
        # operator.index takes integers of numpy and of Python, and no floats.
        bounds = [(operator.index(a), operator.index(b)) for a, b in content["info"]["indx"]]  # type: ignore[index]
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
    by_window: dict[tuple[int, int], dict[str, str]] = defaultdict(dict)
    for place, text, task in zip(bounds, texts, tasks, strict=True):
        by_window[place].setdefault(text.strip(), task)  # of a repeated text the first task
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return LanguageWindows(
        {place: tuple(tasks_by_text.items()) for place, tasks_by_text in by_window.items()}, digest
    )


def scene_name(folder: Path, frame: int) -> str:
    """The scene of a frame, such as calvin_scene_A, or empty if it is unknown.

    It is in scene_info.npy alone; the configuration in .hydra names scene D in every download.
    """
    path = folder / "scene_info.npy"
    try:
        ranges = _read_scenes(path) if path.is_file() else {}
    except MediaError:  # the file serves provenance only
        return ""
    return next((name for name, (a, b) in ranges.items() if a <= frame <= b), "")


@cached_by_file(maxsize=4)
def _read_scenes(path: Path) -> dict[str, tuple[int, int]]:
    array = pickles.load_npy(path)
    ranges = array.item() if array.shape == () else None
    try:
        return {
            str(name): (operator.index(a), operator.index(b))
            for name, (a, b) in ranges.items()  # type: ignore[union-attr]
        }
    except (TypeError, ValueError, AttributeError):
        raise MediaError(f"{path.name} does not tell first and last frame of scenes") from None


def read_arrays(path: Path, keys: tuple[str, ...]) -> list[NDArray[Any]]:
    """Some arrays of a frame, in the order of the keys; the others are not read.

    Raises:
        MediaError: the file is missing, cut off, or lacks one of them.
    """
    return [pickles.parse_npy(read_member(path, key), f"{path.name}: {key}") for key in keys]


def read_member(path: Path, key: str) -> bytes:
    """The .npy file of one array of a frame, decompressed. Raises MediaError as `read_arrays`."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(f"{key}.npy")
            if entry.file_size > MAX_ARRAY:
                raise MediaError(
                    f"{path.name}: {key} claims {entry.file_size} bytes, expected at most "
                    f"{MAX_ARRAY}: this is no frame of CALVIN"
                )
            return archive.read(entry)
    except FileNotFoundError:
        raise MediaError(f"{path.name} is not there; unzip the download again") from None
    except _DAMAGED as error:
        raise MediaError(
            f"{path.name}: {key} cannot be read ({_message(error)}); unzip the download again"
        ) from None


def has_array(path: Path, key: str) -> bool:
    """Whether a frame has an array. Raises MediaError if it is not an .npz file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{key}.npy" in archive.namelist()
    except _DAMAGED as error:
        raise MediaError(
            f"{path.name} cannot be read ({_message(error)}); unzip the download again"
        ) from None


def _message(error: Exception) -> str:
    """An error's message without the file's path, which OSError adds."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class FrameImages:
    """The images of one camera: an array in the file of each frame, read when it is accessed.

    Args:
        files: of the frames, in order.
        key: name of the array.
    """

    def __init__(self, files: list[Path], key: str) -> None:
        self.files = files
        self.key = key

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def __getitem__(self, step: int) -> NDArray[np.uint8]:
        """One image, RGB uint8 [H, W, 3]. Raises MediaError if it cannot be read."""
        (image_hwc,) = read_arrays(self.files[step], (self.key,))
        if image_hwc.dtype != np.uint8 or image_hwc.ndim != 3 or image_hwc.shape[2] != 3:
            raise MediaError(
                f"{self.files[step].name}: {self.key} is {image_hwc.dtype} "
                f"{list(image_hwc.shape)}, expected a picture [height, width, 3] of uint8"
            )
        return image_hwc

    def fingerprint(self, step: int) -> bytes:
        """A hash of the array's decompressed bytes, 16 bytes."""
        return hashlib.blake2b(read_member(self.files[step], self.key), digest_size=16).digest()
