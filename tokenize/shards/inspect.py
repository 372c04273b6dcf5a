"""Say in words what a folder of token shards, or one shard, holds."""

from pathlib import Path

import numpy as np

from handloom.errors import RunError, UserError
from handloom.tokenize.shards import ShardDataset, build_index, read_manifest, verify, verify_shard
from handloom.tokenize.shards.files import LocalFiles
from handloom.tokenize.shards.open import open_shard

ROWS_AT_A_TIME = 1000


def inspect(path: Path, verify_all: bool = False) -> None:
    """Print what lies at path.

    Args:
        path: a folder with manifest.json, or one `.tar`.
        verify_all: also compare every byte of a folder's shards with the recorded checksums, or the
            samples of a tar with its index.

    Raises:
        UserError: neither of the two.
        RunError: `verify_all` found damage; the message names shards and samples.
    """
    if path.suffix == ".tar" and path.is_file():
        _print_shard(path)
        if verify_all:
            _complain(verify_shard(path))
            print("every sample has the checksum that the index records")
        return
    if not path.is_dir():
        raise UserError(f"{path} is neither a folder of shards nor a .tar.")
    root = path if (path / "manifest.json").is_file() else path / "shards"
    root = root if (root / "manifest.json").is_file() else path
    if verify_all:  # first, because printing samples of a damaged shard may fail
        _complain(verify(root))
    _print_folder(root)
    if verify_all:
        print("every shard and index has the recorded SHA-256")


def _complain(problems: list[str]) -> None:
    if problems:
        raise RunError("; ".join(problems))


def _print_shard(path: Path) -> None:
    index = build_index(path)
    files = LocalFiles(path.parent, [path.name], indexed=False)
    shard = open_shard(files, 0, str(path), index=index)
    layout = index.schema.metadata[b"layout"].decode()
    size = path.stat().st_size
    print(f"{path}: {len(shard):,} samples, {size:,} bytes, layout {layout}")
    for start in range(0, len(shard), ROWS_AT_A_TIME):
        rows = np.arange(start, min(start + ROWS_AT_A_TIME, len(shard)))
        facts = shard.keys(rows), shard.places(rows)[1].tolist(), shard.captions(rows)
        for key, shape, caption in zip(*facts, strict=True):
            print(f"  {key}  {shape}  {caption}")


def _print_folder(root: Path) -> None:
    manifest = read_manifest(root)
    tokenizer, frames = manifest["tokenizer"], manifest.get("frames", {})
    print(f"{root}: {manifest['format']} version {manifest['version']}")
    print(f"tokenizer: {tokenizer['name']}, {tokenizer['codebook_size']:,} codes, weights "
          f"{tokenizer['weights_sha256'][:12]}")  # fmt: skip
    print("frames: " + ", ".join(f"{key} {value}" for key, value in frames.items()))
    for split, entry in manifest["splits"].items():
        size = sum(shard["bytes"] for shard in entry["shards"])
        print(
            f"{split}: {entry['samples']:,} samples, {len(entry['shards'])} shards, {size:,} bytes"
        )
        dataset = ShardDataset(root, split)
        for i in range(min(3, len(dataset))):
            sample = dataset[i]
            print(f"  {sample['clip_id']}  {list(sample['tokens'].shape)}  {sample['caption']}")
