"""Journal of a model's answers: each is appended to a file as it arrives, before it is judged.

    <folder>/<bucket>/<host>-<process>-<random>.jsonl

Each process appends to files of its own, one line per answer. A kill can cut the last line of a
file off; such a line is not read, and nothing is appended behind it, since the next process has
another file. Only the last `OPEN_BUCKETS` buckets are held in memory.
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

_token = secrets.token_hex(4)  # process ids are used again


@dataclass
class _Bucket:
    file: int
    """Descriptor of this process's own file."""
    answers: dict[str, Answer] = field(default_factory=dict)
    read_to: dict[str, int] = field(default_factory=dict)
    """Bytes read of each file."""


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
            while line and self._folder is not None:
                line = line[os.write(entry.file, line) :]  # it may write a part only

    def refresh(self, bucket: str) -> None:
        """Read what other processes have written since; call it before a batch."""
        with self._lock:
            entry = self._bucket(bucket)
            if self._folder is not None:
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
            entry.file = os.open(own, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._buckets[name] = entry
        if self._folder is not None and len(self._buckets) > OPEN_BUCKETS:
            os.close(self._buckets.popitem(last=False)[1].file)
        return entry


def _read_on(folder: Path, entry: _Bucket) -> None:
    """Read the whole lines that have not been read yet, files in name order."""
    for path in sorted(folder.glob("*.jsonl")):
        start = entry.read_to.get(path.name, 0)
        if path.stat().st_size == start:
            continue
        with path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                start += len(line)
                _add(line, entry.answers)
        entry.read_to[path.name] = start


def _add(line: bytes, answers: dict[str, Answer]) -> None:
    """Add the answer of a line; of two answers to a request the first in file order counts."""
    try:
        fields = json.loads(line)
        answers.setdefault(fields.pop("key"), Answer(**fields))
    except (ValueError, TypeError, AttributeError, KeyError):
        return  # a line that a damaged disk spoilt costs one answer, which is requested again
