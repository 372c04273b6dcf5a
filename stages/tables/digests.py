"""A 64-bit digest of each row of a table, by which rows computed from it are known to be current.

Columns become text without a loop over rows, so that a million rows of a clip's columns take a few
seconds. A value's text begins with its length, so that different rows have different texts; floats
count by their bits.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

NULL = b"-"  # no text of a value: those begin with a digit
AT_A_TIME = 8192  # rows: arrays of episodes may have 10 kB of text each

Digests = npt.NDArray[np.int64]


def row_digests(tables: Sequence[pa.Table]) -> Digests:
    """Digests of rows that lie in several tables, row by row, int64 [rows].

    Args:
        tables: at least one, all of the same number of rows.
    """
    columns = [column for table in tables for column in table.columns]
    rows = tables[0].num_rows
    parts = [
        _digests([_chunk(column, start) for column in columns])
        for start in range(0, rows, AT_A_TIME)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _chunk(column: pa.ChunkedArray, start: int) -> pa.Array:
    chunk = column.slice(start, AT_A_TIME).combine_chunks()
    return chunk if isinstance(chunk, pa.Array) else pa.concat_arrays(chunk.chunks)


def _digests(columns: Sequence[pa.Array]) -> Digests:
    texts = _joined([_texts(column) for column in columns])
    digests = (hashlib.blake2b(text, digest_size=8).digest() for text in texts.to_pylist())
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)


def _texts(values: pa.Array) -> pa.Array:
    """A text for each value, binary [values], without nulls."""
    kind = values.type
    if pa.types.is_list(kind):
        texts = _list_texts(values)
    elif pa.types.is_struct(kind):
        texts = _joined([_texts(values.field(n)) for n in range(kind.num_fields)])
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        lengths = pc.binary_length(values).cast(pa.string()).cast(pa.binary())
        texts = _joined([lengths, values.cast(pa.binary())])
    elif pa.types.is_floating(kind):
        bits = pc.fill_null(values, 0.0).cast(pa.float64()).to_numpy(zero_copy_only=False)
        texts = _number_texts(pa.array(bits.view(np.uint64)))
    else:  # bool, int
        texts = _number_texts(values.cast(pa.int64()).cast(pa.uint64(), safe=False))
    return pc.if_else(pc.is_valid(values), pc.fill_null(texts, NULL), NULL)


def _number_texts(numbers: pa.Array) -> pa.Array:
    return numbers.cast(pa.string()).cast(pa.binary())


def _list_texts(lists: pa.ListArray) -> pa.Array:
    """Texts of lists: their lengths, then those of their values."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    stops = np.cumsum(lengths.to_numpy(zero_copy_only=False), dtype=np.int32)
    offsets = pa.array(np.append(np.int32(0), stops))
    texts = pa.ListArray.from_arrays(offsets, _texts(pc.list_flatten(lists)))
    return _joined([_number_texts(lengths), pc.binary_join(texts, b",")])


def _joined(texts: Sequence[pa.Array]) -> pa.Array:
    return pc.binary_join_element_wise(*texts, pa.scalar(b":", pa.binary()))
