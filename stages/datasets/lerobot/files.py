"""The files of a LeRobot dataset: info.json, and where the parts of an episode lie.

Layout 2 (v2.0, v2.1) has a Parquet file for each episode and an MP4 for each episode and camera.
Layout 3 (v3.0) puts many episodes into a file; the episode table names the files of each, and the
numbers of Parquet files and of every camera's videos are independent.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from handloom.errors import MediaError, UserError
from handloom.places import scandir
from handloom.stages.datasets.formats.json_stream import load_value
from handloom.stages.datasets.media import files_below
from handloom.stages.datasets.source import is_inside, refuse_outside, refuse_special

INFO = "meta/info.json"
MAX_JSON_BYTES = 1 << 26

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
TEMPLATES = {
    2: (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    ),
    3: (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    ),
}

_FIELD = re.compile(r"\{(\w+)(?::0?(\d{1,2})d)?\}")
_RANGE = re.compile(r"(\d{1,12})\s*:\s*(\d{1,12})")


class MissingFile(MediaError):
    """A missing file, such as those of episodes that were not downloaded."""


@dataclass(frozen=True)
class Dataset:
    """A dataset as its info.json describes it.

    Attributes:
        root: the data folder.
        folder: of this dataset below the root, with forward slashes; empty where it is the root.
        layout: 2 or 3.
        version: as written, such as `v2.1`.
        fps: steps per second.
        features: columns and cameras by name.
        info: the whole content of info.json.
    """

    root: Path
    folder: str
    layout: int
    version: str
    fps: float
    features: dict[str, dict[str, Any]] = field(repr=False)
    info: dict[str, Any] = field(repr=False)

    def below_root(self, path: str) -> str:
        """The path below the data folder of a path below this dataset's folder."""
        return f"{self.folder}/{path}" if self.folder else path

    def split(self, episode: int) -> str:
        """The split of an episode; empty if all are `train`, the default of LeRobot's library.

        Ranges are half-open: `"train": "0:100"`.
        """
        stated = self.info.get("splits")
        splits = stated if isinstance(stated, dict) else {}
        if set(splits) <= {"train"}:
            return ""
        for name in ("test", "validation", "valid", "val", "train"):  # strictest first
            ranges = _RANGE.findall(str(splits.get(name, "")))
            if any(int(first) <= episode < int(end) for first, end in ranges):
                return SPLITS[name]
        return ""

    def data_path(self, numbers: dict[str, int]) -> str:
        """Path of an episode's table below the data folder, from the template."""
        return self._fill_template("data_path", 0, numbers | self._chunk(numbers))

    def video_path(self, numbers: dict[str, int], camera: str) -> str:
        """Path of a camera's video of an episode below the data folder, from the template."""
        return self._fill_template(
            "video_path", 1, numbers | self._chunk(numbers) | {"video_key": camera}
        )

    def locate(self, path: str, camera: str = "") -> tuple[str, bool]:
        """The actual path of a file that a template names, and whether it lies elsewhere.

        Some repositories have a folder `video/` where info.json states `videos/`. A file of the
        same name is taken if it is the only one of the same camera, in layout 3 also of the same
        chunk.

        Raises:
            MissingFile: there is no such file, or several.
            MediaError: the path leads out of the data folder.
        """
        refuse_outside(self.root, path, f"see the templates in {INFO}")
        if (self.root / path).is_file():
            return path, False
        *_, chunk, name = path.split("/") if "/" in path else ("", path)
        matches = [
            other
            for other in _all_files(self.root, self.folder)
            if other.endswith("/" + name)
            and (not camera or camera in other.split("/"))
            and (self.layout == 2 or chunk in other.split("/"))
            and (self.root / other).is_file()  # the cached list may be outdated
        ]
        if len(matches) != 1:
            what = f"{len(matches)} files of that name" if matches else "no such file"
            raise MissingFile(f"{path} is not there, and {what} elsewhere; download it again")
        return matches[0], True

    def _chunk(self, numbers: dict[str, int]) -> dict[str, int]:
        size = self.info.get("chunks_size")
        size = size if isinstance(size, int) and size > 0 else 1000  # LeRobot's default
        return {"episode_chunk": numbers["episode_index"] // size}

    def _fill_template(self, key: str, which: int, values: dict[str, Any]) -> str:
        """A template with its fields filled in; str.format would execute untrusted templates."""
        template = self.info.get(key)
        template = template if isinstance(template, str) else TEMPLATES[self.layout][which]

        def value(match: re.Match[str]) -> str:
            text = values.get(match.group(1), match.group())
            return str(text).zfill(int(match.group(2) or 0))

        path = _FIELD.sub(value, template)
        if "{" in path:
            raise MediaError(f"{INFO} has the {key} {template!r}, whose fields are not known")
        return self.below_root(path)


def find_datasets(root: Path, depth: int = 3) -> Iterator[Dataset]:
    """The dataset in a folder, or those up to `depth` levels below it (`<owner>/<name>`).

    Raises:
        UserError: an info.json is damaged, or of an unknown layout.
    """
    waiting = [("", 0)]
    while waiting:
        folder, level = waiting.pop()
        if (root / folder / INFO).is_file():
            yield open_dataset(root, folder)
        elif level < depth and (root / folder).is_dir():
            with scandir(root / folder) as entries:
                names = sorted(e.name for e in entries if e.is_dir())
            below = [f"{folder}/{name}" if folder else name for name in names if name[0] != "."]
            waiting += [(path, level + 1) for path in reversed(below) if is_inside(root, path)]


def open_dataset(root: Path, folder: str) -> Dataset:
    """The dataset in a folder below the root. Raises UserError if info.json is damaged."""
    path = root / folder / INFO
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has {path.stat().st_size >> 20} MB")
        info = load_value(path.read_bytes())
        version, fps = str(info["codebase_version"]), float(info["fps"])
        features = {k: v for k, v in info["features"].items() if isinstance(v, dict)}
    except PermissionError:
        raise UserError(f"{path} may not be read by this user; make it readable.") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path} is not the info.json of a LeRobot dataset ({type(error).__name__}: {error}); "
            "expected an object with codebase_version, fps and features; download it again."
        ) from None
    match = re.match(r"v?([23])\.", version)
    if not match or not 0 < fps < 1e4:
        raise UserError(
            f"{path} says codebase_version {version!r} and fps {fps:g}, expected v2.0, v2.1 or v3.0"
            " and a rate above 0; convert older datasets with LeRobot's own scripts."
        )
    return Dataset(root, folder, int(match.group(1)), version, fps, features, info)


def check_readable(path: Path, name: str) -> None:
    """Raise MediaError for a file that is missing, not readable, or a Git LFS pointer."""
    refuse_special(path)
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except PermissionError:
        raise MediaError(
            f"{name} may not be read by this user (LeRobot joins videos into files of mode 0600); "
            "make it readable (chmod a+r)"
        ) from None
    except OSError as error:
        raise MediaError(f"{name} cannot be opened ({error.strerror}); download it again") from None
    if start.startswith(b"version https://git-lfs"):
        raise MediaError(
            f"{name} is a Git LFS pointer, not the file itself; run `git lfs pull` in the dataset"
        )


@lru_cache(maxsize=4)
def _all_files(root: Path, folder: str) -> tuple[str, ...]:
    """All tables and videos of a dataset, to find one that is not where it should be."""
    return tuple(files_below(root, root / folder, (".mp4", ".parquet")))
