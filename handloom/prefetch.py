"""Files of an object store that are fetched a little before their turn, in a thread."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Semaphore, Thread, current_thread

AHEAD = 2  # files that are fetched before their turn


class Prefetch:
    """Fetches files in the order in which they will be used, `AHEAD` of them before the one in use.

    Args:
        urls: of the files, each once.
        fetch: brings one here.
    """

    def __init__(self, urls: Sequence[str], fetch: Callable[[str], object]) -> None:
        self.urls, self.fetch = urls, fetch
        self.numbers = {url: i for i, url in enumerate(urls)}
        self.wanted, self.reached, self.is_over = Semaphore(AHEAD), -1, False
        self.thread = Thread(target=self._run, daemon=True)

    def reach(self, url: str) -> None:
        """Note that a file is in use, so that the next ones are fetched."""
        number = self.numbers.get(url, -1)
        if number > self.reached and current_thread() is not self.thread:
            self.wanted.release(number - self.reached)
            self.reached = number

    def end(self) -> None:
        """Fetch no more."""
        self.is_over = True
        self.wanted.release()

    def _run(self) -> None:
        for url in self.urls:
            self.wanted.acquire()
            if self.is_over:
                return
            with suppress(Exception):  # whoever uses the file is told by its own attempt
                self.fetch(url)


_current = Prefetch([], lambda url: None)


def begin(urls: Sequence[str], fetch: Callable[[str], object]) -> None:
    """Fetch these files in place of those of earlier work."""
    global _current
    _current.end()
    _current = Prefetch(urls, fetch)
    _current.thread.start()


def reach(url: str) -> None:
    """Note that a file is in use."""
    _current.reach(url)
