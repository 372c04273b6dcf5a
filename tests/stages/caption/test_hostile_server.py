"""A caption server that is broken or hostile: the run goes on, every clip is counted."""

import asyncio
import gzip
import itertools
import json
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.errors import RunError, UserError
from handloom.stages.caption.journal import Journal
from handloom.stages.caption.replies import NoAnswer, decompressed
from handloom.stages.caption.requests import Answer, Outcome, Request
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.caption.server import Server, ServerError
from tests.helpers.caption_run import caption_all, table_of
from tests.helpers.caption_server import MODEL, fake_server, started, tally
from tests.helpers.folders import CHECKOUT
from tests.helpers.hostile_server import KINDS, completion, reply
from tests.helpers.numbered_clips import clip, write_videos


def fuzzed(folder: Path, clips: int) -> dict[str, Any]:
    """Caption clips by a hostile server, then again from its answers in the journal by a good one;
    returns what the hostile one sent."""
    videos, out = folder / "videos", folder / "out"
    write_videos(videos, clips)
    patience = {"in_flight": 128, "timeout_s": 2.0, "give_up_s": 5.0}
    with started("hostile_server") as url:
        table = caption_all(videos, out, url, clips, batch=300, **patience)
        sent: dict[str, Any] = tally(url)["sent"]
    rows = {row.clip_id: row for row in table.read(CaptionRow)}
    assert rows.keys() == {clip(number).clip_id for number in range(clips)}
    assert {row.status for row in rows.values()} <= {"ok", "failed"}
    assert all(row.error or row.caption for row in rows.values())
    assert not any("MemoryError" in row.error for row in rows.values())
    shutil.rmtree(table.folder)
    with fake_server(latency_s=0.0, slots=64) as url:
        command = [sys.executable, "-m", "tests.helpers.caption_run", videos, out, url, str(clips)]
        process = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True)
    again = {row.clip_id: row for row in table_of(out).read(CaptionRow)}
    assert process.stderr == ""
    assert all(again[key].answers == row.answers for key, row in rows.items() if row.answers)
    assert Counter(row.status for row in again.values()) == {"ok": clips}
    print(sent, Counter(row.status for row in rows.values()))
    return sent


@pytest.mark.long
def test_mutated_answers_cost_at_most_their_clips(tmp_path: Path) -> None:
    sent = fuzzed(tmp_path, clips=150)
    assert sum(sent.get(kind, 0) for kind in KINDS) > 150
    assert sent.get("elsewhere", 0) == 0


@pytest.mark.slow
def test_ten_thousand_mutated_answers_end_no_run(tmp_path: Path) -> None:
    sent = fuzzed(tmp_path, clips=6_000)
    assert sum(sent[kind] for kind in KINDS) > 10_000
    assert sent.get("elsewhere", 0) == 0


Reply = Callable[[int], bytes]
"""The bytes that the n-th request is answered with."""


@contextmanager
def scripted(answer: Reply) -> Iterator[str]:
    """A server in a thread that answers each request by its number; gives its url."""
    numbers = itertools.count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split()
        await reader.readexactly(int(length[0]) if length else 0)
        writer.write(answer(next(numbers)))
        writer.close()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(
        asyncio.start_server(serve, "127.0.0.1", 0), loop
    ).result()
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def ask(url: str, numbers: range = range(1), give_up_s: float = 5.0) -> list[Outcome]:
    server = Server(url, Journal(None), 8, 2.0, give_up_s)
    return [
        outcome
        for number in numbers
        for outcome in server.ask_all([partial(request, number)], lambda *_: True)
    ]


def request(number: int) -> Request:
    frame_hwc = np.zeros((8, 8, 3), np.uint8)
    return Request(f"clip{number}", "00", MODEL, "What happens?", (frame_hwc,), 80, 0.0, 0)


def good(**fields: Any) -> bytes:
    return reply(json.dumps(completion() | fields).encode())


def text_of(outcome: Outcome) -> Answer:
    assert isinstance(outcome, list), outcome
    return outcome[0]


