"""The running count shows at once and goes on showing, on a terminal in one line."""

import io
import time

import pytest

from handloom.pipeline import counting
from handloom.pipeline.counting import CLEAR, Counting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wait_for(stream: io.StringIO, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in stream.getvalue():
        assert time.monotonic() < deadline, stream.getvalue()
        time.sleep(0.01)


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_the_count_shows_while_it_stands_still_and_when_it_grows(
    kind: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "LOG_S", 0.02)
    monkeypatch.setattr(counting, "TERMINAL_S", 0.02)
    stream = kind()
    with Counting("reading", "videos", stream, first_s=0.0) as running:
        wait_for(stream, "reading: 0 videos so far")
        running.count = 1234
        wait_for(stream, "reading: 1,234 videos so far")
    written = stream.getvalue()
    if kind is Terminal:  # one line that is gone in the end
        assert "\n" not in written
        assert written.endswith(CLEAR)
    else:
        assert CLEAR not in written
        assert written.endswith("\n")
    time.sleep(0.1)
    assert stream.getvalue() == written


def test_what_is_done_at_once_shows_nothing() -> None:
    stream = Terminal()
    with Counting("reading", "videos", stream, first_s=60.0):
        pass
    assert stream.getvalue() == ""


def test_a_stream_that_nobody_reads_stops_nothing() -> None:
    stream = Terminal()
    stream.close()
    with Counting("reading", "videos", Terminal(), first_s=0.0) as running:
        running._stream = stream
        time.sleep(0.05)
