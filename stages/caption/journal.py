"""The journal: every answer is written down as it arrives, before anything is made of it.

    <folder>/<bucket>/<host>-<process>-<random>.jsonl

Each process appends to files of its own, one line an answer. A kill can cut the last line of a
file off; such a line is not read, and nothing is appended behind it, since the next process has
another file. Only the buckets at work are held in memory.
"""

import json
import os
import secrets
import socket
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from pathlib import Path

from handloom.stages.caption.requests import Answer

OPEN_BUCKETS = 16  # more than a worker has batches at a time; 150,000 answers each at most

_token = secrets.token_hex(4)  # process numbers come again


@dataclass
class _Bucket:
    file: int
    """Descriptor of this process's own file."""
    answers: dict[str, Answer] = field(default_factory=dict)
    read_to: dict[str, int] = field(default_factory=dict)
    """How far each file has been read, bytes."""


class Journal:
    """The answers that are known, by request key. Safe to use from several threads.

    Args:
        folder: where they are kept; without one they are forgotten with the process.
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
        """Keep an answer; when this returns it outlives the process."""
        line = json.dumps({"key": key} | asdict(answer)).encode() + b"\n"
        with self._lock:
            held = self._bucket(bucket)
            held.answers[key] = answer
            while line and self._folder is not None:
                line = line[os.write(held.file, line) :]

    def refresh(self, bucket: str) -> None:
        """Take in what other processes have written since; worth a call before a batch."""
        with self._lock:
            held = self._bucket(bucket)
            if self._folder is not None:
                _read_on(self._folder / bucket, held)

    def _bucket(self, name: str) -> _Bucket:
        if name in self._buckets:
            self._buckets.move_to_end(name)
            return self._buckets[name]
        held = _Bucket(-1)
        if self._folder is not None:
            folder = self._folder / name
            folder.mkdir(parents=True, exist_ok=True)
            _read_on(folder, held)
            own = folder / f"{socket.gethostname()}-{os.getpid()}-{_token}.jsonl"
            held.file = os.open(own, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._buckets[name] = held
        if self._folder is not None and len(self._buckets) > OPEN_BUCKETS:
            os.close(self._buckets.popitem(last=False)[1].file)
        return held


def _read_on(folder: Path, held: _Bucket) -> None:
    """Read the whole lines that have not been read yet, files in name order."""
    for path in sorted(folder.glob("*.jsonl")):
        start = held.read_to.get(path.name, 0)
        if path.stat().st_size == start:
            continue
        with path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                start += len(line)
                _take(line, held.answers)
        held.read_to[path.name] = start


def _take(line: bytes, answers: dict[str, Answer]) -> None:
    """Of two answers to one request the first counts, whoever reads them."""
    try:
        fields = json.loads(line)
        answers.setdefault(fields.pop("key"), Answer(**fields))
    except (ValueError, TypeError, AttributeError, KeyError):
        return  # not ours to read: a damaged disk costs one answer, which is asked for again
