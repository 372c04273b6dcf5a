"""HDF5 files of robot demonstrations, read as untrusted input and never kept open.

Files are opened briefly, read-only and without locks (network disks often have none). No handle is
kept: one that is used on both sides of a fork returns wrong bytes.
"""

import os
import re
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.stages.datasets.formats.images import ArrayImages, EncodedImages
from handloom.stages.datasets.formats.json_stream import load_value
from handloom.stages.datasets.source import EpisodeOptions, Images, refuse_special

MAX_ARRAY_BYTES = 1 << 28
"""Largest array that is read whole. A file of a kilobyte can declare any shape."""
MAX_CHUNK_BYTES = 1 << 28
"""Largest stored chunk: HDF5 decodes a chunk whole, even for a single row of it."""
MAX_STEPS = 1 << 22
MAX_LINKS = 8  # soft links on the way to one object
BLOCK_BYTES = 1 << 23
"""Images that are read at once: neighbouring steps share chunks and seeks."""

# Names of filters that need a plug-in, for messages.
FILTERS = {
    32000: "lzf", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp",
    32015: "zstd", 32026: "blosc2",
}  # fmt: skip

# What h5py raises on damaged or unusual objects.
_DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError)


class Hdf5File:
    """An open HDF5 file, read as untrusted input.

    Nothing outside the file is followed (external links, external and virtual storage), no filter
    beyond those of the library is used, and sizes are checked before anything is allocated. Paths
    of groups and datasets (`where`) start at the root. All methods raise MediaError.

    Args:
        path: of the file.
        name: the same below the data folder, for messages.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def __enter__(self) -> "Hdf5File":
        import h5py

        refuse_special(self.path)
        try:
            self._file = h5py.File(self.path, "r", locking=False)
        except PermissionError:
            raise MediaError(
                f"{self.name} may not be read by this user; make it readable (chmod a+r)"
            ) from None
        except OSError as error:
            raise MediaError(
                f"{self.name} does not open as HDF5 ({_reason(error)}); copy or download it again"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def find(self, where: str) -> Any:
        """The group or dataset at a path, or None."""
        with self._readable(where):
            return self._walk(self._file, where, MAX_LINKS)

    def names(self, where: str) -> list[str]:
        """Names in a group; empty where there is no such group."""
        with self._readable(where):
            group = self.find(where)
            return [str(name) for name in group] if hasattr(group, "keys") else []

    def cameras(self, where: str, axes: Container[int] = (4,)) -> list[str]:
        """Datasets of images in a group: 4 axes and 3 channels, or 2 axes with a JPEG a row."""
        with self._readable(where):
            group = self.find(where)
            cameras = []
            for name in group if hasattr(group, "keys") else ():
                item = self._walk(group, name, MAX_LINKS)
                shape: tuple[int, ...] = getattr(item, "shape", None) or ()
                fits = len(shape) in axes and (len(shape) < 4 or shape[-1] == 3)
                if fits and item.dtype == np.uint8:
                    cameras.append(str(name))
            return cameras

    def shape(self, where: str) -> tuple[int, ...] | None:
        """Shape of a dataset, or None."""
        item = self.find(where)
        return tuple(item.shape) if hasattr(item, "shape") and item.shape is not None else None

    def attribute(self, where: str, name: str) -> Any:
        """An attribute that is text (bytes are UTF-8) or a number, else None."""
        with self._readable(f"{where}@{name}"):
            item = self.find(where)
            value = item.attrs.get(name) if item is not None else None
            # h5py gives numpy's scalars, or arrays of one value, by the writer's choice.
            if isinstance(value, np.ndarray | np.generic) and value.size == 1:
                value = value.item()
            value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            return value if isinstance(value, str | int | float) else None

    def json(self, where: str, name: str) -> dict[str, Any]:
        """The JSON object in an attribute, empty where there is none; some are encoded twice."""
        value = self.attribute(where, name)
        try:
            for _ in range(2):
                value = load_value(value.encode()) if isinstance(value, str) else value
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def array(self, where: str, width: int = 0) -> NDArray[np.float64]:
        """A whole dataset of numbers, float64 [T, width], all finite and T above 0.

        Args:
            where: path of the dataset.
            width: columns that it must have; 0 for any number.
        """
        dataset = self._dataset(where)
        shape = dataset.shape
        if len(shape) != 2 or 0 in shape or (width and shape[1] != width):
            raise MediaError(
                f"{self.name}: {where} has shape {list(shape)}, expected [steps, {width or 'any'}]"
            )
        return self._numbers(where, dataset)

    def matrices(self, where: str, steps: int = 0) -> NDArray[np.float64]:
        """A whole dataset of transforms, float64 [T, 4, 4], all finite and T above 0.

        Args:
            where: path of the dataset.
            steps: T that it must have; 0 for any.
        """
        dataset = self._dataset(where)
        shape = dataset.shape
        if len(shape) != 3 or shape[1:] != (4, 4) or not shape[0] or (steps and shape[0] != steps):
            raise MediaError(
                f"{self.name}: {where} has shape {list(shape)}, expected [{steps or 'steps'}, 4, 4]"
            )
        return self._numbers(where, dataset)

    def _numbers(self, where: str, dataset: Any) -> NDArray[np.float64]:
        """All values of a dataset, after a check of what it claims."""
        if dataset.dtype.kind not in "fiub" or dataset.size * 8 > MAX_ARRAY_BYTES:
            raise MediaError(
                f"{self.name}: {where} claims {list(dataset.shape)} values of {dataset.dtype}, "
                f"expected numbers that fit into {MAX_ARRAY_BYTES >> 20} MB"
            )
        with self._readable(where):
            values: NDArray[np.float64] = dataset[()].astype(np.float64)
        if not np.isfinite(values).all():
            raise MediaError(f"{self.name}: {where} holds values that are not finite numbers")
        return values

    def column(self, where: str) -> NDArray[np.float64] | None:
        """A whole dataset of numbers, float64 [T], or None where there is none of that form."""
        shape = self.shape(where)
        if shape is None or len(shape) != 1 or not 0 < shape[0] <= MAX_STEPS:
            return None
        dataset = self._dataset(where)
        if dataset.dtype.kind not in "fiub":
            return None
        with self._readable(where):
            values: NDArray[np.float64] = dataset[()].astype(np.float64)
        return values

    def strings(self, where: str) -> list[str]:
        """A dataset of up to 65,536 strings; empty where it is something else."""
        import h5py

        shape = self.shape(where)
        if shape is None or len(shape) != 1 or shape[0] > 1 << 16:
            return []
        dataset = self._dataset(where)
        if h5py.check_string_dtype(dataset.dtype) is None or dataset.dtype.itemsize > 1 << 10:
            return []
        with self._readable(where):
            return [v.decode("utf-8", "replace") for v in dataset[()] if isinstance(v, bytes)]

    def views(
        self, cameras: dict[str, str], steps: int, options: EpisodeOptions, rotated: bool = False
    ) -> dict[str, Images]:
        """The images of some cameras by name, read when asked for.

        Args:
            cameras: paths of their datasets by name, the main camera first.
            steps: number of images that each must have.
            options: which cameras to take, and their channel order.
            rotated: whether the images are stored upside down.
        """
        wanted = options.views or tuple(cameras)
        missing = [name for name in wanted if name not in cameras]
        if missing or not cameras:
            raise MediaError(
                f"{self.name} holds the views {', '.join(cameras) or 'none'}, expected "
                f"{', '.join(missing) or 'at least one'}; see --ingest.views"
            )
        return {
            name: self._pictures(cameras[name], name, steps, options, rotated) for name in wanted
        }

    def _pictures(
        self, where: str, name: str, steps: int, options: EpisodeOptions, rotated: bool
    ) -> Images:
        dataset = self._dataset(where)
        if len(dataset) != steps:
            raise MediaError(
                f"{self.name}: {where} has {len(dataset)} pictures for {steps} actions; the "
                "recording or its conversion was interrupted"
            )
        if dataset.ndim == 2:  # each row is one JPEG, whatever an attribute says
            return EncodedImages(JpegRows(DatasetRows(self, where, dataset)), name)
        rows = DatasetRows(self, where, dataset, rotated=rotated, bgr=options.bgr)
        return ArrayImages(rows, name)  # type: ignore[arg-type]  # read by slices

    def _dataset(self, where: str) -> Any:
        """The dataset at a path, after a check that the library can read it."""
        dataset = self.find(where)
        if not hasattr(dataset, "shape") or dataset.shape is None:
            raise MediaError(f"{self.name} has no dataset {where}; the recording is not complete")
        with self._readable(where):
            if dataset.is_virtual or dataset.external:
                raise MediaError(
                    f"{self.name}: {where} keeps its data in other files, which are not followed; "
                    "rewrite the file with h5repack"
                )
            self._check_filters(where, dataset)
            # In floats: a declared shape can overflow integers and look small.
            chunk = int(np.prod(dataset.chunks or (0,), dtype=np.float64)) * dataset.dtype.itemsize
        if chunk > MAX_CHUNK_BYTES or (dataset.shape and dataset.shape[0] > MAX_STEPS):
            raise MediaError(
                f"{self.name}: {where} claims {dataset.shape[0]} steps in chunks of {chunk >> 20} "
                f"MB, more than {MAX_STEPS} steps or {MAX_CHUNK_BYTES >> 20} MB"
            )
        return dataset

    def _check_filters(self, where: str, dataset: Any) -> None:
        import h5py

        pipeline = dataset.id.get_create_plist()
        for i in range(pipeline.get_nfilters()):
            code, _, _, label = pipeline.get_filter(i)
            if not h5py.h5z.filter_avail(code):
                known = FILTERS.get(code) or label.decode("ascii", "replace") or "an unknown filter"
                raise MediaError(
                    f"{self.name}: {where} is compressed with {known} (filter {code}), which needs "
                    "a plug-in; rewrite it with `h5repack -f GZIP=4`"
                )

    def _walk(self, group: Any, path: str, depth: int) -> Any:
        """The object at a path, followed name by name, so that no link leads out of the file.

        `depth` bounds the soft links, which may lead in a circle.
        """
        import h5py

        for name in filter(None, path.split("/")):
            link = group.get(name, getlink=True) if isinstance(group, h5py.Group) else None
            if link is None or depth == 0:
                return None
            if isinstance(link, h5py.ExternalLink):
                raise MediaError(
                    f"{self.name}: {name} is a link into another file, which is not followed; "
                    "copy the data into one file"
                )
            if isinstance(link, h5py.SoftLink):
                start = self._file if link.path.startswith("/") else group
                group = self._walk(start, link.path, depth - 1)
            else:
                group = group[name]
        return group

    @contextmanager
    def _readable(self, where: str) -> Iterator[None]:
        try:
            yield
        except _DAMAGED as error:
            raise MediaError(
                f"{self.name}: {where} cannot be read ({_reason(error)}); download the file again"
            ) from None


class DatasetRows:
    """Rows of a dataset along time, read in blocks; holds no open file and can be pickled.

    Args:
        file: the open file.
        where: path of the dataset.
        dataset: the dataset at that path.
        rotated: rotate each image by 180 degrees.
        bgr: reverse the channels of each image.
    """

    def __init__(
        self, file: Hdf5File, where: str, dataset: Any, rotated: bool = False, bgr: bool = False
    ) -> None:
        self.shape, self.dtype = tuple(dataset.shape), dataset.dtype
        self._path, self._name, self._where = file.path, file.name, where
        self._flips = slice(None, None, -1 if rotated else 1), slice(None, None, -1 if bgr else 1)
        row_bytes = int(np.prod(self.shape[1:], dtype=np.float64)) * self.dtype.itemsize
        if row_bytes > MAX_CHUNK_BYTES:
            raise MediaError(f"{file.name}: {where} claims {row_bytes >> 20} MB for each step")
        chunk = dataset.chunks[0] if dataset.chunks else 1  # blocks hold whole chunks
        if chunk * row_bytes > 8 * BLOCK_BYTES:  # chunks too large to hold are not aligned with
            chunk = 1
        self._block = max(1, BLOCK_BYTES // max(1, row_bytes * chunk)) * chunk
        self._start, self._rows = 0, np.empty((0,), self.dtype)

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.shape[0])

    def __getitem__(self, step: int) -> NDArray[Any]:
        """One row."""
        step = range(len(self))[step]
        if not self._start <= step < self._start + len(self._rows):
            start = step // self._block * self._block
            with Hdf5File(self._path, self._name) as file:
                dataset = file._dataset(self._where)
                if tuple(dataset.shape) != self.shape:
                    raise MediaError(f"{self._name} was rewritten while it was read")
                with file._readable(self._where):
                    self._rows = dataset[start : start + self._block]
            self._start = start
        row: NDArray[Any] = self._rows[step - self._start]
        flip, channels = self._flips  # both axes flipped are a rotation by 180 degrees
        return row[flip, flip, channels] if row.ndim == 3 else row


class JpegRows(Sequence[bytes]):
    """Rows that each hold a JPEG file, padded with zeros to one length."""

    def __init__(self, rows: DatasetRows) -> None:
        if rows.dtype != np.uint8:
            raise MediaError(f"{rows._name}: {rows._where} holds {rows.dtype}, expected uint8")
        self._rows = rows

    def __len__(self) -> int:
        """Number of images."""
        return len(self._rows)

    def __getitem__(self, step: Any) -> Any:
        """One file without its padding (a JPEG ends with FF D9)."""
        return self._rows[step].tobytes().rstrip(b"\0")


def _reason(error: BaseException) -> str:
    """h5py's message without the absolute path that some of them hold."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    inner = re.search(r"\((.*)\)", str(error), re.DOTALL)
    text = (inner.group(1) if inner else str(error)).strip("'\" ")
    if not text or "name = " in text:
        return type(error).__name__
    return text.splitlines()[0][:200]
