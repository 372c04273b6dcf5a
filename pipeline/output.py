"""The output folder: check whose it is, lock it for one run at a time, and record the run."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

import handloom
from handloom.errors import UserError
from handloom.files import write_text
from handloom.pipeline.job import Job
from handloom.stages.tables.parts import write_flow

PACKAGES = ("ray", "mediapipe", "decord", "av", "torch", "diffusers", "pyarrow", "numpy")


@contextmanager
def claimed(job: Job) -> Iterator[None]:
    """Lock the output folder for a run, and record the run in run.yaml.

    Raises:
        UserError: the folder is another run's, something else's, in use or not writable.
    """
    check(job.out, job.dataset)
    try:
        job.out.mkdir(parents=True, exist_ok=True)
        lock = (job.out / ".lock").open("a")  # not "w": a run that goes on has its name in there
    except OSError as error:
        raise UserError(
            f"{job.out} cannot be written ({error.strerror}); name another folder with --out."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel frees it if we are killed
        except OSError:
            raise UserError(
                f"another run is writing {job.out}; wait for it, or name another folder with --out."
            ) from None
        lock.truncate(0)
        lock.write(job.run_id)
        lock.flush()
        os.fsync(lock.fileno())  # other machines look for it
        write_text(job.out / "run.yaml", yaml.safe_dump(_plain(_record(job)), sort_keys=False))
        write_flow(job.out, job.flow)
        yield


def check(out: Path, dataset: str) -> None:
    """Refuse an output folder that holds another dataset's run, or no run at all."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out takes a folder.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / "run.yaml").is_file():
        if {path.name for path in out.iterdir()} <= {".lock", "source"}:
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
