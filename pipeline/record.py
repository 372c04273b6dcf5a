"""The marker of a stage while it works: a killed run keeps its count of computed clips."""

import time
from typing import Any

from handloom.pipeline.spent import Spent
from handloom.stages.tables.counts import store_counts
from handloom.stages.tables.parts import Table, read_marker, write_marker

EVERY_S = 5.0


class Record:
    """What a stage has computed, in this run and in earlier ones under the same fingerprint.

    The marker is written every few seconds, with the number of rows that it has counted. Rows that
    a killed run wrote after its last marker are counted by the next run.

    Args:
        table: the stage's table, rid of parts of other fingerprints, before rows are dropped.
        facts: what the marker says beside counts.
        run_id: the run; the task of a stage may be lost and start again within it.

    Attributes:
        inputs: what the marker of an earlier run says of the rows that it read.
        spent: what its batches took, to be counted by who runs them.
        resumes: whether others may have written rows too: the task before this one was ended while
            it worked, or there are more rows than it finished with.
    """

    def __init__(self, table: Table, facts: dict[str, Any], run_id: str) -> None:
        self.table, self.facts, self.run_id = table, facts, run_id
        stored = read_marker(table.folder)
        if stored.get("fingerprint") != table.fingerprint:
            stored = {}
        self.resumes = "rows" in stored
        self.inputs = stored.get("inputs")
        self.spent = Spent.of(stored.get("spent"))
        rows = self._count()
        self.resumes = self.resumes or rows > stored.get("stored", rows)
        uncounted = max(0, rows - stored["rows"]) if "rows" in stored else 0
        is_same_run = stored.get("run") == run_id
        self.computed = stored.get("computed", 0) + uncounted
        self.last = stored.get("computed_last", 0) + uncounted if is_same_run else 0
        self.seconds, self.rows = stored.get("seconds", 0.0), 0
        self.started = self.told = 0.0

    def begin(self) -> None:
        """Count from the rows that are stored now."""
        self.rows, self.started = self._count(), time.monotonic()
        self._write()

    def add(self, rows: int) -> None:
        """Count rows that have been written."""
        self.computed, self.last, self.rows = (
            self.computed + rows,
            self.last + rows,
            self.rows + rows,
        )
        if time.monotonic() - self.told > EVERY_S:
            self._write()

    def has_strange_rows(self) -> bool:
        """Whether there are more rows than were counted."""
        return self._count() > self.rows

    def finish(self) -> None:
        """Count the rows that are stored, and write the final marker."""
        state = {"finished": True, "stored": self._count()}
        write_marker(self.table.folder, self._counts() | state)

    def _count(self) -> int:
        """Rows that are stored; their numbers are kept, so that a part is opened once."""
        return store_counts(self.table.folder, self.table.parts())

    def _write(self) -> None:
        self.told = time.monotonic()
        state = {"finished": False, "rows": self.rows, "run": self.run_id}
        write_marker(self.table.folder, self._counts() | state)

    def _counts(self) -> dict[str, Any]:
        spent = time.monotonic() - self.started if self.last else 0.0
        return self.facts | {
            "computed": self.computed,
            "seconds": round(self.seconds + spent, 2),
            "computed_last": self.last,
            "spent": self.spent.facts(),
        }
