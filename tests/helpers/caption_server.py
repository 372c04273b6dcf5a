"""An OpenAI-compatible endpoint that reads the number in a request's pictures, and misbehaves.

    python -m tests.helpers.caption_server --slots 16 --latency-s 0.1 --faults 0.2

It delays and reorders answers, fails with 500 and 429, closes connections before and within an
answer, hangs, sends what is no JSON, and sends answers twice on a connection that is kept open, at
once or when the connection is used again.
`GET /told` says which requests were answered to their end, and which answers were read.
"""

import argparse
import asyncio
import base64
import io
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.folders import CHECKOUT
from tests.helpers.numbered_clips import caption_of, number_shown

MODEL = "fake-vlm"
FAULTS = ("500", "429", "closed", "cut", "hang", "garbage", "twice", "late")
HANG_S = 30.0
# Of every hundred numbers one is answered badly at first, one always.
REFUSED_ONCE, REFUSED_ALWAYS = 41, 83


class FakeServer:
    def __init__(self, slots: int, latency_s: float, faults: float, seed: int) -> None:
        self.slots, self.latency_s, self.faults = asyncio.Semaphore(slots), latency_s, faults
        self.random = random.Random(seed)
        self.told: dict[str, list[float]] = defaultdict(list)
        self.read: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.met: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        late = None  # an answer that comes again once the connection is used again
        given: list[tuple[str, float]] = []  # on this connection: whose answer, and when asked
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                length = next(
                    (int(line.split(":")[1]) for line in head.splitlines()
                     if line.lower().startswith("content-length:")), 0,
                )  # fmt: skip
                body = await reader.readexactly(length)
                if head.startswith("GET /told"):
                    send(writer, {"told": self.told, "read": self.read, "met": self.met})
                elif head.startswith("GET"):
                    send(writer, {"data": [{"id": MODEL}]})
                else:
                    if late:
                        send(writer, late)
                    late = await self.answer(json.loads(body), reader, writer, given)
                await writer.drain()
        except asyncio.IncompleteReadError:  # the client hangs up: it has read its answer
            for key, asked_s in given:
                self.read[key].append((asked_s, time.monotonic()))
        except ConnectionError:
            pass  # reset: the client died with bytes that it had not read
        writer.close()

    async def answer(
        self,
        request: dict[str, Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        given: list[tuple[str, float]],
    ) -> dict[str, Any] | None:
        """Answer a request well or badly; returns an answer that is to be sent a second time."""
        asked_s = time.monotonic()
        fault = self.random.choice(FAULTS) if self.random.random() < self.faults else ""
        self.met[fault] += 1
        async with self.slots:
            await asyncio.sleep(self.latency_s * self.random.uniform(0.2, 1.8))
        number = shown(request)
        reply = completion(said(number, request["seed"]))
        if self.is_spoilt(fault, writer):
            return None
        if fault == "hang":
            await asyncio.sleep(HANG_S)
        if reader.at_eof():  # the client has given up, or is dead
            return None
        send(writer, reply)
        if fault == "twice":
            send(writer, reply)
        await writer.drain()
        if not writer.transport.is_closing():
            key = f"{number}/{request['seed']}"
            self.told[key].append(asked_s)
            given.append((key, asked_s))
        return reply if fault == "late" else None

    def is_spoilt(self, fault: str, writer: asyncio.StreamWriter) -> bool:
        """Send what is no answer, if that is the fault."""
        if fault == "500":
            send(writer, {"error": "out of memory"}, status="500 Oops")
        elif fault == "429":
            send(writer, {}, status="429 Slow down", extra="Retry-After: 0.05\r\n")
        elif fault == "garbage":
            send(writer, "<html>busy</html>")
        elif fault == "cut":
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{"choices": [')
        if fault in ("closed", "cut"):
            writer.close()
        return fault in ("500", "429", "garbage", "closed", "cut")


def shown(request: dict[str, Any]) -> int:
    """The number in a request's pictures; -1 where they show different ones."""
    (message,) = request["messages"]
    urls = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    pictures = [Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) for url in set(urls)]
    numbers = {number_shown(np.asarray(picture)) for picture in pictures}
    return numbers.pop() if len(numbers) == 1 else -1


def said(number: int, seed: int) -> str:
    if number % 100 == REFUSED_ALWAYS or (number % 100 == REFUSED_ONCE and seed == 0):
        return "I'm sorry, I cannot help with that."
    return caption_of(number).capitalize() + "."


def completion(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "created": time.time(),
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 500, "completion_tokens": len(text.split())},
    }


def send(writer: asyncio.StreamWriter, body: Any, status: str = "200 OK", extra: str = "") -> None:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n{extra}\r\n"
    writer.write(head.encode() + content)


def fake_server(**options: float) -> AbstractContextManager[str]:
    """The server in a process of its own, for the time of a block; gives its url."""
    return started("caption_server", **options)


@contextmanager
def started(helper: str, **options: float) -> Iterator[str]:
    """A server of `tests/helpers` in a process of its own, for the time of a block."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", f"tests.helpers.{helper}", *flags],
        cwd=CHECKOUT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()


def tally(url: str) -> dict[str, Any]:
    """What the server counted.

    `told`: for each `number/seed` when it was asked, of the times that it was answered to the end,
    in seconds of the system's clock; `read`: when it was asked and when the answer had been read;
    `met`: how often each fault was met.
    """
    found: dict[str, Any] = json.loads(
        urllib.request.urlopen(url.removesuffix("/v1") + "/told").read()
    )
    return found


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", type=float, default=16)
    parser.add_argument("--latency-s", type=float, default=0.05)
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--seed", type=float, default=0)
    args = parser.parse_args()
    fake = FakeServer(int(args.slots), args.latency_s, args.faults, int(args.seed))
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
