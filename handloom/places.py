"""Places by URL: `place("s3://bucket/run")` is a `Path` of an object store, used as one on disk.

    path.read_bytes(), .exists(), .glob(…), .stat(), .unlink()      ask the store
    open(path), path.open(), os.fspath(path)                        use a copy on this node's disk

So whatever opens a file by its path (FFmpeg, HDF5, pyarrow) reads the copy, which is fetched when
it is first asked for (`copies.py`). Files are written by `handloom.files`, whole or not at all.

A folder is listed once by each process, see `listings.py`.
"""

import functools
import os
import re
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EISDIR, ENOENT
from fnmatch import translate
from hashlib import blake2b
from io import UnsupportedOperation
from pathlib import Path, PosixPath
from typing import IO, Any, ClassVar, Self
from urllib.parse import unquote

from handloom import prefetch, stores
from handloom.copies import copies
from handloom.errors import CLOSED, FULL, MediaError, StoreError, UserError, unwritable
from handloom.listings import (
    CHANGED,
    UNKNOWN,
    info,
    info_now,
    is_trusted,
    key_of,
    listing,
    note,
    trust_url,
)
from handloom.stores import Info, ask, download
from handloom.tars import file_of


def place(text: str | Path) -> Path:
    """A path from what a user gives: a URL of an object store, `file://`, or a path here."""
    protocol, mark, rest = str(text).partition("://")
    if isinstance(text, Path) or not mark:
        return Path(text)
    if protocol in ("file", "local"):
        return Path("/" + unquote(rest).lstrip("/"))
    return _kind(protocol)("/" + rest.strip("/"))


def is_remote(path: Path) -> bool:
    """Whether a path is in an object store."""
    return isinstance(path, StorePath)


