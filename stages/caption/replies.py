"""What a server sends, read within limits; it may be broken, or hostile.

Bodies are read in chunks and no further than `LONGEST_BODY`, also after decompression. Of a chat
completion only what is used is looked at, by its type. aiohttp itself limits a header's length.
"""

import json
import zlib
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from handloom.stages.caption.requests import Answer, is_count
from handloom.stages.tables.texts import shown

LONGEST_BODY = 1 << 20  # bytes; an answer of 1,000 tokens has about 5,000
CHUNK = 1 << 16
COMPRESSED = frozenset({"gzip", "x-gzip", "deflate"})
ANY_HEADER = 32 + zlib.MAX_WBITS  # of gzip or zlib, whatever is announced
LONGEST_NAME = 200  # characters of a model's or host's name in a sentence


class NoAnswer(Exception):
    """What came is no answer that can be used."""


async def read_body(reply: aiohttp.ClientResponse) -> bytes:
    """The body, decompressed. Raises NoAnswer where it is too long or damaged."""
    body = bytearray()
    async for chunk in reply.content.iter_chunked(CHUNK):
        body += chunk
        if len(body) > LONGEST_BODY:
            reply.close()
            raise NoAnswer(f"the body has over {LONGEST_BODY:,} bytes")
    encoding = reply.headers.get("Content-Encoding", "").strip().lower()
    return decompressed(bytes(body), encoding)


def decompressed(body: bytes, encoding: str) -> bytes:
    """A body without its `Content-Encoding`, a name in lower case."""
    if encoding in ("", "identity"):
        return body
    if encoding not in COMPRESSED:
        raise NoAnswer(f"the body is compressed as {encoding}, which was not asked for")
    try:
        plain = zlib.decompressobj(ANY_HEADER).decompress(body, LONGEST_BODY + 1)
    except zlib.error as error:
        raise NoAnswer(f"the body does not decompress ({error})") from None
    if len(plain) > LONGEST_BODY:
        raise NoAnswer(f"the body has over {LONGEST_BODY:,} bytes when decompressed")
    return plain


def answer_of(body: bytes, seconds: float, longest: int) -> Answer:
    """The answer in a chat completion, its text cut to `longest` characters.

    Numbers of tokens that cannot be such count as none: some endpoints send none at all.

    Raises:
        NoAnswer: it is no chat completion.
    """
    try:
        reply = _json(body)
        choice, usage = reply["choices"][0], reply.get("usage")
        text = choice["message"]["content"]
        if not isinstance(text, str | None):
            raise TypeError
        text = text or ""
        return Answer(
            text=text[:longest],
            is_whole=choice.get("finish_reason") != "length" and len(text) <= longest,
            prompt_tokens=_count(usage, "prompt_tokens"),
            completion_tokens=_count(usage, "completion_tokens"),
            seconds=round(seconds, 4),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise NoAnswer(f"not a chat completion: {body[:80]!r}") from None


def models_of(body: bytes) -> list[str]:
    """Names in a list of models. Raises NoAnswer where it is no such list."""
    try:
        return [shown(entry["id"], LONGEST_NAME) for entry in _json(body)["data"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NoAnswer("not a list of models") from None


def target_of(reply: aiohttp.ClientResponse) -> str:
    """The host to which a reply redirects, empty where it does not."""
    location = reply.headers.get("Location", "")
    if reply.status // 100 != 3 or not location:
        return ""
    try:
        host = urlsplit(location).netloc.rpartition("@")[2]
    except ValueError:  # an address that is none
        host = location
    return shown(host or f"another path ({location})", LONGEST_NAME)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and is_count(value) else 0
