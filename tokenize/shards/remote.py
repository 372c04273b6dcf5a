"""Shards on s3:// or gs://: ranged reads of the tars, with indexes and blocks kept.

Indexes are downloaded whole into a folder, under their SHA-256, and mapped from there. Of the tars
only the blocks that are asked for are fetched, many at a time, and the last used stay in memory.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from handloom.errors import UserError
from handloom.files import write_bytes
from handloom.tokenize.shards.files import Bytes, check_range, read_index
from handloom.tokenize.shards.format import Integers, index_name

BLOCK = 16 << 10  # a handful of clips; random reads of 3 kB would waste most of a larger block
KEPT_BYTES = 256 << 20
THREADS = 32  # a request waits 10 to 50 ms, nearly all of it for the network

Block = tuple[int, int]  # file, number of the block in it


def is_remote(path: str | Path) -> bool:
    """True for the URL of an object store."""
    return str(path).startswith(("s3://", "gs://", "gcs://"))


class RemoteFolder:
    """A folder of an object store; credentials come from the environment.

    Args:
        url: such as `s3://bucket/shards`; options of pyarrow.fs may follow, for example
            `?endpoint_override=http://127.0.0.1:9000&region=us-east-1` for another server than
            Amazon's.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def below(self, name: str) -> "RemoteFolder":
        """A folder in this one."""
        base, mark, options = self.url.partition("?")
        return RemoteFolder(f"{base.rstrip('/')}/{name}{mark}{options}")

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        from pyarrow import fs  # here, because it takes a tenth of a second

        try:
            filesystem, path = fs.FileSystem.from_uri(self.url)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{self.url} cannot be opened: {error}.") from None
        return filesystem, path.rstrip("/")

    def open(self, name: str) -> Any:
        """A pyarrow random access file. Raises UserError where there is none."""
        filesystem, path = self._opened
        try:
            return filesystem.open_input_file(f"{path}/{name}")
        except FileNotFoundError:
            raise UserError(
                f"{self.url} holds no {name}; name the `shards` folder of a finished run, and copy "
                "the whole of it."
            ) from None
        except OSError as error:
            raise UserError(f"{self.url}: {name} cannot be read: {error}.") from None

    def read(self, name: str) -> bytes:
        """A whole file."""
        with self.open(name) as file:
            return bytes(file.read())


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
        self._handles: dict[int, Any] = {}
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
        return int(self._handle(file).size())

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

    def _handle(self, file: int) -> Any:
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
            return bytes(self._handle(file).read_at(BLOCK, number * BLOCK))
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
