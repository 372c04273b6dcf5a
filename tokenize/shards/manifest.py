"""The manifest of a folder of shards, here or behind a URL."""

from pathlib import Path
from typing import Any

from handloom.errors import UserError
from handloom.tokenize.shards.format import parse_manifest
from handloom.tokenize.shards.remote import RemoteFolder, is_remote


def read_manifest(root: Path | str) -> dict[str, Any]:
    """Read and check `manifest.json` of a folder or an s3:// or gs:// URL.

    Raises:
        UserError: it is missing, broken or of a newer format version.
    """
    if is_remote(root):
        return parse_manifest(RemoteFolder(str(root)).read("manifest.json"), str(root))
    path = Path(root) / "manifest.json"
    if not path.is_file():
        raise UserError(
            f"{root} holds no manifest.json, so it is not a finished folder of token shards; "
            "name the `shards` folder of a run that `handloom curate` has finished."
        )
    return parse_manifest(path.read_bytes(), str(path))
