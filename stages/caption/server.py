"""Captions from an OpenAI-compatible endpoint such as vLLM, many requests in flight.

Each request has a connection of its own. An endpoint, or a proxy before it, that sends an answer
twice on a connection that is kept open answers the next request with it, and nothing in the
protocol tells the two apart. A connection costs under a millisecond, a caption hundreds.

Whatever a server sends costs at most the clip that was asked about (`replies.py` reads it): a run
ends only where no clip can be captioned, since the server is gone or never gave an answer.
"""

import asyncio
import atexit
import base64
import io
import json
import os
import random
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import aiohttp
from PIL import Image

from handloom.errors import RunError, UserError
from handloom.stages.caption.journal import Journal
from handloom.stages.caption.replies import NoAnswer, answer_of, models_of, read_body, target_of
from handloom.stages.caption.requests import Answer, Compose, FrameHWC, Judge, Outcome, Request
from handloom.stages.tables.texts import shown

T = TypeVar("T")

ENDS_A_RUN = 3  # refusals of one request in a row, from a server that has never answered

JPEG_QUALITY = 90
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 20.0
SHARED_PAUSE = 0.2  # of `give_up_s`: a longer rate limit would cost all clips under way
KEY_VARIABLE = "OPENAI_API_KEY"
WORDS_OF_A_SERVER = 400  # characters of what it says instead of an answer
MODELS_NAMED = 20
CHARACTERS_A_TOKEN, SHORTEST_LIMIT = 32, 2_000  # longer answers are not of `max_tokens` tokens
NO_REDIRECTS = (
    "pictures are sent nowhere else than you say: give the address that answers itself as "
    "--caption.url."
)
BAD_KEY = f"put its key into the environment variable {KEY_VARIABLE}, which workers inherit."
BAD_ADDRESS = (
    "--caption.url must end where /chat/completions begins, usually in /v1, and --caption.model "
    "be a name it serves."
)
CLIENT_ERRORS = frozenset(range(400, 500)) - {401, 403, 404, 408, 409, 425, 429}


class ServerError(Exception):
    """The server refuses one request, or has not answered it in all tries."""


class _TryAgain(Exception):
    """No answer this time.

    Args:
        why: what came instead.
        after_s: pause that the server asks for, seconds.
        advice: what to do if the server answers so from its start: then it is the wrong one.
        is_unreachable: nothing listens at the address.
    """

    def __init__(
        self, why: str, after_s: float = 0.0, advice: str = "", is_unreachable: bool = False
    ) -> None:
        super().__init__(shown(why, WORDS_OF_A_SERVER))
        self.after_s, self.advice, self.is_unreachable = after_s, advice, is_unreachable


