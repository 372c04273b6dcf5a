"""Captions from an OpenAI-compatible endpoint such as vLLM, many requests in flight.

Each request has a connection of its own. An endpoint, or a proxy before it, that sends an answer
twice on a connection that is kept open answers the next request with it, and nothing in the
protocol tells the two apart. A connection costs under a millisecond, a caption hundreds.
"""

import asyncio
import atexit
import base64
import io
import json
import os
import random
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import aiohttp
from PIL import Image

from handloom.errors import RunError, UserError
from handloom.stages.caption.journal import Journal
from handloom.stages.caption.requests import Answer, Compose, FrameHWC, Judge, Outcome, Request

T = TypeVar("T")

JPEG_QUALITY = 90
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 20.0
KEY_VARIABLE = "OPENAI_API_KEY"
TRY_AGAIN = frozenset({408, 409, 425, 429})  # and all from 500


class ServerError(Exception):
    """The server refuses one request, or has not answered it in all tries."""


class _TryAgain(Exception):
    def __init__(self, why: str, after_s: float = 0.0, is_unreachable: bool = False) -> None:
        super().__init__(why)
        self.after_s, self.is_unreachable = after_s, is_unreachable


class Server:
    """One endpoint, for the whole process; threads may ask at the same time.

    Args:
        url: API address, such as `http://host:8000/v1`.
        journal: store of the answers.
        in_flight: clips with a request at a time, at most.
        timeout_s: seconds for one try.
        give_up_s: seconds for a request with all its tries.
    """

    def __init__(
        self, url: str, journal: Journal, in_flight: int, timeout_s: float, give_up_s: float
    ) -> None:
        self._url, self._journal, self._give_up_s = url.rstrip("/"), journal, give_up_s
        self._slots = threading.BoundedSemaphore(in_flight)
        self._pause_until = 0.0  # on the loop's clock; a rate limit holds for all requests
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
                f"{self._url} serves {', '.join(served)}, expected {model!r}; name one of those "
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
        first = await self._answer(request, pictures)
        if is_fine(request, first):
            return [first]
        return [first, await self._answer(request.again(), pictures)]

    async def _answer(self, request: Request, pictures: list[str]) -> Answer:
        """The answer from the journal, or from the server into the journal."""
        if stored := self._journal.get(request.bucket, request.key):
            return stored
        answer = await self._persist(_body(request, pictures))
        self._journal.put(request.bucket, request.key, answer)
        return answer

    async def _persist(self, body: bytes) -> Answer:
        """Try until there is an answer, with growing pauses."""
        deadline = self._loop.time() + self._give_up_s
        tries = 0
        while True:
            await asyncio.sleep(max(0.0, self._pause_until - self._loop.time()))
            tries += 1
            try:
                return await self._try(body)
            except _TryAgain as error:
                pause_s = error.after_s or _pause_s(tries)
                if self._loop.time() + pause_s > deadline:
                    raise self._gave_up(error, tries) from None
            await asyncio.sleep(pause_s)

    async def _try(self, body: bytes) -> Answer:
        started = time.monotonic()
        try:
            async with self._session.post(f"{self._url}/chat/completions", data=body) as reply:
                content = await reply.read()
        except TimeoutError:
            raise _TryAgain("no answer in time") from None
        except aiohttp.ClientConnectorError as error:
            raise _TryAgain(str(error), is_unreachable=True) from None
        except aiohttp.ClientError as error:
            raise _TryAgain(f"{type(error).__name__}: {error}") from None
        if reply.status != 200:
            self._refused(reply, content)
        return _parsed(content, time.monotonic() - started)

    def _refused(self, reply: aiohttp.ClientResponse, content: bytes) -> None:
        """Raise the error of a status other than 200."""
        reason = " ".join(content[:300].decode(errors="replace").split())
        why = f"HTTP {reply.status} {reason}"
        if reply.status in TRY_AGAIN or reply.status >= 500:
            after_s = _seconds(reply.headers.get("Retry-After"))
            if reply.status == 429:
                self._pause_until = max(self._pause_until, self._loop.time() + after_s)
            raise _TryAgain(why, after_s)
        if reply.status in (401, 403):
            raise RunError(
                f"{self._url} refuses access ({why}); put its key into the environment variable "
                f"{KEY_VARIABLE}, which workers inherit."
            )
        if reply.status == 404:
            raise RunError(
                f"{self._url} knows no such model or address ({why}); --caption.url must end where "
                "/chat/completions begins, usually in /v1, and --caption.model be a name it serves."
            )
        raise ServerError(f"the server refuses the request: {why}")

    def _gave_up(self, error: _TryAgain, tries: int) -> Exception:
        if error.is_unreachable:
            return RunError(
                f"{self._url} cannot be reached ({error}); start the server and run the same "
                "command again: answers that have arrived are kept."
            )
        return ServerError(f"no answer in {tries} tries, the last time: {error}")

    async def _models(self) -> list[str]:
        try:
            async with self._session.get(f"{self._url}/models") as reply:
                listed = json.loads(await reply.read()) if reply.status == 200 else {}
            return [str(entry["id"]) for entry in listed.get("data", [])]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RunError(
                f"{self._url} cannot be reached ({error or 'no answer in time'}); start the "
                "server, or correct --caption.url."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            return []  # some endpoints list no models; the first request shows whether it is served


async def _open_session(timeout_s: float) -> aiohttp.ClientSession:
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Content-Type": "application/json"} | (
        {"Authorization": f"Bearer {key}"} if key else {}
    )
    return aiohttp.ClientSession(
        # A kept-open connection can put an answer on the next request; `in_flight` is the limit.
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
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


def _parsed(content: bytes, seconds: float) -> Answer:
    try:
        reply = json.loads(content)
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        return Answer(
            text=str(choice["message"]["content"] or ""),
            is_whole=choice.get("finish_reason") != "length",
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            seconds=round(seconds, 4),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _TryAgain(f"not a chat completion: {content[:80]!r}") from None


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
