"""A JSON file as strict parsers want it, cleaned while it is read.

Annotations are written by Python, pandas and people: with a byte order mark, with NaN for a time
that is not known, with bytes that are not UTF-8. A parser refuses the file for any of these.
"""

import codecs
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from handloom.errors import UserError
from handloom.stages.datasets.formats.json_stream import MAX_DEPTH, null_for_constants

BLOCK = 1 << 16

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_STRING = re.compile(rb'"[^"]*"')
_CUT_WORD = re.compile(rb"[-\\A-Za-z]{1,12}\Z")  # a constant or an escape may go on
_LONGEST_WORD = 12
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))


class CleanJson:
    """The bytes of a JSON file for ijson: UTF-8 without a mark, `null` for NaN and Infinity.

    Bytes that are not UTF-8 become U+FFFD.

    Args:
        file: open for reading bytes.
        path: of the file, for messages.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._rest = b""
        self._in_string, self._depth = False, 0

    def read(self, size: int = -1) -> bytes:
        """About as many bytes, none at the end of the file.

        Raises:
            UserError: objects and lists are nested more than MAX_DEPTH deep: parsers keep the path
                to every value, which takes memory by the square of its depth.
        """
        if size == 0:
            return b""
        while True:
            block = self._file.read(max(size, BLOCK))
            data = self._rest + self._decoder.decode(block, final=not block).encode()
            cut = _CUT_WORD.search(data, max(0, len(data) - _LONGEST_WORD)) if block else None
            data, self._rest = (data[: cut.start()], data[cut.start() :]) if cut else (data, b"")
            if data or not block:
                return self._cleaned(data)

    def _cleaned(self, data: bytes) -> bytes:
        began_in_string = self._in_string
        self._follow(data)
        if b"NaN" not in data and b"Infinity" not in data:
            return data
        # A string that began before is given its quote for the search, which is taken off again.
        text = b'"' + data if began_in_string else data
        clean = null_for_constants(text)
        return clean[1:] if began_in_string else clean

    def _follow(self, data: bytes) -> None:
        """Keep up with strings and depth. Only quotes and brackets are left to be looked at."""
        marks = _ESCAPE.sub(b"", data) if b"\\" in data else data
        marks = (b'"' if self._in_string else b"") + marks.translate(None, _NO_BRACKETS)
        marks = _STRING.sub(b"", marks)
        marks, quote, _ = marks.partition(b'"')
        self._in_string = bool(quote)
        steps = np.isin(np.frombuffer(marks, np.uint8), list(b"[{")) * 2 - 1
        depths = self._depth + np.cumsum(steps)
        if len(depths):
            self._depth = int(depths[-1])
            if depths.max() > MAX_DEPTH:
                raise UserError(
                    f"{self._path} is nested too deeply, beyond {MAX_DEPTH} levels, expected "
                    "annotations of about ten; download it again."
                )
