"""The layout `packed`: a few big members a shard, about 2 % over the bytes of the codes.

    <shard>.tokens.npy     uint16 [N, V, T, I, J]: the codes of all N samples
    <shard>.state.npy      float32 [N, T, S]   robot data only
    <shard>.action.npy     float32 [N, T, A]   robot data only
    <shard>.captions.zst   blocks of 256 samples:   {"clip_id": [...], "caption": [...]}
    <shard>.meta.zst       blocks of 4,096 samples: {"crc32": [...], field: [...], …}

A `.zst` member is a table of its blocks and then the blocks, each a zstd frame of a JSON object
with one list a column: what is the same in all samples then costs nothing. Captions are needed for
every sample that a model is trained on, the other fields seldom, so the two are apart.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from handloom.errors import UserError
from handloom.tokenize.shards import tar as shard_tar
from handloom.tokenize.shards.columns import NPY_DAMAGE
from handloom.tokenize.shards.format import ARRAYS, FORMAT, VERSION, Sample, check_sample
from handloom.tokenize.shards.samples import npy

CAPTIONS_A_BLOCK, META_A_BLOCK = 256, 4096
MOST_BYTES_A_BLOCK = 1 << 28  # a block that claims more is damaged, and is not allocated
NPY_HEADER = 128
_SCHEMA = [("member", pa.string()), ("offset", pa.int64()), ("size", pa.int64()),
           ("crc32", pa.uint32())]  # fmt: skip


def write(tar: BinaryIO, samples: Iterable[Sample], name: str) -> None:
    """Write samples into an open tar; the codes are streamed, the rest is kept until the end.

    Raises:
        ValueError: a sample cannot be stored, or differs from the first in shape or arrays.
    """
    rows: list[tuple[str, dict[str, Any]]] = []
    arrays: dict[str, list[npt.NDArray[np.float32]]] = {}
    first: Sample | None = None
    with shard_tar.streamed(tar, f"{name}.tokens.npy") as out:
        start = out.tell()
        out.write(bytes(NPY_HEADER))
        for sample in samples:
            check_sample(sample)
            first = first or sample
            _check_like(sample, first)
            codes = np.ascontiguousarray(sample.codes_vtij).astype("<u2", copy=False).tobytes()
            out.write(codes)
            for array in sample.arrays:
                arrays.setdefault(array, []).append(sample.arrays[array])
            rows.append((sample.clip_id, sample.meta | {"crc32": _crc(codes, sample.arrays)}))
        end = out.tell()
        shape = (len(rows), *(first.codes_vtij.shape if first else (0, 0, 0, 0)))
        out.seek(start)
        out.write(_npy_header(shape))
        out.seek(end)
    if len({key for key, _ in rows}) < len(rows):
        raise ValueError(f"{name}: a clip id comes twice in one shard; every key is unique")
    for array in ARRAYS:
        if array in arrays:
            shard_tar.add(tar, f"{name}.{array}.npy", npy(np.stack(arrays[array])))
    captions = [{"clip_id": key, "caption": meta["caption"]} for key, meta in rows]
    shard_tar.add(tar, f"{name}.captions.zst", pack_blocks(captions, CAPTIONS_A_BLOCK))
    rest = [{k: v for k, v in meta.items() if k != "caption"} for _, meta in rows]
    shard_tar.add(tar, f"{name}.meta.zst", pack_blocks(rest, META_A_BLOCK))


def build_index(path: Path) -> pa.Table:
    """Compute the index from the tar alone: a row for each member, and the shape of the codes."""
    rows, shape = [], [0, 0, 0, 0, 0]
    with path.open("rb") as raw:
        for member in shard_tar.scan(path):
            raw.seek(member.offset)
            if member.name == "tokens.npy":
                shape = _npy_shape(raw, path)
            raw.seek(member.offset)
            crc, left = 0, member.size
            while left:
                piece = raw.read(min(left, 1 << 20))
                crc, left = zlib.crc32(piece, crc), left - len(piece)
            rows.append((member.name, member.offset, member.size, crc))
    facts = {"format": FORMAT, "version": str(VERSION), "layout": "packed",
             "samples": str(shape[0]), "shape": json.dumps(shape[1:])}  # fmt: skip
    schema = pa.schema(_SCHEMA, metadata=facts)
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


def pack_blocks(rows: Sequence[dict[str, Any]], rows_a_block: int) -> bytes:
    """A `.zst` member: rows per block and number of blocks (uint32), where each block starts and
    the last one ends (uint64), then the blocks; all numbers little-endian."""
    codec = pa.Codec("zstd", compression_level=19)  # 50 µs a sample, once
    frames = []
    for start in range(0, len(rows), rows_a_block):
        text = json.dumps(_columns(rows[start : start + rows_a_block]), ensure_ascii=False,
                          sort_keys=True, separators=(",", ":")).encode()  # fmt: skip
        frames.append(struct.pack("<I", len(text)) + codec.compress(text, asbytes=True))
    ends = np.cumsum([8 + 8 * (len(frames) + 1), *map(len, frames)]).astype("<u8")
    return struct.pack("<II", rows_a_block, len(frames)) + ends.tobytes() + b"".join(frames)


def unpack_block(block: bytes, where: str) -> dict[str, Any]:
    """The columns of one block; raises UserError where it is damaged."""
    try:
        (size,) = struct.unpack_from("<I", block)
        if size > MOST_BYTES_A_BLOCK:
            raise ValueError(f"a block of {size:,} bytes")
        text = pa.decompress(block[4:], decompressed_size=size, codec="zstd", asbytes=True)
        try:
            return dict(orjson.loads(text))
        except orjson.JSONDecodeError:  # NaN and lone surrogates, which json writes and reads
            return dict(json.loads(text))
    except (ValueError, TypeError, struct.error, OSError):
        raise UserError(
            f"{where}: a block of captions or metadata is damaged; `handloom inspect --verify` "
            "names what is."
        ) from None


def row_of(
    columns: dict[str, Any], row: int, wanted: Sequence[str] | None = None
) -> dict[str, Any]:
    """One sample's fields out of a block: all, or as many of those that are wanted as it has."""
    absent = columns.get("absent", {})
    listed = columns if wanted is None else (name for name in wanted if name in columns)
    names = (name for name in listed if name != "absent")
    return {n: _value(columns[n], row) for n in names if row not in absent.get(n, ())}


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows to columns; `absent` lists the rows that lack a field, which null could not say."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, Any] = {n: _steps([row.get(n) for row in rows]) for n in names}
    absent = {n: [i for i, row in enumerate(rows) if n not in row] for n in names}
    absent = {name: where for name, where in absent.items() if where}
    return columns | ({"absent": absent} if absent else {})


