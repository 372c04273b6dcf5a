"""The three forms of a BridgeData recording outside of TFDS: raw folder, out.npy, out.tfrecord.

All give the same `Recording`. In a raw folder there are T pictures and states, and T - 1 actions;
the official conversion pairs them and writes N observations, N next observations and N actions.
"""

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.stages.datasets.formats import pickles, tensor_proto, tfrecord
from handloom.stages.datasets.formats import tf_example as example
from handloom.stages.datasets.formats.images import ArrayPictures, EncodedPictures
from handloom.stages.datasets.source import Pictures

SHIFT_BEFORE = "2021-07-23"
MAX_FILE = 16 << 30  # bytes of an out.npy: it is mapped, and pictures are most of it
MAX_PICTURE = 64 << 20  # bytes of a .jpg
MAX_TEXT = 1 << 16  # bytes of lang.txt

_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})_\d{2}-\d{2}-\d{2}")
_PICTURE = re.compile(r"im_(\d{1,9})\.(?:jpg|jpeg|png)", re.IGNORECASE)
_CAMERA = re.compile(r"images(\d{1,3})")


@dataclass(frozen=True)
class Recording:
    """A trajectory of N steps, its numbers as recorded.

    Attributes:
        states: [N + 1, 7], the last one is where the last action led to.
        actions: [N, 7].
        views: N pictures of each camera, by name: image_0 is images0 of the recording.
        texts: instructions, without blanks around them.
        flags: `latency_shifted`, `no_date`.
    """

    states: NDArray[np.float64]
    actions: NDArray[np.float64]
    views: dict[str, Pictures]
    texts: tuple[str, ...]
    flags: tuple[str, ...] = ()


class PictureFiles(Sequence[bytes]):
    """Files that are read when asked for.

    Args:
        folder: where they are.
        names: one for each step.
    """

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder
        self.names = names

    def __len__(self) -> int:
        """How many there are."""
        return len(self.names)

    def __getitem__(self, step: Any) -> Any:
        """Content of one file. Raises MediaError if it cannot be read."""
        name = self.names[step]
        try:
            with (self.folder / name).open("rb") as file:
                content = file.read(MAX_PICTURE + 1)
        except OSError as error:
            raise MediaError(f"cannot be read ({name}: {error.strerror})") from None
        if len(content) > MAX_PICTURE:
            raise MediaError(f"has more than {MAX_PICTURE} bytes ({name})")
        return content


class PictureList:
    """Pictures that are arrays in a list, views of a mapped file."""

    def __init__(self, pictures: list[Any], name: str) -> None:
        self.pictures = pictures
        self.name = name

    def __len__(self) -> int:
        """How many there are."""
        return len(self.pictures)

    def __getitem__(self, step: int) -> NDArray[np.uint8]:
        """One picture, RGB uint8 [H, W, 3]. Raises MediaError if it is none."""
        return self._one(step)[0]

    def fingerprint(self, step: int) -> bytes:
        """A hash of the picture's size and pixels."""
        return self._one(step).fingerprint(0)

    def _one(self, step: int) -> ArrayPictures:
        picture = self.pictures[step]
        if not isinstance(picture, np.ndarray):
            raise MediaError(f"picture {step} of view {self.name} is a {type(picture).__name__}")
        return ArrayPictures(picture[None], self.name)


def from_raw(root: Path, path: str) -> Recording:
    """Read a folder traj0. Its pictures are opened when they are asked for.

    Args:
        root: the data folder.
        path: of the trajectory, below it; one of the folders bears the date of the recording.

    Raises:
        MediaError: a file is not there or damaged, or pictures, states and actions do not match.
    """
    folder = root / path
    observed = pickles.load(folder / "obs_dict.pkl")
    states = _numbers(observed.get("state") if isinstance(observed, dict) else None, "states")
    actions = _numbers(_commands(pickles.load(folder / "policy_out.pkl")), "actions")
    if len(actions) != len(states) - 1:
        raise MediaError(
            f"{len(actions)} actions and {len(states)} states, expected one action less than "
            "states; download the trajectory again"
        )
    date = recorded_on(path)
    lag = int(bool(date) and date < SHIFT_BEFORE)
    # Before that day the camera was a step late: what the first action was told is seen next.
    count = len(actions) - lag
    flags = ("latency_shifted",) * lag + ("no_date",) * (not date)
    views = _raw_views(folder, len(states), range(lag, lag + count))
    return Recording(states[lag:], actions[:count], views, _lang_txt(folder / "lang.txt"), flags)


