"""What a stage is: a dataclass of options, a model loaded by `setup`, and rows in, rows out.

Nothing here knows Ray. In a REPL: `stage.setup(); list(stage(clip))`.
"""

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pyarrow as pa

from handloom.errors import MediaError
from handloom.stages.tables.parts import Table, Tables
from handloom.stages.tables.rows import Clip, Row


@dataclass(frozen=True)
class Stage:
    """Base of the stages that turn clips into rows.

    A subclass sets the class variables, adds its options as fields and writes `__call__`.
    """

    name: ClassVar[str]
    row_type: ClassVar[type[Row]]
    code_version: ClassVar[int] = 1
    """Raised by hand whenever the same options would give other rows."""
    clip_type: ClassVar[type[Clip]] = Clip
    """How much of the clip's row this stage wants."""
    reads: ClassVar[dict[str, type[Row]]] = {}
    """Tables whose rows this stage is given after the clip, and the columns it wants of each."""
    gate: ClassVar[str] = ""
    """The stage whose `ok` rows say which clips come here; by default the last one before this one
    in the recipe that filters."""
    filters: ClassVar[bool] = False
    """Whether the stages after this one in the recipe get only the clips that it let through."""
    light: ClassVar[bool] = False
    """Whether a clip takes so little that starting workers would cost more than it saves."""
    lanes: ClassVar[int] = 1
    """Batches that a worker has at a time; more than one where it waits for somebody else."""
    wants_gpu: ClassVar[bool] = False
    """Whether a worker takes a whole GPU, where the cluster has some."""
    data: ClassVar[Path] = Path()
    """The data folder: set by `at`, so neither a flag nor part of the fingerprint."""
    cache: ClassVar[Path | None] = None
    """Folder for what is worth keeping between runs, set by `at`; None keeps nothing."""
    source: ClassVar["Stage | None"] = None
    """The run's ingest stage, which knows how to open what it took in; set by `at`."""

    def setup(self) -> None:
        """Load models; called once on each worker before the first clip."""

    def __call__(self, *inputs: Any) -> Iterator[Row]:
        """Turn a clip, and its rows of the tables in `reads`, into rows of this stage's table."""
        raise TypeError(f"{type(self).__name__} defines no __call__")

    def failed(self, error: str, *inputs: Any) -> Iterator[Row]:
        """The rows to write when the inputs could not be processed."""
        raise TypeError(f"{type(self).__name__} defines no failed")

    def batch(self, inputs: Sequence[tuple[Any, ...]]) -> list[Row]:
        """Rows of several clips, in their order; one that goes wrong costs its own rows alone."""
        return [row for one in inputs for row in run_isolated(self, one)]

    def flush(self) -> None:
        """Called after each batch, before its rows are written."""

    def models(self) -> dict[str, str]:
        """Weight hashes of the models this stage uses."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Everything on this stage's side that its rows depend on."""
        options = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        columns = [f.name for f in fields(self.row_type)]
        facts = {"code_version": self.code_version, "columns": columns, "models": self.models()}
        return facts | options

    def at(self, data: Path, cache: Path | None = None, source: "Stage | None" = None) -> Self:
        """The same stage with its data folder, its cache and the run's ingest stage set."""
        placed = copy.copy(self)
        for name, value in (("data", data), ("cache", cache), ("source", source)):
            object.__setattr__(placed, name, value)  # frozen for everyone else
        return placed


@dataclass(frozen=True)
class TableStage(Stage):
    """A stage that reads tables as a whole; it runs again whenever one of them has changed."""

    light: ClassVar[bool] = True

    def rows(self, tables: Tables) -> Iterator[tuple[str, pa.Table]]:
        """The stage's table, as (bucket, its rows) for every bucket once."""
        raise TypeError(f"{type(self).__name__} defines no rows")

    def write(self, tables: Tables, table: Table) -> Iterator[Counter[str]]:
        """Write all rows; yields how many have which status."""
        for bucket, rows in self.rows(tables):
            table.write_columns(bucket, rows, self.row_type)
            yield Counter(rows["status"].to_pylist())


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def fingerprint(settings: dict[str, Any], inputs: dict[str, str]) -> str:
    """Identity of a stage's rows: its settings and the fingerprints of what it reads."""
    text = json.dumps({"settings": settings, "inputs": inputs}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def run_isolated(stage: Stage, inputs: tuple[Any, ...]) -> list[Row]:
    """Run a stage on one clip; whatever goes wrong becomes rows that say so.

    This is the boundary that keeps one bad file from costing more than its own clips, so it
    catches everything; the error is stored in the table and counted.
    """
    try:
        return list(stage(*inputs))
    except MediaError as error:
        return list(stage.failed(str(error), *inputs))
    except Exception as error:
        return list(stage.failed(f"{type(error).__name__}: {error}", *inputs))


def clip_order(clip: Clip) -> tuple[str, float, float, str]:
    """The one order of clips inside a bucket: a video's clips lie together, in time."""
    return clip.video_id, clip.start_s, clip.end_s, clip.clip_id
