"""Checkpoints that several processes write together while training goes on.

    OUT/checkpoints/00000300/   every process's part of the tensors (torch.distributed.checkpoint),
                                and run.json: step, position, identity
    OUT/checkpoints/latest      the name of the newest, written last

A checkpoint is written under a temporary name, in a thread, from a copy of the tensors. When all
parts are on disk it is renamed and `latest` points at it: who dies before leaves the former one.
"""

import json
import pickle
import shutil
import sys
import threading
import warnings
from collections import OrderedDict
from concurrent.futures import Future
from enum import EnumType
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from handloom.errors import RunError, UserError, first_line
from handloom.files import publish, write_text
from handloom.train.trainer.distributed import World
from handloom.unpickle import Refused, Unpickler

# One process that saves alone is no mistake.
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)

Tensors = dict[str, Any]  # tensors by name, in any nesting of dicts


class Checkpoints:
    """The checkpoints of one run.

    Args:
        out: the run's folder, which all processes see.
        identity: facts that must be equal in a checkpoint for it to be loaded.
        keep: number of checkpoints that stay.
        world: the processes that save and load together.
        kept_step: a step whose checkpoint stays beside those.
    """

    def __init__(
        self,
        out: Path,
        identity: dict[str, Any],
        keep: int,
        world: World,
        kept_step: int | None = None,
    ) -> None:
        self.folder, self.identity = out / "checkpoints", json.loads(json.dumps(identity))
        self.keep, self.world, self.kept_step = max(1, keep), world, kept_step
        self._failure: BaseException | None = None
        self._ready = threading.Event()  # nothing is being written
        self._ready.set()

    def save(self, step: int, tensors: Tensors, facts: dict[str, Any]) -> None:
        """Copy the tensors and start to write them; waits for the save before it.

        Args:
            step: that is done.
            tensors: to write; may change as soon as this returns.
            facts: plain JSON beside them.

        Raises:
            RunError: the save before failed.
        """
        self.wait()
        partial = self.folder / f"{step:08d}.partial"
        error = self._begin(partial, {"step": step, "identity": self.identity, **facts})
        if self.world.any(error is not None):
            self._fail(partial, error)
            self.check()
        self._ready.clear()
        # Files are synced, so that a power cut leaves no name without bytes.
        writer = FileSystemWriter(partial, sync_files=True)
        group = self.world.writers
        saving: Any = async_save(
            tensors, storage_writer=writer, process_group=group, no_dist=group is None
        )
        saving.add_done_callback(lambda done: self._publish(partial, done))

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            RunError: the last save failed, here or in another process.
        """
        self.settle()
        self.check()

    def settle(self) -> None:
        """Wait until nothing is being written, whether it went well or not."""
        self._ready.wait()

    def check(self) -> None:
        """Raise the failure of a save that has ended, in all processes; waits for no disk."""
        if self.world.any(self._failure is not None):
            before = f"step {step}" if (step := self.latest_step()) is not None else "none"
            free_gb = shutil.disk_usage(self.folder).free / 1e9
            raise RunError(
                f"a checkpoint could not be written into {self.folder} ({_why(self._failure)}; "
                f"{free_gb:,.2f} GB are free there); the last whole one ({before}) is untouched. "
                "Make room there or lower --keep, then run the same command again: it goes on from "
                "that one."
            )

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint; None where there is none."""
        pointer = self.folder / "latest"
        return int(Path(pointer.read_text().strip()).stem) if pointer.is_file() else None

    def load(self, tensors: Tensors) -> dict[str, Any] | None:
        """Fill the tensors, whatever number of processes wrote them, from the newest checkpoint.

        Returns:
            The facts given to `save`, and `step`; None where there is no checkpoint.

        Raises:
            UserError: it belongs to another run.
            RunError: it cannot be read.
        """
        run = read_run(self.folder)
        if run is None:
            return None
        path, facts = run
        refuse_another_run(path, facts["identity"], self.identity)
        load_tensors(path, tensors, self.world.writers)
        return facts

    def delete(self) -> None:
        """Throw all checkpoints away."""
        if self.world.is_first:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.world.barrier()

    def _begin(self, partial: Path, run: dict[str, Any]) -> OSError | None:
        """Make the folder; gives back what went wrong, for all processes to agree on."""
        if not self.world.is_first:
            return None
        try:
            for old in self.folder.glob("*.partial"):  # of a run that died
                shutil.rmtree(old)
            partial.mkdir(parents=True)
            (partial / "run.json").write_text(json.dumps(run, indent=1) + "\n")
        except OSError as error:
            return error
        return None

    def _publish(self, partial: Path, saving: Future[Any]) -> None:
        """Called in the writing thread when all processes have written, or one has failed."""
        try:
            saving.result()
            if self.world.is_first:
                self._rename(partial)
        except BaseException as error:  # DCP's own is no Exception; a thread's would be lost
            self._fail(partial, error)
        finally:
            self._ready.set()

    def _rename(self, partial: Path) -> None:
        whole = partial.with_suffix("")  # one of the same step may be left from a --no-resume
        publish(partial, whole)
        write_text(self.folder / "latest", whole.name)
        for old in checkpoints_in(self.folder)[: -self.keep]:
            if int(old.name) != self.kept_step:
                shutil.rmtree(old)

    def _fail(self, partial: Path, error: BaseException | None) -> None:
        self._failure = error
        if self.world.is_first:
            shutil.rmtree(partial, ignore_errors=True)  # gives its room back
            print(f"{partial.stem}: not saved ({_why(error)})", file=sys.stderr, flush=True)


