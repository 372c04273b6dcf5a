"""Token shards: writing them, indexing them, reading them. Nothing else knows their bytes.

A shard is a plain uncompressed tar. One key per sample, the key is the clip id:

    <clip_id>.json         caption, dataset, split, source id, span, licence, …
    <clip_id>.tokens.npy   uint16 [V, T, I, J], C order
    <clip_id>.state.npy    float32 [T, S]   robot data only
    <clip_id>.action.npy   float32 [T, A]   robot data only

V views, T frames, I rows and J columns of codes. Beside it lies `<shard>.index.arrow`, an Arrow IPC
file with one row a sample: where each member's payload starts in the tar. The index is computed
from the tar alone. `manifest.json` above both names every shard with its SHA-256.
"""

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from handloom.errors import UserError

FORMAT = "handloom-token-shards"
VERSION = 1
SPLITS = ("train", "val")
MEMBERS = ("json", "tokens.npy", "state.npy", "action.npy")

_PAYLOAD = pa.struct([("offset", pa.int64()), ("size", pa.int64())])
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        *[(member.removesuffix(".npy"), _PAYLOAD) for member in MEMBERS],
        ("shape", pa.list_(pa.int32())),
        ("caption", pa.string()),
        ("split", pa.string()),
        ("crc32", pa.uint32()),  # over the payloads in MEMBERS order
    ]
)


@dataclass(frozen=True)
class Sample:
    """One clip as it goes into a shard.

    Attributes:
        clip_id: the key; must not hold a dot or a slash.
        codes_vtij: uint16 [V, T, I, J].
        meta: JSON object; `caption` and `split` are required.
        arrays: further members by name, `state` or `action`, float32 [T, ·].
    """

    clip_id: str
    codes_vtij: npt.NDArray[np.uint16]
    meta: dict[str, Any]
    arrays: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardInfo:
    """One line of the manifest."""

    name: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str


def write_shard(path: Path, samples: Iterable[Sample]) -> ShardInfo:
    """Write one shard and its index; both appear whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tar.tmp")
    with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            for name, payload in _members(sample):
                info = tarfile.TarInfo(f"{sample.clip_id}.{name}")  # no owner, no time: same bytes
                info.size = len(payload)
                tar.addfile(info, io.BytesIO(payload))
    index = build_index(temporary)
    index_path = path.with_suffix(".index.arrow")
    write_index(index, index_path)
    os.replace(temporary, path)
    return ShardInfo(
        path.name, index.num_rows, path.stat().st_size, sha256_file(path), sha256_file(index_path)
    )


def write_shards(
    root: Path, split: str, samples: Iterable[Sample], samples_per_shard: int = 10_000
) -> list[ShardInfo]:
    """Write samples in the given order as `root/<split>/000000.tar, …`, without a manifest."""
    stream, infos = iter(samples), list[ShardInfo]()
    while chunk := list(islice(stream, samples_per_shard)):
        infos.append(write_shard(shard_path(root, split, len(infos)), chunk))
    return infos


def shard_path(root: Path, split: str, number: int) -> Path:
    """Where shard `number` of a split lies."""
    return root / split / f"{number:06d}.tar"


def write_manifest(
    root: Path, shards: dict[str, list[ShardInfo]], tokenizer: dict[str, Any], **facts: Any
) -> None:
    """Write `manifest.json`, the last file of a finished set of shards.

    Args:
        root: folder of the shards.
        shards: per split, in order.
        tokenizer: at least name, weights_sha256 and codebook_size.
        facts: further JSON values: frame sampling, resize rule, the run's configuration, …
    """
    splits = {
        name: {"samples": sum(i.samples for i in infos), "shards": [asdict(i) for i in infos]}
        for name, infos in shards.items()
    }
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "splits": splits,
        "tokenizer": tokenizer,
        **facts,
    }
    temporary = root / "manifest.json.tmp"
    root.mkdir(parents=True, exist_ok=True)
    temporary.write_text(json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    os.replace(temporary, root / "manifest.json")


def build_index(path: Path) -> pa.Table:
    """Compute a shard's index from the tar alone; the same tar gives the same bytes."""
    rows: dict[str, dict[str, Any]] = {}
    with tarfile.open(path, "r:") as tar, path.open("rb") as raw:
        for info in tar:
            key, _, member = info.name.partition(".")
            raw.seek(info.offset_data)
            payload = raw.read(info.size)
            row = rows.setdefault(key, {"key": key, "crc32": 0})
            row[member.removesuffix(".npy")] = {"offset": info.offset_data, "size": info.size}
            row["crc32"] = zlib.crc32(payload, row["crc32"])
            if member == "json":
                meta = json.loads(payload)
                row.update(caption=meta["caption"], split=meta["split"])
            elif member == "tokens.npy":
                row["shape"] = list(np.load(io.BytesIO(payload)).shape)
    return pa.Table.from_pylist(list(rows.values()), schema=INDEX_SCHEMA)


