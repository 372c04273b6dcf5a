"""A running count on stderr while annotations are read, which can take minutes."""

import sys
import time
from threading import Event, Thread
from types import TracebackType
from typing import Self, TextIO

FIRST_S = 0.4  # what takes less shows nothing
TERMINAL_S = 0.25
LOG_S = 10.0  # without a terminal, as in a job's log
CLEAR = "\r\x1b[K"


class Counting:
    """Context that shows how many of something there are so far.

    On a terminal one line is written again and again and removed in the end; elsewhere a line comes
    every ten seconds. It shows also while `count` stands still, as when a folder is listed.

    Args:
        what: is done, such as `reading the annotations`.
        unit: of the count, such as `videos`.
        stream: where it shows; stderr by default, so that stdout holds results alone.
        first_s: seconds before the first line.

    Attributes:
        count: how many, set by whoever counts.
    """

    def __init__(
        self, what: str, unit: str, stream: TextIO | None = None, first_s: float = FIRST_S
    ) -> None:
        self.count = 0
        self._what, self._unit, self._first_s = what, unit, first_s
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._done, self._started = Event(), time.monotonic()
        self._thread = Thread(target=self._show, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _show(self) -> None:
        wait_s, is_shown = self._first_s, False
        while not self._done.wait(wait_s):
            line = self._line()
            self._write(f"{CLEAR}{line}" if self._is_terminal else f"{line}\n")
            wait_s, is_shown = TERMINAL_S if self._is_terminal else LOG_S, True
        if is_shown and self._is_terminal:
            self._write(CLEAR)

    def _line(self) -> str:
        seconds = time.monotonic() - self._started
        return f"{self._what}: {self.count:,} {self._unit} so far, {seconds:.0f} s"

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # whoever read it has gone
            self._done.set()
