"""JSON objects of many gigabytes, streamed entry by entry; `stream_values` is the entry.

A JSON object delimits itself: its first prefix that parses is the whole object. So a value ends at
one of the first `}`, unless these stand in strings or nested objects; then the prefixes do not
parse, and strings and braces are scanned. Each byte is read a bounded number of times, whatever the
file holds, and memory is that of two blocks.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from handloom.errors import UserError
from handloom.stages.datasets.media import refuse_wide_text, unchanged

BLOCK = 16 << 20  # bytes read at once; smaller blocks copy more, larger ones gain nothing
MAX_VALUE = 16 << 20  # bytes of one entry: twelve hours of speech take about one megabyte
MAX_KEY = 4096  # bytes of a key with the white space around it

TRIES = 3  # closing braces at which a value is taken for whole before its strings are scanned
MAX_DEPTH = 200  # of objects and lists in each other; annotations have about ten
BOM = b"\xef\xbb\xbf"

_BLANK = re.compile(rb"[ \t\r\n]*")
_KEY = re.compile(rb'[ \t\r\n]*("(?:[^"\\]|\\.)*+")[ \t\r\n]*:[ \t\r\n]*')
# Up to the next brace outside of strings. No match where the block cuts off a string.
_TO_BRACE = re.compile(rb'[^"{}]*+(?:"(?:[^"\\]++|\\.)*+"[^"{}]*+)*+([{}])', re.DOTALL)
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[][{}]', re.DOTALL)


def stream_values(path: Path) -> Iterator[tuple[str, bytes, Any]]:
    """Yield (key, JSON of the value, value) for each entry of the object in a file.

    Values are JSON objects. A key that occurs twice is yielded twice.

    Raises:
        UserError: the file is not one JSON object of objects, breaks off, changes while it is read,
            or holds an entry of more than 16 MB.
    """
    with path.open("rb") as file, unchanged(file, path):
        window = _Window(path, file)
        window.open_object()
        while window.next_entry():
            key = window.key()
            yield (key, *window.value(key))


def load_value(raw: bytes | memoryview) -> Any:
    """Parse JSON, strict or as Python writes it, with NaN and lone surrogates.

    A byte order mark is dropped; NaN and Infinity are None; lone surrogates and bytes that are not
    UTF-8 become U+FFFD.

    Raises:
        ValueError: it is not JSON, or nested more than MAX_DEPTH deep.
    """
    content = bytes(raw).removeprefix(BOM)
    check_depth(content)
    try:
        return _load_clean(content)
    except orjson.JSONDecodeError:
        return _load_surrogates(content)


def _load_clean(raw: bytes) -> Any:
    """Parse JSON that may hold NaN and bytes that are not UTF-8, at the speed of orjson."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        clean = null_for_constants(raw.decode("utf-8", "replace").encode())
        if clean == raw:
            raise
        return orjson.loads(clean)


def null_for_constants(raw: bytes) -> bytes:
    """JSON with `null` where it has NaN, Infinity or -Infinity outside of strings."""
    if b"NaN" in raw:
        raw = _null_for(b"NaN", raw)
    if b"Infinity" in raw:
        raw = _null_for(b"Infinity", _null_for(b"-Infinity", raw))
    return raw


def _null_for(word: bytes, raw: bytes) -> bytes:
    """A word stands in a string where an odd number of quotes comes before it."""
    marks = raw
    if b"\\" in raw:  # of the same length, without escaped quotes
        marks = raw.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    parts, quotes, at = [], 0, 0
    while (found := marks.find(word, at)) >= 0:
        quotes += marks.count(b'"', at, found)
        parts += [raw[at:found], word if quotes % 2 else b"null"]
        at = found + len(word)
    return b"".join([*parts, raw[at:]])


def check_depth(raw: bytes) -> None:
    """Raise ValueError for JSON that is nested more than MAX_DEPTH deep.

    Parsers recurse, and what is built of a file of a megabyte can take a gigabyte.
    """
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(raw):
        if match[0] in (b"{", b"["):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError("nested too deeply")
        elif match[0] in (b"}", b"]"):
            depth -= 1


def _load_surrogates(raw: bytes) -> Any:
    """Parse with Python's own parser, which takes lone surrogates."""
    try:
        value = json.loads(null_for_constants(raw.decode("utf-8", "replace").encode()))
        # Through UTF-16, where surrogate pairs become characters and lone ones U+FFFD.
        text = json.dumps(value, ensure_ascii=False)
        return json.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


