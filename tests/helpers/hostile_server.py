"""An endpoint whose answers are mutated: values, bytes, headers, encoding, status or length.

    python -m tests.helpers.hostile_server [--seed 0]

`GET /told` says how many answers of each kind were begun, and how many requests came to a place
that only a followed redirect leads to.
"""

import argparse
import asyncio
import gzip
import json
import random
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.helpers.caption_server import MODEL

Mutate = Callable[[random.Random], bytes]

DEEP: Any = "deep"  # stands for lists within lists, which json.dumps cannot write
ODD_VALUES: list[Any] = [
    None, True, False, -1, 0, 2**63, -(2**63) - 1, 10**400, 1e308, 0.5, float("nan"),
    float("inf"), "", "12", "\ud800", "\udfff\ud800 cup", "a\x00b\x1b[2Jc\x9b", "\u202egnirts",
    "pick " * 200, "ab " * 400_000, "x" * 3_000, "(" * 2_000, "#" * 2_000, "<think>" * 300,
    "length", [], {}, [[]], [None], {"a": 1}, [{"type": "text", "text": "pick up a cup"}], DEEP,
]  # fmt: skip


def completion() -> dict[str, Any]:
    message = {"role": "assistant", "content": "Move the red cup to the table."}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 500, "completion_tokens": 8, "total_tokens": 508}
    return {"id": "a", "object": "chat.completion", "choices": [choice], "usage": usage}


def written(value: Any) -> bytes:
    return json.dumps(value).replace('"deep"', "[" * 5_000 + "]" * 5_000).encode()


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [(value, key) for key in keys] + [p for key in keys for p in places(value[key])]


def swapped(chance: random.Random) -> bytes:
    body = completion()
    for _ in range(chance.choice((1, 1, 1, 3))):
        container, key = chance.choice(places(body))
        container[key] = chance.choice(ODD_VALUES)
    return written(body)


def removed(chance: random.Random) -> bytes:
    body = completion()
    container, key = chance.choice(places(body))
    del container[key]
    return written(body)


def flipped(chance: random.Random) -> bytes:
    body = bytearray(written(completion()))
    for _ in range(chance.choice((1, 2, 20))):
        body[chance.randrange(len(body))] = chance.randrange(256)
    return bytes(body)


def foreign(chance: random.Random) -> bytes:
    """Something else than a completion."""
    odd = written(chance.choice(ODD_VALUES))
    deep = b"[" * 300_000, b'{"choices":' * 50_000, b'{"choices":[' + b"[" * 900_000
    return chance.choice([odd, b"", b"\x00" * 2000, chance.randbytes(3000), b"<html>", *deep])


def surrogates(chance: random.Random) -> bytes:
    """Texts that UTF-8 cannot encode, escaped or as bytes, and a count beyond int64."""
    body = completion()
    body["choices"][0]["message"]["content"] = "Move \ud83d the cup to the \udcff table"
    body["usage"]["prompt_tokens"] = chance.choice((2**63, 10**30, -5, "many", 1e40))
    raw = written(body)
    return raw if chance.random() < 0.5 else raw.replace(b"\\ud83d", b"\xed\xa0\xbd")


BODIES: dict[str, Mutate] = {
    "as it should be": lambda _: written(completion()),
    "values swapped": swapped,
    "fields removed": removed,
    "bytes flipped": flipped,
    "foreign": foreign,
    "surrogates": surrogates,
    "megabytes": lambda c: written(completion())[:-1] + b" " * c.choice((10**6, 5 * 10**6)) + b"}",
}
COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "GZIP, gzip": gzip.compress,
    "br": bytes,
    "zstd": bytes,
    "\x80\xff": bytes,
}
BOMB = gzip.compress(b" " * 300_000_000, 6)  # 300 kB
STATUSES = (
    "200", "200 \xff\xfe", "201 Created", "204 None", "206 Part", "301 Moved", "302 Found",
    "303 See", "307 Temporary", "308 For ever", "304 Same", "400 Bad", "401 Key", "403 No",
    "404 Where", "409 Later", "413 Large", "418 Tea", "422 What", "425 Early", "429 Slow",
    "500 Oops", "502 Proxy", "503 Busy", "599 Odd", "600 Odd", "999 Odd", "0", "-1", "abc", "",
)  # fmt: skip
ODD_HEADERS = (
    b"Content-Type: application/json; charset=utf-99", b"Content-Type: \xff\xfe", b"Content-Type:",
    b"Content-Encoding: identity", b"Transfer-Encoding: chunked", b"Content-Length: -5",
    b"Content-Length: 99999999999999999999", b"Content-Length: abc", b"Content-Length: 3",
    b"X: " + b"x" * 20_000, b"\x00\x01: \x1b[2J", b"no colon", b": empty",
    *(b"Retry-After: " + v for v in (b"1e999", b"nan", b"-1", b"99999", b"Mon", b"0.1")),
    *(b"Location: " + v for v in (b"//[", b"http://\x1b[31m/", b"/other", b"", b"\xff\xd8")),
    b"\r\n".join(b"Set-Cookie: c%d=" % i + b"y" * 4000 for i in range(60)),
    b"\r\n".join(b"X-%d: y" % i for i in range(5_000)),
)  # fmt: skip


