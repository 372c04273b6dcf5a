"""The three forms of a BridgeData recording outside of TFDS: raw folder, out.npy, out.tfrecord.

`read_raw`, `read_npy` and `read_tfrecord` return the same `BridgeRecording`. A raw folder holds T
images and states and T - 1 actions; the official conversion pairs them, and writes N observations,
N next observations and N actions.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.places import listdir, scandir
from handloom.stages.datasets.formats import pickles, tensor_proto, tf_example, tfrecord
from handloom.stages.datasets.formats.images import ArrayImages, EncodedImages
from handloom.stages.datasets.media import cached_by_file
from handloom.stages.datasets.source import Images, refuse_special

SHIFT_BEFORE = "2021-07-23"  # a date in ISO form: dates compare as texts
MAX_FILE = 16 << 30  # bytes of an out.npy, which is mapped; images are most of it
MAX_PICTURE = 64 << 20  # bytes of a .jpg
MAX_TEXT = 1 << 16  # bytes of lang.txt

_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})_\d{2}-\d{2}-\d{2}")
_PICTURE = re.compile(r"im_(\d{1,9})\.(?:jpg|jpeg|png)", re.IGNORECASE)
_CAMERA = re.compile(r"images(\d{1,3})")


@dataclass(frozen=True)
class BridgeRecording:
    """A trajectory of N steps, its numbers as recorded.

    Attributes:
        states: [N + 1, 7]; the last one is reached by the last action.
        actions: [N, 7].
        views: N images of each camera, by name; image_0 is images0 of the recording.
        texts: instructions, stripped.
        flags: `latency_shifted`, `no_date`.
    """

    states: NDArray[np.float64]
    actions: NDArray[np.float64]
    views: dict[str, Images]
    texts: tuple[str, ...]
    flags: tuple[str, ...] = ()


class ImageFiles(Sequence[bytes]):
    """Content of image files, each read when it is accessed.

    Args:
        folder: the folder of the files.
        names: of the files, one a step.
    """

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder
        self.names = names

    def __len__(self) -> int:
        """Number of files."""
        return len(self.names)

    def __getitem__(self, step: Any) -> Any:
        """Content of one file. Raises MediaError if it cannot be read."""
        name = self.names[step]
        refuse_special(self.folder / name)
        try:
            with (self.folder / name).open("rb") as file:
                content = file.read(MAX_PICTURE + 1)
        except OSError as error:
            raise MediaError(f"cannot be read ({name}: {error.strerror})") from None
        if len(content) > MAX_PICTURE:
            raise MediaError(f"has more than {MAX_PICTURE} bytes ({name})")
        return content


class ImageList:
    """Images that are arrays in a list, views of a mapped file."""

    def __init__(self, images: list[Any], name: str) -> None:
        self.images = images
        self.name = name

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, step: int) -> NDArray[np.uint8]:
        """One image, RGB uint8 [H, W, 3]. Raises MediaError if it is not an image."""
        return self._one(step)[0]

    def fingerprint(self, step: int) -> bytes:
        """A hash of the image's size and pixels, 16 bytes."""
        return self._one(step).fingerprint(0)

    def _one(self, step: int) -> ArrayImages:
        image = self.images[step]
        if not isinstance(image, np.ndarray):
            raise MediaError(f"picture {step} of view {self.name} is a {type(image).__name__}")
        return ArrayImages(image[None], self.name)


def read_raw(root: Path, path: str) -> BridgeRecording:
    """Read a folder traj0; its images are read later.

    Args:
        root: the data folder.
        path: of the trajectory, below it; one of the folders is named by the date of recording.

    Raises:
        MediaError: a file is missing or damaged, or images, states and actions do not match.
    """
    folder = root / path
    observed = pickles.load(folder / "obs_dict.pkl")
    states = _numbers(observed.get("state") if isinstance(observed, dict) else None, "states")
    actions = _numbers(_raw_actions(pickles.load(folder / "policy_out.pkl")), "actions")
    if len(actions) != len(states) - 1:
        raise MediaError(
            f"{len(actions)} actions and {len(states)} states, expected one action less than "
            "states; download the trajectory again"
        )
    date = recording_date(path)
    lag = int(bool(date) and date < SHIFT_BEFORE)
    # Before that day observations lagged by a step: action t goes with observation t + 1.
    count = len(actions) - lag
    flags = ("latency_shifted",) * lag + ("no_date",) * (not date)
    views = _list_views(folder, len(states), range(lag, lag + count))
    return BridgeRecording(
        states[lag:], actions[:count], views, _read_instructions(folder / "lang.txt"), flags
    )


def recording_date(path: str) -> str:
    """The day of a recording, such as 2022-01-01, by the innermost folder that names one."""
    days = [match[1] for part in path.split("/") if (match := _DATE.fullmatch(part))]
    return days[-1] if days else ""


def count_recordings(path: Path) -> int:
    """Number of trajectories in an out.npy. Raises MediaError if it is damaged."""
    return len(_npy_list(path))


def read_npy(path: Path, number: int) -> BridgeRecording:
    """Read one trajectory of an out.npy. Raises MediaError if it is damaged."""
    trajectories = _npy_list(path)
    trajectory: Any = trajectories[number] if 0 <= number < len(trajectories) else None
    try:
        observed, following = (list(trajectory[f"{x}observations"]) for x in ("", "next_"))
        # Next observations repeat the observations, but for the one after the last action.
        states = [step["state"] for step in [*observed, *following[-1:]]]
        cameras = {key for step in observed for key in step if _CAMERA.fullmatch(str(key))}
        images = {key: [step[key] for step in observed] for key in cameras}
        commands, texts = trajectory["actions"], trajectory.get("language")
    except (KeyError, TypeError, AttributeError):
        raise MediaError(
            f"{path.name}: trajectory {number} has no observations, next_observations and actions "
            "with state and images in each step; convert it again"
        ) from None
    views = {_view_name(key): ImageList(arrays, key) for key, arrays in images.items()}
    return _converted(states, commands, dict(sorted(views.items())), _unique_texts(texts))


