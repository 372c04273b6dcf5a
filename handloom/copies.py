"""Files of an object store on this node's disk: each fetched once, and not more than fit.

    <folder>/<key>/<name>   a whole file, locked shared by processes that use it; its folder's time
                            is that of its last use
    <folder>/<key>.lock     while the file is fetched: held exclusively by the one who does
    <folder>/tmp/           what is being written

The key is a hash of the URL and the file's ETag, so that another content is another copy. When room
is needed the least recently used copies go, but for those that a process has used last: it may be
about to open them. Nobody waits for those: a process may hold its last files for hours.
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
        with self._turn(key), self._alone(key):
            if not path.exists():
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
            pin = self._pins.pop(key, None)
            if pin is not None and not _is_open(path, pin):  # removed by hand
                os.close(pin)
                pin = None
            pin = _locked(path, os.O_RDONLY, fcntl.LOCK_SH) if pin is None else pin
            if pin is None:
                return False
            self._pins[key] = pin
            while len(self._pins) > PINNED:
                os.close(self._pins.popitem(last=False)[1])
        with suppress(FileNotFoundError):
            os.utime(path.parent)
        return True

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Be the one who fetches a file, in all processes; the others wait meanwhile."""
        path = self.folder / f"{key}.lock"
        while (lock := _locked(path, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)) is None:
            pass  # another had fetched it, and removed the lock before we held it
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(lock)

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
        """Remove a copy, unless a process uses it; True where it is gone."""
        pins: list[int] = []
        try:
            for path in folder.iterdir():
                pin = _locked(path, os.O_RDONLY, fcntl.LOCK_EX | fcntl.LOCK_NB)
                pins += [] if pin is None else [pin]
            if pins:  # an empty folder waits for its file
                with self.temporary(folder.name) as away:
                    folder.rename(away)  # at once: the next may fetch it while it is removed
        except BlockingIOError:
            return False
        except FileNotFoundError:
            return True  # another process was faster
        finally:
            for pin in pins:
                os.close(pin)
        return bool(pins)


def _locked(path: Path, flags: int, how: int) -> int | None:
    """A descriptor that locks a file until it is closed; None where the file is gone."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, how)
        if _is_open(path, descriptor):
            return descriptor
    except BlockingIOError:
        os.close(descriptor)
        raise
    os.close(descriptor)  # removed, and perhaps written anew, before we held it
    return None


def _is_open(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


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