def read_run(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Folder of the newest checkpoint, and its run.json; None where there is none.

    Raises:
        UserError: it is of a former version.
        RunError: `latest` points at nothing that can be read.
    """
    pointer = folder / "latest"
    if not pointer.is_file():
        return None
    path = folder / pointer.read_text().strip()
    if path.suffix == ".pt":
        raise UserError(
            f"{path} was written by a former version of handloom, which kept a VQGAN's training in "
            "one file: finish it with that version, or start again with --no-resume."
        )
    try:
        facts: dict[str, Any] = json.loads((path / "run.json").read_text())
    except (OSError, ValueError) as error:
        raise RunError(unreadable(path, error)) from error
    return path, facts


# Options of former versions, and the one value of each that means what this version does.
GONE = {"head.state_to_images": False}


def refuse_another_run(path: Path, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise a UserError that names each difference between two identities."""
    stored = {n: value for n, value in stored.items() if not (n in GONE and value == GONE[n])}
    names = [n for n in {**stored, **expected} if stored.get(n) != expected.get(n)]
    if names:
        differences = "; ".join(
            f"{name} is {stored.get(name)} there and {expected.get(name)} now" for name in names
        )
        raise UserError(
            f"{path} is a checkpoint of another run: {differences}. Name another --out, or "
            "pass --no-resume to throw the checkpoint away."
        )


def load_tensors(path: Path, tensors: Tensors, group: Any = None) -> None:
    """Fill tensors in place from a checkpoint's folder, with the names that they have there.

    Raises:
        RunError: the checkpoint cannot be read, or lacks one of them.
    """
    try:
        load(tensors, storage_reader=Reader(path), process_group=group, no_dist=group is None)
    except (
        OSError,
        ValueError,
        RuntimeError,
        CheckpointException,
        pickle.UnpicklingError,
    ) as error:
        raise RunError(unreadable(path, error)) from error


def unreadable(path: Path, error: BaseException) -> str:
    """The sentence that says what to do about a damaged checkpoint."""
    others = [other.name for other in checkpoints_in(path.parent) if other != path]
    return (
        f"{path} cannot be read ({_why(error)}): write the name of an older checkpoint "
        f"({', '.join(others) or 'there is none'}) into {path.parent / 'latest'}, or start again "
        "with --no-resume."
    )


class Reader(FileSystemReader):
    """Reads checkpoints whose table of contents, a pickle, may name nothing but its own types."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The table of contents; a stranger's checkpoint must not run code."""
        pickled = (Path(self.path) / ".metadata").read_bytes()
        contents: Metadata = Unpickler(pickled, _names()).load()
        if contents.storage_meta is not None:
            contents.storage_meta.load_id = self.load_id
        return contents


def _names() -> dict[str, Any]:
    """Names that a table of contents may hold: its own classes, and the types of their fields."""
    own = {
        f"{module.__name__}.{name}": kind
        for module in (metadata, filesystem)
        for name, kind in vars(module).items()
        if isinstance(kind, type) and kind.__module__ == module.__name__
    }
    types = ("float32", "bfloat16", "float16", "int64", "int32", "bool")
    return own | {
        **{f"torch.{name}": getattr(torch, name) for name in ("Size", "device", *types)},
        "torch.serialization._get_layout": torch.serialization._get_layout,
        "collections.OrderedDict": OrderedDict,
        "pathlib.Path": Path,
        "pathlib.PosixPath": Path,
        "builtins.getattr": _member,
    }


def _member(kind: Any, name: str) -> Any:
    """A member of an enumeration: Python 3.11.0 to 3.11.3 pickles those as calls of `getattr`."""
    if not isinstance(kind, EnumType):
        raise Refused("builtins.getattr")
    return kind[name]


def checkpoints_in(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, in the order of their steps."""
    return sorted(path for path in folder.glob("*") if path.is_dir() and path.name.isdecimal())


def _why(error: BaseException | None) -> str:
    """The first cause, without the trace of every process."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    if error is None:
        return "in another process"
    if "inline_container" in str(error):  # torch.save keeps what the system said to itself
        return "a file could not be written to its end"
    return first_line(error)