def read_tfrecord(path: Path, offset: int, length: int) -> BridgeRecording:
    """Read one trajectory of an out.tfrecord. Raises MediaError if it is damaged."""
    values = tf_example.parse(tfrecord.read(path, offset, length))
    tensors = {key: _tensor(key, tensor) for key, tensor in values.items() if _is_used(key)}
    if missing := [key for key in NEEDED if key not in tensors]:
        raise MediaError(
            f"{path.name} has a record without {', '.join(missing)}: it is no trajectory of "
            "BridgeData; convert it again"
        )
    following = tensors["next_observations/state"][-1:]
    states = [*tensors["observations/state"], *following]
    views: dict[str, Images] = {
        _view_name(key): ArrayImages(tensor, key)
        for key, tensor in sorted(tensors.items())
        if "images" in key
    }
    texts = _unique_texts(tensors.get("language"))
    return _converted(states, tensors["actions"], views, texts)


NEEDED = ("actions", "observations/state", "next_observations/state")


def _is_used(key: str) -> bool:
    camera = _CAMERA.fullmatch(key.removeprefix("observations/"))
    return key in NEEDED or key == "language" or bool(camera)


def _tensor(key: str, values: tf_example.Values) -> NDArray[Any]:
    if not isinstance(values, list) or len(values) != 1:
        raise MediaError(f"the record holds {key} otherwise than as one tensor")
    return tensor_proto.parse(values[0])


@cached_by_file(maxsize=1)  # a worker reads the trajectories of a file one after the other
def _mapped_list(path: Path) -> list[Any]:
    array = pickles.load_npy(path, MAX_FILE)
    if array.dtype != np.object_ or array.ndim > 1:
        raise MediaError(
            f"{path.name} holds {array.dtype} {list(array.shape)}, expected a list of trajectories"
        )
    items = array.tolist()  # the objects themselves, images still views of the mapped file
    return items if isinstance(items, list) else [items]


def _npy_list(path: Path) -> list[Any]:
    try:
        return _mapped_list(path)
    except OSError:
        raise MediaError(f"{path.name} is not there; download it again") from None


def _converted(
    states: Any, commands: Any, views: dict[str, Images], texts: tuple[str, ...]
) -> BridgeRecording:
    """A recording of the official conversion, which has shifted late images already."""
    poses, actions = _numbers(states, "states"), _numbers(commands, "actions")
    lengths = {"states": len(poses) - 1, **{name: len(view) for name, view in views.items()}}
    for name, length in lengths.items():
        if length != len(actions):
            raise MediaError(f"{len(actions)} actions and {length} of {name}; convert it again")
    filmed = {name: view for name, view in views.items() if _has_content(view)}
    return BridgeRecording(poses, actions, filmed, texts)


def _has_content(images: Images) -> bool:
    """Whether a camera was there: conversions store black images where it was not."""
    return any(bool(images[step].any()) for step in range(len(images)))


def _numbers(values: Any, name: str) -> NDArray[np.float64]:
    """Array [steps, 7] from an array or a list of rows, each checked before numpy nests them."""
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


def _raw_actions(stored: Any) -> list[Any]:
    """Actions of policy_out.pkl: a list of arrays or, from other policies, of dicts."""
    if not isinstance(stored, list | np.ndarray):
        raise MediaError(f"policy_out.pkl holds a {type(stored).__name__}, expected a list")
    return [step.get("actions") if isinstance(step, dict) else step for step in stored]


def _list_views(folder: Path, count: int, steps: range) -> dict[str, Images]:
    """The colour cameras of a raw folder; depth_images0 and so on are left out."""
    with scandir(folder) as entries:
        cameras = sorted(
            (int(match[1]), entry.name)
            for entry in entries
            if (match := _CAMERA.fullmatch(entry.name)) and entry.is_dir()
        )
    views: dict[str, Images] = {}
    for _, camera in cameras:
        # im_10.jpg comes after im_9.jpg
        numbered = {
            int(match[1]): name
            for name in listdir(folder / camera)
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
        files = ImageFiles(folder / camera, [numbered[step] for step in steps])
        views[_view_name(camera)] = EncodedImages(files, camera)
    return views


def _view_name(key: str) -> str:
    """The name of a camera in the TFDS build: image_0 for images0."""
    return "image_" + key.rpartition("images")[2]


def _read_instructions(path: Path) -> tuple[str, ...]:
    """Instructions of lang.txt, one a line, without the lines of the annotator's confidence."""
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_TEXT).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    return _unique_texts([line for line in lines if "confidence" not in line])


def _unique_texts(stored: Any) -> tuple[str, ...]:
    """Stripped texts, each once, of a text, a list or an array of texts."""
    items = stored.ravel().tolist() if isinstance(stored, np.ndarray) else stored
    items = items if isinstance(items, list | tuple) else [items]
    texts = [item.decode(errors="replace") if isinstance(item, bytes) else item for item in items]
    stripped = [text.strip() for text in texts if isinstance(text, str)]
    return tuple(dict.fromkeys(text for text in stripped if text))