def recorded_on(path: str) -> str:
    """The day of a recording, such as 2022-01-01, from the innermost folder that tells it."""
    days = [match[1] for part in path.split("/") if (match := _DATE.fullmatch(part))]
    return days[-1] if days else ""


def count_npy(path: Path) -> int:
    """Trajectories in an out.npy. Raises MediaError if it is none."""
    return len(_npy_list(path))


def from_npy(path: Path, number: int) -> Recording:
    """Read one trajectory of an out.npy. Raises MediaError if it is damaged."""
    held = _npy_list(path)
    told = held[number] if 0 <= number < len(held) else None
    try:
        observed, following = list(told["observations"]), list(told["next_observations"])  # type: ignore[index]
        states = [step["state"] for step in [*observed, *following[-1:]]]
        cameras = {key for step in observed for key in step if _CAMERA.fullmatch(str(key))}
        pictures = {key: [step[key] for step in observed] for key in cameras}
        commands, texts = told["actions"], told.get("language")  # type: ignore[index, union-attr]
    except (KeyError, TypeError, AttributeError):
        raise MediaError(
            f"{path.name}: trajectory {number} has no observations, next_observations and actions "
            "with state and images in each step; convert it again"
        ) from None
    found = {_view(key): PictureList(held, key) for key, held in pictures.items()}
    return _converted(states, commands, dict(sorted(found.items())), _strings(texts))


def from_record(path: Path, offset: int, length: int) -> Recording:
    """Read one trajectory of an out.tfrecord. Raises MediaError if it is damaged."""
    values = example.parse(tfrecord.read(path, offset, length))
    tensors = {key: _tensor(key, held) for key, held in values.items() if _is_used(key)}
    if missing := [key for key in NEEDED if key not in tensors]:
        raise MediaError(
            f"{path.name} has a record without {', '.join(missing)}: it is no trajectory of "
            "BridgeData; convert it again"
        )
    following = tensors["next_observations/state"][-1:]
    states = [*tensors["observations/state"], *following]
    found: dict[str, Pictures] = {
        _view(key): ArrayPictures(tensor, key)
        for key, tensor in sorted(tensors.items())
        if "images" in key
    }
    texts = _strings(tensors.get("language"))
    return _converted(states, tensors["actions"], found, texts)


NEEDED = ("actions", "observations/state", "next_observations/state")


def _is_used(key: str) -> bool:
    camera = _CAMERA.fullmatch(key.removeprefix("observations/"))
    return key in NEEDED or key == "language" or bool(camera)


def _tensor(key: str, held: example.Values) -> NDArray[Any]:
    if not isinstance(held, list) or len(held) != 1:
        raise MediaError(f"the record holds {key} otherwise than as one tensor")
    return tensor_proto.parse(held[0])


@functools.lru_cache(maxsize=1)  # a worker reads the trajectories of a file one after the other
def _mapped_list(path: Path, _version: tuple[int, int]) -> list[Any]:
    held = pickles.load_npy(path, MAX_FILE)
    if held.dtype != np.object_ or held.ndim > 1:
        raise MediaError(
            f"{path.name} holds {held.dtype} {list(held.shape)}, expected a list of trajectories"
        )
    items = held.tolist()
    return items if isinstance(items, list) else [items]


def _npy_list(path: Path) -> list[Any]:
    try:
        state = path.stat()
    except OSError:
        raise MediaError(f"{path.name} is not there; download it again") from None
    return _mapped_list(path, (state.st_mtime_ns, state.st_size))


