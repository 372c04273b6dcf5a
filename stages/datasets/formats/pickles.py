"""Pickles as data: numpy arrays and plain containers, read without running anything.

`handloom.unpickle` reads them by a list of names. Each name stands for a function of this file
that checks its arguments before it allocates: none takes a size from the pickle that the pickle's
own bytes do not bear out. (numpy's own functions do, and read beyond a list that is too short.)

Files are mapped, not read: arrays are views of them, so that a file of gigabytes costs the memory
of its small objects.
"""

import io
import math
import mmap
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError, first_line
from handloom.stages.datasets.source import refuse_special
from handloom.unpickle import Refused, Source, Unpickler

MAX_BYTES = 2 << 30
"""Of a file. Bridge's out.npy with all trajectories of a task have some hundred megabytes."""

MAX_COPIES = 8
"""How often all that a file holds may be copied by its calls; once is usual."""

MAX_DIMS = 32

_NPY_MAGIC = b"\x93NUMPY"
_NPY_HEADER = 1 << 14  # bytes; numpy reads no header of more than 10,000
_DTYPE = re.compile(r"[<>=|]?(?:[biufc]\d{1,2}|[SU]\d{1,9}|O[48]?|[bBhHiIlLqQefdgFDG?])")


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
    return _npy(data, name)


def _mapped(path: Path, max_bytes: int) -> Source:
    refuse_special(path)
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
    shape, fortran_order, dtype, at = _npy_header(source, name)
    if dtype.hasobject:
        found = _run(source, name, at)
        if not isinstance(found, np.ndarray):
            raise MediaError(f"{name} holds a {type(found).__name__} where an array is expected")
        return found
    count = math.prod(shape)
    if dtype.itemsize == 0 or count * dtype.itemsize > len(source) - at:
        raise MediaError(
            f"{name} says it holds {list(shape)} values of {dtype}, and ends before: download it "
            "again"
        )
    values = np.frombuffer(bytearray(source[at : at + count * dtype.itemsize]), dtype)
    return values.reshape(shape, order="F" if fortran_order else "C")


