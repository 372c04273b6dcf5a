"""What several tests ask of folders: their content, and what another user may read of them."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def sums(root: Path) -> dict[str, str]:
    """The SHA-256 of every file, by its path below the folder."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def shard_sums(out: Path) -> dict[str, str]:
    """The same of a run's shards and their manifest, less the marker, which holds times."""
    return {name: digest for name, digest in sums(out / "shards").items() if name[0] != "_"}


@contextmanager
def another_user() -> Iterator[None]:
    """Not root, to whom no file is closed."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)
