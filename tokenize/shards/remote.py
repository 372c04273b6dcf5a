"""Shards in an object store: ranged reads of the tars, with indexes and blocks kept.

Indexes are downloaded whole into a folder, under their SHA-256, and mapped from there. Of the tars
only the blocks that are asked for are fetched, many at a time, and the last used stay in memory.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from handloom.errors import UserError
from handloom.files import write_bytes
from handloom.listings import key_of
from handloom.stores import ask
from handloom.tokenize.shards.files import Bytes, check_range, read_index
from handloom.tokenize.shards.format import Integers, index_name

BLOCK = 16 << 10  # a handful of clips; random reads of 3 kB would waste most of a larger block
KEPT_BYTES = 256 << 20
THREADS = 32  # a request waits 10 to 50 ms, nearly all of it for the network

T = TypeVar("T")
Block = tuple[int, int]  # file, number of the block in it


def is_remote(path: str | Path) -> bool:
    """True for the URL of an object store."""
    return "://" in str(path) and not str(path).startswith(("file://", "local://"))


class RemoteFile:
    """A file of an object store, for reading ranges of it.

    Args:
        url: of the file.
        options: of the file system, beside those of the environment.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.url, self._options = url, options
        found = self._ask(lambda opened: opened.info(key_of(url)))
        if found["type"] == "directory":
            raise FileNotFoundError(url)
        self.size = int(found["size"])

    def read_at(self, size: int, offset: int) -> bytes:
        """A range; less than `size` bytes at the end of the file."""
        end, key = min(offset + size, self.size), key_of(self.url)
        return self._ask(lambda opened: bytes(opened.cat_file(key, start=offset, end=end)))

    def pieces(self, size: int = 1 << 22) -> Iterator[bytes]:
        """The whole file, in pieces."""
        return (self.read_at(size, offset) for offset in range(0, self.size, size))

    def _ask(self, work: Callable[[Any], T]) -> T:
        return ask(self.url, work, self._options)


class RemoteFolder:
    """A folder of an object store; credentials come from the environment.

    Args:
        url: such as `s3://bucket/shards`; for another server than Amazon's without AWS_ENDPOINT_URL
            `?endpoint_override=http://127.0.0.1:9000&region=us-east-1` may follow.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def below(self, name: str) -> "RemoteFolder":
        """A folder in this one."""
        base, mark, options = self.url.partition("?")
        return RemoteFolder(f"{base.rstrip('/')}/{name}{mark}{options}")

    def open(self, name: str) -> RemoteFile:
        """A file of the folder. Raises UserError where there is none."""
        base, _, query = self.url.partition("?")
        try:
            return RemoteFile(f"{base.rstrip('/')}/{name}", _options(self.url, query))
        except FileNotFoundError:
            raise UserError(
                f"{self.url} holds no {name}; name the `shards` folder of a finished run, and copy "
                "the whole of it."
            ) from None
        except OSError as error:
            raise UserError(f"{self.url}: {name} cannot be read: {error}.") from None

    def read(self, name: str) -> bytes:
        """A whole file."""
        return b"".join(self.open(name).pieces())


def _options(url: str, query: str) -> dict[str, Any]:
    """The file system's options that the query of a URL names."""
    found = dict(parse_qsl(query))
    endpoint, region = found.pop("endpoint_override", ""), found.pop("region", "")
    if found:
        raise UserError(
            f"{url} cannot be opened: {', '.join(found)} behind the ? is not known, expected "
            "endpoint_override and region."
        )
    options: dict[str, Any] = {"endpoint_url": endpoint} if endpoint else {}
    return options | ({"client_kwargs": {"region_name": region}} if region else {})


class RemoteFiles:
    """The tars of a split in an object store; the same interface as `LocalFiles`.

    Args:
        folder: where the split lies.
        names: of the tars.
        index_hashes: SHA-256 of each index, from the manifest.
        cache: folder for indexes; by default `handloom` in the user's cache folder.
    """

    def __init__(
        self,
        folder: RemoteFolder,
        names: Sequence[str],
        index_hashes: Sequence[str],
        cache: Path | None = None,
    ) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self._folder, self._names, self._hashes = folder, names, index_hashes
        self._cache = cache or Path(home) / "handloom/indexes"
        self._handles: dict[int, RemoteFile] = {}
        self._blocks: OrderedDict[Block, bytes] = OrderedDict()

    def index(self, file: int) -> pa.Table:
        """The index of a shard: downloaded once, checked, then mapped."""
        path = self._cache / f"{self._hashes[file]}.arrow"
        if not path.is_file():
            name = index_name(self._names[file])
            data = self._folder.read(name)
            if hashlib.sha256(data).hexdigest() != self._hashes[file]:
                raise UserError(
                    f"{self._folder.url}/{name} does not have the SHA-256 that the manifest "
                    "records; copy the shards there again."
                )
            write_bytes(path, data)
        return read_index(str(path))

    def size(self, file: int) -> int:
        """Bytes of a tar."""
        return self._handle(file).size

    def view(self, file: int, offset: int, size: int) -> Bytes:
        """A range of a tar, uint8 [size]."""
        check_range(self._names[file], offset, size, self.size(file))
        self._fetch(_blocks(file, offset, size))
        return np.frombuffer(self._range(file, offset, size), np.uint8)

    def gather(self, files: Integers, offsets: Integers, size: int) -> npt.NDArray[np.void]:
        """`size` bytes from each of B places, void [B]; missing blocks are fetched in parallel."""
        places = list(zip(files.tolist(), offsets.tolist(), strict=True))
        self._fetch(block for file, offset in places for block in _blocks(file, offset, size))
        data = b"".join(self._range(file, offset, size) for file, offset in places)
        return np.frombuffer(data, f"V{size}")

    def _handle(self, file: int) -> RemoteFile:
        if file not in self._handles:
            self._handles[file] = self._folder.open(self._names[file])
        return self._handles[file]

    def _fetch(self, wanted: Iterable[Block]) -> None:
        """Bring blocks into memory; those of this call stay, older ones leave."""
        blocks = dict.fromkeys(wanted)
        for block in blocks.keys() & self._blocks.keys():
            self._blocks.move_to_end(block)
        missing = [block for block in blocks if block not in self._blocks]
        if len(missing) == 1:
            self._blocks[missing[0]] = self._download(missing[0])
        elif missing:
            for file in {file for file, _ in missing}:
                self._handle(file)
            with ThreadPoolExecutor(min(THREADS, len(missing))) as pool:
                self._blocks.update(zip(missing, pool.map(self._download, missing), strict=True))
        while len(self._blocks) > max(len(blocks), KEPT_BYTES // BLOCK):
            self._blocks.popitem(last=False)

    def _download(self, block: Block) -> bytes:
        file, number = block
        try:
            return self._handle(file).read_at(BLOCK, number * BLOCK)
        except OSError as error:
            raise UserError(
                f"{self._folder.url}/{self._names[file]} cannot be read: {error}."
            ) from None

    def _range(self, file: int, offset: int, size: int) -> bytes:
        data = b"".join(self._blocks[block] for block in _blocks(file, offset, size))
        start = offset % BLOCK
        return data[start : start + size]


def _blocks(file: int, offset: int, size: int) -> Iterable[Block]:
    return [(file, n) for n in range(offset // BLOCK, -(-(offset + size) // BLOCK))]
