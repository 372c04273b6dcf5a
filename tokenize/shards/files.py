"""The tars of a split on the local disk: memory maps that are gathered from as if they were one."""

import os
from collections.abc import Callable, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from handloom.errors import UserError, first_line
from handloom.tokenize.shards.format import Integers, index_name

Bytes = npt.NDArray[np.uint8]
FEW = 8  # shards that are looked for one by one
SMALL = 1 << 16  # bytes of an index that is not mapped: all of the layout `packed`


class Files(Protocol):
    """The tars of a split with their indexes, numbered in the order of the manifest."""

    def index(self, file: int) -> pa.Table:
        """The index of a shard."""

    def size(self, file: int) -> int:
        """Bytes of a tar."""

    def view(self, file: int, offset: int, size: int) -> Bytes:
        """A range of a tar, uint8 [size]; not a copy where the file is local."""

    def gather(self, files: Integers, offsets: Integers, size: int) -> npt.NDArray[np.void]:
        """`size` bytes from each of B places, void [B]; always a copy."""


def index_of(path: Path) -> Path:
    """The index beside a shard."""
    return path.with_name(index_name(path.name))


def read_index(path: str) -> pa.Table:
    """The index of a shard, mapped. Raises UserError where it is no whole Arrow file."""
    try:
        # A small one is dropped soon: to take a map back costs more than to read it.
        is_small = os.path.getsize(path) <= SMALL
        source = pa.py_buffer(Path(path).read_bytes()) if is_small else pa.memory_map(path)
        table = pa.ipc.open_file(source).read_all()
        table.validate()
    except (pa.ArrowException, OSError, ValueError) as error:
        why = first_line(error)
        raise UserError(f"{path} is no whole Arrow file ({why}); copy it again.") from None
    return table


def check_range(name: str, offset: int, size: int, length: int) -> None:
    """Raise UserError for a range that does not lie in a file of some length."""
    if not (offset >= 0 and size >= 0 and offset + size <= length):
        raise UserError(
            f"{name} has {length:,} bytes, its index names {size:,} at {offset:,}; copy both "
            "again, or run `handloom curate` again."
        )


def _listed(folder: Path) -> Callable[[Path], bool]:
    """Whether a path is a file of a folder, by one listing instead of a stat for each."""
    try:
        with os.scandir(folder) as entries:
            names = {entry.name for entry in entries if entry.is_file()}
    except FileNotFoundError:
        names = set()
    return lambda path: path.name in names


class LocalFiles:
    """Shards in a folder.

    Args:
        folder: where they lie.
        names: of the tars.
        indexed: True where their indexes must lie there too.

    Raises:
        UserError: a shard or an index that the manifest names is not there.
    """

    def __init__(self, folder: Path, names: Sequence[str], indexed: bool = True) -> None:
        self._paths = [folder / name for name in names]
        is_there = _listed(folder) if len(names) > FEW else os.path.isfile
        for path in self._paths:
            if not is_there(path) or (indexed and not is_there(index_of(path))):
                raise UserError(
                    f"{path} or its index is missing though the manifest names it; copy the whole "
                    "shards folder, or run `handloom curate` again."
                )
        self._maps: dict[int, Bytes] = {}
        self._addresses = np.zeros(len(names), np.int64)  # 0: not mapped yet
        self._windows: dict[int, npt.NDArray[np.void]] = {}
        self._low = 0

    def index(self, file: int) -> pa.Table:
        """The index of a shard, mapped."""
        return read_index(os.fspath(index_of(self._paths[file])))

    def size(self, file: int) -> int:
        """Bytes of a tar."""
        return len(self._map(file))

    def view(self, file: int, offset: int, size: int) -> Bytes:
        """A range of a tar, uint8 [size], not a copy."""
        found = self._map(file)
        check_range(str(self._paths[file]), offset, size, len(found))
        return found[offset : offset + size]

    def gather(self, files: Integers, offsets: Integers, size: int) -> npt.NDArray[np.void]:
        """`size` bytes from each of B places, void [B].

        One indexing operation for all files: an array that begins at the lowest map, reaches to the
        highest and holds an overlapping element at every byte. What lies between the maps is never
        touched: the caller has checked every range against its file.
        """
        return self.gather_at(self.addresses(files, offsets), size)

    def addresses(self, files: Integers, offsets: Integers) -> Integers:
        """Memory addresses of places in the files, int64 [B]; the files stay mapped."""
        starts = self._addresses[files]
        if not starts.all():
            for file in np.unique(files[starts == 0]):
                self._map(int(file))
            starts = self._addresses[files]
        return starts + offsets

    def gather_at(self, addresses: Integers, size: int) -> npt.NDArray[np.void]:
        """`gather` for places whose addresses are known."""
        window = self._window(size)
        picked: npt.NDArray[np.void] = window[addresses - self._low]
        return picked

    def _map(self, file: int) -> Bytes:
        if file not in self._maps:
            try:
                with self._paths[file].open("rb") as tar:
                    whole = mmap(tar.fileno(), 0, access=ACCESS_READ)
                bytes_ = np.frombuffer(whole, np.uint8)
            except ValueError:  # what is empty cannot be mapped
                raise UserError(f"{self._paths[file]} is empty; copy it again.") from None
            self._maps[file] = bytes_
            self._addresses[file] = bytes_.__array_interface__["data"][0]
            self._windows.clear()
        return self._maps[file]

    def _window(self, size: int) -> npt.NDArray[np.void]:
        if size not in self._windows:
            self._low = int(self._addresses[self._addresses > 0].min())
            ends = (int(self._addresses[i]) + len(m) for i, m in self._maps.items())
            self._windows[size] = np.asarray(_Memory(self._low, max(ends), size))
        return self._windows[size]


class _Memory:
    """Addresses low to high, as overlapping elements of some size, for numpy."""

    def __init__(self, low: int, high: int, size: int) -> None:
        self.__array_interface__: dict[str, Any] = {
            "data": (low, True),
            "shape": (high - low - size + 1,),
            "strides": (1,),
            "typestr": f"|V{size}",
            "version": 3,
        }
