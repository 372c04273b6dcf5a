"""Pickles from strangers, read by a list of permitted names.

A pickle is a program: Python's own reader imports whatever it names and calls it with whatever it
likes. Here a name stands for what the reader's list says, and one that is not on it ends the
reading. Lengths that the file does not bear out allocate nothing, and the number of objects is
bounded. What it does not stop: a file that is slow to read, such as keys that take hours to hash.
"""

import mmap
import pickle
import struct
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any, ClassVar

from handloom.errors import first_line

MAX_INSTRUCTIONS = 20_000_000
"""Each makes one object at most; at 100 bytes an object this bounds the memory, not the file."""

LONG = 4096  # bytes: runs of this length and more are views of the file, not copies

_DAMAGED = (
    ValueError, TypeError, AttributeError, LookupError, EOFError, OverflowError, MemoryError,
    RecursionError, struct.error, pickle.UnpicklingError,
)  # fmt: skip

Source = bytes | mmap.mmap


class Refused(pickle.UnpicklingError):
    """The pickle asks for something that is not data."""

    def __init__(self, what: str) -> None:
        super().__init__(f"asks for {what}")


# Python's reader in Python: the one in C lets a pickle of ten bytes ask for a memo of gigabytes,
# and none of its instructions can be replaced.
_PYTHON: Any = pickle


class Unpickler(_PYTHON._Unpickler):  # type: ignore[misc]
    """Reads one pickle. Byte strings of Python 2 are read as Latin-1.

    Args:
        source: the pickle's bytes; those of a mapped file are not copied, and long byte strings
            come as read-only memoryviews of it.
        names: what the pickle may name, as `module.name`, and what that stands for.
        start: where in the bytes it begins.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_PYTHON._Unpickler.dispatch)

    def __init__(self, source: Source, names: Mapping[str, Any], start: int = 0) -> None:
        super().__init__(self, encoding="latin1")
        self.names, self.at = names, start
        self.source, self.view = source, memoryview(source).toreadonly()
        self.stack: list[Any] = []
        self.metastack: list[list[Any]] = []
        self.append = self.stack.append

    def load(self) -> Any:
        """Read the pickle and return its object.

        Raises:
            Refused: the pickle names what is not on the list.
            pickle.UnpicklingError: it is damaged.
        """
        source, dispatch = self.source, self.dispatch
        try:
            for _ in range(MAX_INSTRUCTIONS):
                code = source[self.at]
                self.at += 1
                dispatch[code](self)
        except _PYTHON._Stop as stop:
            return stop.value
        except Refused:
            raise
        except KeyError as error:  # of an instruction that there is not, above all
            raise pickle.UnpicklingError(f"{error} is unknown") from error
        except _DAMAGED as error:
            raise pickle.UnpicklingError(first_line(error)) from error
        raise pickle.UnpicklingError(f"more than {MAX_INSTRUCTIONS:,} instructions")

    def read(self, size: int) -> bytes | memoryview:
        """The next bytes."""
        start, self.at = self.at, self.at + size
        if self.at > len(self.view):
            raise EOFError(f"it breaks off: {self.at - len(self.view)} bytes are missing")
        return self.source[start : self.at] if size < LONG else self.view[start : self.at]

    def readline(self) -> bytes:
        """The next bytes up to the end of a line."""
        start, self.at = self.at, self.source.find(b"\n", self.at) + 1
        if not self.at:
            raise EOFError("it breaks off")
        return self.source[start : self.at]

    def find_class(self, module: str, name: str) -> Any:
        """The object that a name stands for; Python 2's `__builtin__` is `builtins`."""
        full = f"{module}.{name}".replace("__builtin__.", "builtins.")
        return self.names[full] if full in self.names else self.unknown(full)

    def unknown(self, name: str) -> Any:
        """The stand-in for a name that is not on the list; raises Refused unless overridden."""
        raise Refused(name[:200])

    def persistent_load(self, pid: Any) -> Any:
        """An object that lies beside the pickle; raises Refused unless overridden."""
        raise Refused("an object beside it")

    def get_extension(self, code: int) -> Any:
        """Refuse names by number, which come from a registry of this process."""
        raise Refused(f"extension {code}")

    def load_build(self) -> None:
        """Fill an object; never what is on the list, which outlives the pickle."""
        target = self.stack[-2]
        if isinstance(target, type | FunctionType | BuiltinFunctionType):
            raise Refused(f"the state of {target.__name__}")
        super().load_build()

    def load_frame(self) -> None:
        """Frames only tell a stream how much to read at a time."""
        self.read(8)

    def _decode_string(self, value: Any) -> str:
        return str(value, "latin-1")

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.FRAME[0]] = load_frame
    # Python's own fills a new bytearray of the length that the file claims.
    dispatch[pickle.BYTEARRAY8[0]] = _PYTHON._Unpickler.load_binbytes8
