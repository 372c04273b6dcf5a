"""Lists of clips, and what they are filtered by: the routes behind the page's first view."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from handloom.errors import UserError
from handloom.view.filters import FACETS, Query, facets, histogram, masks, together
from handloom.view.index import KEPT
from handloom.view.run import Run
from handloom.view.shown import Shown

MOST_ROWS = 500  # of one answer
MOST_WORDS = 200  # of a facet
BINS = 60


def routes(shown: Shown) -> list[Route]:
    """Routes of lists, filters and rows."""

    def run(request: Request) -> Response:
        return JSONResponse(state(shown))

    def clips(request: Request) -> Response:
        query, offset, limit = _read(request)
        answer = shown.answer(query)
        rows = answer.rows[offset : offset + limit].astype(np.int64)
        said = {"total": len(answer.rows), "seconds": answer.seconds, "offset": offset}
        return JSONResponse(said | {"rows": described(shown, query, rows)})

    def counts(request: Request) -> Response:
        return JSONResponse(counted(shown, _read(request)[0]))

    def spread(request: Request) -> Response:
        pairs = [(k, v) for k, v in request.query_params.multi_items() if k != "score"]
        score = request.query_params.get("score", "")
        return JSONResponse(distribution(shown, Query.parse(pairs), score))

    def rows(request: Request) -> Response:
        return JSONResponse(all_rows(shown.run, request.path_params["clip_id"]))

    def compared(request: Request) -> Response:
        return JSONResponse(shown.comparison.counts() if shown.comparison else {})

    def reload(request: Request) -> Response:
        for one in filter(None, (shown.run, shown.against)):
            one.read_in_background()
        return JSONResponse({})

    return [
        Route("/api/run", run),
        Route("/api/clips", clips),
        Route("/api/facets", counts),
        Route("/api/histogram", spread),
        Route("/api/rows/{clip_id}", rows),
        Route("/api/compare", compared),
        Route("/api/reload", reload, methods=["POST"]),
    ]


def _read(request: Request) -> tuple[Query, int, int]:
    """The query of an address, and the piece of its list that is asked for."""
    pairs = request.query_params.multi_items()
    query = Query.parse([pair for pair in pairs if pair[0] not in ("offset", "limit")])
    numbers = (request.query_params.get(name, "0") for name in ("offset", "limit"))
    try:
        offset, limit = map(int, numbers)
    except ValueError:
        raise UserError("offset and limit of a list are whole numbers.") from None
    return query, max(offset, 0), min(max(limit, 0), MOST_ROWS)


def state(shown: Shown) -> dict[str, Any]:
    """What the page is about, and whether its tables are read."""
    run = shown.run
    said: dict[str, Any] = {"out": str(run.out), "name": run.out.name, "error": run.error}
    if shown.against:
        said["against"] = {"out": str(shown.against.out), "error": shown.against.error}
    every = [one for one in (run, shown.against) if one]
    for one in every:
        one.try_again()
    said["reading"] = any(one.is_reading for one in every)
    said["generation"] = sum(shown.version)
    said["progress"] = min(one.progress for one in every)
    if not all(one.is_read for one in every):
        return said | {"ready": False}
    index = run.index
    kept = index.words["status"].equal([KEPT])
    return said | {
        "ready": True,
        "clips": len(index),
        "kept": int(kept.sum()),
        "kept_s": float(index.length_s[kept].sum()),
        "unfinished": run.unfinished(),
        "changed": run.has_changed(),
        "scores": [name for name in index.numbers if name not in ("start_s", "end_s")],
        "selects": bool(run.select),
        **run.facts(),
    }


def described(shown: Shown, query: Query, rows: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """What a list shows of some clips."""
    index, columns = shown.index, shown.columns(query)
    words = {
        name: columns.words(name).take(rows) for name in ("status", "stage", "reason", "split")
    }
    words |= {"video": index.words["video_id"].take(rows), "text": index.text.take(rows)}
    words |= {name: column.take(rows) for name, column in columns.more.items()}
    numbers = {name: index.numbers[name][rows].tolist() for name in ("start_s", "end_s")}
    if query.sort and query.sort != "text":
        numbers["sorted"] = columns.number(query.sort)[rows].tolist()
    ids = index.ids.take(pa.array(rows)).to_pylist()
    lists: dict[str, list[Any]] = {"id": ids, **words, **numbers}
    if compared := shown.comparison:
        lists["was"] = compared.was(rows)
    return [
        _finite(dict(zip(lists, one, strict=True))) for one in zip(*lists.values(), strict=True)
    ]


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """A row without numbers that JSON has no words for."""
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}


def counted(shown: Shown, query: Query) -> dict[str, Any]:
    """Words of the facets with their counts under a query."""
    columns = shown.columns(query)
    names = [*FACETS, *columns.more]
    found = facets(columns, masks(columns, query), names, MOST_WORDS)
    return {"facets": {name: some for name, some in found.items() if _tells(some)}}


def _tells(words: list[tuple[str, int]]) -> bool:
    """Whether a facet holds anything but empty words."""
    return any(word for word, _ in words)


def distribution(shown: Shown, query: Query, score: str) -> dict[str, Any]:
    """How a score is distributed over all clips, and over those of a query."""
    columns = shown.columns(query)
    values, found = columns.number(score), masks(columns, query)
    found.pop(f"range.{score}", None)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    mask = together(found.values(), len(shown.index))
    every = histogram(values, np.isfinite(values), low, high, BINS)
    some = histogram(values, mask & np.isfinite(values), low, high, BINS)
    return {"score": score, "low": low, "high": high, "all": every, "some": some}


def all_rows(run: Run, clip_id: str) -> dict[str, Any]:
    """Every stage's row of a clip, its long values cut short."""
    bucket = run.bucket_of(clip_id)
    found: dict[str, Any] = {}
    for name, table in run.tables.items():
        parts = table.parts(bucket)
        if rows := [row for path in parts for row in _rows_of(path, clip_id)]:
            found[name] = {key: _short(value) for key, value in rows[-1].items()}
    return {"id": clip_id, "rows": found}


def _rows_of(path: Path, clip_id: str) -> list[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        ids = file.read(columns=["clip_id"])["clip_id"]
        mask = pc.equal(ids, clip_id)
        if not pc.any(mask).as_py():
            return []
        simple = [f.name for f in file.schema_arrow if not pa.types.is_binary(f.type)]
        rows: list[dict[str, Any]] = file.read(columns=simple).filter(mask).to_pylist()
        return rows


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 300 else f"{text[:299]}…"