def _steps(values: list[Any]) -> Any:
    """A column of lists of times, as thousandths: the first, the first step, changes of the step.

    The times of a clip's frames are nearly even, so that the changes are nearly zero: 16 bytes a
    sample become 3. Columns of anything else, or with finer values, stay as they are.
    """
    if not all(isinstance(v, list) and v and all(type(x) is float for x in v) for v in values):
        return values
    if any(not abs(x) < 1e9 or round(x * 1000) / 1000 != x for value in values for x in value):
        return values
    whole = [[round(x * 1000) for x in value] for value in values]
    return {"thousandths": [[*v[:1], *np.diff(np.diff(v), prepend=0).tolist()] for v in whole]}


def _value(column: Any, row: int) -> Any:
    if isinstance(column, list):
        return column[row]
    first, *changes = column["thousandths"][row]
    return [x / 1000 for x in np.cumsum([first, *np.cumsum(changes, dtype=int)]).tolist()]


def _crc(codes: bytes, arrays: dict[str, npt.NDArray[np.float32]]) -> int:
    crc = zlib.crc32(codes)
    for name in ARRAYS:
        if name in arrays:
            crc = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), crc)
    return crc


def _check_like(sample: Sample, first: Sample) -> None:
    def shapes(s: Sample) -> dict[str, tuple[int, ...]]:
        return {"codes": s.codes_vtij.shape} | {n: a.shape for n, a in s.arrays.items()}

    if shapes(sample) != shapes(first):
        raise ValueError(
            f"{sample.clip_id} has {shapes(sample)}, {first.clip_id} before it {shapes(first)}: "
            "the packed layout holds samples of one shape, use the layout `samples` for these"
        )
    if clash := {"absent", "crc32"} & sample.meta.keys():
        raise ValueError(f"{sample.clip_id}: the metadata field {clash.pop()!r} is reserved")


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """An .npy header of constant length, so that it can be written after the codes."""
    text = f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}, }}"
    room = NPY_HEADER - 10
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", room) + text.ljust(room - 1).encode() + b"\n"


def _npy_shape(raw: BinaryIO, path: Path) -> list[int]:
    try:
        np.lib.format.read_magic(raw)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(raw)
        if len(shape) != 5 or fortran or dtype != np.dtype("<u2"):
            raise ValueError(f"{dtype} {shape}")
    except NPY_DAMAGE as error:
        raise UserError(
            f"{path}: tokens.npy holds {error}, expected uint16 [N, V, T, I, J]; curate again."
        ) from None
    return list(shape)
