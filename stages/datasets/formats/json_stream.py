"""One JSON object of many gigabytes, streamed: an entry for each video.

A JSON object is self-delimiting: the first of its prefixes that parses is the object. So an entry
ends at the first `}`, unless that stands in a string or a nested object, which parsing tells at
once. Only then are strings and braces scanned for. Each byte is looked at a bounded number of
times, whatever the file holds, and memory is that of two blocks.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from handloom.errors import UserError

BLOCK = 16 << 20  # bytes read at once; smaller blocks copy more, larger ones gain nothing
MAX_VALUE = 16 << 20  # bytes of one entry: twelve hours of speech take about one megabyte
KEY_ROOM = 4096  # a key, and the white space around it, fits into this many bytes

_BLANK = re.compile(rb"[ \t\r\n]*")
_KEY = re.compile(rb'[ \t\r\n]*("(?:[^"\\]|\\.)*+")[ \t\r\n]*:[ \t\r\n]*')
# A string that breaks off with the block matches too, without its closing quote.
_STRING_OR_BRACE = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)|[{}]', re.DOTALL)


def stream_values(path: Path) -> Iterator[tuple[str, bytes, Any]]:
    """Yield (key, JSON of the value, value) for every entry of the object in a file.

    Values are JSON objects. A key that comes twice is yielded twice.

    Raises:
        UserError: the file is not one JSON object of objects, breaks off, or holds an entry of more
            than 16 MB.
    """
    with path.open("rb") as file:
        window = _Window(path, file)
        window.open_object()
        while window.next_entry():
            key = window.key()
            yield (key, *window.value(key))


def load_value(raw: bytes | memoryview) -> Any:
    """Parse JSON, be it strict or as Python writes it: with NaN, lone surrogates, stray bytes.

    Bytes that are not UTF-8 become U+FFFD, and so do lone surrogates.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _load_lenient(bytes(raw))


def _load_lenient(raw: bytes) -> Any:
    try:
        value = json.loads(raw.decode("utf-8", errors="replace"))
        text = json.dumps(value, ensure_ascii=False)
        return json.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


@dataclass
class _Window:
    """A part of the file, and how far it has been read."""

    path: Path
    file: BinaryIO
    data: bytes = b""
    at: int = 0
    count: int = 0
    at_end: bool = False

    def more(self) -> bool:
        """Drop what was read and take in the next block; False at the end of the file."""
        block = self.file.read(BLOCK)
        self.at_end = not block
        self.data = self.data[self.at :] + block
        self.at = 0
        return not self.at_end

    def room(self) -> None:
        """See to it that a key fits into the window."""
        while len(self.data) - self.at < KEY_ROOM and not self.at_end:
            self.more()

    def next_sign(self) -> bytes:
        """The next byte that is no white space, which is read; empty at the end of the file."""
        while True:
            self.room()
            blank = _BLANK.match(self.data, self.at)
            self.at = blank.end() if blank else self.at
            if self.at < len(self.data):
                self.at += 1
                return self.data[self.at - 1 : self.at]
            if self.at_end:
                return b""

    def open_object(self) -> None:
        """Read up to behind the first brace."""
        self.room()
        if self.data.startswith(b"\xef\xbb\xbf"):
            self.at = 3
        sign = self.next_sign()
        if sign != b"{":
            found = f"begins with {_shown(sign)}" if sign else "is empty"
            raise UserError(
                f"{self.path} {found}, expected one JSON object with an entry for each video; "
                "download it again."
            )

    def next_entry(self) -> bool:
        """Go to the next entry; False behind the last one."""
        sign = self.next_sign()
        if sign == b'"' and self.count == 0:
            self.at -= 1
            return True
        if sign == b"," and self.count > 0:
            return True
        if sign == b"}":
            rest = self.next_sign()
            if rest:
                raise self.broken(f"{_shown(rest)} follows its end")
            return False
        raise self.broken(f"{_shown(sign)} in place of a comma" if sign else "")

    def key(self) -> str:
        """Read a key and the colon behind it."""
        self.room()
        match = _KEY.match(self.data, self.at, self.at + KEY_ROOM)
        if not match:
            rest = self.data[self.at :].lstrip()
            is_cut_off = len(rest) < KEY_ROOM and rest[:1] in (b'"', b"")
            raise self.broken("" if is_cut_off else "no key in quotes")
        self.at = match.end()
        try:
            return str(load_value(match[1]))
        except ValueError as error:
            raise self.broken(f"a key that is no string: {error},") from None

    def value(self, key: str) -> tuple[bytes, Any]:
        """Read one object: its bytes and what they mean."""
        self.room()
        sign = self.data[self.at : self.at + 1]
        if sign not in (b"{", b""):
            raise UserError(
                f"{self.path} has {_shown(sign)} behind {key!r}, expected an object with the "
                "lists start, end and text; this is not HowTo100M's caption file."
            )
        while True:
            raw_and_value = self._closed() or self._scanned()
            if raw_and_value:
                self.at += len(raw_and_value[0])
                self.count += 1
                return raw_and_value
            if len(self.data) - self.at > MAX_VALUE:
                raise UserError(
                    f"{self.path} has an entry of more than {MAX_VALUE >> 20} MB for {key!r}, "
                    "expected one video's captions; download it again."
                )
            if not self.more():
                raise self.broken("")

    def _closed(self) -> tuple[bytes, Any] | None:
        """The value, if it ends at the next closing brace: mostly it does."""
        end = self.data.find(b"}", self.at, self.at + MAX_VALUE) + 1
        if not end:
            return None
        try:
            value = orjson.loads(memoryview(self.data)[self.at : end])
        except orjson.JSONDecodeError:
            return None
        return self.data[self.at : end], value

    def _scanned(self) -> tuple[bytes, Any] | None:
        """The value, if it ends in the window, its end found by counting braces."""
        depth = 0
        for match in _STRING_OR_BRACE.finditer(self.data, self.at, self.at + MAX_VALUE):
            if match[0] == b"{":
                depth += 1
            elif match[0] == b"}":
                depth -= 1
            elif not match[1]:
                return None
            if depth == 0:
                raw = self.data[self.at : match.end()]
                try:
                    return raw, load_value(raw)
                except ValueError as error:
                    raise self.broken(str(error)) from None
        return None

    def broken(self, why: str) -> UserError:
        """What to raise where the file is no JSON, or has no more bytes where it should."""
        why = why or "breaks off"
        return UserError(
            f"{self.path} is not complete JSON ({why} after {self.count} videos); "
            "download it again."
        )


def _shown(sign: bytes) -> str:
    return repr(sign.decode("latin-1"))