@dataclass
class _Window:
    """The part of the file in memory, and the position up to which it is parsed."""

    path: Path
    file: BinaryIO
    data: bytes = b""
    at: int = 0
    count: int = 0
    at_end: bool = False

    def read_more(self) -> bool:
        """Drop what is parsed and read the next block; False at the end of the file."""
        block = self.file.read(BLOCK)
        self.at_end = not block
        self.data = self.data[self.at :] + block
        self.at = 0
        return not self.at_end

    def fill(self) -> None:
        """Read on until a key surely fits into the window."""
        while len(self.data) - self.at < MAX_KEY and not self.at_end:
            self.read_more()

    def next_character(self) -> bytes:
        """Consume the next byte that is not white space; empty at the end of the file."""
        while True:
            self.fill()
            blank = _BLANK.match(self.data, self.at)
            self.at = blank.end() if blank else self.at
            if self.at < len(self.data):
                self.at += 1
                return self.data[self.at - 1 : self.at]
            if self.at_end:
                return b""

    def open_object(self) -> None:
        """Consume everything up to the first brace, and the brace."""
        self.fill()
        refuse_wide_text(self.path, self.data)
        if self.data.startswith(BOM):
            self.at = 3
        character = self.next_character()
        if character != b"{":
            found = f"begins with {_quoted(character)}" if character else "is empty"
            raise UserError(
                f"{self.path} {found}, expected one JSON object with an entry for each video; "
                "download it again."
            )

    def next_entry(self) -> bool:
        """Advance to the next entry; False after the last one."""
        character = self.next_character()
        if character == b'"' and self.count == 0:
            self.at -= 1
            return True
        if character == b"," and self.count > 0:
            return True
        if character == b"}":
            rest = self.next_character()
            if rest:
                raise self.make_error(f"{_quoted(rest)} follows its end")
            return False
        raise self.make_error(f"{_quoted(character)} in place of a comma" if character else "")

    def key(self) -> str:
        """Consume a key and the colon after it."""
        self.fill()
        match = _KEY.match(self.data, self.at, self.at + MAX_KEY)
        if not match:
            rest = self.data[self.at :].lstrip()
            is_cut_off = len(rest) < MAX_KEY and rest[:1] in (b'"', b"")
            raise self.make_error("" if is_cut_off else "no key in quotes")
        self.at = match.end()
        try:
            return str(load_value(match[1]))
        except ValueError as error:
            raise self.make_error(f"a key that is no string: {error},") from None

    def value(self, key: str) -> tuple[bytes, Any]:
        """Consume one object: its bytes, and the parsed value."""
        self.fill()
        character = self.data[self.at : self.at + 1]
        if character not in (b"{", b""):
            raise UserError(
                f"{self.path} has {_quoted(character)} behind {key!r}, expected an object with the "
                "lists start, end and text; this is not HowTo100M's caption file."
            )
        while True:
            raw_and_value = self._value_up_to_brace() or self._value_by_scanning()
            if raw_and_value:
                self.at += len(raw_and_value[0])
                self.count += 1
                return raw_and_value
            if len(self.data) - self.at > MAX_VALUE:
                raise UserError(
                    f"{self.path} has an entry of more than {MAX_VALUE >> 20} MB for {key!r}, "
                    "expected one video's captions; download it again."
                )
            if not self.read_more():
                raise self.make_error("")

    def _value_up_to_brace(self) -> tuple[bytes, Any] | None:
        """The value if it ends at one of the next closing braces, as most do at the first."""
        end = self.at
        for _ in range(TRIES):
            end = self.data.find(b"}", end, self.at + MAX_VALUE) + 1
            if not end:
                return None
            raw = self.data[self.at : end]
            try:
                value = _load_clean(raw)
                check_depth(raw)
            except orjson.JSONDecodeError:
                continue
            except ValueError as error:
                raise self.make_error(str(error)) from None
            return raw, value
        return None

    def _value_by_scanning(self) -> tuple[bytes, Any] | None:
        """The value if it ends in the window, whose end is found by counting braces."""
        depth, at, limit = 0, self.at, self.at + MAX_VALUE
        while match := _TO_BRACE.match(self.data, at, limit):
            at = match.end()
            depth += 1 if match[1] == b"{" else -1
            if depth > MAX_DEPTH:
                raise self.make_error("nested too deeply")
            if depth == 0:
                raw = self.data[self.at : at]
                try:
                    return raw, load_value(raw)
                except ValueError as error:
                    raise self.make_error(str(error)) from None
        return None

    def make_error(self, why: str) -> UserError:
        """The error for a file that is not JSON, or that ends too early."""
        why = why or "breaks off"
        return UserError(
            f"{self.path} is not complete JSON ({why} after {self.count} videos); "
            "download it again."
        )


def _quoted(character: bytes) -> str:
    if character == b"\0":
        return "a NUL byte, as of a download that broke off,"
    return repr(character.decode("latin-1"))
