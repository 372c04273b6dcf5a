"""Laws of shards in an object store, against an S3 server on loopback that counts requests."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from handloom.errors import UserError
from handloom.tokenize.shards import (
    LAYOUTS,
    Layout,
    Mixture,
    Sample,
    ShardDataset,
    verify,
    write_manifest,
    write_shards,
)
from handloom.tokenize.shards import remote as shard_remote


class S3(BaseHTTPRequestHandler):
    """The three requests of S3 that a reader makes: HEAD, GET and GET of a range."""

    protocol_version = "HTTP/1.1"
    root: Path
    sent: list[tuple[str, int]]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.root / self.path.partition("?")[0].lstrip("/")
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, status = path.read_bytes(), 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        total = len(data)
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2]), total - 1)
            data, status = data[first : last + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        self.end_headers()
        if body:
            self.sent.append((path.name, len(data)))
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A local folder, and the URL under which the server shows it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "served/bucket/shards"
    folder.mkdir(parents=True)
    handler = type("Handler", (S3,), {"root": tmp_path / "served", "sent": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    host = f"127.0.0.1:{server.server_port}"
    url = f"s3://bucket/shards?endpoint_override=http%3A%2F%2F{host}&region=us-east-1"
    SENT.clear()
    SENT[url] = handler.sent
    yield folder, url
    server.shutdown()


SENT: dict[str, list[tuple[str, int]]] = {}


def write(folder: Path, layout: Layout = "samples", count: int = 64) -> ShardDataset:
    rng = np.random.default_rng(1)
    samples = [
        Sample(
            f"clip{i:04d}",
            rng.integers(0, 999, (2, 8, 16, 16)).astype(np.uint16),
            {"caption": f"take {i}", "split": "train"},
            {"action": rng.normal(size=(8, 4)).astype(np.float32)},
        )
        for i in range(count)
    ]
    tokenizer = {"name": "t", "weights_sha256": "0" * 64, "codebook_size": 999}
    infos = write_shards(folder, "train", samples, 20, layout)
    write_manifest(folder, {"train": infos}, tokenizer)
    return ShardDataset(folder)


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_object_store_gives_what_the_disk_gives(
    bucket: tuple[Path, str], layout: Layout
) -> None:
    folder, url = bucket
    local, remote = write(folder, layout), ShardDataset(url)
    fields = ("tokens", "caption", "clip_id", "action")
    ours, theirs = (d.batches(16, seed=0, fields=fields) for d in (local, remote))
    for _ in range(6):
        want, got = next(ours), next(theirs)
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])
    assert remote[5]["caption"] == local[5]["caption"]
    np.testing.assert_array_equal(remote[5]["tokens"], local[5]["tokens"])
    assert verify(url) == []
    mixed = Mixture({"a": local, "b": remote}, {"a": 1, "b": 1}).batches(8, seed=0)
    assert next(mixed)["tokens"].shape == (8, 2, 8, 16, 16)


def test_only_what_is_asked_for_is_fetched_and_only_once(bucket: tuple[Path, str]) -> None:
    folder, url = bucket
    write(folder)
    sent = SENT[url]

    def fetched() -> int:
        return sum(size for name, size in sent if name.endswith(".tar"))

    part = ShardDataset(url, views=(1,), frames=slice(2, 3))
    part[7]
    once = fetched()
    assert 0 < once <= 3 * shard_remote.BLOCK < (folder / "train/000000.tar").stat().st_size
    part[7]
    assert fetched() == once
    indexes = sum(name.endswith(".arrow") for name, _ in sent)
    again = ShardDataset(url)
    again[7]
    assert sum(name.endswith(".arrow") for name, _ in sent) == indexes  # kept on disk


def test_a_batch_is_fetched_in_parallel_and_each_block_once(bucket: tuple[Path, str]) -> None:
    folder, url = bucket
    write(folder)
    remote = ShardDataset(url)
    next(remote.batches(64, seed=0))
    sizes = [size for name, size in SENT[url] if name.endswith(".tar")]
    assert sum(sizes) <= sum(p.stat().st_size for p in folder.glob("*/*.tar"))


def test_damage_and_gaps_in_an_object_store_are_named(bucket: tuple[Path, str]) -> None:
    folder, url = bucket
    local = write(folder)
    path = folder / "train/000001.tar"
    data = bytearray(path.read_bytes())
    needle = np.ascontiguousarray(local[23]["tokens"]).tobytes()
    data[data.index(needle) + 9] ^= 1
    path.write_bytes(data)
    (problem,) = verify(url)
    assert "000001.tar" in problem
    assert "clip0023" in problem
    path.unlink()
    with pytest.raises(UserError, match=r"000001\.tar"):
        ShardDataset(url)[23]
    with pytest.raises(UserError, match=r"manifest\.json"):
        ShardDataset(url.replace("/shards", "/elsewhere"))
