"""A machine that runs the instructions of a pickle and knows nothing but data.

It executes what Python's reader would, except that names are only looked up in `CALLS`. Nothing is
imported, no attribute is looked up and no object's own method is called.
"""

import codecs
import io
import mmap
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from handloom.stages.datasets.formats.pickle_calls import (
    CALLS,
    Blank,
    Named,
    Refused,
    filled,
    key,
    set_byte_order,
)

MAX_INSTRUCTIONS = 20_000_000
"""Each makes one object at most; at 100 bytes an object this bounds the memory, not the file."""

MAX_COPIES = 8
"""How often all that a file holds may be copied by its calls; once is usual."""

_SIZED = (str, bytes, bytearray, memoryview, list, tuple, dict, set, frozenset)

Source = io.BytesIO | mmap.mmap


class Machine:
    """Runs the instructions of one pickle: a stack, marks on it, and a memo of numbered objects."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.view = source.getbuffer() if isinstance(source, io.BytesIO) else memoryview(source)
        self.stack: list[Any] = []
        self.below_marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.blanks = 0
        self.copied = 0

    def run(self) -> Any:
        """Execute up to STOP and return what is on the stack."""
        for _ in range(MAX_INSTRUCTIONS):
            code = self.source.read(1)
            if code == b".":
                if self.blanks or isinstance(self.stack[-1], Named):
                    raise ValueError("an array without content")
                return self.pop()
            if code not in _INSTRUCTIONS:
                raise EOFError("it breaks off") if not code else ValueError(f"instruction {code!r}")
            name, read_argument = _INSTRUCTIONS[code]
            argument: Any = None
            if name in _SLICES:
                argument = self.slice(_SLICES[name])
            elif read_argument:
                argument = read_argument(self.source)
            if name in _LITERALS:
                self.stack.append(argument)
            elif name in _FRESH:
                self.stack.append(_FRESH[name]())
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            else:
                raise Refused(f"the instruction {name} (objects of its own classes)")
        raise ValueError(f"more than {MAX_INSTRUCTIONS} instructions")

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """The top of the stack."""
        return self.stack.pop()

    def slice(self, length_bytes: int) -> memoryview:
        """A long byte string, where it lies: nothing is allocated for lengths that are not true."""
        length = int.from_bytes(self.source.read(length_bytes), "little")
        start = self.source.tell()
        if length > len(self.view) - start:
            raise EOFError(f"it breaks off: {length} bytes are missing")
        self.source.seek(length, io.SEEK_CUR)
        return self.view[start : start + length].toreadonly()

    def from_mark(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        items, self.stack = self.stack, self.below_marks.pop()
        return items

    def mark(self) -> None:
        """Begin a run of items."""
        self.below_marks.append(self.stack)
        self.stack = []

    def append(self, items: list[Any]) -> None:
        """Put items into the list or set on the stack."""
        target = self.stack[-1]
        if type(target) is set:
            target.update(map(key, items))
        elif type(target) is list:
            target.extend(items)
        else:
            raise Refused(f"items in a {_kind(target)}")

    def set_items(self, items: list[Any]) -> None:
        """Put keys and values, in turn, into the dict on the stack."""
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict):
            raise Refused(f"keys in a {_kind(target)}")
        for name, value in zip(items[::2], items[1::2], strict=True):
            target[key(name)] = value

    def name(self, module: Any, name: Any) -> None:
        """Put a global on the stack, which is no more than its name."""
        full = f"{module}.{name}"
        # Python 2's and numpy 1's names of the same things
        full = full.replace("__builtin__.", "builtins.").replace("numpy._core.", "numpy.core.")
        if full not in CALLS and full != "numpy.ndarray":
            raise Refused(f"{module}.{name}"[:200])
        self.stack.append(Named(full))

    def reduce(self) -> None:
        """Call a global with a tuple of arguments."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Named) or function.name not in CALLS:
            raise Refused(f"a call of {_kind(function)}")
        if type(arguments) is not tuple:
            raise ValueError("a call without a tuple of arguments")
        self.spend(arguments)
        found = CALLS[function.name](*arguments)
        self.blanks += isinstance(found, Blank)
        self.stack.append(found)

    def build(self) -> None:
        """Fill the array or dtype on the stack."""
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, np.dtype):
            set_byte_order(target, state)
        elif isinstance(target, Blank):
            self.spend(state)
            self.stack[-1] = filled(state)
            self.blanks -= 1
            if target.number in self.memo:
                self.memo[target.number] = self.stack[-1]
        else:
            raise Refused(f"the state of a {_kind(target)}")

    def spend(self, arguments: Any) -> None:
        """Count what calls may copy: one thing copied again and again would fill the memory."""
        parts = arguments if type(arguments) is tuple else ()
        self.copied += sum(len(part) for part in parts if isinstance(part, _SIZED))
        if self.copied > MAX_COPIES * len(self.view) + (1 << 16):
            raise ValueError("it unpacks to much more than it holds")

    def put(self, number: int) -> None:
        """Remember the top of the stack."""
        top = self.stack[-1]
        self.memo[number] = top
        if isinstance(top, Blank):
            top.number = number

    def get(self, number: int) -> None:
        """Put what is remembered on the stack."""
        if isinstance(self.memo[number], Blank):
            raise ValueError("an array that holds itself")
        self.stack.append(self.memo[number])


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Named) else type(value).__name__


def _quoted(source: Source) -> str:
    """STRING: a byte string of Python 2 in quotes, any byte in it."""
    line = source.readline().strip()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise ValueError("a string without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


def _tuple_of(count: int) -> Callable[[Machine, Any], None]:
    def make(machine: Machine, _: Any) -> None:
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return make


def _dict_from_mark(machine: Machine, _: Any) -> None:
    items = machine.from_mark()
    machine.push({})
    machine.set_items(items)


def _protocol(_: Machine, version: Any) -> None:
    if version > 5:
        raise ValueError(f"protocol {version}")


_ACTIONS: dict[str, Callable[[Machine, Any], Any]] = {
    "PROTO": _protocol,
    "FRAME": lambda m, _: None,
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.pop() if m.stack else m.from_mark(),
    "POP_MARK": lambda m, _: m.from_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "LIST": lambda m, _: m.push(m.from_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.from_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "DICT": _dict_from_mark,
    "FROZENSET": lambda m, _: m.push(frozenset(map(key, m.from_mark()))),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.from_mark()),
    "ADDITEMS": lambda m, _: m.append(m.from_mark()),
    "SETITEM": lambda m, _: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.from_mark()),
    "GET": lambda m, number: m.get(number),
    "BINGET": lambda m, number: m.get(number),
    "LONG_BINGET": lambda m, number: m.get(number),
    "PUT": lambda m, number: m.put(number),
    "BINPUT": lambda m, number: m.put(number),
    "LONG_BINPUT": lambda m, number: m.put(number),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "GLOBAL": lambda m, names: m.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*[m.pop(), m.pop()][::-1]),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
}
_FRESH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
    *("BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_SLICES = {"BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}  # bytes of their length
_INSTRUCTIONS: dict[bytes, tuple[str, Callable[[Any], Any] | None]] = {
    opcode.code.encode("latin-1"): (opcode.name, opcode.arg.reader if opcode.arg else None)
    for opcode in pickletools.opcodes
} | {b"S": ("STRING", _quoted)}
