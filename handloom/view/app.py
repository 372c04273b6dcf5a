"""The viewer's server: routes, and errors as sentences."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from handloom.errors import MediaError, RunError, UserError, first_line
from handloom.places import check_bucket, is_remote
from handloom.stages.tables.parts import open_tables
from handloom.view import changes, lists, training
from handloom.view.guard import Guard
from handloom.view.run import NotRead, Run, Unknown
from handloom.view.shown import Shown
from handloom.view.training import Training, is_training

STATIC = Path(__file__).with_name("static")
STATUS = {Unknown: 404, NotRead: 503, UserError: 400, MediaError: 409, RunError: 409, OSError: 409}
"""HTTP status of each kind of error; the page shows its sentence."""


def open_folder(out: Path, against: Path | None = None) -> Shown | Training:
    """What the page shows of a folder, which is read in the background.

    Raises:
        UserError: the folder holds neither a run nor a training.
    """
    if is_training(out):
        return Training(out.absolute())
    runs = [Run(_checked(folder)) for folder in (out, against) if folder]
    for run in runs:
        run.read_in_background()
    return Shown(runs[0], runs[1] if against else None)


def _checked(folder: Path) -> Path:
    """The folder, if it holds a run; it may have finished no stage."""
    if is_remote(folder):
        check_bucket(folder)
    if not (folder / "run.yaml").is_file():
        open_tables(folder)  # for its error
    return folder if is_remote(folder) else folder.absolute()


def build(shown: Shown | Training, token: str, port: int, any_host: bool = False) -> ASGIApp:
    """The server.

    Args:
        shown: the run, and the one that it is compared with; or a training.
        token: that the printed address holds.
        port: that it listens on, which names its cookie.
        any_host: whether it listens on more than loopback.
    """
    if isinstance(shown, Training):
        first, behind = STATIC / "training.html", training.routes(shown)
    else:
        first, behind = STATIC / "index.html", _run_routes(shown)
    routes = [
        Route("/", lambda _: FileResponse(first)),
        *behind,
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    known = dict.fromkeys(STATUS, _sentence_of(None if isinstance(shown, Training) else shown.run))
    handlers: dict[Any, Any] = {**known, HTTPException: _http_error, Exception: _unexpected}
    app = Starlette(routes=routes, exception_handlers=handlers)
    return Guard(app, token, f"handloom-view-{port}", any_host)


def _run_routes(shown: Shown) -> list[BaseRoute]:
    return [*lists.routes(shown), *changes.routes(shown), *_clip_routes(shown.run)]


def _clip_routes(run: Run) -> list[Mount]:
    """What is shown of one clip, where that part is installed; else its rows are shown plainly."""
    if not find_spec("handloom.view.clip"):
        return []
    routes = import_module("handloom.view.clip").routes(run)
    return [Mount("/api/clip", routes=routes)]


def _sentence_of(run: Run | None) -> Callable[[Request, Exception], JSONResponse]:
    """What answers with an error as JSON: {"error": sentence}."""

    def sentence(request: Request, error: Exception) -> JSONResponse:
        status = next(code for kind, code in STATUS.items() if isinstance(error, kind))
        words = str(error)
        if isinstance(error, OSError) and not isinstance(error, RunError):
            why = first_line(error)
            words = f"a file of the run cannot be read ({why}); was it moved or deleted?"
        if request.url.path.startswith("/api/clip/") and run and is_gone(run.out):
            status, words = 409, f"{run.out} is not there any more; was it moved or deleted?"
        return JSONResponse({"error": words}, status)

    return sentence


def is_gone(out: Path) -> bool:
    """Whether the folder of a run on disk is not there any more; of one in a store, False."""
    return not is_remote(out) and not out.is_dir()


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """A fault of ours: the traceback is in the terminal."""
    words = f"{type(error).__name__}: {first_line(error)}"
    said = f"handloom view has a fault here ({words}); its terminal says where. Please report it."
    return JSONResponse({"error": said}, 500)


def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse({"error": f"{request.url.path}: {error.detail}"}, error.status_code)
