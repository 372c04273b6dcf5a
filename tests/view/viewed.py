"""Generated runs as the viewer's tests look at them."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import uvicorn
from starlette.testclient import TestClient

from benchmarks.scale_tables import write_run
from handloom.stages.select import Select
from handloom.stages.tables.parts import open_tables
from handloom.view.app import build
from handloom.view.command import listen
from handloom.view.run import Run
from handloom.view.shown import Shown

TOKEN, PORT = "a-token", 8400
CLIPS, BUCKETS = 1200, 3


def generated(out: Path, seed: int = 0, clips: int = CLIPS) -> Path:
    """A finished run of made-up clips, with rejections of many kinds."""
    write_run(out, clips, codes=4, seed=seed, buckets=BUCKETS)
    return out


def opened(out: Path, against: Path | None = None) -> Shown:
    """A run whose tables are read."""
    runs = [Run(folder) for folder in (out, against) if folder]
    for run in runs:
        run.read()
    return Shown(runs[0], runs[1] if against else None)


def client(shown: Shown, raises: bool = True) -> TestClient:
    """Somebody who has opened the printed address; by default our own faults end the test."""
    app = build(shown, TOKEN, PORT)
    one = TestClient(app, base_url=f"http://127.0.0.1:{PORT}", raise_server_exceptions=raises)
    assert one.get(f"/?token={TOKEN}").status_code == 200
    return one


def get(one: TestClient, path: str, **params: Any) -> Any:
    """JSON of an address that there is; `min__x` stands for `min.x`."""
    named = {name.replace("__", "."): value for name, value in params.items()}
    answer = one.get(path, params=named)
    assert answer.status_code == 200, answer.text
    return answer.json()


def all_clips(one: TestClient, piece: int = 500, **params: Any) -> list[dict[str, Any]]:
    """A whole list, read in pieces."""
    rows: list[dict[str, Any]] = []
    while True:
        answer = get(one, "/api/clips", offset=len(rows), limit=piece, **params)
        rows += answer["rows"]
        if len(rows) >= answer["total"] or not answer["rows"]:
            assert len(rows) == answer["total"]
            return rows


def decided(out: Path, select: Select) -> dict[str, tuple[str, str]]:
    """Status and reason of each clip, as the stage itself decides on the run's tables."""
    rows = pa.concat_tables(rows for _, rows in select.rows(open_tables(out)))
    columns: Sequence[list[str]] = [rows[n].to_pylist() for n in ("clip_id", "status", "reason")]
    return {clip_id: (status, reason) for clip_id, status, reason in zip(*columns, strict=True)}


@contextmanager
def served(shown: Shown) -> Iterator[str]:
    """A server on loopback while the context lasts; yields the address that would be printed."""
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        config = uvicorn.Config(build(shown, TOKEN, port), log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{port}/?token={TOKEN}"
        server.should_exit = True
        thread.join(timeout=10)