class Server:
    """One endpoint, for the whole process; threads may ask at the same time.

    Args:
        url: API address, such as `http://host:8000/v1`.
        journal: store of the answers.
        in_flight: clips with a request at a time, at most.
        timeout_s: seconds for one try.
        give_up_s: seconds for a clip with all its tries.
    """

    def __init__(
        self, url: str, journal: Journal, in_flight: int, timeout_s: float, give_up_s: float
    ) -> None:
        self._url, self._journal = url.rstrip("/"), journal
        self._timeout_s, self._give_up_s = timeout_s, give_up_s
        self._slots = threading.BoundedSemaphore(in_flight)
        self._pause_until = 0.0  # on the loop's clock; a rate limit holds for all requests
        self._has_answered = False
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="captions").start()
        self._session = self._submit(_open_session(timeout_s)).result()
        atexit.register(lambda: self._submit(self._session.close()).result(timeout=5))

    def check(self, model: str) -> None:
        """Check that the server answers and serves the model.

        Raises:
            RunError: it does not answer.
            UserError: it serves other models.
        """
        served = self._submit(self._models()).result()
        if served and model not in served:
            raise UserError(
                f"{self._url} serves {', '.join(served[:MODELS_NAMED])}, expected {model!r}; name "
                "one of those "
                "with --caption.model."
            )

    def ask_all(self, composers: Sequence[Compose], is_fine: Judge) -> list[Outcome]:
        """Caption several clips, as `Asker` says; decodes the next while answers are awaited."""
        pending = [self._begin(compose, is_fine) for compose in composers]
        outcomes = [_outcome(future) for future in pending]
        for outcome in outcomes:
            if isinstance(outcome, RunError | UserError):
                raise outcome
        return outcomes

    def _begin(self, compose: Compose, is_fine: Judge) -> "Future[list[Answer]]":
        self._slots.acquire()
        future: Future[list[Answer]] = Future()
        try:
            request = compose()
            answers = self._try_twice(request, [_data_url(f) for f in request.frames_hwc], is_fine)
            future = self._submit(answers)
        except Exception as error:  # as in run_isolated: it costs this clip
            future.set_exception(error)
        future.add_done_callback(lambda _: self._slots.release())
        return future

    def _submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _try_twice(
        self, request: Request, pictures: list[str], is_fine: Judge
    ) -> list[Answer]:
        deadline = self._loop.time() + self._give_up_s
        first = await self._answer(request, pictures, deadline)
        if is_fine(request, first):
            return [first]
        return [first, await self._answer(request.again(), pictures, deadline)]

    async def _answer(self, request: Request, pictures: list[str], deadline: float) -> Answer:
        """The answer from the journal, or from the server into the journal."""
        if stored := self._journal.get(request.bucket, request.key):
            return stored
        longest = max(SHORTEST_LIMIT, request.max_tokens * CHARACTERS_A_TOKEN)
        answer = await self._persist(_body(request, pictures), longest, deadline)
        self._journal.put(request.bucket, request.key, answer)
        return answer

    async def _persist(self, body: bytes, longest: int, deadline: float) -> Answer:
        """Try until there is an answer, with growing pauses.

        Args:
            body: the request.
            longest: characters of an answer at most.
            deadline: when to give up, on the loop's clock.
        """
        tries = refusals = unreached = 0
        pause_s = self._pause_until - self._loop.time()
        while True:
            await asyncio.sleep(max(0.0, min(pause_s, deadline - self._loop.time())))
            tries += 1
            try:
                answer = await self._try(body, longest, deadline)
            except _TryAgain as error:
                refusals = refusals + 1 if error.advice else 0
                unreached += error.is_unreachable
                if refusals >= ENDS_A_RUN and not self._has_answered:
                    raise RunError(f"{self._url} {error}; {error.advice}") from None
                pause_s = max(
                    error.after_s or _pause_s(tries), self._pause_until - self._loop.time()
                )
                if self._loop.time() + pause_s > deadline:
                    raise self._gave_up(error, tries, unreached == tries) from None
            else:
                self._has_answered = True
                return answer

    async def _try(self, body: bytes, longest: int, deadline: float) -> Answer:
        started = self._loop.time()
        limit = aiohttp.ClientTimeout(total=max(1e-3, min(self._timeout_s, deadline - started)))
        try:
            async with self._session.post(
                f"{self._url}/chat/completions", data=body, timeout=limit, allow_redirects=False
            ) as reply:
                content = await read_body(reply)
            if reply.status != 200:
                self._refused(reply, content)
            answer = answer_of(content, self._loop.time() - started, longest)
        except TimeoutError:
            raise _TryAgain("no answer in time") from None
        except aiohttp.ClientConnectorError as error:
            raise _TryAgain(str(error), is_unreachable=True) from None
        except aiohttp.ClientError as error:
            raise _TryAgain(f"{type(error).__name__}: {error}") from None
        except NoAnswer as error:
            raise _TryAgain(str(error)) from None
        return answer

    def _refused(self, reply: aiohttp.ClientResponse, content: bytes) -> None:
        """Raise the error of a status other than 200."""
        reason = " ".join(content[:300].decode(errors="replace").split())
        why = f"HTTP {reply.status} {reason}".rstrip()
        if reply.status in CLIENT_ERRORS:
            raise ServerError(f"the server refuses the request: {shown(why, WORDS_OF_A_SERVER)}")
        if host := target_of(reply):
            raise _TryAgain(f"redirects to {host} (HTTP {reply.status})", advice=NO_REDIRECTS)
        if reply.status in (401, 403):
            raise _TryAgain(f"refuses access ({why})", advice=BAD_KEY)
        if reply.status == 404:
            raise _TryAgain(f"knows no such model or address ({why})", advice=BAD_ADDRESS)
        after_s = _seconds(reply.headers.get("Retry-After"))
        if reply.status == 429:
            shared_s = min(after_s, self._give_up_s * SHARED_PAUSE)
            self._pause_until = max(self._pause_until, self._loop.time() + shared_s)
        raise _TryAgain(why, after_s)

    def _gave_up(self, error: _TryAgain, tries: int, is_gone: bool) -> Exception:
        if is_gone:
            return RunError(
                f"{self._url} cannot be reached ({error}); start the server and run the same "
                "command again: answers that have arrived are kept."
            )
        return ServerError(f"no answer in {tries} tries, the last time: {error}")

    async def _models(self) -> list[str]:
        """Names of the models that the server lists; some endpoints list none."""
        try:
            async with self._session.get(f"{self._url}/models", allow_redirects=False) as reply:
                if host := target_of(reply):
                    raise RunError(f"{self._url} redirects to {host}; {NO_REDIRECTS}")
                return models_of(await read_body(reply)) if reply.status == 200 else []
        except NoAnswer:
            return []  # the first request shows whether the model is served
        except (aiohttp.ClientError, TimeoutError) as error:
            why = shown(str(error), WORDS_OF_A_SERVER) or "no answer in time"
            raise RunError(
                f"{self._url} cannot be reached ({why}); start the server, or correct "
                "--caption.url."
            ) from None


async def _open_session(timeout_s: float) -> aiohttp.ClientSession:
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"} | (
        {"Authorization": f"Bearer {key}"} if key else {}
    )
    return aiohttp.ClientSession(
        # A kept-open connection can put an answer on the next request; `in_flight` is the limit.
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),  # else a server could fill it
        auto_decompress=False,  # without a limit in older versions: `read_body` has one
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        headers=headers,
    )


def _body(request: Request, pictures: list[str]) -> bytes:
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url}} for url in pictures
    ]
    content.append({"type": "text", "text": request.prompt})
    body = {
        "model": request.model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
    }
    return json.dumps(body).encode()


def _data_url(frame_hwc: FrameHWC) -> str:
    buffer = io.BytesIO()
    Image.fromarray(frame_hwc).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _outcome(future: "Future[list[Answer]]") -> Outcome:
    error = future.exception()
    if error is None:
        return future.result()
    if not isinstance(error, Exception):
        raise error
    return error


def _pause_s(tries: int) -> float:
    """Exponential backoff in seconds, with jitter so that requests do not return together."""
    doubled = FIRST_PAUSE_S * 2.0 ** min(tries - 1, 10)
    return min(LONGEST_PAUSE_S, doubled) * random.uniform(0.5, 1.0)


def _seconds(header: str | None) -> float:
    """`Retry-After` in seconds, 0 without it or where it is a date."""
    try:
        return max(0.0, min(float(header or 0), 10 * LONGEST_PAUSE_S))
    except ValueError:
        return 0.0
