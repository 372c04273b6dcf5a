"""The folder of an export: claimed by one command at a time, resumed, and finished last.

    .export/lock              held while a command writes here (a store has .export/lease)
    .export/plan.json         what is exported; written first
    .export/part-00000.json   a part whose files are there
    export.json               written last: without it the export is not finished

`.export` goes when the export is finished.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from handloom.errors import UserError
from handloom.files import read_facts, remove_temporaries, write_text
from handloom.lease import Lease
from handloom.places import is_remote

WORK, MANIFEST = ".export", "export.json"
MEGABYTE = 1 << 20
Plan = dict[str, Any]
"""What is exported and how, as JSON; two exports of equal plans have the same files."""


@dataclass(frozen=True)
class Folder:
    """A claimed folder.

    Attributes:
        dest: the folder.
        plan: what it is an export of.
    """

    dest: Path
    plan: Plan

    def part(self, number: int) -> dict[str, Any]:
        """The record of a part that is written; {} of one that is not."""
        return read_facts(self._marker(number))

    def finish_part(self, number: int, files: Sequence[Path], facts: dict[str, Any]) -> None:
        """Record a part, once its files are there."""
        record = {"files": [file_facts(path, self.dest) for path in files], **facts}
        write_text(self._marker(number), json.dumps(record))

    def finish(self, facts: dict[str, Any]) -> None:
        """Write export.json, and remove what only an unfinished export needs."""
        write_text(self.dest / MANIFEST, json.dumps(self.plan | facts, indent=2) + "\n")
        if not is_remote(self.dest):
            shutil.rmtree(self.dest / WORK, ignore_errors=True)
            return
        for path in [*(self.dest / WORK).glob("*.json")]:
            path.unlink(missing_ok=True)

    def _marker(self, number: int) -> Path:
        return self.dest / WORK / f"part-{number:05d}.json"


def file_facts(path: Path, dest: Path) -> dict[str, Any]:
    """A file of the export: path below its folder, bytes and SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(8 * MEGABYTE):
            digest.update(block)
    name = path.relative_to(dest).as_posix()
    return {"path": name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def check(dest: Path) -> None:
    """Refuse a folder that holds something other than an export.

    Raises:
        UserError: says what it holds.
    """
    if dest.exists() and not dest.is_dir():
        raise UserError(f"{dest} is a file, expected a folder to write to; name another one.")
    if not dest.is_dir():
        return
    names = {path.name for path in dest.iterdir()}
    if names and not names & {WORK, MANIFEST}:
        raise UserError(
            f"{dest} is not empty and was not written by `handloom export` (it holds "
            f"{min(names)}); name an empty or new folder."
        )


@contextmanager
def claimed(dest: Path) -> Iterator[None]:
    """Lock a folder for one export.

    Raises:
        UserError: another command writes there, or nobody may.
    """
    if is_remote(dest):
        with Lease(dest / WORK / "lease", uuid4().hex).held():
            yield
        return
    try:
        (dest / WORK).mkdir(parents=True, exist_ok=True)
        lock = (dest / WORK / "lock").open("w")
    except OSError as error:
        raise UserError(
            f"{dest} cannot be written ({error.strerror}); name another folder."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # freed by the kernel if we are killed
        except BlockingIOError:
            raise UserError(
                f"another export is writing {dest}; wait for it, or name another folder."
            ) from None
        try:
            yield
        finally:
            _leave(dest)


def _leave(dest: Path) -> None:
    """Remove the lock where it is all that this command has left."""
    if [path.name for path in (dest / WORK).glob("*")] == ["lock"]:
        shutil.rmtree(dest / WORK, ignore_errors=True)


def begin(dest: Path, plan: Plan, missing: Sequence[str]) -> tuple[Folder, list[str]] | None:
    """Begin an export, or go on with one; None where it is finished.

    Args:
        dest: the folder, claimed.
        plan: what is to be exported.
        missing: ids of clips to leave out, since their files are gone now.

    Returns:
        The folder, and the clips to leave out: those that the export began without.

    Raises:
        UserError: it holds another export.
    """
    finished = read_facts(dest / MANIFEST)
    stored = finished or read_facts(dest / WORK / "plan.json")
    if stored and (why := _difference(stored, plan)):
        raise UserError(
            f"{dest} holds an export of something else ({why}); name another folder, or remove it."
        )
    if finished:
        return None
    if not stored:
        write_text(dest / WORK / "plan.json", json.dumps(plan | {"missing": list(missing)}))
    elif not is_remote(dest):
        _clear(dest)
    return Folder(dest, plan), stored.get("missing", list(missing))


def _clear(dest: Path) -> None:
    """Remove what a killed export left half-written."""
    for folder, _, _ in os.walk(dest):
        remove_temporaries(Path(folder))


def _difference(stored: Plan, plan: Plan) -> str:
    """In which way two exports differ; empty where they do not."""
    if stored.get("format") != plan["format"]:
        return f"a {stored.get('format')} export, not {plan['format']}"
    if stored.get("form") != plan["form"]:
        return "of another version of handloom"
    then, now = stored.get("state", {}), plan["state"]
    changed = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if changed:
        return (
            f"the run has been changed since, or is another one: its tables "
            f"{', '.join(changed)} differ from those of {stored.get('run')}"
        )
    then, now = stored.get("options", {}), plan["options"]
    other = [name for name in now if then.get(name) != now[name]]
    return "; ".join(
        f"--{name.replace('_', '-')} was {then.get(name)}, now {now[name]}" for name in other
    )