def write_index(index: pa.Table, path: Path) -> None:
    """Write an index as an Arrow IPC file, whole or not at all."""
    temporary = path.with_suffix(".arrow.tmp")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, index.schema) as writer:
        writer.write_table(index)
    os.replace(temporary, path)


def read_manifest(root: Path) -> dict[str, Any]:
    """Read and check `manifest.json`; raises UserError where it is missing, broken or newer."""
    path = Path(root) / "manifest.json"
    if not path.is_file():
        raise UserError(
            f"{root} holds no manifest.json, so it is not a finished folder of token shards; "
            "name the `shards` folder of a run that `handloom curate` has finished."
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON ({error}); run `handloom curate` again to pack it."
        ) from None
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path} does not describe token shards: its format is not {FORMAT!r}.")
    if manifest["version"] > VERSION:
        raise UserError(
            f"{path} has format version {manifest['version']}, this handloom reads up to "
            f"{VERSION}; update handloom."
        )
    return manifest


def verify(root: Path) -> list[str]:
    """Compare every shard with the manifest and its index; a sentence for each problem."""
    problems = []
    for split, entry in read_manifest(root)["splits"].items():
        for shard in entry["shards"]:
            path = Path(root) / split / shard["name"]
            index = path.with_suffix(".index.arrow")
            missing = [str(p) for p in (path, index) if not p.is_file()]
            problems += [f"{name} is missing" for name in missing]
            if missing:
                continue
            if sha256_file(index) != shard["index_sha256"]:
                problems.append(f"{index} does not have the SHA-256 that the manifest records")
            elif sha256_file(path) != shard["sha256"]:
                keys = _damaged_keys(path, index)
                where = f"damaged samples: {', '.join(keys)}" if keys else "headers or padding"
                problems.append(
                    f"{path} does not have the SHA-256 that the manifest records ({where})"
                )
    return problems


