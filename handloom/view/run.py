"""A run as the viewer sees it: its tables, its stages, and an index of its clips.

The index is read by a thread, so that the page answers meanwhile, and read again when asked: a run
may go on, and may be deleted, while somebody looks at it.
"""

import threading
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handloom.errors import MediaError, RunError, UserError, first_line
from handloom.listings import forget_listings
from handloom.places import is_remote
from handloom.stages.select import Select
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Tables, listed, open_tables, read_flow, read_marker
from handloom.view.index import Index
from handloom.view.reading import read_index

if TYPE_CHECKING:
    from handloom.pipeline.job import Job

EXPECTED = (UserError, RunError, MediaError, OSError)
AGAIN_AFTER_S = 3.0
CHECKED_AFTER_S = 10.0  # a listing of all tables takes a millisecond here, seconds in a bucket


class Unknown(UserError):
    """Something that the run does not hold was asked for."""


class NotRead(RunError):
    """The index is not read yet, or could not be."""


class Run:
    """The output folder of `handloom curate`, finished or not.

    Args:
        out: the folder, or a URL of one.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.error = ""
        """Why the tables could not be read, in a sentence; empty where they were."""
        self.progress = 0.0
        """Share of the tables that is read, 0 to 1."""
        self.generation = 0
        """Grows whenever the tables were read."""
        self._index: Index | None = None
        self._reading = threading.Lock()
        self._checked = 0.0, False
        self._states: dict[str, str] = {}

    @cached_property
    def job(self) -> "Job":
        """The job that run.yaml records; UserError where it does not say."""
        from handloom.pipeline.configuration import recorded_job  # a second, for all adapters

        return recorded_job(self.out)

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages with the options of the run, placed in its data folder."""
        return self.job.stages

    @property
    def tables(self) -> Tables:
        """The run's tables by stage, each listed once when the index was read."""
        return self.index.tables

    @property
    def index(self) -> Index:
        """All clips as columns.

        Raises:
            NotRead: the tables are being read, or could not be.
        """
        if self._index is None:
            raise NotRead(self.error or "the tables are being read; try again in a moment.")
        return self._index

    @property
    def is_read(self) -> bool:
        """Whether the index is there."""
        return self._index is not None

    @property
    def select(self) -> Select | None:
        """The run's `select` with its options; None in a run of robots."""
        try:
            found = self.stages.get("select")
        except UserError:  # run.yaml is damaged: clips can be looked at, thresholds not moved
            return None
        return found if isinstance(found, Select) else None

    def bucket_of(self, clip_id: str) -> str:
        """Bucket of a clip's rows in every table; `Unknown` where there is no such clip."""
        number = self.index.find(clip_id)
        if number is None:
            raise Unknown(f"{self.out} holds no clip {clip_id[:40]!r}.")
        return self.index.words["bucket"].at(number)

    @property
    def is_reading(self) -> bool:
        """Whether the index is being read, for the first time or again."""
        return self._reading.locked()

    def read_in_background(self) -> None:
        """Begin to read the index, unless it is being read."""
        if self._reading.acquire(blocking=False):  # here, so that whoever asks next waits for it
            threading.Thread(target=self._read, daemon=True).start()

    def read(self) -> None:
        """Read the index, again if it was read before; errors are kept as a sentence."""
        if self._reading.acquire(blocking=False):
            self._read()

    def _read(self) -> None:
        """Read the index, then release the lock that the caller has taken."""
        self.progress = 0.0
        try:
            forget_listings()
            tables = listed(open_tables(self.out))
            self._states = _states(tables)
            index = read_index(tables, self._stages_to_come(tables), self._advance)
            _ = index.actions, self.select  # a second each, which no reader has to wait for
            self._index = index
            self.error, self.generation = "", self.generation + 1
        except EXPECTED as error:
            self.error = self._sentence(error)
        finally:
            self._checked = time.monotonic(), False
            self._reading.release()

    def has_changed(self) -> bool:
        """Whether rows were added or removed since the index was read."""
        checked_s, changed = self._checked
        every_s = CHECKED_AFTER_S * (10 if is_remote(self.out) else 1)
        if changed or self._index is None or time.monotonic() - checked_s < every_s:
            return changed
        forget_listings()
        try:
            changed = _states(open_tables(self.out)) != self._states
        except FileNotFoundError:  # parts are merged at this moment
            changed = True
        self._checked = time.monotonic(), changed
        return changed

    def try_again(self) -> None:
        """Read the tables where that failed some seconds ago: a run may just have begun."""
        if self.error and time.monotonic() - self._checked[0] > AGAIN_AFTER_S:
            self.read_in_background()

    def unfinished(self) -> list[str]:
        """Stages of the run whose table is not complete."""
        names = [*self.index.tables, *self.index.to_come]
        folders = {name: self.out / "tables" / name for name in names}
        return [name for name, at in folders.items() if not read_marker(at).get("finished")]

    def facts(self) -> dict[str, Any]:
        """What run.yaml says of the run: the dataset and where its data lie; nothing if damaged."""
        try:
            return {"dataset": self.job.dataset, "data": str(self.job.data)}
        except UserError:
            return {"dataset": "", "data": ""}

    def _stages_to_come(self, tables: Tables) -> list[str]:
        return [name for name in read_flow(self.out) if name not in tables]

    def _advance(self, share: float) -> None:
        self.progress = share

    def _sentence(self, error: Exception) -> str:
        if isinstance(error, OSError) and not isinstance(error, RunError):
            return f"{self.out} cannot be read any more ({first_line(error)})."
        return str(error)


def _states(tables: Tables) -> dict[str, str]:
    """Digests of the parts of each table."""
    return {name: table.state() for name, table in tables.items()}
