"""Writing the parts of tables, whole or not at all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from handloom.files import whole
from handloom.stages.tables.folds import is_fold, keep_rows
from handloom.stages.tables.reading import columns_of, damage_named, is_folder
from handloom.stages.tables.texts import encodable


def encoded(columns: dict[str, list[Any]], schema: pa.Schema) -> pa.Table:
    """Columns as Arrow; lone surrogates, as an error's message may quote them, become U+FFFD."""
    try:
        return pa.Table.from_pydict(columns, schema=schema)
    except UnicodeEncodeError:
        return pa.Table.from_pydict(encodable(columns), schema=schema)


def ipc_bytes(table: pa.Table) -> pa.Buffer:
    """Rows as Arrow's stream format, of which a name is a hash."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def remove_part(path: Path) -> None:
    """Remove a part, if it is there. Raises RunError for a folder of its name."""
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        raise is_folder(path) from None


def replace_part(path: Path, table: pa.Table) -> None:
    """Write a part, whole or not at all, in place of one of the same name."""
    with whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def keep(path: Path, stays: Sequence[bool]) -> None:
    """Rewrite a part with the rows for which `stays` is true; without any it is removed."""
    if not any(stays):
        path.unlink()
        return
    if is_fold(path.name):
        keep_rows(path, stays)
        return
    with damage_named(path):
        rows = columns_of(path)
    replace_part(path, rows.filter(pa.array(stays, pa.bool_())))
