"""What lies in object stores, asked for once: the listings and facts that this process keeps.

A folder is listed once by each process; what the process writes or removes is noted in the listing,
and `forget_listings` is called where others may have written meanwhile. Files below a folder that
is trusted, a dataset, are asked about once as well, and may not change while they are used.
"""

import time
from pathlib import PurePosixPath

from handloom.errors import MediaError
from handloom.stores import FOLDER, Info, ask, described

ASK_AGAIN_S = 30.0  # a dataset's file is taken for unchanged so long
UNKNOWN = Info(False)  # of a file that was just written
CHANGED = "the file was replaced while it was used; run the same command again when it stays"

_listings: dict[str, dict[str, Info]] = {}  # by URL; empty where there is no such folder
_trusted: set[str] = set()
_asked: dict[str, tuple[float, Info | None]] = {}


def forget_listings(folder: object = None) -> None:
    """Forget what was listed, of one folder or of all: other processes may have written there."""
    if folder is None:
        _listings.clear()
    else:
        _listings.pop(str(folder), None)


def trust_url(url: str) -> None:
    """Take the files below a folder for unchanged while this process lives."""
    _trusted.add(f"{url}/")


def is_trusted(url: str) -> bool:
    """Whether a file is a dataset's."""
    return bool(_trusted) and url.startswith(tuple(_trusted))


def key_of(url: str) -> str:
    """The path of a URL in its store, `bucket/key`."""
    return url.partition("://")[2]


def info(url: str) -> Info | None:
    """What is known or found of a file or folder; None for nothing.

    Raises:
        MediaError: a dataset's file has changed.
    """
    if not is_trusted(url):
        return info_now(url)
    folder, _, name = url.rpartition("/")
    if (siblings := _listings.get(folder)) is not None:
        return siblings.get(name)
    asked_s, before = _asked.get(url, (-ASK_AGAIN_S, None))
    if time.monotonic() - asked_s < ASK_AGAIN_S:
        return before
    found = info_now(url)
    if before is not None and found != before:
        raise MediaError(f"{name}: {CHANGED}")
    _asked[url] = time.monotonic(), found
    return found


def info_now(url: str) -> Info | None:
    """What the store says of a file or folder now; None for nothing."""
    try:
        return described(ask(url, lambda opened: opened.info(key_of(url))))
    except FileNotFoundError:
        return None


def listing(url: str) -> dict[str, Info]:
    """What a folder holds, by name; nothing where there is no folder, since none is empty."""
    found = _listings.get(url)
    if found is None:
        key = key_of(url)
        try:
            entries = ask(url, lambda opened: opened.ls(key, detail=True, refresh=True))
        except FileNotFoundError:
            entries = []
        paths = ((PurePosixPath(entry["name"]), entry) for entry in entries)
        # Some tools write an empty object named like the folder.
        depth = len(PurePosixPath(key).parts) + 1
        found = {p.name: described(e) for p, e in paths if len(p.parts) == depth}
        _listings[url] = found
    return dict(found)  # threads may write meanwhile


def note(url: str, found: Info | None) -> None:
    """Keep the listings as this process writes a file, or removes it (None)."""
    folder, _, name = url.rpartition("/")
    if found is None:
        _listings.get(folder, {}).pop(name, None)
        return
    _listings.get(folder, {})[name] = found
    while folder.count("/") > 2:
        above, _, name = folder.rpartition("/")
        _listings.get(above, {}).setdefault(name, FOLDER)
        folder = above
