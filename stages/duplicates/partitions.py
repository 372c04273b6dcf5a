"""Files of records in partitions: what the tasks of one step of a shuffle leave for the next.

A task writes one file for all partitions; a task of the next step reads its partition of each file.

    records     in runs, each sorted by partition
    offsets     int64 [runs, partitions + 1], records before each partition
    end         END: runs, partitions, bytes of a record, and a magic number
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from handloom.errors import RunError
from handloom.files import whole

MAGIC = 0x68_6C_73_68_66_6C_30_31  # "hlshfl01"
END = np.dtype([("runs", "<u8"), ("partitions", "<u8"), ("bytes", "<u8"), ("magic", "<u8")])
Records = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]


class Writer:
    """Adds runs of records to a file."""

    def __init__(self, file: BinaryIO, dtype: np.dtype[np.void], partitions: int) -> None:
        self.file, self.dtype, self.partitions = file, dtype, partitions
        self.written, self.offsets = 0, [np.empty(0, np.int64)]

    def add(self, records: Records, partition: npt.NDArray[np.integer[Any]]) -> None:
        """Write records [R], each into its partition [R]; their order within one stays."""
        if not len(records):
            return
        place = partition.astype(np.uint16 if self.partitions <= 1 << 16 else np.uint32)
        self.file.write(records[np.argsort(place, kind="stable")].tobytes())
        counts = np.bincount(place, minlength=self.partitions)
        self.offsets.append(self.written + np.append(0, np.cumsum(counts)))
        self.written += len(records)

    def close(self) -> None:
        """Write what tells where the partitions are."""
        runs = len(self.offsets) - 1
        self.file.write(np.concatenate(self.offsets).astype("<i8").tobytes())
        end = np.array([(runs, self.partitions, self.dtype.itemsize, MAGIC)], END)
        self.file.write(end.tobytes())


@contextmanager
def partitioned(path: Path, dtype: np.dtype[np.void], partitions: int) -> Iterator[Writer]:
    """Write a file of records, whole or not at all.

    Raises:
        DiskError: the disk is full or closed.
    """
    # Unsynced: what a power cut leaves without bytes has no end, and is written again.
    with whole(path, sync=False) as temporary, temporary.open("wb") as file:
        writer = Writer(file, dtype, partitions)
        yield writer
        writer.close()


def is_complete(path: Path) -> bool:
    """Whether a file of records lies there with its end."""
    try:
        with open(path, "rb") as file:
            return _end(file)[1] is not None
    except OSError:
        return False


def read_partition(paths: Iterable[Path], dtype: np.dtype[np.void], partition: int) -> Records:
    """The records of a partition in some files, in the order of the files."""
    parts = [np.empty(0, dtype)]
    for path in paths:
        with opened(path) as file:
            for first, last in _runs(path, file, dtype, partition):
                file.seek(first * dtype.itemsize)
                parts.append(np.fromfile(file, dtype, last - first))
    return np.concatenate(parts)


def map_records(path: Path, dtype: np.dtype[np.void]) -> Records:
    """All records of a file of one partition, read as they are used."""
    with opened(path) as file:
        runs = _runs(path, file, dtype, 0)
    count = runs[-1][1] if runs else 0
    if not count:
        return np.empty(0, dtype)
    return np.memmap(os.fspath(path), dtype, "r", shape=(count,))


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file of a shuffle, to read.

    Raises:
        RunError: it is not there.
    """
    try:
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise RunError(
            f"{path} is missing, which this run had written: somebody has deleted it; delete the "
            f"folder {path.parent} and run the same command again, which compares the clips anew."
        ) from None


def damaged(path: Path) -> RunError:
    """What is said of a file that cannot be read."""
    return RunError(
        f"{path} is damaged or of another version; delete the folder {path.parent} and run the "
        "same command again, which compares the clips anew."
    )


def _runs(
    path: Path, file: BinaryIO, dtype: np.dtype[np.void], partition: int
) -> list[tuple[int, int]]:
    """First and last record of a partition in each run of a file."""
    size, end = _end(file)
    if end is None or end["bytes"] != dtype.itemsize or partition >= end["partitions"]:
        raise damaged(path)
    width = int(end["partitions"]) + 1
    file.seek(size - END.itemsize - 8 * width * int(end["runs"]))
    offsets = np.fromfile(file, "<i8", width * int(end["runs"])).reshape(-1, width)
    spans = offsets[:, partition : partition + 2].tolist()
    return [(first, last) for first, last in spans if last > first]


def _end(file: BinaryIO) -> tuple[int, np.void | None]:
    """Bytes of a file, and its end; None where that is cut off."""
    size = file.seek(0, os.SEEK_END)
    if size < END.itemsize:
        return size, None
    file.seek(size - END.itemsize)
    end = np.frombuffer(file.read(END.itemsize), END)[0]
    return size, end if end["magic"] == MAGIC else None
