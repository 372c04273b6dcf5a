"""Checkpoints in one file, whole or absent, that refuse to load into another run.

    OUT/checkpoints/00000300.pt model, optimiser, step, data position, random state, identity
    OUT/checkpoints/latest      the name of the newest, written last

Identity is a flat dict of what a run keeps for life: options, shapes, tokenizer, text encoder.
"""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from handloom.errors import RunError, UserError

KEPT = 2  # the newest, and one in case a disk damages it


class Checkpoints:
    """The checkpoints of one run.

    Args:
        out: the run's folder.
        identity: what must be equal in a checkpoint for it to be loaded.
    """

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.folder, self.identity = out / "checkpoints", identity

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint, then point `latest` at it, then delete old ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{step:08d}.pt"
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            torch.save({"identity": self.identity, "step": step, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        write_atomically(self.folder / "latest", path.name)
        for old in sorted(self.folder.glob("*.pt"))[:-KEPT]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint, or None where there is none.

        Raises:
            UserError: it belongs to another run.
            RunError: it cannot be read.
        """
        pointer = self.folder / "latest"
        if not pointer.is_file():
            return None
        path = self.folder / pointer.read_text().strip()
        try:
            # weights_only: a checkpoint from a stranger must not run code.
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:
            raise RunError(
                f"{path} cannot be read ({str(error).splitlines()[0]}): write the name of an older "
                f"checkpoint into {pointer}, or start again with --no-resume."
            ) from error
        refuse_another_run(path, state["identity"], self.identity)
        return state

    def delete(self) -> None:
        """Throw all checkpoints away."""
        shutil.rmtree(self.folder, ignore_errors=True)


def refuse_another_run(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise a UserError that names each difference between two identities."""
    names = [n for n in {**found, **expected} if found.get(n) != expected.get(n)]
    if names:
        differences = "; ".join(
            f"{name} is {found.get(name)} there and {expected.get(name)} now" for name in names
        )
        raise UserError(
            f"{path} is a checkpoint of another run: {differences}. Name another --out, or "
            "pass --no-resume to throw the checkpoint away."
        )


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