class HostileServer:
    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.sent: Counter[str] = Counter()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if head.startswith("GET"):
                told = {"sent": self.sent} if head.startswith("GET /told") else None
                body = written(told or {"data": [{"id": MODEL}]})
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                self.sent["elsewhere"] += "/elsewhere" in head
            elif "/elsewhere" in head:
                self.sent["elsewhere"] += 1
            else:
                length = head.lower().partition("content-length:")[2].split()[0]
                await reader.readexactly(int(length))
                await self.answer(writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has seen enough
        writer.close()

    async def answer(self, writer: asyncio.StreamWriter) -> None:
        kind = self.chance.choice([*BODIES] * 2 + [*WAYS])
        self.sent[kind] += 1
        if kind in WAYS:
            await WAYS[kind](self, writer)
        else:
            writer.write(reply(BODIES[kind](self.chance)))

    async def status(self, writer: asyncio.StreamWriter) -> None:
        status = self.chance.choice(STATUSES)
        place = f"Location: http://127.0.0.1:{self.port}/elsewhere\r\n".encode()
        extra = place if self.chance.random() < 0.5 else b""
        writer.write(reply(written(completion()), status.encode("latin-1"), extra))

    async def headers(self, writer: asyncio.StreamWriter) -> None:
        status = self.chance.choice((b"200 OK", b"302 Found", b"429 Slow", b"503 Busy"))
        odd = self.chance.choice(ODD_HEADERS) + b"\r\n"
        writer.write(reply(written(completion()), status, odd))

    async def encoding(self, writer: asyncio.StreamWriter) -> None:
        name, compress = self.chance.choice(list(COMPRESSED.items()))
        body = BOMB if self.chance.random() < 0.3 else compress(written(completion()))
        body = body[: self.chance.choice((len(body), len(body), 20))]
        extra = b"Content-Encoding: " + name.encode("latin-1") + b"\r\n"
        writer.write(reply(body, extra=extra))

    async def endless(self, writer: asyncio.StreamWriter) -> None:
        """Bytes without an end, 13 MB/s; faster ones would only starve the other answers."""
        start, more = self.chance.choice((
            (b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536),
            (b"HTTP/1.1 500 No\r\nContent-Length: 9999999999999\r\n\r\n", b"{" * 65536),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
             b"10000\r\n" + b"a" * 65536 + b"\r\n"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 65536),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
             b"X-Trailer: y\r\n" * 4096),
            (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"{}")[:10],
             b"\0" * 65536),
            (b"HTTP/1.1 200 OK\r\n", b"X-Header: y\r\n" * 4096),
            (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
            (b"HTTP/1.1 ", b"2" * 65536),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2048),
            (b"", b"\r\n" * 32768),
        ))  # fmt: skip
        writer.write(start)
        while not writer.is_closing():
            writer.write(more)
            await writer.drain()
            await asyncio.sleep(0.005)

    async def dripping(self, writer: asyncio.StreamWriter) -> None:
        text = reply(written(completion()))
        start = self.chance.choice((0, 20, text.index(b"{")))
        writer.write(text[:start])
        for byte in text[start:]:
            if writer.is_closing():
                return
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)

    async def closed(self, writer: asyncio.StreamWriter) -> None:
        text = reply(written(completion()))
        writer.write(text[: self.chance.randrange(len(text))])
        if self.chance.random() < 0.5:  # a reset instead of an orderly end
            await writer.drain()
            end: socket.socket = writer.get_extra_info("socket")
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def twice(self, writer: asyncio.StreamWriter) -> None:
        writer.write(2 * reply(written(completion())))


WAYS = {
    "status": HostileServer.status,
    "headers": HostileServer.headers,
    "encoding": HostileServer.encoding,
    "endless": HostileServer.endless,
    "dripping": HostileServer.dripping,
    "closed": HostileServer.closed,
    "twice": HostileServer.twice,
}
KINDS = (*BODIES, *WAYS)


def reply(body: bytes, status: bytes = b"200 OK", extra: bytes = b"") -> bytes:
    length = b"" if b"Content-Length" in extra else b"Content-Length: %d\r\n" % len(body)
    return b"HTTP/1.1 " + status + b"\r\n" + length + extra + b"\r\n" + body


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    hostile = HostileServer(parser.parse_args().seed)
    server = await asyncio.start_server(hostile.serve, "127.0.0.1", 0, backlog=1024)
    hostile.port = server.sockets[0].getsockname()[1]
    print(hostile.port, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
