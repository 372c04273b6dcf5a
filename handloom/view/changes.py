"""What a reader tries and says: the routes behind the sliders and the marks."""

import re
from dataclasses import replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from handloom.errors import UserError
from handloom.stages.select import Select
from handloom.view.filters import Query, histogram
from handloom.view.marks import refuse_ended
from handloom.view.run import Unknown
from handloom.view.shown import Shown
from handloom.view.thresholds import command, flags, sliders

BINS = 60
HALF = re.compile("[\ud800-\udfff]")  # of UTF-16, which UTF-8 has no bytes for
MOST_MARKED = 10_000  # clips in one request
SENT = 'a mark is sent as JSON, {"ids": [...], "mark": "drop", "note": ""}.'


def routes(shown: Shown) -> list[Route]:
    """Routes of thresholds and marks."""

    def thresholds(request: Request) -> Response:
        return JSONResponse(options(shown))

    def judge(request: Request) -> Response:
        return JSONResponse(judged(shown, Query.parse(request.query_params.multi_items())))

    def marks(request: Request) -> Response:
        return JSONResponse(listed(shown))

    async def mark(request: Request) -> Response:
        try:
            said = await request.json()
        except (ValueError, RecursionError):
            raise UserError(SENT) from None
        return JSONResponse(await run_in_threadpool(set_mark, shown, said))

    return [
        Route("/api/thresholds", thresholds),
        Route("/api/judge", judge),
        Route("/api/marks", marks, methods=["GET"]),
        Route("/api/marks", mark, methods=["POST"]),
    ]


def options(shown: Shown) -> dict[str, Any]:
    """The thresholds with their ranges and the distributions of their scores."""
    select, index = shown.run.select, shown.run.index
    if select is None:
        return {"options": []}
    found = sliders(select)
    for one in found:
        scores = [index.numbers[name] for name in one["scores"] if name in index.numbers]
        counts = [histogram(values, index.came, 0.0, one["most"], BINS) for values in scores[-1:]]
        one["histogram"] = counts[0] if counts else []
    return {"options": found, "decided": int(index.came.sum())}


def judged(shown: Shown, query: Query) -> dict[str, Any]:
    """What some options would keep, and how they are given to `handloom curate`."""
    trial = shown.trial(query.options)
    if trial is None or shown.run.select is None:
        raise UserError("this run has no decisions of `select` yet, so there is nothing to try.")
    select = with_marks(shown, trial.select)
    words = flags(select, shown.run.select)
    said = trial.counts(shown.run.index)
    return said | {"flags": words, "command": command(shown.run.job, select)}


def with_marks(shown: Shown, select: Select) -> Select:
    """Options that name the file of marks too, where it says more than a note."""
    if not len(shown.marks.overrides().clip_ids):
        return replace(select, overrides=None)
    return replace(select, overrides=shown.marks.path)


def listed(shown: Shown) -> dict[str, Any]:
    """All marks, and where they are kept."""
    marks = shown.marks.all()
    said = {key: {"mark": one.mark, "note": one.note} for key, one in marks.items()}
    return {"file": str(shown.marks.path), "marks": said}


def set_mark(shown: Shown, said: Any) -> dict[str, Any]:
    """Mark clips as {"ids": [...], "mark": "drop", "note": ""} says.

    Raises:
        UserError: no such mark, or one that changes nothing.
        Unknown: no such clip.
    """
    if not isinstance(said, dict):
        raise UserError(SENT)
    ids, mark, note = said.get("ids"), said.get("mark", ""), said.get("note", "")
    words = [*(ids if isinstance(ids, list) else [ids]), mark, note]
    if not isinstance(ids, list) or not all(isinstance(word, str) for word in words):
        raise UserError(SENT)
    if any(HALF.search(word) for word in words):
        raise UserError(
            "a mark holds half a character (a lone surrogate); send whole Unicode text."
        )
    if len(ids) > MOST_MARKED:
        raise UserError(f"{len(ids):,} clips at once, expected at most {MOST_MARKED:,}.")
    index = shown.run.index
    rows = [index.find(clip_id) for clip_id in ids]
    known = [row for row in rows if row is not None]
    if len(known) < len(rows):
        missing = ids[rows.index(None)]
        raise Unknown(f"{shown.run.out} holds no clip {missing[:40]!r}.")
    if mark:
        refuse_ended(index, known, bool(shown.run.select))
    shown.marks.set(ids, mark, note)
    return listed(shown)
