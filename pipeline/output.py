"""The output folder: check whose it is, lock it for one run at a time, and record the run."""

import fcntl
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from errno import ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import yaml

import handloom
from handloom.errors import UserError
from handloom.files import write_text
from handloom.lease import Lease
from handloom.pipeline.job import Job
from handloom.places import is_remote
from handloom.stages.tables.parts import write_flow

PACKAGES = ("ray", "mediapipe", "decord", "av", "torch", "diffusers", "pyarrow", "numpy")


NO_LOCKS = frozenset({ENOSYS, ENOTSUP, EOPNOTSUPP, ENOLCK})  # of a file system without locks


@contextmanager
def claimed(job: Job) -> Iterator[Callable[[], None]]:
    """Lock the output folder for a run, and record the run in run.yaml.

    Yields:
        A function that raises RunError once another run may have taken the folder over.

    Raises:
        UserError: the folder is another run's, something else's, in use or not writable.
    """
    check(job.out, job.dataset)
    with _locked(job) as is_ours:
        _write_run_id(job.out / ".lock", job.run_id)
        write_text(job.out / "run.yaml", yaml.safe_dump(_plain(_record(job)), sort_keys=False))
        write_flow(job.out, job.flow)
        yield is_ours


@contextmanager
def _locked(job: Job) -> Iterator[Callable[[], None]]:
    """Lock the output folder by a file, or by a lease where files cannot be locked."""
    if is_remote(job.out):
        with Lease(job.out / ".lease", job.run_id).held() as lease:
            yield lease.check
        return
    try:
        job.out.mkdir(parents=True, exist_ok=True)
        lock = (job.out / ".lock").open("a")  # not "w": a run that goes on has its name in there
    except OSError as error:
        raise UserError(
            f"{job.out} cannot be written ({error.strerror}); name another folder with --out."
        ) from None
    with lock:
        if _flock(lock, job.out):
            yield lambda: None
            return
    with Lease(job.out / ".lease", job.run_id).held() as lease:
        yield lease.check


def _write_run_id(lock: Path, run_id: str) -> None:
    """Write which run has the folder: other machines look for it."""
    if is_remote(lock):
        write_text(lock, run_id)
        return
    with lock.open("w") as file:  # the same file, since it is locked
        file.write(run_id)
        file.flush()
        os.fsync(file.fileno())


def _flock(lock: IO[str], out: Path) -> bool:
    """Lock a file; False where its file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel frees it if we are killed
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise UserError(
            f"another run is writing {out}; wait for it, or name another folder with --out."
        ) from None
    return True


def check(out: Path, dataset: str) -> None:
    """Refuse an output folder that holds another dataset's run, or no run at all."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out takes a folder.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / "run.yaml").is_file():
        if {path.name for path in out.iterdir()} <= {".lock", ".lease", "source"}:
            return
        raise UserError(
            f"{out} is not empty and was not written by `handloom curate` (it has no run.yaml); "
            "name an empty or new folder with --out."
        )
    recorded = read_run(out)["dataset"]
    if recorded != dataset:
        raise UserError(
            f"{out} holds a run of the dataset {recorded!r}, not of {dataset!r}; name another "
            "folder with --out."
        )


def read_run(out: Path) -> dict[str, Any]:
    """Contents of run.yaml."""
    path = out / "run.yaml"
    try:
        record = yaml.safe_load(path.read_text())
        parts = record["config"].values() if "config" in record else [{}]
        if not all(isinstance(options, dict) for options in parts):
            raise TypeError(record["config"])
        return {"dataset": str(record["dataset"]), **record}
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is missing or not a record of a run; name the folder that was given as --out "
            "to `handloom curate`, or a new one."
        ) from None


def _record(job: Job) -> dict[str, Any]:
    return {
        "dataset": job.dataset,
        "data": str(job.data),
        "handloom": handloom.__version__,
        "config": asdict(job.config) | {stage.name: asdict(stage) for stage in job.added},
        **_own_modules(job),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
        },
    }


def _own_modules(job: Job) -> dict[str, Any]:
    """Names and folders of the user's own stages and adapter; {} without any."""
    if not job.folders:
        return {}
    stages = [f"{type(stage).__module__}:{type(stage).__qualname__}" for stage in job.added]
    return {"stages": stages, "folders": list(map(str, job.folders))}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _plain(value: Any) -> Any:
    """The value with paths as strings and tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
