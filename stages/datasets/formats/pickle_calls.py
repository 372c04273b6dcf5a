"""What a pickle may call when `pickles` reads it, and what is done instead.

Every function here checks its arguments before it allocates: none takes a size from the file that
the file's own bytes do not bear out.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

MAX_DIMS = 32

_DTYPE = re.compile(r"[<>=|]?(?:[biufc]\d{1,2}|[SU]\d{1,9}|O[48]?|[bBhHiIlLqQefdgFDG?])")
_KEY_TYPES = (str, bytes, int, float, complex, bool, type(None), np.generic)


class Refused(ValueError):
    """What the file wants is not data; the message completes "<file> asks for"."""


class Named:
    """A global that a pickle named: a key of CALLS, or numpy.ndarray, which is an argument only."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Blank:
    """An array that awaits its content; `number` is where the memo remembers it."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = -1


def key(value: Any) -> Any:
    """A key of a dict or item of a set: flat, as hashing nested tuples can take for ever."""
    parts = value if type(value) in (tuple, frozenset) else (value,)
    if not all(isinstance(part, _KEY_TYPES) for part in parts):
        raise ValueError("a key that is neither a number nor a text")
    return value


def filled(state: Any) -> NDArray[Any]:
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


def set_byte_order(target: Any, state: Any) -> None:
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


def _reconstruct(kind: Any, shape: Any, _code: Any) -> Blank:
    if not isinstance(kind, Named) or kind.name != "numpy.ndarray" or shape != (0,):
        raise ValueError("an array of unknown kind")
    return Blank()


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


def _complex(real: Any = 0.0, imaginary: Any = 0.0) -> complex:
    if not all(type(part) in (int, float) for part in (real, imaginary)):
        raise ValueError("a complex number of something else")
    return complex(real, imaginary)


def _of(kind: Callable[..., Any], *admitted: type) -> Callable[..., Any]:
    """`kind` of nothing, or of what is there already: `bytes` of a number would allocate it."""

    def make(*arguments: Any) -> Any:
        if len(arguments) > 1 or (arguments and type(arguments[0]) not in admitted):
            given = ", ".join(type(argument).__name__ for argument in arguments[:3])
            raise Refused(f"builtins.{kind.__name__} of {given}")
        return kind(*arguments)

    return make


def _flat(kind: Callable[..., Any]) -> Callable[..., Any]:
    """A set or frozenset of the flat items of a list or tuple."""
    return lambda items=(): kind(map(key, _of(list, list, tuple)(items)))


def _keyed(pairs: Any = ()) -> "OrderedDict[Any, Any]":
    if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError("an OrderedDict without pairs")
    return OrderedDict((key(name), value) for name, value in pairs)


CALLS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "collections.OrderedDict": _keyed,
    "builtins.list": _of(list, list, tuple),
    "builtins.tuple": _of(tuple, list, tuple),
    "builtins.dict": _of(dict),
    "builtins.set": _flat(set),
    "builtins.frozenset": _flat(frozenset),
    "builtins.str": _of(str, str),
    "builtins.int": _of(int, int),
    "builtins.float": _of(float, float),
    "builtins.bool": _of(bool, bool),
    "builtins.bytes": _of(bytes, bytes),
    "builtins.bytearray": _of(bytearray, bytes),
    "builtins.complex": _complex,
}
"""By the name that Python 3 and numpy 1 give the thing."""
