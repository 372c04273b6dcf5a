"""The layout `samples`: one key a sample, all of it but the robot's arrays in one member.

    <clip_id>.mp           MessagePack: {"codes": bytes, "shape": [V, T, I, J], "meta": {…}}
    <clip_id>.state.npy    float32 [T, S]   robot data only
    <clip_id>.action.npy   float32 [T, A]   robot data only

A member costs 512 bytes of header and is padded to 512 bytes, against 2,560 bytes of codes in a
clip of 5 frames. So the metadata share the member of the codes, and mostly fit into its padding.
The map is written with `codes` first and with fixed widths: the codes start 12 bytes into the
payload, which makes them aligned and lets a reader slice them out of a memory map.
"""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from handloom.errors import UserError
from handloom.tokenize.shards import tar as shard_tar
from handloom.tokenize.shards.blocks import SampleBlock, packed
from handloom.tokenize.shards.format import ARRAYS, FORMAT, VERSION, Sample, check_sample

MEMBER = "mp"
AXES = ("views", "frames", "rows", "columns")
CODES_AT = 12
# fixmap of 3, "codes", bin 32. MessagePack would also allow shorter widths; these never vary.
_START = b"\x83\xa5codes\xc6"

_PAYLOAD = pa.struct([("offset", pa.int64()), ("size", pa.int64())])
_METADATA = {"format": FORMAT, "version": str(VERSION), "layout": "samples"}
_FIELDS: list[tuple[str, pa.DataType]] = [
    ("key", pa.string()),
    ("offset", pa.int64()),  # of the payload of <key>.mp in the tar
    ("size", pa.int32()),
    *[(axis, pa.uint16()) for axis in AXES],
    ("caption", pa.string()),
    ("crc32", pa.uint32()),  # over the payloads of the key's members, in the tar's order
]


def write(tar: BinaryIO, samples: Iterable[Sample | SampleBlock]) -> pa.Table | None:
    """Append samples to an open tar.

    Returns:
        The index, where all came in blocks; else it is to be computed from the tar.

    Raises:
        ValueError: a sample cannot be stored.
    """
    keys, index, is_whole = set[str](), list[pa.Table](), True
    for one in samples:
        if isinstance(one, SampleBlock):
            _check_new(one.keys.to_pylist(), keys)
            index.append(_add_block(tar, one))
        else:
            _check_new([one.clip_id], keys)
            _add(tar, one)
            is_whole = False
    return pa.concat_tables(index).combine_chunks() if index and is_whole else None


def _check_new(some: list[str], keys: set[str]) -> None:
    """Add keys to those of the shard; raises ValueError for one that is there."""
    for key in some:
        if key in keys:
            raise ValueError(f"{key} comes twice in one shard; every key is unique")
        keys.add(key)


def _add(tar: BinaryIO, sample: Sample) -> None:
    check_sample(sample)
    for name, payload in _members(sample):
        shard_tar.add(tar, f"{sample.clip_id}.{name}", payload)


def _add_block(tar: BinaryIO, block: SampleBlock) -> pa.Table:
    """Append a block; returns its rows of the index."""
    members, start = packed(block, MEMBER, _START), tar.tell()
    tar.write(members.data)
    axes = dict(zip(AXES, block.shapes.T, strict=True))
    columns = {"key": block.keys, "offset": start + members.offsets, "size": members.sizes, **axes,
               "caption": block.meta["caption"], "crc32": members.checksums()}  # fmt: skip
    schema = _schema([])
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema)


def build_index(path: Path) -> pa.Table:
    """Compute the index from the tar alone.

    Raises:
        UserError: the tar or one of its samples is damaged, or a key comes twice.
    """
    rows: dict[str, dict[str, Any]] = {}
    last = None
    with path.open("rb") as raw:
        for member in shard_tar.scan(path):
            if member.key != last and member.key in rows:
                raise UserError(f"{path} holds the key {member.key} twice; every key is unique.")
            last = member.key
            raw.seek(member.offset)
            payload = raw.read(member.size)
            row = rows.setdefault(member.key, {"key": member.key, "crc32": 0})
            row["crc32"] = zlib.crc32(payload, row["crc32"])
            if member.name == MEMBER:
                row |= {"offset": member.offset, "size": member.size}
                row |= _described(payload, f"{path}, {member.key}")
            else:
                array = member.name.removesuffix(".npy")
                row[array] = {"offset": member.offset, "size": member.size}
    return pa.Table.from_pylist(list(rows.values()), schema=_schema(rows.values()))


def unpack(payload: bytes, where: str) -> dict[str, Any]:
    """A member's `codes` bytes, `shape` and `meta`; raises UserError where it is damaged."""
    try:
        value = msgpack.unpackb(payload)
        size = 2 * int(np.prod(value["shape"]))
        ok = payload.startswith(_START) and len(value["shape"]) == 4 and len(value["codes"]) == size
        ok = ok and {"caption", "split"} <= value["meta"].keys()
    except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException):
        ok = False
    if not ok:
        raise UserError(
            f"{where}: the sample is damaged; `handloom inspect --verify` names all that are."
        )
    return dict(value)


def _described(payload: bytes, where: str) -> dict[str, Any]:
    value = unpack(payload, where)
    axes = dict(zip(AXES, value["shape"], strict=True))
    return axes | {"caption": value["meta"]["caption"]}


def _schema(rows: Iterable[dict[str, Any]]) -> pa.Schema:
    """Columns of arrays only where there are any: even an empty one costs bytes a sample."""
    held = set[str]().union(*rows)
    arrays = [(name, _PAYLOAD) for name in ARRAYS if name in held]
    return pa.schema([*_FIELDS, *arrays], metadata=_METADATA)


def _members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    codes = np.ascontiguousarray(sample.codes_vtij).astype("<u2", copy=False).tobytes()
    # Sorted, so that the bytes do not depend on the order in which the fields were put together.
    rest = {"shape": list(sample.codes_vtij.shape), "meta": _sorted(sample.meta)}
    tail = b"".join(msgpack.packb(part) for item in rest.items() for part in item)
    yield MEMBER, _START + struct.pack(">I", len(codes)) + codes + tail
    for name in ARRAYS:
        if name in sample.arrays:
            yield f"{name}.npy", npy(sample.arrays[name])


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, (list, tuple)) else value


def npy(array: npt.NDArray[Any]) -> bytes:
    """An array as the bytes of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
