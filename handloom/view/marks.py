"""Marks that somebody sets on clips while looking: `OUT/marks.csv`, which `select` can read.

The file is written whole with each mark, and read again where somebody else has changed it.
Several viewers of a run on disk take turns by a lock on a file beside it, so that each keeps the
others' marks. A store has no locks: there the file is read again just before it is written, and of
two marks that are set in the same moment by two viewers one may be lost.
"""

import csv
import fcntl
import io
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import ENOLCK, ENOSYS, ENOTSUP
from pathlib import Path

import numpy as np
import pyarrow as pa

from handloom.errors import RunError, UserError, unwritable
from handloom.files import write_text
from handloom.listings import forget_listings
from handloom.places import is_remote
from handloom.stages.overrides import COLUMNS, MARKS, Mark, Overrides, read_marks
from handloom.view.index import FAILED, REJECTED, Index, Words

FILE, LOCK = "marks.csv", ".marks.lock"
NO_LOCKS = frozenset({ENOLCK, ENOSYS, ENOTSUP})  # what network file systems without locks answer
NOTE = "note"  # how a clip with a note alone is listed
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed
LONGEST = 2000  # characters of a note


class Marks:
    """The marks of a run.

    Args:
        path: of the file; it need not be there.
        begin_with: marks that the run was made with, for as long as there is no file.
    """

    def __init__(self, path: Path, begin_with: Path | None = None) -> None:
        self.path, self.begin_with = path, begin_with
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._marks: dict[str, Mark] = {}
        self._is_read = False
        self.version = 0
        """Grows with each change."""

    def all(self) -> dict[str, Mark]:
        """Marks by clip id.

        Raises:
            UserError: the file was written by somebody else and cannot be used.
        """
        with self._lock:
            self._read()
            return dict(self._marks)

    def set(self, clip_ids: Sequence[str], mark: str, note: str) -> dict[str, Mark]:
        """Mark some clips, and write the file; neither mark nor note removes the clip from it.

        Raises:
            UserError: a mark that is not known, or too long a note.
            RunError: the folder is gone.
            DiskError: it cannot be written to.
        """
        if mark and mark not in MARKS:
            raise UserError(f"{mark[:40]!r} is no mark; expected {', '.join(MARKS)} or nothing.")
        if len(note) > LONGEST:
            raise UserError(f"a note has {len(note)} characters, expected at most {LONGEST}.")
        with self._lock, _turn(self.path.parent):
            self._is_read = False  # times of files are too coarse to tell two writes apart
            self._read()
            changed = {**self._marks, **dict.fromkeys(clip_ids, Mark(mark, tidy(note)))}
            changed = {key: one for key, one in changed.items() if one.mark or one.note}
            write_text(self.path, _as_csv(changed))
            self._marks, self._stamp = changed, self._state()
            self.version += 1
            return dict(changed)

    def overrides(self) -> Overrides:
        """The verdicts among the marks."""
        return Overrides.of(self.all())

    def _read(self) -> None:
        state = self._state()
        if self._is_read and state == self._stamp:
            return
        source = self.path if state or not self.begin_with else self.begin_with
        self._marks = read_marks(source) if state or self.begin_with else {}
        self._stamp, self._is_read = state, True
        self.version += 1

    def _state(self) -> tuple[int, int] | None:
        """Size and time of the file, None without one."""
        if is_remote(self.path) and self._is_read:
            return self._stamp  # a store is not asked with every list
        try:
            facts = self.path.stat()
        except FileNotFoundError:
            return None
        return facts.st_size, facts.st_mtime_ns


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing the marks of a run while the context lasts.

    Raises:
        RunError: the folder is gone; it is not made again.
        DiskError: it cannot be written to.
    """
    if is_remote(folder):
        forget_listings(folder)
    if not folder.is_dir():
        raise RunError(f"{folder} is not there any more; was it moved or deleted? No mark was set.")
    if is_remote(folder):
        yield
        return
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise unwritable(folder / FILE, error) from None
    try:
        _wait_for(descriptor)
        yield
    finally:
        os.close(descriptor)  # which ends the lock, as the end of a process does


def _wait_for(descriptor: int) -> None:
    """Wait for the lock on a file; without one where the file system knows none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _as_csv(marks: dict[str, Mark]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows(
        [tidy(clip_id), one.mark, tidy(one.note)] for clip_id, one in sorted(marks.items())
    )
    return text.getvalue()


def tidy(text: str) -> str:
    """A text without control characters; lines end in \\n. Of a lone \\r a reader of CSV may make a
    new row."""
    return CONTROLS.sub(" ", text.replace("\r\n", "\n")).strip()


def column(marks: dict[str, Mark], index: Index) -> Words:
    """The mark of each clip, `note` for a note alone, empty without either."""
    words = ["", *MARKS, NOTE]
    codes = np.zeros(len(index), np.int32)
    places = index.places(pa.array(marks.keys(), pa.string()))
    numbers = [words.index(one.mark or NOTE) for one in marks.values()]
    there = places >= 0
    codes[places[there]] = np.array(numbers, np.int32)[there]
    return Words(codes, pa.array(words))


def refuse_ended(index: Index, rows: Sequence[int], selects: bool) -> None:
    """Refuse marks of clips on which `select` has nothing to say.

    Raises:
        UserError: naming the first of them and why.
    """
    for row in rows:
        status, stage = (index.words[name].at(row) for name in ("status", "stage"))
        if not selects:
            raise UserError("robot episodes go through no `select`, which heeds marks; a note can "
                            "be kept.")  # fmt: skip
        if not index.came[row] and status in (REJECTED, FAILED):
            why = f" ({index.words['reason'].at(row)})" if status == REJECTED else ""
            raise UserError(
                f"`{stage}` has {status} this clip{why} before `select` saw it, so a mark changes "
                "nothing; a note can be kept."
            )
