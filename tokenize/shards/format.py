"""Names, version, sample and manifest of the shard format, for all other modules of the shards."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from handloom.errors import UserError
from handloom.files import write_text

FORMAT = "handloom-token-shards"
_HASH = re.compile("[0-9a-f]{64}")
VERSION = 1
SPLITS = ("train", "val")
LAYOUTS = ("samples", "packed")
ARRAYS = ("state", "action")  # float32 [T, ·], robot data only
ARM = 7  # numbers of one arm in both: x y z, three of rotation, gripper; or six joints, gripper

Layout = Literal["samples", "packed"]
Codes = npt.NDArray[np.uint16]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """One clip as it goes into a shard.

    Attributes:
        clip_id: the key; 1 to 80 ASCII characters, without a dot or a slash.
        codes_vtij: uint16 [V, T, I, J]: V views, T frames, I rows and J columns of codes.
        meta: JSON object; `caption` and `split` are required.
        arrays: further members by name, `state` or `action`, float32 [T, ·].
    """

    clip_id: str
    codes_vtij: Codes
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


def check_sample(sample: Sample) -> None:
    """Raise ValueError where a sample cannot be stored as it is; the message names its key."""
    key = sample.clip_id
    if not (key.isascii() and key.isprintable() and 0 < len(key) <= 80) or set("./ ") & set(key):
        raise ValueError(
            f"{key!r} is no key of a sample: a key has 1 to 80 ASCII characters and none of them "
            "is a dot, a slash or a space"
        )
    if sample.codes_vtij.dtype != np.uint16 or sample.codes_vtij.ndim != 4:
        raise ValueError(
            f"{key}: codes are {sample.codes_vtij.dtype} {list(sample.codes_vtij.shape)}, "
            "a shard holds uint16 [V, T, I, J]"
        )
    for name, array in sample.arrays.items():
        if name not in ARRAYS or array.dtype != np.float32 or array.ndim != 2:
            raise ValueError(
                f"{key}: array {name!r} is {array.dtype} {list(array.shape)}, a shard holds "
                "`state` and `action` as float32 [T, ·]"
            )
    missing = {"caption", "split"} - sample.meta.keys()
    if missing:
        raise ValueError(f"{key}: its metadata lacks {' and '.join(sorted(missing))}")


def shard_path(root: Path, split: str, number: int) -> Path:
    """Path of shard `number` of a split."""
    return root / split / f"{number:06d}.tar"


def index_name(shard: str) -> str:
    """The name of a shard's index: `train/000000.tar` gives `train/000000.index.arrow`."""
    return shard.removesuffix(".tar") + ".index.arrow"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    manifest = {"format": FORMAT, "version": VERSION, "splits": splits, "tokenizer": tokenizer}
    text = json.dumps(manifest | facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_text(root / "manifest.json", text)


def parse_manifest(text: bytes, path: str) -> dict[str, Any]:
    """Parse and check `manifest.json`; raises UserError where it is broken, foreign or newer."""
    try:
        manifest: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON ({error}); run `handloom curate` again to pack it."
        ) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path} does not describe token shards: its format is not {FORMAT!r}.")
    check_version(manifest.get("version"), path)
    try:
        for split, entry in manifest["splits"].items():
            _check_name(split, path)
            for shard in entry["shards"]:
                _check_shard(shard, path)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path} does not list its shards as expected ({type(error).__name__}: {error}); copy "
            "it again, or run `handloom curate` again."
        ) from None
    return manifest


def _check_shard(shard: dict[str, Any], path: str) -> None:
    _check_name(shard["name"], path)
    if not (isinstance(shard["samples"], int) and shard["samples"] >= 0):
        raise ValueError(f"{shard['name']} has {shard['samples']!r} samples")
    # The hash of an index is a file name in the cache, too.
    if not _HASH.fullmatch(shard["index_sha256"]):
        raise ValueError(f"{shard['name']} has no SHA-256 of its index")


def _check_name(name: Any, path: str) -> None:
    """Raise UserError for a name that could lead to another folder."""
    if not isinstance(name, str) or not name.strip(".") or set("/\\\0") & set(name):
        raise UserError(
            f"{path} names {name!r}, which leads out of its folder, expected a plain name such as "
            "000000.tar; the manifest was damaged or tampered with: copy it again from its source."
        )


def check_version(version: object, path: str) -> None:
    """Raise UserError where a manifest or an index was written for a newer reader."""
    if not isinstance(version, int) or version > VERSION:
        raise UserError(
            f"{path} has format version {version}, this handloom reads up to {VERSION}; "
            "update handloom."
        )
