"""What the page shows of a run: its clips, their marks, another run beside it."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from handloom.places import place
from handloom.view.compare import Comparison, compare
from handloom.view.filters import CHANGE, MARK, MOVED, Columns, Query, masks, order, together
from handloom.view.index import Index, Words
from handloom.view.marks import FILE, Marks, column
from handloom.view.run import Run
from handloom.view.thresholds import Trial, Trials, with_options

REMEMBERED = 6  # orders: 4 MB each of a million clips
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """The clips of a query, in order.

    Attributes:
        rows: of the index, int32 [clips].
        seconds: their length together.
    """

    rows: npt.NDArray[np.int32]
    seconds: float


class Remembered(Generic[T]):
    """The last few of what was computed."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._known: OrderedDict[tuple[Any, ...], T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...], compute: Callable[[], T]) -> T:
        """The value of a key; requests for other keys wait, so that memory stays bounded."""
        with self._lock:
            if key not in self._known:
                self._known[key] = compute()
                while len(self._known) > self.most:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]


class Shown:
    """A run that is looked at, its marks, and a run that it is compared with.

    Args:
        run: the run.
        against: an earlier one, or None.
    """

    def __init__(self, run: Run, against: Run | None = None) -> None:
        self.run, self.against, self.trials = run, against, Trials(run)
        self._answers = Remembered[Answer](REMEMBERED)
        self._tried = Remembered[Trial](2)
        self._compared = Remembered[Comparison](1)
        self._marked = Remembered[Words](1)

    @cached_property
    def marks(self) -> Marks:
        """The marks beside the run."""
        begin_with = self.run.select and self.run.select.overrides
        return Marks(self.run.out / FILE, place(begin_with) if begin_with else None)

    @property
    def comparison(self) -> Comparison | None:
        """What has changed since the other run; None without one."""
        if self.against is None:
            return None
        now, before = self.run.index, self.against.index
        return self._compared.get(self.version, lambda: compare(now, before))

    @property
    def version(self) -> tuple[int, ...]:
        """Another one whenever tables were read again."""
        return tuple(run.generation for run in (self.run, self.against) if run)

    @property
    def index(self) -> Index:
        """The clips of the run, and those that only the other run has behind them."""
        compared = self.comparison
        return compared.index if compared else self.run.index

    def marked(self) -> Words | None:
        """The mark of each clip; None without any."""
        marks = self.marks.all()  # first, since the version follows
        key = *self.version, self.marks.version
        return self._marked.get(key, lambda: column(marks, self.index)) if marks else None

    def trial(self, options: Sequence[tuple[str, str]]) -> Trial | None:
        """What other options, and the marks, make of the clips; None in a run of robots."""
        if self.run.select is None or not self.run.index.came.any():
            return None
        select = with_options(self.run.select, options)
        marks = self.marks.overrides()  # those of this moment
        marked = marks.of_clips(self.run.index.ids) if len(marks.clip_ids) else None
        key = self.run.generation, select, self.marks.version
        return self._tried.get(key, lambda: self.trials.judge(select, marked))

    def columns(self, query: Query) -> Columns:
        """All columns that a query may name."""
        more: dict[str, Words] = {}
        if marked := self.marked():
            more[MARK] = marked
        if (query.options or marked) and (trial := self.trial(query.options)):
            more[MOVED] = padded(trial.moved(self.run.index), len(self.index))
        if compared := self.comparison:
            more[CHANGE] = compared.change
        return Columns(self.index, more)

    def answer(self, query: Query) -> Answer:
        """The clips of a query; the last few are remembered, since a list is read in pieces."""
        self.marks.all()
        key = *self.version, self.marks.version, repr(query)
        return self._answers.get(key, lambda: self._answer(query))

    def _answer(self, query: Query) -> Answer:
        columns = self.columns(query)
        mask = together(masks(columns, query).values(), len(columns.index))
        rows = order(columns, query, mask)
        seconds = float(columns.index.length_s[rows].sum())
        return Answer(rows.astype(np.int32), seconds)


def padded(words: Words, count: int) -> Words:
    """A column with its first word for further clips."""
    return Words(np.pad(words.codes, (0, count - len(words.codes))), words.values)