class ShardDataset:
    """Random access and deterministic batches over the shards of one split.

    Args:
        path: folder with `manifest.json`.
        split: `train` or `val`.

    Raises:
        UserError: no manifest, a newer format, an unknown split, or a missing shard.
    """

    def __init__(self, path: str | Path, split: str = "train") -> None:
        self.path, self.split = Path(path), split
        self.manifest = read_manifest(self.path)
        if split not in self.manifest["splits"]:
            raise UserError(
                f"{path} has no split {split!r}; it has {', '.join(self.manifest['splits'])}."
            )
        self._shards = [
            self.path / split / s["name"] for s in self.manifest["splits"][split]["shards"]
        ]
        self._tables = [_open_index(shard) for shard in self._shards]
        self._starts = np.cumsum([0, *(table.num_rows for table in self._tables)])
        self._bytes: dict[int, npt.NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Sample i: `tokens` uint16 [V, T, I, J] (a view of the file) and its metadata."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        shard, row = self._row(i % len(self))
        sample: dict[str, Any] = json.loads(self._payload(shard, row["json"]).tobytes())
        sample.update(clip_id=row["key"], tokens=self._codes(shard, row))
        for name in ("state", "action"):
            if row[name] is not None:
                sample[name] = np.load(io.BytesIO(self._payload(shard, row[name]).tobytes()))
        return sample

    def batches(
        self, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> Iterator[dict[str, Any]]:
        """Endless batches whose content depends on (seed, position) alone.

        Args:
            batch_size: samples a step over all ranks; each rank gets an equal contiguous part.
            seed: of the order. Every epoch has its own order and holds each sample once.
            rank: of this process.
            world_size: number of processes.
            start: samples that all ranks together have consumed before.

        Yields:
            `tokens` uint16 [B, V, T, I, J], `caption` and `clip_id` lists of B strings, and
            `position`, the samples consumed after this batch.
        """
        if batch_size % world_size or not len(self):
            raise UserError(
                f"a batch of {batch_size} from {len(self)} samples of {self.path}/{self.split} "
                f"cannot be split over {world_size} ranks; the batch must be a multiple of the "
                "ranks and the split must not be empty."
            )
        share = batch_size // world_size
        while True:
            positions = start + rank * share + np.arange(share)
            start += batch_size
            yield self._collate([self._shuffled(int(p), seed) for p in positions], start)

    def _shuffled(self, position: int, seed: int) -> int:
        epoch, i = divmod(position, len(self))
        return permute(i, len(self), key=f"{seed}/{epoch}")

    def _collate(self, indices: list[int], position: int) -> dict[str, Any]:
        rows = [self._row(i) for i in indices]
        return {
            "tokens": np.stack([self._codes(shard, row) for shard, row in rows]),
            "caption": [row["caption"] for _, row in rows],
            "clip_id": [row["key"] for _, row in rows],
            "position": position,
        }

    def _row(self, i: int) -> tuple[int, dict[str, Any]]:
        shard = int(np.searchsorted(self._starts, i, side="right")) - 1
        table = self._tables[shard]
        return shard, table.slice(i - int(self._starts[shard]), 1).to_pylist()[0]

    def _payload(self, shard: int, member: dict[str, int]) -> npt.NDArray[np.uint8]:
        if shard not in self._bytes:
            self._bytes[shard] = np.memmap(self._shards[shard], dtype=np.uint8, mode="r")
        return self._bytes[shard][member["offset"] : member["offset"] + member["size"]]

    def _codes(self, shard: int, row: dict[str, Any]) -> npt.NDArray[np.uint16]:
        # The .npy header comes first and the codes fill the rest of the member.
        size = 2 * int(np.prod(row["shape"]))
        codes = self._payload(shard, row["tokens"])[-size:].view("<u2").reshape(row["shape"])
        return codes


def permute(i: int, n: int, key: str) -> int:
    """Position i of a pseudo-random permutation of 0 … n-1 chosen by key, in O(1) time and memory.

    A four-round Feistel network on the smallest even number of bits that holds n, walked until it
    lands inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = i >> half, i & mask
        for round_number in range(4):
            digest = hashlib.blake2b(f"{key}/{round_number}/{right}".encode(), digest_size=8)
            left, right = right, left ^ (int.from_bytes(digest.digest(), "little") & mask)
        i = left << half | right
        if i < n:
            return i


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    if sample.codes_vtij.dtype != np.uint16 or sample.codes_vtij.ndim != 4:
        raise ValueError(
            f"{sample.clip_id}: codes are {sample.codes_vtij.dtype} "
            f"{list(sample.codes_vtij.shape)}, a shard holds uint16 [V, T, I, J]"
        )
    text = json.dumps(sample.meta, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    yield "json", text.encode()
    yield "tokens.npy", _npy(sample.codes_vtij)
    for name in ("state", "action"):
        if name in sample.arrays:
            yield f"{name}.npy", _npy(sample.arrays[name])


def _npy(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _open_index(shard: Path) -> pa.Table:
    index = shard.with_suffix(".index.arrow")
    if not shard.is_file() or not index.is_file():
        raise UserError(
            f"{shard} or its index is missing though the manifest names it; copy the whole shards "
            "folder, or run `handloom curate` again."
        )
    return pa.ipc.open_file(pa.memory_map(str(index))).read_all()


def _damaged_keys(shard: Path, index: Path) -> list[str]:
    raw = np.memmap(shard, dtype=np.uint8, mode="r")
    damaged = []
    for row in pa.ipc.open_file(pa.memory_map(str(index))).read_all().to_pylist():
        members = [row[m.removesuffix(".npy")] for m in MEMBERS]
        crc = 0
        for member in filter(None, members):
            payload = raw[member["offset"] : member["offset"] + member["size"]]
            crc = zlib.crc32(payload.tobytes(), crc)
        if crc != row["crc32"]:
            damaged.append(row["key"])
    return damaged
