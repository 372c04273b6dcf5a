"""Writers of shards and their indexes; each file appears whole or not at all."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from handloom.errors import UserError
from handloom.files import remove_temporaries, whole
from handloom.tokenize.shards import packed as shard_packed
from handloom.tokenize.shards import samples as shard_samples
from handloom.tokenize.shards import tar as shard_tar
from handloom.tokenize.shards.blocks import SampleBlock
from handloom.tokenize.shards.files import index_of
from handloom.tokenize.shards.format import (
    LAYOUTS,
    Layout,
    Sample,
    ShardInfo,
    sha256_file,
    shard_path,
)

# Large writes give large folios in the page cache, and gathering from those is a quarter faster.
WRITE_BYTES = 8 << 20


def write_shard(
    path: Path, samples: Iterable[Sample | SampleBlock], layout: Layout = "samples"
) -> ShardInfo:
    """Write one shard and its index.

    Args:
        path: the `.tar`; its index lies beside it.
        samples: in the order in which they shall lie there; of the layout `samples` also as blocks.
        layout: `samples`, one key a sample, or `packed`, for samples of one shape: 2 % instead of
            45 % over the bytes of the codes.

    Raises:
        UserError: an unknown layout.
        ValueError: a sample that cannot be stored; names its key.
    """
    if layout not in LAYOUTS:
        raise UserError(f"there is no layout {layout!r}: choose one of {', '.join(LAYOUTS)}.")
    with whole(path) as temporary:
        with temporary.open("wb", buffering=WRITE_BYTES) as tar:
            index = None
            if layout == "packed":
                shard_packed.write(tar, _single(samples), path.stem)
            else:
                index = shard_samples.write(tar, samples)
            shard_tar.finish(tar)
        index = build_index(temporary) if index is None else index
        index_path = index_of(path)
        write_index(index, index_path)  # before the tar gets its name: no tar is without one
    samples_here = int((index.schema.metadata or {}).get(b"samples", index.num_rows))
    return ShardInfo(
        path.name, samples_here, path.stat().st_size, sha256_file(path), sha256_file(index_path)
    )


def write_shards(
    root: Path,
    split: str,
    samples: Iterable[Sample],
    samples_per_shard: int = 10_000,
    layout: Layout = "samples",
) -> list[ShardInfo]:
    """Write samples in the given order as `root/<split>/000000.tar, …`, without a manifest."""
    remove_temporaries(root / split)
    stream, infos = iter(samples), list[ShardInfo]()
    while (first := next(stream, None)) is not None:
        chunk = chain([first], islice(stream, samples_per_shard - 1))
        infos.append(write_shard(shard_path(root, split, len(infos)), chunk, layout))
    return infos


def _single(samples: Iterable[Sample | SampleBlock]) -> Iterator[Sample]:
    for one in samples:
        assert isinstance(one, Sample), "the packed layout takes samples one by one"
        yield one


def build_index(path: Path) -> pa.Table:
    """Compute a shard's index from the tar alone; the same tar gives the same bytes.

    Raises:
        UserError: the tar is damaged or cut off.
    """
    first = next(iter(shard_tar.scan(path)), None)
    packed = first is not None and first.name == "tokens.npy"
    return shard_packed.build_index(path) if packed else shard_samples.build_index(path)


def write_index(index: pa.Table, path: Path) -> None:
    """Write an index as an Arrow IPC file, whole or not at all."""
    with (
        whole(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, index.schema) as writer,
    ):
        writer.write_table(index)
