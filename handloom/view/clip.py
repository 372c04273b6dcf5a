"""Addresses below /api/clip: everything that the page shows of one clip, made when it is asked for.

ID                               what the tables say of it, JSON
ID/thumb.jpg?size=&at=           a thumbnail, also without .jpg; `at` is a share of the clip
ID/source                        its own media file, by ranges
ID/span.webm?columns=            its span, encoded small
ID/curves                        states and actions of a robot, JSON
ID/encoded/VIEW/FRAME.png        a frame as it was encoded
ID/decoded/VIEW/FRAME.png        what its codes decode to
"""

import json
import math
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from handloom.errors import MediaError
from handloom.stages.media.episode_views import EpisodeViews
from handloom.view.clip_cache import FileCache
from handloom.view.clip_codes import ClipCodes
from handloom.view.clip_curves import curves
from handloom.view.clip_detail import detail
from handloom.view.clip_media import ClipMedia
from handloom.view.clip_rows import ClipRows
from handloom.view.run import Run, Unknown

SIZES = (160, 240, 320, 480, 640, 960)  # of thumbnails, pixels: few, so that the cache is of use
MOST_COLUMNS = 4
KEEP = {"Cache-Control": "private, max-age=600"}  # a browser's own cache; rows change rarely


def routes(run: Run) -> list[Route]:
    """The addresses of a run's clips, to be mounted at /api/clip."""
    shown = ClipPages(run)
    return [
        Route("/{clip_id}", shown.detail),
        Route("/{clip_id}/thumb", shown.thumbnail),
        Route("/{clip_id}/thumb.jpg", shown.thumbnail),
        Route("/{clip_id}/source", shown.source),
        Route("/{clip_id}/span.webm", shown.span),
        Route("/{clip_id}/curves", shown.curves),
        Route("/{clip_id}/{kind:str}/{view:int}/{frame:int}.png", shown.frame),
        Route("/{rest:path}", shown.nothing),
    ]


def as_json(values: Any) -> Response:
    """A response in JSON; numbers that are not finite become null."""
    text = json.dumps(finite(values), allow_nan=False)
    return Response(text, media_type="application/json")


def finite(values: Any) -> Any:
    """The same values, None for each number that JSON has no word for."""
    if isinstance(values, dict):
        return {name: finite(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


class ClipPages:
    """Answers of the addresses above.

    Args:
        run: as the viewer sees it.
    """

    def __init__(self, run: Run) -> None:
        self.rows = ClipRows(run)
        self.media = ClipMedia(self.rows)
        self.codes = ClipCodes(self.media)
        self.cache = FileCache()

    def detail(self, request: Request) -> Response:
        """What the tables say of a clip."""
        return as_json(detail(self.media, self.codes, clip_id_of(request)))

    def curves(self, request: Request) -> Response:
        """States and actions."""
        return as_json(curves(self.rows, clip_id_of(request)))

    def thumbnail(self, request: Request) -> Response:
        """A thumbnail."""
        clip_id, size = clip_id_of(request), number(request, "size", SIZES[2], SIZES[-1])
        size = next(one for one in SIZES if one >= size)
        share = number(request, "at", -1.0, 1.0)
        at = None if share < 0 else round(share, 2)

        def make() -> bytes:
            return self.media.thumbnail(self.media.clip(clip_id), int(size), at)

        return self._made(("thumb", clip_id, size, at), ".jpg", make)

    def source(self, request: Request) -> Response:
        """The clip's own file, where its pictures may be shown as they are."""
        clip = self.media.clip(clip_id_of(request))
        mime = self.media.source_type(clip)
        if not mime:
            raise MediaError(
                f"{clip.media_path or 'the clip'} is not shown as it is; its span.webm plays."
            )
        path = self.media.file(clip)
        return FileResponse(path, media_type=mime.partition(";")[0])

    def span(self, request: Request) -> Response:
        """The clip's span as WebM; of robots all cameras side by side."""
        clip = self.media.clip(clip_id_of(request))
        columns = max(1, int(number(request, "columns", 1, MOST_COLUMNS)))
        columns = columns if isinstance(self.rows.recorded.pictures, EpisodeViews) else 1
        path = self.cache.get(
            ("span", clip.clip_id, columns),
            ".webm",
            lambda path: self.media.write_span(clip, path, columns),
        )
        return FileResponse(path, media_type="video/webm", headers=KEEP)

    def frame(self, request: Request) -> Response:
        """A frame as it was encoded, or as its codes decode."""
        clip_id, kind = clip_id_of(request), request.path_params["kind"]
        view, frame = request.path_params["view"], request.path_params["frame"]
        work = {"encoded": self.codes.encoded, "decoded": self.codes.decoded}.get(kind)
        if work is None:
            return self.nothing(request)
        made = work
        return self._made((kind, clip_id, view, frame), ".png", lambda: made(clip_id, view, frame))

    def nothing(self, request: Request) -> Response:
        """Any other address."""
        raise Unknown("nothing is shown at this address; clips are at #/clip/ID.")

    def _made(self, key: tuple[Any, ...], suffix: str, make: Callable[[], bytes]) -> Response:
        path = self.cache.get(key, suffix, lambda path: void(path.write_bytes(make())))
        return FileResponse(path, headers=KEEP)


def void(_: object) -> None:
    """Nothing, whatever was returned."""


def clip_id_of(request: Request) -> str:
    """The clip that an address names."""
    return str(request.path_params["clip_id"])


def number(request: Request, name: str, default: float, most: float) -> float:
    """A number in the query of an address, at most so large; the default where it is none."""
    try:
        value = float(request.query_params.get(name, default))
    except ValueError:
        return default
    return min(value, most) if value >= 0 else default  # NaN is none either
