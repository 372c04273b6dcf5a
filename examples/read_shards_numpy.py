"""Read shards without handloom: `tarfile`, `msgpack` and numpy are all it takes; then JAX.

    make curate && .venv/bin/python examples/read_shards_numpy.py

A shard is a plain tar. Each sample is a member `<clip_id>.mp`, a MessagePack map of codes, their
shape and metadata; samples of robots have `<clip_id>.state.npy` and `<clip_id>.action.npy` too.
docs/shard-format.md has the bytes, those of `--pack.layout packed` as well, which is not read here.
"""

import io
import sys
import tarfile
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import msgpack
import numpy as np


def read(shard: Path) -> Iterator[dict[str, Any]]:
    """The samples of a tar: `clip_id`, `codes` uint16 [views, frames, rows, columns], metadata."""
    with tarfile.open(shard) as tar:
        # The members of a sample follow each other; a clip id holds no dot.
        for clip_id, members in groupby(tar, lambda member: member.name.partition(".")[0]):
            files = {m.name.partition(".")[2]: tar.extractfile(m).read() for m in members}
            packed = msgpack.unpackb(files.pop("mp"))
            codes = np.frombuffer(packed["codes"], "<u2").reshape(packed["shape"])
            # `state` and `action` of robots: float32 [frames, width]
            arrays = {n.removesuffix(".npy"): np.load(io.BytesIO(f)) for n, f in files.items()}
            yield {"clip_id": clip_id, "codes": codes, **arrays, **packed["meta"]}


def main(shards: str = "runs/sample/shards") -> None:
    """Print the first sample of the train split, and the shape of a batch."""
    shard = min(Path(shards, "train").glob("*.tar"))
    for name, value in next(read(shard)).items():
        print(f"{name:16}", f"{value.dtype} {value.shape}" if name == "codes" else value)
    batch = np.stack([sample["codes"] for sample in islice(read(shard), 8)])
    print("\nnumpy", batch.dtype, batch.shape, "of clips, views, frames, rows, columns")
    try:
        import jax.numpy as jnp  # nothing of handloom needs it: pip install jax
    except ImportError:
        return
    on_device = jnp.asarray(batch)
    print("jax  ", on_device.dtype, on_device.shape, on_device.devices())


if __name__ == "__main__":
    main(*sys.argv[1:])
