"""A process that ends at one of the changes that it makes to a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, at: int) -> Iterator[list[int]]:
    """Raise KeyboardInterrupt instead of the `at`-th renaming or removal of a file, from 1.

    Yields:
        A list whose one element is the number of changes so far.
    """
    changes = [0]
    replace, unlink = os.replace, Path.unlink

    def counted() -> None:
        changes[0] += 1
        if changes[0] >= at:
            raise KeyboardInterrupt

    def dying_replace(source: Path, target: Path) -> None:
        counted()
        replace(source, target)

    def dying_unlink(path: Path, missing_ok: bool = False) -> None:
        counted()
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying_replace)
        patch.setattr(Path, "unlink", dying_unlink)
        yield changes