class StorePath(PosixPath):
    """A file or folder of an object store; inside, the path `/bucket/key`.

    It is a `Path`, so that code need not know where it works. A folder is there if files are.
    """

    protocol: ClassVar[str] = ""
    known: Info | None = None
    """What a listing said of it, where it comes from one."""

    def __str__(self) -> str:
        plain = super().__str__()
        return f"{self.protocol}:/{plain}" if plain.startswith("/") else plain

    def __repr__(self) -> str:
        return f"place({str(self)!r})"

    def __fspath__(self) -> str:
        return os.fspath(local(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return place, (str(self),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def key(self) -> str:
        """The path in the store, `bucket/key`."""
        return key_of(str(self))

    def absolute(self) -> Self:
        """The same."""
        return self

    def resolve(self, strict: bool = False) -> Self:
        """The same: a store has no links."""
        return self

    def expanduser(self) -> Self:
        """The same."""
        return self

    def info(self) -> Info | None:
        """What is there; None for nothing."""
        return self.known or info(str(self))

    def exists(self, **_: Any) -> bool:
        """Whether a file or folder is there."""
        return self.info() is not None

    def is_file(self, **_: Any) -> bool:
        """Whether a file is there."""
        return (found := self.info()) is not None and not found.is_folder

    def is_dir(self, **_: Any) -> bool:
        """Whether files are below."""
        return (found := self.info()) is not None and found.is_folder

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def stat(self, **_: Any) -> os.stat_result:
        """Size and time of a file; the inode is a hash of the path."""
        found = self.info()
        if found is None:
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), str(self))
        mode = stat.S_IFDIR | 0o755 if found.is_folder else stat.S_IFREG | 0o644
        inode = int.from_bytes(blake2b(str(self).encode(), digest_size=7).digest())
        size, mtime_s = found.size, found.mtime_s
        values = (mode, inode, 0, 1, 0, 0, size, mtime_s, mtime_s, mtime_s)
        return os.stat_result(values, {"st_mtime_ns": mtime_s * 10**9})

    def lstat(self) -> os.stat_result:
        """As `stat`."""
        return self.stat()

    def iterdir(self) -> Generator[Self, None, None]:
        """Files and folders in this one, in order."""
        for name, found in sorted(self._listed().items()):
            yield _below(self, name, found)

    def glob(self, pattern: str) -> Generator[Self, None, None]:
        """Paths below that match a pattern, level by level; `**` is not known."""
        folders_only = pattern.endswith("/")
        first, _, rest = pattern.strip("/").partition("/")
        matches = re.compile(translate(first)).match
        for name, found in sorted(listing(str(self)).items()):
            if not matches(name) or ((rest or folders_only) and not found.is_folder):
                continue
            path = _below(self, name, found)
            if rest:
                yield from path.glob(rest + "/" * folders_only)
            else:
                yield path

    def _listed(self) -> dict[str, Info]:
        """What the folder holds. Raises FileNotFoundError where there is none."""
        if not (found := listing(str(self))):
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), str(self))
        return found

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there once files are."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file."""
        try:
            ask(str(self), lambda opened: opened.rm_file(self.key))
        except FileNotFoundError:
            if not missing_ok:
                raise
        note(str(self), None)

    def open(self, mode: str = "r", *args: Any, **options: Any) -> IO[Any]:  # type: ignore[override]
        """Open a copy for reading."""
        if set(mode) & set("wax+"):
            raise UnsupportedOperation(f"{self}: files of a store are written by handloom.files")
        return local(self).open(mode, *args, **options)

    def read_bytes(self) -> bytes:
        """The content: of a dataset's file as it is copied, of others as it is now."""
        if is_trusted(str(self)):
            return local(self).read_bytes()
        # s3fs asks for the size first where it may read in parallel.
        options = {"max_concurrency": 1} if self.protocol == "s3" else {}
        return ask(str(self), lambda opened: bytes(opened.cat_file(self.key, **options)))

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The content as text, UTF-8 by default, line ends as open() has them."""
        text = self.read_bytes().decode(encoding or "utf-8", errors or "strict")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def write_bytes(self, data: Any) -> int:
        """Write a file, whole or not at all."""
        content = bytes(data)
        ask(str(self), lambda opened: opened.pipe_file(self.key, content))
        note(str(self), UNKNOWN)
        return len(content)

    def write_text(self, data: str, *args: Any, **options: Any) -> int:
        """Write a text in UTF-8, whole or not at all."""
        return self.write_bytes(data.encode())

    def upload(self, source: Path) -> None:
        """Write a file from one on disk, whole or not at all, and keep that as its copy."""
        size = source.stat().st_size
        ask(str(self), lambda opened: opened.put_file(str(source), self.key))
        found = info_now(str(self))
        if found is None or found.size != size:
            there = "nothing" if found is None else f"{found.size:,} bytes"
            raise StoreError(f"{self}: {size:,} bytes were written, and {there} is there.")
        copies().adopt(source, str(self), found.tag)
        note(str(self), found)

    def move(self, target: "StorePath") -> None:
        """Give a file another name; for a moment it has both."""
        ask(str(self), lambda opened: opened.cp_file(self.key, target.key))
        note(str(target), UNKNOWN)
        self.unlink(missing_ok=True)


@functools.cache
def _kind(protocol: str) -> type[StorePath]:
    """The class of the paths of a protocol."""
    stores.filesystem(protocol)  # refuses one that is unknown or not installed
    return type(f"{protocol.upper()}Path", (StorePath,), {"protocol": protocol})


def local(path: Path) -> Path:
    """The path of a file's content on this node's disk: of a local file its own.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: it is a folder.
        MediaError: a dataset's file was replaced while it was used.
    """
    if not isinstance(path, StorePath):
        return path
    url = str(path)
    prefetch.reach(url)
    found = path.known if path.known and path.known.tag else info(url)
    if found is not None and not found.tag and not found.is_folder:
        found = info_now(url)
    if found is None:
        raise FileNotFoundError(ENOENT, os.strerror(ENOENT), url)
    if found.is_folder:
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), url)
    whole = found

    def fetch(partial: Path) -> None:
        download(url, path.key, partial)
        if partial.stat().st_size != whole.size or (is_trusted(url) and info_now(url) != whole):
            raise MediaError(f"{path.name}: {CHANGED}")

    try:
        return copies().get(url, whole.tag, whole.size, fetch)
    except OSError as error:
        if error.errno not in FULL | CLOSED:
            raise
        raise unwritable(f"the copy of {url} in {copies().folder}", error) from None


def fetch_ahead(folder: Path, names: Sequence[str]) -> None:
    """Fetch the files of the work to come in a thread, a few of them before the one in use.

    Args:
        folder: a dataset; of one on disk nothing is fetched.
        names: below it, in the order in which they will be used; for a member its tar is fetched.
    """
    if isinstance(folder, StorePath):
        urls = [str(folder / name) for name in dict.fromkeys(map(file_of, names)) if name]
        prefetch.begin(urls, lambda url: local(place(url)))


@dataclass(frozen=True)
class Entry:
    """An entry of a listing, with the methods of `os.DirEntry` that are used."""

    name: str
    info: Info

    def is_dir(self, **_: Any) -> bool:
        """Whether it is a folder."""
        return self.info.is_folder

    def is_file(self, **_: Any) -> bool:
        """Whether it is a file."""
        return not self.info.is_folder

    def is_symlink(self) -> bool:
        """Never."""
        return False


@contextmanager
def scandir(folder: Path) -> Iterator[Iterator["Entry | os.DirEntry[str]"]]:
    """`os.scandir`, also of a folder in a store."""
    if isinstance(folder, StorePath):
        yield (Entry(name, info) for name, info in folder._listed().items())
    else:
        with os.scandir(folder) as entries:
            yield entries


def listdir(folder: Path) -> list[str]:
    """`os.listdir`, also of a folder in a store."""
    with scandir(folder) as entries:
        return [entry.name for entry in entries]


def paths_of(folder: Path, names: Sequence[str]) -> list[Path]:
    """Paths of files in a folder; of a store they know what its listing says of them."""
    if not isinstance(folder, StorePath):
        return [folder / name for name in names]
    known = listing(str(folder))
    return [_below(folder, name, known.get(name, UNKNOWN)) for name in names]


def trust(folder: Path) -> None:
    """Take the files below a folder for unchanged while this process lives: a dataset."""
    if isinstance(folder, StorePath):
        trust_url(str(folder))


def check_bucket(path: Path) -> None:
    """Refuse a place whose bucket is not there or not ours to list, in one sentence.

    Raises:
        UserError: there is no such bucket.
        StoreError: no access, or no answer.
    """
    if not isinstance(path, StorePath):
        return
    if len(path.parts) < 2:
        raise UserError(f"{path} names no bucket, expected {path.protocol}://BUCKET/FOLDER.")
    bucket, prefix = path.parts[1], "/".join(path.parts[2:])
    try:
        if path.protocol == "s3":
            one = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": 1}
            ask(str(path), lambda opened: opened.call_s3("list_objects_v2", **one))
        else:
            ask(str(path), lambda opened: opened.info(bucket))
    except FileNotFoundError:
        raise UserError(
            f"there is no bucket {stores.bucket_of(str(path))}; correct the name, or create it."
        ) from None


def _below(folder: Any, name: str, found: Info) -> Any:
    path = folder / name
    path.known = None if found == UNKNOWN else found
    return path
