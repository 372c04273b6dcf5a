"""Token shards: writing them, indexing them, reading them. Nothing else knows their bytes.

A shard is a plain uncompressed tar with an Arrow index beside it; `manifest.json` above them names
every shard with its SHA-256. docs/shard-format.md describes the bytes. This module is what the rest
of handloom, and everybody else, imports:

    dataset = ShardDataset("runs/sample/shards", split="train")
    dataset[0]["tokens"]                                    # uint16 [V, T, I, J]
    for batch in dataset.batches(batch_size=256, seed=0):   # endless; resume with start=position
        batch["tokens"], batch["caption"], batch["position"]

| module | holds |
|---|---|
| `format`, `manifest` | names, the version, a sample, the manifest |
| `tar`, `samples`, `packed`, `write` | writing, and the index of a tar |
| `blocks`, `messages` | the same of many samples at once, as columns |
| `files`, `remote`, `open`, `columns`, `facts` | bytes of local and remote shards |
| `order`, `batches`, `dataset`, `mixture`, `torch` | order and batches |
| `verify`, `inspect` | checksums, a summary in words |
"""

from typing import TYPE_CHECKING, Any

from handloom.tokenize.shards.blocks import SampleBlock
from handloom.tokenize.shards.dataset import ShardDataset
from handloom.tokenize.shards.format import (
    FORMAT,
    LAYOUTS,
    SPLITS,
    VERSION,
    Layout,
    Sample,
    ShardInfo,
    index_name,
    sha256_file,
    shard_path,
    write_manifest,
)
from handloom.tokenize.shards.manifest import read_manifest
from handloom.tokenize.shards.mixture import Mixture
from handloom.tokenize.shards.order import permute
from handloom.tokenize.shards.verify import verify, verify_shard
from handloom.tokenize.shards.write import build_index, write_index, write_shard, write_shards

if TYPE_CHECKING:
    from handloom.tokenize.shards.torch import TorchBatches

__all__ = [
    "FORMAT",
    "LAYOUTS",
    "SPLITS",
    "VERSION",
    "Layout",
    "Mixture",
    "Sample",
    "SampleBlock",
    "ShardDataset",
    "ShardInfo",
    "TorchBatches",
    "build_index",
    "index_name",
    "permute",
    "read_manifest",
    "sha256_file",
    "shard_path",
    "verify",
    "verify_shard",
    "write_index",
    "write_manifest",
    "write_shard",
    "write_shards",
]


def __getattr__(name: str) -> Any:
    """`TorchBatches`, which needs torch, is imported when it is asked for."""
    if name == "TorchBatches":
        from handloom.tokenize.shards.torch import TorchBatches

        return TorchBatches
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