def with_text(text: Any) -> bytes:
    return good(choices=[{"message": {"content": text}, "finish_reason": "stop"}])


def test_texts_come_without_what_cannot_be_stored() -> None:
    texts = ["a\ud800b", "a\0b\x1b[2J\x9b", "tab\tline\n \u00e9 \U0001f600", None, "x" * 2_561]
    with scripted(lambda n: with_text(texts[n])) as url:
        answers = [text_of(outcome) for outcome in ask(url, range(5))]
    expected = ["a\ufffdb", "a b [2J ", texts[2], "", "x" * 2_560]
    assert [answer.text for answer in answers] == expected
    assert [answer.is_whole for answer in answers] == [True] * 4 + [False]


def test_numbers_of_tokens_that_cannot_be_such_count_as_none() -> None:
    counts = [2**63, -1, math.nan, "7", True, None, [], 10**9 + 1, 7.5, 7.0, 7]
    with scripted(lambda n: good(usage={"prompt_tokens": counts[n]})) as url:
        answers = [text_of(outcome) for outcome in ask(url, range(len(counts)))]
    assert [answer.prompt_tokens for answer in answers] == [0] * 9 + [7, 7]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": {}}', b'{"choices": "text"}',
        b'{"choices": [{"message": {}}]}', b'{"choices": [{"message": {"content": ["text"]}}]}',
        b'{"choices": [{"message": {"content": 5}}]}', b"[" * 500_000, b"\xff\xfe", b"1" * 9_000,
    ],
)  # fmt: skip
def test_what_is_no_completion_is_asked_for_again(body: bytes) -> None:
    with scripted(lambda n: reply(body) if n == 0 else good()) as url:
        (outcome,) = ask(url)
    assert text_of(outcome).text == "Move the red cup to the table."


def test_pictures_go_nowhere_else() -> None:
    reached: list[int] = []

    def elsewhere(number: int) -> bytes:
        reached.append(number)
        return good()

    with scripted(elsewhere) as other:
        place = f"Location: {other}/chat/completions\r\n".encode()
        host = other.split("/")[2]
        with (
            scripted(lambda _: reply(b"", b"307 Temporary", place)) as url,
            pytest.raises(RunError, match=rf"redirects to {host} .*nowhere else.*--caption.url"),
        ):
            ask(url)
        with (
            scripted(lambda _: reply(b"", b"301 Moved", place)) as url,
            pytest.raises(RunError, match=rf"redirects to {host}"),
        ):
            Server(url, Journal(None), 8, 2.0, 5.0).check(MODEL)
    assert reached == []


@pytest.mark.parametrize(
    ("status", "told"),
    [("401 No", "refuses access"), ("404 No", "knows no such model"), ("302 No", "redirects to")],
)
def test_a_server_that_has_answered_cannot_end_the_run(status: str, told: str) -> None:
    refusal = reply(b"no", status.encode(), b"Location: http://elsewhere.invalid\r\n")
    with scripted(lambda n: refusal if n else good()) as url:
        first, second = ask(url, range(2), give_up_s=4.0)
    assert text_of(first)
    assert isinstance(second, ServerError)
    assert told in str(second)
    with scripted(lambda _: refusal) as url, pytest.raises(RunError, match=told):
        ask(url)


