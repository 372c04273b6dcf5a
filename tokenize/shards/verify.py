"""Comparison of shards with the checksums recorded when they were written."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from handloom.errors import UserError
from handloom.tokenize.shards.files import Files, LocalFiles
from handloom.tokenize.shards.format import index_name, sha256_file
from handloom.tokenize.shards.manifest import read_manifest
from handloom.tokenize.shards.open import open_shard
from handloom.tokenize.shards.remote import RemoteFiles, RemoteFolder, is_remote


def verify(root: Path | str, splits: Sequence[str] | None = None) -> list[str]:
    """Compare every shard with the manifest and its index.

    Args:
        root: folder with `manifest.json`, or its s3:// or gs:// URL.
        splits: names of the splits to compare; all by default.

    Returns:
        A sentence for each problem. It names the shard, and the keys of damaged samples.

    Raises:
        UserError: there is no manifest that can be read.
    """
    entries = read_manifest(root)["splits"]
    return [
        problem
        for split in splits or entries
        for shard in entries[split]["shards"]
        for problem in _problems(root, split, shard)
    ]


def verify_shard(path: Path) -> list[str]:
    """Compare one local shard with the index beside it; a sentence for each problem."""
    index = Path(index_name(str(path)))
    if not index.is_file():
        return [f"{index} is missing, so {path} cannot be compared with it"]
    problem = _damage(LocalFiles(path.parent, [path.name]), str(path), None)
    return [problem] if problem else []


def _problems(root: Path | str, split: str, shard: dict[str, Any]) -> Iterator[str]:
    name, where = f"{split}/{shard['name']}", f"{root}/{split}/{shard['name']}"
    hashes = {n: _hash(root, n) for n in (name, index_name(name))}
    missing = [n for n, sha256 in hashes.items() if sha256 is None]
    yield from (f"{root}/{n} is missing" for n in missing)
    if missing:
        return
    if hashes[index_name(name)] != shard["index_sha256"]:
        yield (
            f"{root}/{index_name(name)} does not have the SHA-256 that the manifest records; it "
            "can be made again from its tar"
        )
    elif hashes[name] != shard["sha256"]:
        files = _files(root, split, shard)
        damage = _damage(files, where, shard["samples"])
        reason = damage or f"{where}: headers, padding, captions or metadata differ"
        yield f"{where} does not have the SHA-256 that the manifest records ({reason})"


def _damage(files: Files, where: str, samples: int | None) -> str | None:
    """A sentence that names the samples without their checksum; None where all have it."""
    try:
        shard = open_shard(files, 0, where, samples)
        rows = [row for row in range(len(shard)) if not shard.intact(row)]
        keys = shard.keys(np.array(rows, np.int64))
    except UserError as error:
        return str(error)
    return f"{where}: damaged samples: {', '.join(keys)}" if keys else None


def _files(root: Path | str, split: str, shard: dict[str, Any]) -> Files:
    if is_remote(root):
        folder = RemoteFolder(str(root)).below(split)
        return RemoteFiles(folder, [shard["name"]], [shard["index_sha256"]])
    return LocalFiles(Path(root) / split, [shard["name"]])


def _hash(root: Path | str, name: str) -> str | None:
    """SHA-256 of a file below root, None where there is none."""
    if not is_remote(root):
        path = Path(root) / name
        return sha256_file(path) if path.is_file() else None
    digest = hashlib.sha256()
    try:
        for piece in RemoteFolder(str(root)).open(name).pieces():
            digest.update(piece)
    except UserError:
        return None
    return digest.hexdigest()
