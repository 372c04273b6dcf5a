"""Reading a part; one that is damaged, or is none, is named."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from handloom.errors import RunError

AWAY = "move it to another place and run the same command again."


@contextmanager
def damage_named(*paths: Path) -> Iterator[None]:
    """Turns Arrow's errors about damaged files into a sentence with the way out."""
    try:
        yield
    except FileNotFoundError:
        raise  # merged meanwhile
    except (pa.ArrowInvalid, OSError) as error:
        bad = next((path for path in paths if not _is_parquet(path)), None)
        if bad is None:
            raise
        if bad.is_dir():
            raise is_folder(bad) from error
        raise RunError(
            f"{bad} is damaged ({_reason(error)}): delete it and run the same "
            "command again, which computes its rows anew."
        ) from error


def is_folder(path: Path) -> RunError:
    """The error on a folder that lies where a part should."""
    return RunError(f"{path} is a folder, expected a Parquet file, a part of the table: {AWAY}")


def _reason(error: Exception) -> str:
    """What Arrow says, without the name of what it had opened."""
    return str(error).splitlines()[0].rpartition("': ")[2][:80]


def _is_parquet(path: Path) -> bool:
    try:
        return not path.is_dir() and pq.read_table(path) is not None
    except (pa.ArrowInvalid, OSError):
        return False


def columns_of(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """Columns of one part, or all. `pq.read_table` takes three times as long for a small file.

    Raises:
        RunError: the part lacks one.
    """
    with pq.ParquetFile(path) as file:
        return read_columns(file, path, names)


def read_columns(file: pq.ParquetFile, path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """Columns of an open part, as `columns_of` reads them."""
    rows = file.read(columns=None if names is None else list(names), use_threads=False)
    check_columns(path, rows.column_names, names or ())
    return rows


def check_columns(path: Path, found: Iterable[str], expected: Iterable[str]) -> None:
    """Raise RunError where a part lacks a column: a file of somebody else's by its name."""
    known = set(found)  # Parquet passes over columns that are not there
    if missing := [name for name in expected if name not in known]:
        raise RunError(
            f"{path} has no column {missing[0]!r}, so it is not a part of this table, in spite of "
            f"its name: {AWAY}"
        )


def check_types(paths: Sequence[Path], read: Sequence[pa.Table]) -> None:
    """Raise RunError where two parts have not the same columns.

    Args:
        paths: the parts.
        read: the same columns of each.
    """
    for path, rows in zip(paths, read, strict=True):
        if rows.schema.equals(read[0].schema):
            continue
        check_columns(path, rows.column_names, read[0].column_names)
        check_columns(paths[0], read[0].column_names, rows.column_names)
        for name in rows.column_names:
            types = read[0].schema.field(name).type, rows.schema.field(name).type
            if types[0] != types[1]:
                raise RunError(
                    f"{paths[0].name} and {path.name} in {path.parent} have the column {name!r} as "
                    f"{types[0]} and {types[1]}, so one of them is not a part of this table: {AWAY}"
                )