def test_compressed_answers_are_read_and_bombs_are_not() -> None:
    plain = good().partition(b"\r\n\r\n")[2]
    bomb, other = gzip.compress(bytes(200_000_000)), zlib.compress(bytes(200_000_000))
    tracemalloc.start()
    for body, name in ((bomb, "gzip"), (bomb, "x-gzip"), (other, "deflate"), (b"", "br")):
        with pytest.raises(NoAnswer):
            decompressed(body, name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20  # bytes
    header = b"Content-Encoding: gzip\r\n"
    bodies = [bomb, plain, gzip.compress(plain)[:-20], gzip.compress(plain)]
    with scripted(lambda n: reply(bodies[n], extra=header)) as url:
        (outcome,) = ask(url)
    assert text_of(outcome).text == "Move the red cup to the table."


def test_words_of_a_server_are_shown_without_what_a_terminal_obeys() -> None:
    with scripted(lambda _: reply(b"\x1b[2J\x07 bad" + b"x" * 5_000, b"400 Bad")) as url:
        (outcome,) = ask(url)
    assert str(outcome).isprintable()
    assert "\\x1b[2J\\x07 bad" in str(outcome)
    assert len(str(outcome)) < 500


def test_a_journal_may_hold_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Answer("pick up a cup", True, 10, 4, 0.5)
    Journal(tmp_path).put("0a", "kept", kept)
    (own,) = (tmp_path / "0a").glob("*.jsonl")
    line = json.loads(own.read_text())
    odd = [{"prompt_tokens": 2**63}, {"text": 5}, {"is_whole": "yes"}, {"seconds": math.nan},
           {"key": []}, {"more": 1}]  # fmt: skip
    lines = [json.dumps(line | {"key": f"odd{n}"} | one) for n, one in enumerate(odd)]
    lines += [json.dumps(line | {"key": "surrogate", "text": "a\ud800b"}), "[" * 90_000, "null", ""]
    lines += ["x" * 3_000_000, json.dumps(line | {"key": "last"})]
    (tmp_path / "0a" / "foreign.jsonl").write_text("\n".join(lines) + "\n" + own.read_text()[:-9])
    (tmp_path / "0a" / "binary.jsonl").write_bytes(random.Random(0).randbytes(3_000_000))
    (tmp_path / "0a" / "folder.jsonl").mkdir()
    (tmp_path / "0a" / "gone.jsonl").symlink_to("nowhere")
    os.mkfifo(tmp_path / "0a" / "pipe.jsonl")
    journal = Journal(tmp_path)
    assert [journal.get("0a", key) for key in ("kept", "last")] == [kept, kept]
    assert journal.get("0a", "surrogate") == replace(kept, text="a\ufffdb")
    assert not any(journal.get("0a", f"odd{n}") for n in range(len(odd)))
    told = capsys.readouterr().err.splitlines()
    assert [Path(line.split(": ")[0]).stem for line in told] == [
        "binary", "folder", "foreign", "gone", "pipe",
    ]  # fmt: skip
    assert "requested again" in told[2]


def test_a_rate_limit_of_days_costs_its_clip_alone() -> None:
    limit = reply(b"", b"429 Slow", b"Retry-After: 99999\r\n")
    with scripted(lambda n: limit if n == 0 else good()) as url:
        first, *others = ask(url, range(3))
    assert isinstance(first, ServerError)
    assert [text_of(outcome).is_whole for outcome in others] == [True, True]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"data": 5}', b'{"data": [{"id": 5}]}', b"[" * 500_000, b" " * 5_000_000]
)
def test_a_list_of_models_may_be_none(body: bytes) -> None:
    with scripted(lambda _: reply(body)) as url:
        Server(url, Journal(None), 8, 2.0, 5.0).check(MODEL)


def test_names_of_models_are_shown_as_escapes() -> None:
    body = json.dumps({"data": [{"id": f"\x1b[2J\ud800{n}" + "x" * 9_000} for n in range(90)]})
    with (
        scripted(lambda _: reply(body.encode())) as url,
        pytest.raises(UserError, match=r"serves \\x1b\[2J\\ud8000x+\.\.\., ") as caught,
    ):
        Server(url, Journal(None), 8, 2.0, 5.0).check(MODEL)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 5_000


def test_only_a_server_that_no_try_reaches_ends_the_run() -> None:
    """One drops the first try and listens no more from then on, the other never listened."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    def drop_one() -> None:
        listener.accept()[0].close()
        listener.close()

    thread = threading.Thread(target=drop_one)
    thread.start()
    (outcome,) = ask(url, give_up_s=2.5)
    thread.join()
    assert isinstance(outcome, ServerError)
    assert "Connect call failed" in str(outcome)
    with pytest.raises(RunError, match="cannot be reached"):
        ask(url, give_up_s=0.6)