def _converted(
    states: Any, commands: Any, views: dict[str, Pictures], texts: tuple[str, ...]
) -> Recording:
    """A Recording of the official conversion, which has shifted late pictures already."""
    poses, actions = _numbers(states, "states"), _numbers(commands, "actions")
    lengths = {"states": len(poses) - 1, **{name: len(view) for name, view in views.items()}}
    for name, length in lengths.items():
        if length != len(actions):
            raise MediaError(f"{len(actions)} actions and {length} of {name}; convert it again")
    shown = {name: view for name, view in views.items() if _shows_something(view)}
    return Recording(poses, actions, shown, texts)


def _shows_something(pictures: Pictures) -> bool:
    """Whether a camera was there: where it was not, conversions put black pictures."""
    return any(bool(pictures[step].any()) for step in range(len(pictures)))


def _numbers(values: Any, name: str) -> NDArray[np.float64]:
    """[steps, 7] from an array or a list of rows; rows are looked at before numpy nests them."""
    rows = list(values) if isinstance(values, list | np.ndarray) else []
    for row in rows:
        flat = row.shape == (7,) if isinstance(row, np.ndarray) else _is_row(row)
        if not flat or (isinstance(row, np.ndarray) and row.dtype.kind not in "fiu"):
            rows = []
            break
    if not rows:
        raise MediaError(
            f"{name} are not numbers [steps, 7]: this is not a recording of BridgeData's WidowX "
            "arm, or damaged"
        )
    return np.array(rows, np.float64)


def _is_row(row: Any) -> bool:
    numbers = isinstance(row, list | tuple) and all(isinstance(x, int | float) for x in row)
    return numbers and len(row) == 7


def _commands(told: Any) -> list[Any]:
    """policy_out.pkl is a list of arrays or, of other policies, of dicts."""
    if not isinstance(told, list | np.ndarray):
        raise MediaError(f"policy_out.pkl holds a {type(told).__name__}, expected a list")
    return [step.get("actions") if isinstance(step, dict) else step for step in told]


def _raw_views(folder: Path, count: int, steps: range) -> dict[str, Pictures]:
    """The cameras of a raw folder; depth_images0 and so on are not wanted."""
    cameras = sorted(
        (int(match[1]), entry.name)
        for entry in os.scandir(folder)
        if (match := _CAMERA.fullmatch(entry.name)) and entry.is_dir()
    )
    found: dict[str, Pictures] = {}
    for _, camera in cameras:
        # im_10.jpg comes after im_9.jpg
        numbered = {
            int(match[1]): name
            for name in os.listdir(folder / camera)
            if (match := _PICTURE.fullmatch(name))
        }
        if not numbered:
            continue
        if set(numbered) != set(range(count)):
            absent = next((i for i in range(count) if i not in numbered), count)
            raise MediaError(
                f"{camera} has {len(numbered)} pictures for {count} states (im_{absent}.jpg is "
                f"{'missing' if absent < count else 'too many'}); download the trajectory again"
            )
        files = PictureFiles(folder / camera, [numbered[step] for step in steps])
        found[_view(camera)] = EncodedPictures(files, camera)
    return found


def _view(key: str) -> str:
    """The name that the TFDS build has for a camera: image_0 for images0."""
    return "image_" + key.rpartition("images")[2]


def _lang_txt(path: Path) -> tuple[str, ...]:
    """Instructions of lang.txt, one a line; lines that tell the annotator's confidence are not."""
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_TEXT).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    return _strings([line for line in lines if "confidence" not in line])


def _strings(told: Any) -> tuple[str, ...]:
    """Texts without blanks around them, each once; told is a text, a list or an array of them."""
    items = told.ravel().tolist() if isinstance(told, np.ndarray) else told
    items = items if isinstance(items, list | tuple) else [items]
    texts = [item.decode(errors="replace") if isinstance(item, bytes) else item for item in items]
    stripped = [text.strip() for text in texts if isinstance(text, str)]
    return tuple(dict.fromkeys(text for text in stripped if text))
