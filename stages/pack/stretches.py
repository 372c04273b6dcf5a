"""Shards written stretch by stretch: runs of buckets, whose rows one task reads once.

Shards end where their number of samples ends, not where a bucket does. A stretch writes the shards
of the main split that lie in it whole. What it holds of others, at its borders and of the smaller
split, goes into pieces, and shards are put together from those in the end:

    shards/_pieces/<split>-<shard>-<stretch>.arrow
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa

from handloom.files import whole
from handloom.places import is_remote
from handloom.stages.pack.samples import blocks, parts
from handloom.stages.tables.parts import Tables, listed
from handloom.tokenize.shards import Layout, ShardInfo, shard_path, write_shard

SHARDS = 4  # a stretch holds the samples of so many: pieces are then a quarter of it at most
PIECES = "_pieces"

Counts = Mapping[str, Mapping[str, int]]
"""Samples by split and bucket."""


@dataclass(frozen=True)
class Share:
    """What a stretch holds of one shard."""

    split: str
    shard: int
    count: int
    """Samples in the stretch; they follow each other."""
    is_whole: bool
    """Whether these are all of the shard."""


@dataclass(frozen=True)
class Stretch:
    """Buckets that one task reads; shares lie in the order of split, then shard."""

    number: int
    buckets: tuple[str, ...]
    shares: tuple[Share, ...]
    main: str
    """The split with the most samples, of which whole shards are written at once."""
    layout: Layout

    def written(self) -> list[Share]:
        """The shares that are shards."""
        return [one for one in self.shares if one.is_whole and one.split == self.main]

    def piece(self, root: Path, share: Share) -> Path:
        """The file of a share that becomes a piece."""
        return root / PIECES / f"{share.split}-{share.shard:06d}-{self.number:05d}.arrow"


def plan_stretches(counts: Counts, samples_per_shard: int, layout: Layout) -> list[Stretch]:
    """Divide all buckets into stretches.

    Args:
        counts: kept clips by split and bucket.
        samples_per_shard: of all but a split's last shard.
        layout: of the shards.
    """
    totals = {split: sum(of_split.values()) for split, of_split in counts.items()}
    main = max(totals, key=totals.__getitem__)
    before, stretches = dict.fromkeys(counts, 0), list[Stretch]()
    for group in _groups(counts, SHARDS * samples_per_shard):
        shares = list[Share]()
        for split, of_split in counts.items():
            stop = before[split] + sum(of_split.get(bucket, 0) for bucket in group)
            shares += _shares(split, before[split], stop, totals[split], samples_per_shard)
            before[split] = stop
        stretches.append(Stretch(len(stretches), tuple(group), tuple(shares), main, layout))
    return stretches


def write_stretch(tables: Tables, stretch: Stretch, root: Path) -> dict[Share, ShardInfo]:
    """Write a stretch's whole shards and its pieces, those that are not there yet.

    Returns:
        The shards that it has written now.
    """
    infos: dict[Share, ShardInfo] = {}
    if all(_is_there(stretch, share, root) for share in stretch.shares):
        return infos
    drawers = {
        split: _Drawer(stretch, [one for one in stretch.shares if one.split == split], root)
        for split in {one.split for one in stretch.shares} - {stretch.main}
    }
    stream = _Stream(_main_blocks(tables, stretch, drawers))
    for share in stretch.shares:
        if share.split == stretch.main:
            rows = stream.draw(share.count)
            if _is_there(stretch, share, root):
                for _ in rows:
                    pass
            elif share.is_whole:
                path = shard_path(root, share.split, share.shard)
                each = chain.from_iterable(parts(block, stretch.layout) for block in rows)
                infos[share] = write_shard(path, each, stretch.layout)
            else:
                _write_piece(stretch.piece(root, share), list(rows))
    stream.end()
    return infos


def seams(stretches: list[Stretch]) -> dict[tuple[str, int], list[tuple[Stretch, Share]]]:
    """The shards that are put together from pieces, by split and number, with their pieces."""
    found: dict[tuple[str, int], list[tuple[Stretch, Share]]] = {}
    for stretch in stretches:
        for share in stretch.shares:
            if share not in stretch.written():
                found.setdefault((share.split, share.shard), []).append((stretch, share))
    return found


def write_seam(pieces: list[tuple[Stretch, Share]], root: Path) -> ShardInfo:
    """Put a shard together from its pieces."""
    (first, share), rows = pieces[0], (_read_piece(s.piece(root, one)) for s, one in pieces)
    layout = first.layout
    each = chain.from_iterable(parts(block, layout) for table in rows for block in table)
    return write_shard(shard_path(root, share.split, share.shard), each, layout)


def is_written(root: Path, share: Share) -> bool:
    """Whether a share's shard lies there, with its index: from a killed run."""
    path = shard_path(root, share.split, share.shard)
    return path.exists() and path.with_suffix(".index.arrow").exists()


