"""A running `handloom view` on loopback, asked over HTTP as a browser asks it."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from handloom.view.app import build, open_folder
from handloom.view.command import listen
from handloom.view.shown import Shown

TOKEN = "t" * 22


@dataclass(frozen=True)
class Answer:
    """A response of the server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON, which knows no NaN."""

        def refuse(word: str) -> Any:
            raise ValueError(f"{word} is no JSON")

        return json.loads(self.body, parse_constant=refuse)


@dataclass(frozen=True)
class Site:
    """A server of one run."""

    port: int

    def get(self, path: str, **headers: str) -> Answer:
        """Ask for a path, as it is; `Range` and the like are headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        cookie = {"Cookie": f"handloom-view-{self.port}={TOKEN}"}
        try:
            connection.request("GET", path, headers=cookie | headers)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    @property
    def address(self) -> str:
        """What `handloom view` would print."""
        return f"http://127.0.0.1:{self.port}/?token={TOKEN}"


@contextmanager
def site(out: Path, against: Path | None = None) -> Iterator[Site]:
    """Serve a run while the context lasts; its index has been read."""
    shown = open_folder(out, against)
    if isinstance(shown, Shown):
        runs = [shown.run, *([shown.against] if shown.against else [])]
        _wait(lambda: all(map(_is_read, runs)))
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    config = uvicorn.Config(build(shown, TOKEN, port), log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        _wait(lambda: server.started)
        yield Site(port)
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()


def _is_read(run: Any) -> bool:
    return run.error != "" or run._index is not None


def _wait(done: Any, most_s: float = 30.0) -> None:
    for _ in range(int(most_s / 0.02)):
        if done():
            return
        time.sleep(0.02)
    raise TimeoutError("the server does not begin")