def _npy_header(source: Source, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, column order, type and length; the header is a literal of Python, evaluated as one."""
    file = io.BytesIO(source[:_NPY_HEADER])
    if source[: len(_NPY_MAGIC)] != _NPY_MAGIC:
        raise MediaError(f"{name} is not an .npy file; download it again")
    try:
        version = np.lib.format.read_magic(file)
        # Version 3 differs from 2 only in names of fields that are not Latin-1.
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, fortran_order, dtype = read(file)
    except (
        ValueError, TypeError, KeyError, EOFError, SyntaxError, MemoryError, RecursionError,
        TokenError,
    ) as error:  # fmt: skip
        raise MediaError(f"{name} has a damaged header ({first_line(error)})") from None
    if len(shape) > MAX_DIMS or any(side < 0 for side in shape):
        raise MediaError(f"{name} has a damaged header: shape {list(shape[:MAX_DIMS])}")
    return shape, fortran_order, dtype, file.tell()


def _run(source: Source, name: str, start: int = 0) -> Any:
    try:
        return _Arrays(source, start).load()
    except Refused as error:
        raise MediaError(
            f"{name}: {error}, expected numpy arrays and plain containers only: do not "
            "trust this file"
        ) from None
    except pickle.UnpicklingError as error:
        raise MediaError(f"{name} is not a whole pickle ({error}); download it again") from None


class _Blank:
    """An array that awaits its content."""

    number = -1
    """Where the memo remembers it."""


class _Memo(dict[int, Any]):
    """What a pickle refers to by number; tells blank arrays theirs."""

    def __setitem__(self, number: int, value: Any) -> None:
        if type(value) is _Blank:
            value.number = number
        super().__setitem__(number, value)


class _Arrays(Unpickler):
    """Reads plain data and numpy's arrays; fills nothing but arrays and dtypes."""

    dispatch: ClassVar[dict[int, Any]] = dict(Unpickler.dispatch)

    def __init__(self, source: Source, start: int) -> None:
        super().__init__(source, _NAMES, start)
        self.memo = _Memo()
        self.blanks, self.copies_left = 0, MAX_COPIES * len(source) + (1 << 16)

    def load(self) -> Any:
        """The object, whose arrays all have their content."""
        found = super().load()
        if self.blanks:
            raise pickle.UnpicklingError("an array without content")
        return found

    def load_reduce(self) -> None:
        """Call what a name stands for."""
        self.spend(self.stack[-1])
        super().load_reduce()
        self.blanks += type(self.stack[-1]) is _Blank

    def load_build(self) -> None:
        """Fill the array or dtype on the stack."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, np.dtype):
            _set_byte_order(target, state)
        elif type(target) is _Blank:
            self.stack[-1] = _filled(state)
            self.spend(state)
            self.blanks -= 1
            if target.number in self.memo:
                self.memo[target.number] = self.stack[-1]
        else:
            raise Refused(f"the state of a {type(target).__name__}")

    def spend(self, arguments: tuple[Any, ...]) -> None:
        """Count what is copied: one thing copied again and again would fill the memory."""
        self.copies_left -= sum(len(part) for part in arguments if isinstance(part, _SIZED))
        if self.copies_left < 0:
            raise ValueError("it unpacks to much more than it holds")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build


def _filled(state: Any) -> NDArray[Any]:
    """The array of numpy's (version, shape, dtype, column order, data)."""
    if type(state) is not tuple or len(state) not in (4, 5):
        raise ValueError("an array without content")
    shape, dtype, fortran_order, data = state[-4:]  # very old files have no version
    order: Literal["C", "F"] = "F" if fortran_order else "C"
    if not (isinstance(dtype, np.dtype) and dtype.hasobject):
        return _from_buffer(data, dtype, shape, order)
    if not (_is_shape(shape) and type(data) is list and len(data) == math.prod(shape)):
        raise ValueError("an array of objects whose shape is not that of its list")
    items = np.empty(len(data), object)
    for i, item in enumerate(data):  # one by one, or numpy takes a list of lists for more axes
        items[i] = item
    return items.reshape(shape, order=order)


def _set_byte_order(target: Any, state: Any) -> None:
    """Of numpy's state of a dtype take the byte order; fields and subarrays are refused."""
    if type(state) is not tuple or len(state) < 5 or state[1] not in ("<", ">", "=", "|"):
        raise ValueError("a dtype without its state")
    if any(part is not None for part in state[2:5]):
        raise Refused("a numpy.dtype with fields")
    order = "=" if state[1] == "|" else state[1]
    ordered: Any = target.newbyteorder(order)
    target.__setstate__(ordered.__reduce__()[2])


def _is_shape(shape: Any) -> bool:
    sides = shape if type(shape) is tuple and len(shape) <= MAX_DIMS else (-1,)
    return all(type(side) is int and 0 <= side < 1 << 48 for side in sides)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    """Bytes as an array of numbers or texts; they must be exactly as many as the shape tells."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not dtype.itemsize:
        raise ValueError("bytes of an unknown type")
    if isinstance(data, str):  # Python 2's str
        data = data.encode("latin-1")
    if not (_is_shape(shape) and isinstance(data, bytes | bytearray | memoryview)):
        raise ValueError("an array without a proper shape or bytes")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes for an array {list(shape)} of {dtype}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(kind: Any, shape: Any, _code: Any) -> _Blank:
    if kind is not _NDARRAY or shape != (0,):
        raise ValueError("an array of unknown kind")
    return _Blank()


def _scalar(dtype: Any, data: Any) -> Any:
    return _from_buffer(data, dtype, (1,), "C")[0]


def _dtype(name: Any, *_align_and_copy: Any) -> np.dtype[Any]:
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        raise Refused(f"a numpy.dtype {str(name)[:40]!r}")
    # a copy, or the byte order would be set on numpy's own
    return np.dtype("O" if "O" in name else name, align=False, copy=True)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in an unknown encoding")
    return text.encode("latin-1")


def _of(kind: Callable[..., Any], *admitted: type) -> Callable[..., Any]:
    """`kind` of nothing, or of what is there already: `bytes` of a number would allocate it."""

    def make(*arguments: Any) -> Any:
        if len(arguments) > 1 or (arguments and type(arguments[0]) not in admitted):
            given = ", ".join(type(argument).__name__ for argument in arguments[:3])
            raise Refused(f"{kind.__module__}.{kind.__name__} of {given}")
        return kind(*arguments)

    return make


_SIZED = (str, bytes, bytearray, memoryview, list, tuple, dict, set, frozenset)
_NDARRAY = object()  # an argument of `_reconstruct`, and nothing to call
_NUMPY = {
    "core.multiarray._reconstruct": _reconstruct,
    "core.multiarray.scalar": _scalar,
    "core.numeric._frombuffer": _from_buffer,
    "dtype": _dtype,
    "ndarray": _NDARRAY,
}
_NAMES: dict[str, Any] = {
    **{f"numpy.{name}": value for name, value in _NUMPY.items()},
    **{f"numpy._{name}": value for name, value in _NUMPY.items()},  # since numpy 2
    "_codecs.encode": _encode,
    "collections.OrderedDict": _of(OrderedDict, list, tuple),
    "builtins.set": _of(set, list, tuple),
    "builtins.frozenset": _of(frozenset, list, tuple),
    "builtins.bytes": _of(bytes, bytes),
    "builtins.bytearray": _of(bytearray, bytes),
    "builtins.complex": complex,
}
