"""Say in words what a folder of token shards, or one shard, holds."""

from pathlib import Path

from handloom.errors import RunError, UserError
from handloom.tokenize.shards import ShardDataset, build_index, read_manifest, verify


def inspect(path: Path, verify_all: bool = False) -> None:
    """Print what lies at path.

    Args:
        path: a folder with manifest.json, or one `.tar`.
        verify_all: also compare every byte of a folder's shards with the recorded checksums.

    Raises:
        UserError: neither of the two.
        RunError: `verify_all` found damage; the message names shards and samples.
    """
    if path.suffix == ".tar" and path.is_file():
        _print_shard(path)
        return
    if not path.is_dir():
        raise UserError(f"{path} is neither a folder of shards nor a .tar.")
    root = path if (path / "manifest.json").is_file() else path / "shards"
    _print_folder(root if (root / "manifest.json").is_file() else path)
    if verify_all:
        problems = verify(root)
        if problems:
            raise RunError("; ".join(problems))
        print("every shard and index has the recorded SHA-256")


def _print_shard(path: Path) -> None:
    index = build_index(path)
    print(f"{path}: {index.num_rows} samples, {path.stat().st_size:,} bytes")
    for row in index.to_pylist():
        print(f"  {row['key']}  {row['shape']}  {row['split']}  {row['caption']}")


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
