"""Journal of a model's answers: each is appended to a file as it arrives, before it is judged.

    <folder>/<bucket>/<host>-<process>-<random>.jsonl

In an object store, which cannot append, a process writes its files again every few seconds, and
when a batch is done.

Each process appends to files of its own, one line per answer. A kill can cut the last line of a
file off; such a line is not read, and nothing is appended behind it, since the next process has
another file. A line that holds no answer (a damaged disk, another program's file) is left out with
a sentence on stderr, and its answer is requested again. Only the last `OPEN_BUCKETS` buckets are
held in memory.
"""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from handloom.files import write_bytes
from handloom.listings import forget_listings
from handloom.places import is_remote
from handloom.stages.caption.requests import LONGEST_ANSWER, Answer
from handloom.stages.tables.texts import shown

OPEN_BUCKETS = 16  # more than a worker has batches at a time; 150,000 answers each at most
STORE_EVERY_S = 5.0  # seconds of answers that a kill may cost, where they lie in a store
LONGEST_LINE = 12 * LONGEST_ANSWER + 1000  # bytes; JSON writes a character in up to 12

_token = secrets.token_hex(4)  # process ids are used again


@dataclass
class _Bucket:
    file: int
    """Descriptor of this process's own file."""
    answers: dict[str, Answer] = field(default_factory=dict)
    read_to: dict[str, int] = field(default_factory=dict)
    """Bytes read of each file."""
    own: Path | None = None
    """This process's file, where it lies in a store."""
    lines: bytearray = field(default_factory=bytearray)
    """What is in it, or will be."""
    written: int = 0
    """Bytes of that which are."""
    told_s: float = 0.0
    """When it was written last."""


class Journal:
    """Answers by request key. Safe to use from several threads.

    Args:
        folder: folder of the files; without one the answers are lost with the process.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, bucket: str, key: str) -> Answer | None:
        """The answer to a request, if there is one."""
        with self._lock:
            return self._bucket(bucket).answers.get(key)

    def put(self, bucket: str, key: str, answer: Answer) -> None:
        """Store an answer; when this returns it outlives the process."""
        line = json.dumps({"key": key} | asdict(answer)).encode() + b"\n"
        with self._lock:
            entry = self._bucket(bucket)
            entry.answers[key] = answer
            if entry.own:
                entry.lines += line
                if time.monotonic() - entry.told_s > STORE_EVERY_S:
                    _store(entry)
            while line and entry.file >= 0:
                line = line[os.write(entry.file, line) :]  # it may write a part only

    def flush(self) -> None:
        """Write what waits to be written."""
        with self._lock:
            for entry in self._buckets.values():
                _store(entry)

    def refresh(self, bucket: str) -> None:
        """Read what other processes have written since; call it before a batch."""
        with self._lock:
            entry = self._bucket(bucket)
            if self._folder is not None:
                forget_listings(self._folder / bucket)
                _read_on(self._folder / bucket, entry)

    def _bucket(self, name: str) -> _Bucket:
        if name in self._buckets:
            self._buckets.move_to_end(name)
            return self._buckets[name]
        entry = _Bucket(-1)
        if self._folder is not None:
            folder = self._folder / name
            folder.mkdir(parents=True, exist_ok=True)
            _read_on(folder, entry)
            own = folder / f"{socket.gethostname()}-{os.getpid()}-{_token}.jsonl"
            if is_remote(own):  # another one each time, since it holds what is new alone
                entry.own = own.with_stem(f"{own.stem}-{secrets.token_hex(4)}")
            else:
                entry.file = os.open(own, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._buckets[name] = entry
        if self._folder is not None and len(self._buckets) > OPEN_BUCKETS:
            _closed(self._buckets.popitem(last=False)[1])
        return entry


def _store(entry: _Bucket) -> None:
    """Write a file in a store, if there is something new for it."""
    if entry.own and len(entry.lines) > entry.written:
        write_bytes(entry.own, bytes(entry.lines))
        entry.written, entry.told_s = len(entry.lines), time.monotonic()


def _closed(entry: _Bucket) -> None:
    _store(entry)
    if entry.file >= 0:
        os.close(entry.file)


def _read_on(folder: Path, entry: _Bucket) -> None:
    """Read the whole lines that have not been read yet, files in name order."""
    for path in sorted(folder.glob("*.jsonl")):
        start = entry.read_to.get(path.name, 0)
        try:
            if not path.is_file():  # opening a pipe would wait for its writer
                raise OSError("it is no file")
            if path.stat().st_size == start:
                continue
            entry.read_to[path.name] = _read_file(path, start, entry.answers)
        except OSError as error:
            _say(path, f"it cannot be read ({error})")


def _read_file(path: Path, start: int, answers: dict[str, Answer]) -> int:
    """Add the answers behind a position of a file; returns the position behind its last line."""
    bad = 0
    with path.open("rb") as file:
        file.seek(start)
        for line in _lines(file):
            start = file.tell()
            bad += not _add(line, answers)
    if bad:
        _say(path, f"{bad:,} of its lines hold no answer and were left out")
    return start


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The whole lines of a file; one longer than `LONGEST_LINE` in pieces, which hold no answer."""
    while line := file.readline(LONGEST_LINE):
        if len(line) < LONGEST_LINE and not line.endswith(b"\n"):
            return  # cut off by a kill, or still being written
        yield line


def _add(line: bytes, answers: dict[str, Answer]) -> bool:
    """Add the answer of a line; of two answers to a request the first in file order counts."""
    try:
        fields = json.loads(line)
        key = fields.pop("key")
        if not isinstance(key, str):
            return False
        answers.setdefault(key, Answer(**fields))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return False
    return True


def _say(path: Path, what: str) -> None:
    name = shown(str(path))
    print(f"{name}: {what}; answers that are missing are requested again.", file=sys.stderr)
