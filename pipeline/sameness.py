"""What the machines of a cluster must have in common, so that their rows are equal."""

import hashlib
import json
import os
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import handloom
from handloom.errors import UserError
from handloom.places import is_remote
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Table

FOLDERS = ("pipeline", "stages", "tokenize")  # whose code makes rows


@dataclass(frozen=True)
class Sameness:
    """What a worker's node is compared with; made where the run was started.

    Attributes:
        code: version of handloom and digest of the code that makes rows.
        run_id: what the lock file of the output folder holds while this run writes there.
        lock: that file.
        data: the data folder.
        settings: settings of the stages by name, which hold the hashes of their models.
    """

    code: str
    run_id: str
    lock: Path
    data: Path
    settings: dict[str, dict[str, Any]]

    def check(self, stage: Stage | None = None, table: Table | None = None) -> None:
        """Compare this machine.

        Args:
            stage: what is to run here, whose models are compared.
            table: where its rows are to be written.

        Raises:
            UserError: another version of handloom or of a model, or a folder that is not seen here.
        """
        here = socket.gethostname()
        if (code := code_here()) != self.code:
            raise UserError(
                f"the node {here} has handloom {code}, the run was started with {self.code}: its "
                "rows might differ; install the same version there, or take the node out."
            )
        _sees_output(here, self.lock, self.run_id)
        if not self.data.is_dir():
            raise UserError(
                f"the node {here} does not see the data folder {self.data}; mount it there under "
                "the same path."
            )
        if stage is not None:
            self._same_models(here, stage)
        if is_remote(self.lock):
            return  # whether a store may be written to shows when it is
        if table is not None and not os.access(table.folder, os.W_OK):
            raise UserError(
                f"the node {here} cannot write to {table.folder}; give the user of its workers the "
                "right to."
            )

    def _same_models(self, here: str, stage: Stage) -> None:
        expected = self.settings.get(stage.name, {}).get("models", {})
        if not expected:  # the settings of `ingest` hash annotations: not on every worker
            return
        models = json.loads(json.dumps(stage.settings(), default=str))["models"]
        if other := [name for name in expected if models.get(name) != expected[name]]:
            raise UserError(
                f"the node {here} has another {', '.join(other)} than the machine where the run "
                f"was started: rows of {stage.name} would differ; copy the same files there."
            )


def _sees_output(here: str, lock: Path, run_id: str) -> None:
    try:
        found = lock.read_text()
    except OSError:
        found = ""
    if found != run_id:
        raise UserError(
            f"the node {here} does not see the output folder {lock.parent} of this run; mount it "
            "there under the same path, or name a folder with --out that all nodes share."
        )


@lru_cache(maxsize=1)
def code_here() -> str:
    """Version of handloom and a digest of its code here, such as `1.2.0 (3fa0c1d2)`."""
    root, digest = Path(handloom.__file__).parent, hashlib.blake2b(digest_size=4)
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return f"{handloom.__version__} ({digest.hexdigest()})"
