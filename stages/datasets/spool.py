"""Records grouped by a key in bounded memory: what does not fit lies in temporary files.

A list of millions of rows names its files in any order, and all rows of a file belong together.
Records are spread over partitions by a hash of their key; a partition is small enough to be sorted.
"""

import pickle
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from zlib import crc32

PARTITIONS = 64
KEPT = 200_000  # records in memory, some 100 MB

Record = tuple[str, Any]
"""The key, and a value that pickle can store."""


class Spool:
    """Takes records in any order and gives them back grouped; its files go when it is left."""

    def __init__(self) -> None:
        self._kept: list[list[Record]] = [[] for _ in range(PARTITIONS)]
        self._count = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._folder:
            self._folder.cleanup()

    def add(self, key: str, value: Any) -> None:
        """Take a record."""
        number = crc32(key.encode("utf-8", "surrogatepass")) % PARTITIONS
        self._kept[number].append((key, value))
        self._count += 1
        if self._count >= KEPT:
            self._write()

    def groups(self) -> Iterator[tuple[str, list[Any]]]:
        """Each key once with its values, in the order in which they were added."""
        for number in range(PARTITIONS):
            records = [*self._written(number), *self._kept[number]]
            records.sort(key=lambda record: record[0])  # stable
            for key, group in groupby(records, key=lambda record: record[0]):
                yield key, [value for _, value in group]

    def _write(self) -> None:
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="handloom-list-")
        for number, records in enumerate(self._kept):
            with (Path(self._folder.name) / str(number)).open("ab") as file:
                pickle.dump(records, file)
            records.clear()
        self._count = 0

    def _written(self, number: int) -> Iterator[Record]:
        """Records of a partition from its file, which nobody else can write."""
        if not self._folder:
            return
        with (Path(self._folder.name) / str(number)).open("rb") as file:
            while True:
                try:
                    yield from pickle.load(file)
                except EOFError:
                    return
