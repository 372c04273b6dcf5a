"""Files of an object store on this node's disk: each fetched once, and not more than fit.

    <folder>/<key>/<name>     a whole file; its folder's time is that of its last use
    <folder>/<key>.lock       held shared by processes that use the file, exclusive to fetch it
    <folder>/tmp/             what is being written

The key is a hash of the URL and the file's ETag, so that another content is another copy. When room
is needed the least recently used copies go, but for those that a process has used last: it may be
about to open them.
"""

import fcntl
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from tempfile import gettempdir
from uuid import uuid4

from handloom.errors import UserError

FOLDER, GIGABYTES = "HANDLOOM_CACHE", "HANDLOOM_CACHE_GB"  # of the environment
DEFAULT_GB = 20.0
PINNED = 4  # files that each process keeps from being removed: the last that it asked for


class Copies:
    """The copies of one node; safe to use from several threads and processes.

    Args:
        folder: where they lie.
        limit_bytes: of all together; a single larger file is kept while it is used.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._pins: OrderedDict[str, int] = OrderedDict()  # key -> descriptor of its lock
        self._turns: dict[str, tuple[threading.Lock, int]] = {}  # and how many threads want it
        self._lock = threading.Lock()
        folder.parent.mkdir(parents=True, exist_ok=True)
        for made in (folder, folder / "tmp"):  # what is copied is nobody else's business
            made.mkdir(exist_ok=True, mode=0o700)

    def get(self, url: str, tag: str, size: int, fetch: Callable[[Path], None]) -> Path:
        """The copy of a file; fetched where there is none.

        Args:
            url: of the file; the copy has the last part of it as its name.
            tag: of its content.
            size: bytes that it takes.
            fetch: writes the file to a path; what it raises leaves no copy.
        """
        key, path = self._place(url, tag)
        with self._turn(key):
            while not self._in_use(key, path):
                with self._alone(key):
                    if not path.exists():
                        self._make_room(size)
                        with self.temporary(path.name) as partial:
                            fetch(partial)
                            self._publish(partial, path)
        return path

    def adopt(self, partial: Path, url: str, tag: str) -> None:
        """Take a file over that was just written to the store, since it may be read soon."""
        key, path = self._place(url, tag)
        with self._turn(key):
            self._unpin(key)
            with self._alone(key):
                self._make_room(partial.stat().st_size)
                self._publish(partial, path)

    @contextmanager
    def temporary(self, name: str) -> Iterator[Path]:
        """A path of this name to write to; what lies there at the end is removed."""
        folder = self.folder / "tmp" / f"{os.getpid()}-{uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        try:
            yield folder / name
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def used_bytes(self) -> int:
        """Bytes of all copies."""
        return sum(size for _, size, _ in self._found())

    def _place(self, url: str, tag: str) -> tuple[str, Path]:
        key = blake2b(f"{url}\0{tag}".encode(), digest_size=16).hexdigest()
        return key, self.folder / key / url.rpartition("/")[2]

    def _publish(self, partial: Path, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        os.replace(partial, path)

    def _in_use(self, key: str, path: Path) -> bool:
        """Note that a copy is used, so that nobody removes it; False where there is none."""
        with self._lock:
            if key in self._pins:
                self._pins.move_to_end(key)
            else:
                self._pins[key] = self._locked(key, fcntl.LOCK_SH)
            while len(self._pins) > PINNED:
                os.close(self._pins.popitem(last=False)[1])
        with suppress(FileNotFoundError):  # not fetched yet, or removed by hand
            os.utime(path.parent)
            if path.exists():
                return True
        self._unpin(key)
        return False

    def _unpin(self, key: str) -> None:
        with self._lock:
            if key in self._pins:
                os.close(self._pins.pop(key))

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Hold a file's lock exclusively: one process fetches, the others wait."""
        descriptor = self._locked(key, fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(descriptor)

    def _locked(self, key: str, how: int) -> int:
        """Descriptor of a file's lock, which is held until it is closed."""
        path = self.folder / f"{key}.lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, how)
            with suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    return descriptor
            os.close(descriptor)  # the copy was removed, with this lock, before we held it

    @contextmanager
    def _turn(self, key: str) -> Iterator[None]:
        """Threads that ask for the same file take turns."""
        with self._lock:
            turn, waiting = self._turns.get(key) or (threading.Lock(), 0)
            self._turns[key] = turn, waiting + 1
        try:
            with turn:
                yield
        finally:
            with self._lock:
                turn, waiting = self._turns.pop(key)
                if waiting > 1:
                    self._turns[key] = turn, waiting - 1

    def _found(self) -> list[tuple[float, int, Path]]:
        """Last use, bytes and folder of each copy, the least recently used first."""
        found = []
        for entry in os.scandir(self.folder):
            if entry.name == "tmp" or not entry.is_dir():
                continue
            try:
                size = sum(file.stat().st_size for file in os.scandir(entry.path))
                found.append((entry.stat().st_mtime, size, Path(entry.path)))
            except FileNotFoundError:  # removed by another process
                continue
        return sorted(found)

    def _make_room(self, size: int) -> None:
        """Remove the least recently used copies until a file of a size fits."""
        with open(self.folder / ".room", "a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            told = file.read().strip()
            used = int(told) if told.isdigit() else self.used_bytes()
            if used + size > self.limit_bytes:
                used = self._evict(size)
            file.truncate(0)
            file.write(str(used + size))

    def _evict(self, size: int) -> int:
        found = self._found()
        used = sum(bytes_ for _, bytes_, _ in found)
        for _, bytes_, folder in found:
            # A tenth more, or the next file would count all copies again.
            if used + size <= 0.9 * self.limit_bytes:
                break
            if self._remove(folder):
                used -= bytes_
        return used

    def _remove(self, folder: Path) -> bool:
        """Remove a copy, unless a process uses it."""
        path = folder.with_name(f"{folder.name}.lock")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True


@cache
def copies() -> Copies:
    """This node's copies: the folder and size that the environment names."""
    default = Path(gettempdir()) / f"handloom-{os.getuid()}"
    folder = Path(os.environ.get(FOLDER) or default)
    if folder == default and folder.exists() and folder.stat().st_uid != os.getuid():
        raise UserError(
            f"{folder} belongs to another user, who could change what is read from it: name "
            f"another folder for copies with {FOLDER}."
        )
    return Copies(folder, int(float(os.environ.get(GIGABYTES) or DEFAULT_GB) * 1e9))
