"""Reading a part; one that is damaged is named."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from handloom.errors import RunError


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
        raise RunError(
            f"{bad} is damaged ({_reason(error)}): delete it and run the same "
            "command again, which computes its rows anew."
        ) from error


def _reason(error: Exception) -> str:
    """What Arrow says, without the name of what it had opened."""
    return str(error).splitlines()[0].rpartition("': ")[2][:80]


def _is_parquet(path: Path) -> bool:
    try:
        pq.read_table(path)
    except (pa.ArrowInvalid, OSError):
        return False
    return True


def columns_of(path: Path, names: list[str] | None = None) -> pa.Table:
    """Columns of one part, or all. `pq.read_table` takes three times as long for a small file."""
    with pq.ParquetFile(path) as file:
        return file.read(columns=names, use_threads=False)