def clear_pieces(root: Path) -> None:
    """Remove all pieces, once the shards are written."""
    for path in (root / PIECES).glob("*"):
        path.unlink(missing_ok=True)
    if not is_remote(root) and (root / PIECES).is_dir():
        (root / PIECES).rmdir()


def _groups(counts: Counts, samples_at_least: int) -> Iterator[list[str]]:
    """Buckets in order, in runs of at least so many samples."""
    group, held = list[str](), 0
    for bucket in sorted(set[str]().union(*counts.values())):
        group.append(bucket)
        held += sum(of_split.get(bucket, 0) for of_split in counts.values())
        if held >= samples_at_least:
            yield group
            group, held = [], 0
    if group:
        yield group


def _shares(split: str, start: int, stop: int, total: int, per_shard: int) -> Iterator[Share]:
    """What samples `start` to `stop` of a split are of its shards."""
    for number in range(start // per_shard, -(-stop // per_shard) if stop > start else 0):
        first, last = number * per_shard, min((number + 1) * per_shard, total)
        count = min(stop, last) - max(start, first)
        yield Share(split, number, count, count == last - first)


def _main_blocks(
    tables: Tables, stretch: Stretch, drawers: Mapping[str, "_Drawer"]
) -> Iterator[pa.Table]:
    """The main split's rows; those of others go into their drawers on the way."""
    found = listed(tables)
    for bucket in stretch.buckets:
        for split, block in blocks(found, bucket, [*drawers, stretch.main]):
            if split == stretch.main:
                yield block
            else:
                drawers[split].add(block)


class _Stream:
    """Rows that come in blocks and are drawn in any number."""

    def __init__(self, source: Iterator[pa.Table]) -> None:
        self.source = source
        self.rest: pa.Table | None = None

    def draw(self, count: int) -> Iterator[pa.Table]:
        """The next rows; must be used up before more are drawn."""
        while count:
            block = self.rest if self.rest is not None else next(self.source)
            self.rest = block.slice(count) if block.num_rows > count else None
            count -= min(count, block.num_rows)
            yield block.slice(0, block.num_rows - (self.rest.num_rows if self.rest else 0))

    def end(self) -> None:
        """Read on to the end, where nothing is left to draw."""
        assert self.rest is None
        for block in self.source:
            assert not block.num_rows


class _Drawer:
    """Rows of a split that is no stretch's main one, which become a piece for each shard."""

    def __init__(self, stretch: Stretch, shares: list[Share], root: Path) -> None:
        self.stretch, self.shares, self.root = stretch, shares, root
        self.held: list[pa.Table] = []

    def add(self, rows: pa.Table) -> None:
        """Add rows; a piece that they complete is written."""
        while rows.num_rows:
            missing = self.shares[0].count - sum(table.num_rows for table in self.held)
            self.held.append(rows.slice(0, missing))
            if rows.num_rows >= missing:
                path = self.stretch.piece(self.root, self.shares.pop(0))
                if not path.exists():
                    _write_piece(path, self.held)
                self.held = []
            rows = rows.slice(missing)


def _is_there(stretch: Stretch, share: Share, root: Path) -> bool:
    """Whether a shard, or a piece of it, lies there."""
    is_piece = share not in stretch.written()
    return is_written(root, share) or (is_piece and stretch.piece(root, share).exists())


def _write_piece(path: Path, rows: list[pa.Table]) -> None:
    table = pa.concat_tables(rows)
    with (
        whole(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)


def _read_piece(path: Path) -> Iterator[pa.Table]:
    """The rows of a piece, block by block."""
    with path.open("rb") as file, pa.ipc.open_file(file) as reader:
        for number in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(number)])
