"""Output folders in an object store, for commands that append, rename and draw: a mirror on disk.

The command works in a local folder. A thread uploads what has changed every few seconds, so that
nothing waits for the store. A checkpoint is complete there when `checkpoints/latest` names it: that
file goes after all others of its folder, and what the command has removed goes after that. Another
machine that is given the same URL begins with what the store holds.
"""

import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, replace
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from handloom.copies import copies
from handloom.errors import StoreError, first_line
from handloom.lease import Lease
from handloom.listings import forget_listings
from handloom.places import StorePath, check_bucket
from handloom.stores import ask, download

EVERY_S = 5.0
LEASE = ".lease"
LATEST = "latest"  # a file that says which of the others count
State = tuple[int, int]  # size, modification time in ns


@contextmanager
def on_this_disk(options: Any) -> Iterator[Any]:
    """Options of a command with local folders in place of those in a store.

    `out` is mirrored; every other path (a checkpoint, an export) is fetched with all that is in it.
    """
    with ExitStack() as stack:
        local: dict[str, Path] = {}
        for field in fields(options):
            value = getattr(options, field.name)
            if isinstance(value, StorePath):
                enter = mirrored if field.name == "out" else fetched
                local[field.name] = stack.enter_context(enter(value))
        yield replace(options, **local) if local else options


@contextmanager
def fetched(folder: StorePath) -> Iterator[Path]:
    """A local copy of a folder, or of a file, while the body runs."""
    check_bucket(folder)
    with copies().temporary(folder.name) as target:
        if folder.is_file():
            shutil.copyfile(folder, target)
        else:
            _download(folder, target)
        yield target


@contextmanager
def mirrored(out: StorePath) -> Iterator[Path]:
    """A local folder whose files are brought from the store, and uploaded as they change.

    Raises:
        UserError: another command writes there.
        StoreError: at the end, what was written could not be uploaded.
    """
    check_bucket(out)
    name = blake2b(str(out).encode(), digest_size=8).hexdigest()
    local = Path(f"{copies().folder}-mirrors") / name / out.name
    with Lease(out / LEASE, uuid4().hex).held() as lease:
        shutil.rmtree(local, ignore_errors=True)  # of a process that was killed
        mirror = _Mirror(local, out, lease)
        try:
            with mirror.uploading():
                print(f"{out}: kept up to date from {local}", file=sys.stderr, flush=True)
                yield local
        finally:
            mirror.upload()
        shutil.rmtree(local, ignore_errors=True)


class _Mirror:
    def __init__(self, local: Path, out: StorePath, lease: Lease) -> None:
        self.local, self.out, self.lease = local, out, lease
        self.stopped = threading.Event()
        forget_listings()
        _download(out, local)
        self.uploaded = _states(local)
        pointers = self._pointers().items()
        self.named = {path: _named(path, content) for path, (_, content) in pointers}
        """Folders that the pointers in the store name."""

    @contextmanager
    def uploading(self) -> Iterator[None]:
        """Upload every few seconds, in a thread, while the body runs."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            thread.join()

    def _run(self) -> None:
        while not self.stopped.wait(EVERY_S):
            try:
                self.upload()
            except (StoreError, OSError) as error:  # the next one, or that at the end, tries again
                print(f"{self.out}: not uploaded yet ({first_line(error)})", file=sys.stderr)

    def upload(self) -> None:
        """Upload what has changed, pointers last, and remove what is gone."""
        self.lease.check()
        before, now, after = self._pointers(), _states(self.local), self._pointers()
        # What a pointer names was whole when it was looked at, unless the pointer has moved on.
        pointers = {path: told for path, told in before.items() if after.get(path) == told}
        for path in sorted(now.keys() - before.keys() - after.keys()):
            if self.uploaded.get(path) != now[path]:
                with suppress(FileNotFoundError):  # removed meanwhile
                    self._put(path, now[path])
        for path, (state, content) in pointers.items():
            folder = _named(path, content)
            files = [file for file in now if file.startswith(folder)]
            is_there = files and all(self.uploaded.get(file) == now[file] for file in files)
            if is_there and self.uploaded.get(path) != state:
                (self.out / path).write_bytes(content)
                self.uploaded[path] = state
                self.named[path] = folder
        gone = sorted(self.uploaded.keys() - now.keys(), key=lambda path: path not in self.named)
        for path in gone:  # pointers first
            if not path.startswith(tuple(self.named.values())):
                (self.out / path).unlink(missing_ok=True)
                del self.uploaded[path]
                self.named.pop(path, None)

    def _pointers(self) -> dict[str, tuple[State, bytes]]:
        """State and content of the files called `latest`."""
        found = {}
        for path in self.local.glob(f"**/{LATEST}"):
            with suppress(FileNotFoundError):
                state, content = path.stat(), path.read_bytes()
                below = path.relative_to(self.local).as_posix()
                found[below] = (state.st_size, state.st_mtime_ns), content
        return found

    def _put(self, path: str, state: State) -> None:
        source, target = str(self.local / path), self.out / path
        with open(source, "rb"):
            ask(str(target), lambda opened: opened.put_file(source, target.key))
        self.uploaded[path] = state


def _states(folder: Path) -> dict[str, State]:
    """Size and time of all whole files below a folder, by their paths."""
    found: dict[str, State] = {}
    for path in folder.rglob("*"):
        below = path.relative_to(folder)
        if any(".partial" in part or ".tmp" in part for part in below.parts):
            continue
        try:
            state = path.stat()
        except FileNotFoundError:
            continue
        if path.is_file():
            found[below.as_posix()] = state.st_size, state.st_mtime_ns
    return found


def _named(path: str, content: bytes) -> str:
    """The folder that a file called `latest` names, with a slash behind it."""
    return (PurePosixPath(path).parent / content.decode(errors="replace").strip()).as_posix() + "/"


def _download(folder: StorePath, target: Path) -> None:
    """Bring all files below a folder here."""
    target.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir():
            _download(path, target / path.name)
        elif path.name != LEASE:
            _fetch(path, target / path.name)


def _fetch(path: StorePath, target: Path) -> None:
    download(str(path), path.key, target)
