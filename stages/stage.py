"""Base of all stages: a dataclass of options, a model loaded by `setup`, rows in, rows out.

Nothing here knows Ray. In a REPL: `stage.setup(); list(stage(clip))`.
"""

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import pyarrow as pa

from handloom.errors import FULL, MediaError, RunError, StoreError, unwritable
from handloom.stages.tables.parts import Table, Tables
from handloom.stages.tables.rows import Clip, Footage, Row


@dataclass(frozen=True)
class Stage:
    """Base of the stages that turn clips into rows.

    A subclass sets the class variables, adds its options as fields and writes `__call__`.
    """

    name: ClassVar[str]
    row_type: ClassVar[type[Row]]
    code_version: ClassVar[int] = 1
    """Version of the code that makes the rows; raise it when the same options give other rows."""
    clip_type: ClassVar[type[Footage]] = Clip
    """Type of clip row that this stage gets. Rows depend on its columns and on no others: of
    `Footage`, say, they outlive a change of texts or splits."""
    reads: ClassVar[dict[str, type[Row]]] = {}
    """Tables whose rows this stage gets after the clip, and the row type to read of each."""
    gate: ClassVar[str] = ""
    """The stage whose `ok` rows say which clips come here; by default the last filter before this
    stage in the recipe."""
    filters: ClassVar[bool] = False
    """True for a filter: later stages of the recipe get only the clips with an `ok` row here."""
    light: ClassVar[bool] = False
    """True where a clip takes microseconds, so that workers would cost more than they save."""
    concurrency: ClassVar[int] = 1
    """Batches that a worker has at a time; more than one where it waits for a server."""
    wants_gpu: ClassVar[bool] = False
    """True where a worker takes a GPU or a part of one (`--run.gpu-share`), if there are any."""
    device: ClassVar[str] = "cpu"
    """Torch device of this worker's models: `cuda` where it was given a GPU; set by `on`."""
    threads: ClassVar[int] = 1
    """Cores that this worker was given; set by `on`."""
    data: ClassVar[Path] = Path()
    """The data folder: set by `at`, so neither a flag nor part of the fingerprint."""
    cache: ClassVar[Path | None] = None
    """Folder for what is worth keeping between runs, set by `at`; None keeps nothing."""
    only: ClassVar[Any] = None  # a function; as a class variable of that type it would be a method
    """Of `ingest`: takes a part of a source, None for nothing of it; set by `sampled`."""
    source: ClassVar["Stage | None"] = None
    """The run's ingest stage, which knows how to open what it took in; set by `at`."""

    def setup(self) -> None:
        """Load models; called once on each worker before the first clip."""

    def check_device(self) -> None:
        """Refuse a GPU that Ray counts but torch cannot use.

        Raises:
            RunError: this worker was given one, and torch finds no working CUDA.
        """
        if not self.device.startswith("cuda"):
            return
        import torch

        if not torch.cuda.is_available():
            raise RunError(
                f"Ray gave this worker of `{self.name}` a GPU, but torch {torch.__version__} finds "
                "no working CUDA on it; install torch for this node's CUDA driver, or use the "
                "cores instead with --run.gpu-share 0."
            )

    def __call__(self, *inputs: Any) -> Iterator[Row]:
        """Turn a clip, and its rows of the tables in `reads`, into rows of this stage's table."""
        raise TypeError(f"{type(self).__name__} defines no __call__")

    def failed(self, error: str, *inputs: Any) -> Iterator[Row]:
        """Rows of inputs that raised an error: by default one row without values of its own.

        Override it where `row_type` has fields without a default.
        """
        yield self.row_type(clip_id=inputs[0].clip_id, status="failed", error=error)

    def batch(self, inputs: Sequence[tuple[Any, ...]]) -> list[Row]:
        """Rows of several clips, in their order; an error costs the rows of its clip alone."""
        return [row for one in inputs for row in run_isolated(self, one)]

    def input_type(self) -> type[Footage]:
        """Type of clip row that this stage gets with its present options."""
        return self.clip_type

    def flush(self) -> None:
        """Write what the stage caches; called after each batch, before its rows are written."""

    def models(self) -> dict[str, str]:
        """Weight hashes of the models this stage uses."""
        return {}

    def settings(self) -> dict[str, Any]:
        """All that the rows depend on beside their inputs; part of the fingerprint."""
        columns = [f.name for f in fields(self.row_type)]
        facts = {"code_version": self.code_version, "columns": columns, "models": self.models()}
        return facts | {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @property
    def takes_batches(self) -> bool:
        """Whether it works on several clips at a time, not on one after the other."""
        return type(self).batch is not Stage.batch

    def on(self, device: str, threads: int) -> Self:
        """The same stage on a worker with this device and so many cores."""
        return self._placed(device=device, threads=threads)

    def at(self, data: Path, cache: Path | None = None, source: "Stage | None" = None) -> Self:
        """The same stage with its data folder, its cache and the run's ingest stage set."""
        return self._placed(data=data, cache=cache, source=source)

    def sampled(self, only: Callable[[Any], Any] | None) -> Self:
        """The same `ingest` stage, which lists a part of its sources, or without `only` all."""
        return self._placed(only=only) if only else self

    def _placed(self, **facts: Any) -> Self:
        """A copy with these class variables as its own."""
        placed = copy.copy(self)
        for name, value in facts.items():
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
        """Write all rows; yields the number of rows by status, bucket by bucket."""
        return self.store(self.rows(tables), table)

    def store(self, found: Iterator[tuple[str, pa.Table]], table: Table) -> Iterator[Counter[str]]:
        """Write the rows of some buckets, as `write` does."""
        for bucket, rows in found:
            table.write_columns(bucket, rows, self.row_type)
            values, counts = rows["status"].value_counts().flatten()
            yield Counter(dict(zip(values.to_pylist(), counts.to_pylist(), strict=True)))


@runtime_checkable
class Divided(Protocol):
    """A `TableStage` whose work is mostly done by tasks, which leave files for `rows`."""

    name: ClassVar[str]

    def steps(self, tables: Tables) -> Iterator[Sequence[Callable[[], None]]]:
        """Tasks that are left to do, step by step; those of a step in any order, anywhere.

        All of a step must be done before the next is asked for. They can be pickled.
        """

    def work_bytes(self, tables: Tables) -> float:
        """Bytes on disk that those files take at most at a time, about."""


@runtime_checkable
class Piecewise(Protocol):
    """A `TableStage` that can decide on some buckets without the others, in any order, anywhere."""

    name: ClassVar[str]

    def pieces(self, tables: Tables) -> list[list[str]]:
        """All buckets, in groups; the same tables give the same groups."""

    def piece(self, tables: Tables, buckets: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        """The rows of a group, bucket by bucket."""

    def store(self, found: Iterator[tuple[str, pa.Table]], table: Table) -> Iterator[Counter[str]]:
        """As of `TableStage`."""


@runtime_checkable
class Foresight(Protocol):
    """A filter that can tell, before it decides, which clips it will hardly reject."""

    name: ClassVar[str]
    foresees: ClassVar[str]
    """The table that it tells it from, part by part."""

    def foresee(self, tables: Tables, bucket: str, parts: Sequence[Path]) -> set[str]:
        """Ids of the clips in some parts of that table that it will probably let through.

        Raises:
            FileNotFoundError: a part is no longer there, since parts are merged.
        """


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def fingerprint(settings: dict[str, Any], inputs: dict[str, Any]) -> str:
    """Identity of a stage's rows: its settings, and what decides how pictures are read."""
    text = json.dumps({"settings": settings, "inputs": inputs}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def run_isolated(stage: Stage, inputs: tuple[Any, ...]) -> list[Row]:
    """Run a stage on one clip; any error becomes rows with the status `failed`.

    This boundary keeps one bad file from costing more than its own clips, so it catches
    everything; the error is stored in the table and counted.
    """
    try:
        return list(stage(*inputs))
    except Exception as error:
        return list(stage.failed(sentence(error), *inputs))


def sentence(error: Exception) -> str:
    """An error as a row stores it; a `MediaError` is a sentence by itself.

    Raises:
        StoreError: no clip's fault, such as a full disk: it ends the run.
    """
    if isinstance(error, StoreError):
        raise error
    if isinstance(error, OSError) and error.errno in FULL:
        raise unwritable(error.filename or "a file", error) from None
    return str(error) if isinstance(error, MediaError) else f"{type(error).__name__}: {error}"


def clip_order(clip: Footage) -> tuple[str, float, float, str]:
    """Sort key of clips inside a bucket: a video's clips lie together, in time."""
    return clip.video_id, clip.start_s, clip.end_s, clip.clip_id
