"""Pictures and videos that were made for the page: files in a temporary folder, a bounded number
of bytes."""

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

MOST_BYTES = 512 << 20


class FileCache:
    """Files by key; those that were not asked for the longest go first. Threads may share it.

    At most one file for each core is made at a time, and each only once.

    Args:
        most_bytes: of all files together; the newest stays even if it is larger.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._folder = tempfile.TemporaryDirectory(prefix="handloom-view-")
        self._lock = threading.Lock()
        self._files: OrderedDict[Hashable, tuple[Path, int]] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._cores = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._number = 0

    def get(self, key: Hashable, suffix: str, make: Callable[[Path], None]) -> Path:
        """The file of a key.

        Args:
            key: all that decides the content.
            suffix: of the name, `.jpg`.
            make: writes the file where there is none yet; what it raises is passed on.
        """
        with self._lock:
            one_maker = self._making.setdefault(key, threading.Lock())
        with one_maker:
            if (known := self._known(key)) is not None:
                return known
            path = self._new_path(suffix)
            try:
                with self._cores:
                    make(path)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            finally:
                with self._lock:
                    self._making.pop(key, None)
            self._keep(key, path)
            return path

    def _known(self, key: Hashable) -> Path | None:
        with self._lock:
            if key not in self._files:
                return None
            path, _ = self._files[key]
            if not path.exists():  # somebody has tidied the temporary folder
                del self._files[key]
                return None
            self._files.move_to_end(key)
            return path

    def _new_path(self, suffix: str) -> Path:
        with self._lock:
            self._number += 1
            return Path(self._folder.name) / f"{self._number}{suffix}"

    def _keep(self, key: Hashable, path: Path) -> None:
        with self._lock:
            self._files[key] = path, path.stat().st_size
            while sum(size for _, size in self._files.values()) > self._most_bytes:
                if len(self._files) == 1:
                    return
                _, (oldest, _) = self._files.popitem(last=False)
                oldest.unlink(missing_ok=True)
