"""Pickles as data: numpy arrays and plain containers, read without running anything.

A pickle is a program. Python's own reader imports what the program names and calls it, so that a
downloaded file can do anything. Here `pickle_machine` executes the same instructions, but knows
only the calls of `pickle_calls`; a file that asks for more is refused with the name of it.

Files are mapped, not read: arrays are views of them, so that a file of gigabytes costs the memory
of its small objects. What Python 2 wrote is read as Latin-1.
"""

import io
import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.stages.datasets.formats.pickle_calls import MAX_DIMS, Refused
from handloom.stages.datasets.formats.pickle_machine import Machine, Source

MAX_BYTES = 2 << 30
"""Of a file. Bridge's out.npy with all trajectories of a task have some hundred megabytes."""

_NPY_MAGIC = b"\x93NUMPY"


def load(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Read a pickle of numpy arrays, numbers, texts, lists, tuples, sets and dicts.

    Args:
        path: the file.
        max_bytes: larger files are refused.

    Returns:
        The object. Arrays may be read-only views of the file; a long byte string that stands
        by itself is a memoryview.

    Raises:
        MediaError: the file asks for anything else, is damaged, missing or too large.
    """
    return _run(_mapped(path, max_bytes), path.name)


def load_npy(path: Path, max_bytes: int = MAX_BYTES) -> NDArray[Any]:
    """Read an .npy file; arrays of objects by the rules of `load`.

    Returns:
        The array; a pickled dict comes in one of shape (): take it out by `.item()`.

    Raises:
        MediaError: as `load`, or the file is no .npy file.
    """
    return _npy(_mapped(path, max_bytes), path.name)


def parse_npy(data: bytes, name: str) -> NDArray[Any]:
    """The same from bytes, such as a member of an .npz file; `name` is for messages."""
    return _npy(io.BytesIO(data), name)


def _mapped(path: Path, max_bytes: int) -> Source:
    try:
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            if size > max_bytes:
                raise MediaError(
                    f"{path.name} has {size} bytes, expected at most {max_bytes}: it is not the "
                    "small file of the dataset that bears this name"
                )
            if not size:
                raise MediaError(f"{path.name} is empty; download it again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise MediaError(f"{path.name} is not there; download it again") from None


def _npy(source: Source, name: str) -> NDArray[Any]:
    shape, fortran_order, dtype = _npy_header(source, name)
    if dtype.hasobject:
        found = _run(source, name)
        if not isinstance(found, np.ndarray):
            raise MediaError(f"{name} holds a {type(found).__name__} where an array is expected")
        return found
    count, at = math.prod(shape), source.tell()
    source.seek(0, io.SEEK_END)
    if dtype.itemsize == 0 or count * dtype.itemsize > source.tell() - at:
        raise MediaError(
            f"{name} says it holds {list(shape)} values of {dtype}, and ends before: download it "
            "again"
        )
    source.seek(at)
    values = np.frombuffer(bytearray(source.read(count * dtype.itemsize)), dtype)
    return values.reshape(shape, order="F" if fortran_order else "C")


def _npy_header(source: Source, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, column order and type; the header is a literal of Python and evaluated as such."""
    if source.read(len(_NPY_MAGIC)) != _NPY_MAGIC:
        raise MediaError(f"{name} is not an .npy file; download it again")
    source.seek(0)
    try:
        version = np.lib.format.read_magic(source)
        # Version 3 differs from 2 only in names of fields that are not Latin-1.
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, fortran_order, dtype = read(source)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise MediaError(f"{name} has a damaged header ({_first_line(error)})") from None
    if len(shape) > MAX_DIMS or any(side < 0 for side in shape):
        raise MediaError(f"{name} has a damaged header: shape {list(shape[:MAX_DIMS])}")
    return shape, fortran_order, dtype


def _run(source: Source, name: str) -> Any:
    try:
        return Machine(source).run()
    except Refused as error:
        raise MediaError(
            f"{name}: asks for {error}, expected numpy arrays and plain containers only: do not "
            "trust this file"
        ) from None
    except (
        ValueError, TypeError, LookupError, OverflowError, EOFError, SyntaxError, MemoryError
    ) as error:  # fmt: skip
        raise MediaError(
            f"{name} is not a whole pickle ({_first_line(error)}); download it again"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
