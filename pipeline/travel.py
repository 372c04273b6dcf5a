"""The files that travel with a submitted job: handloom's package and modules of the user's own.

They are gathered in a folder of their own, so that what is measured is what Ray sends; nothing else
of a checkout comes along. Ray names the folder by a hash of its files: unchanged code is sent once.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import handloom
from handloom.errors import UserError
from handloom.pipeline.on_cluster import REQUIREMENTS, remember_python

MB = 10**6
LARGEST_FILE = 32 * MB  # four times the largest model that handloom brings; others are no code
LARGEST = 100 * MB  # a Ray dashboard refuses a request of more than 105 MB
CONSTRAINTS = "constraints.txt"
HERE = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}"  # pip is given the folder on the node by this name


class Luggage(NamedTuple):
    """What `gather` did.

    Attributes:
        size: bytes of the files that travel.
        left_out: files that are too large, with their sizes in bytes.
    """

    size: int
    left_out: list[tuple[Path, int]]

    def sentences(self) -> list[str]:
        """What to print before the job is sent."""
        lines = [f"code that travels: {self.size / MB:.1f} MB"]
        for path, size in self.left_out:
            lines.append(
                f"{path} stays here: it has {size / MB:.0f} MB, and code travels in files of up to "
                f"{LARGEST_FILE // MB}; put it where all nodes see it and name it by that path"
            )
        return lines


def gather(folder: Path, modules: Sequence[Path]) -> Luggage:
    """Copy what a job needs into an empty folder.

    Args:
        folder: where to.
        modules: files and package folders of the user's own.

    Raises:
        UserError: together they are too large for Ray.
    """
    sources = (Path(handloom.__file__).parent, *modules)
    names = {path: path.relative_to(source.parent) for source in sources for path in _files(source)}
    sizes = {path: path.stat().st_size for path in names}
    left_out = [(path, size) for path, size in sizes.items() if size > LARGEST_FILE]
    for path, _ in left_out:
        del sizes[path]
    _check(sizes)
    for path in sizes:
        target = folder / names[path]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    _write_requirements(folder)
    return Luggage(sum(sizes.values()), left_out)


def _check(sizes: dict[Path, int]) -> None:
    """Raise UserError if the files are more than Ray takes."""
    if (total := sum(sizes.values())) > LARGEST:
        largest = sorted(sizes, key=lambda path: sizes[path], reverse=True)[:3]
        names = ", ".join(f"{path} ({sizes[path] / MB:.0f} MB)" for path in largest)
        raise UserError(
            f"handloom's code and your modules have {total / MB:.0f} MB, expected at most "
            f"{LARGEST // MB}, for Ray takes no more: move data out of their folders; the largest "
            f"files are {names}."
        )


def _files(source: Path) -> Iterator[Path]:
    """The file, or all files below the folder, through links and each folder once."""
    if source.is_file():
        yield source
    seen = set()
    for root, folders, names in os.walk(source, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(n for n in folders if n != "__pycache__" and not n.startswith("."))
        yield from (Path(root, name) for name in sorted(names) if Path(root, name).is_file())


def _write_requirements(folder: Path) -> None:
    """What handloom needs, for the node to compare; in a checkout also the tested versions."""
    (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in requirements()))
    tested = Path(handloom.__file__).parent.parent / CONSTRAINTS
    if tested.is_file():
        # A job runs on the cluster's Ray, whatever was tested.
        lines = [line for line in tested.read_text().splitlines() if not line.startswith("ray==")]
        (folder / CONSTRAINTS).write_text("\n".join(lines) + "\n")


def requirements() -> list[str]:
    """handloom's dependencies as pip writes them, without extras; [] where it is not installed."""
    try:
        lines = metadata.requires("handloom") or []
    except metadata.PackageNotFoundError:
        return []
    return [line for line in lines if "extra ==" not in line]


def pip_packages(folder: Path) -> list[str]:
    """Lines of a requirements file by which Ray installs handloom's dependencies on the nodes."""
    tested = [f"--constraint {HERE}/{CONSTRAINTS}"] if (folder / CONSTRAINTS).is_file() else []
    return [*tested, *requirements()]


def runtime_env(folder: Path, install: bool) -> dict[str, Any]:
    """Ray's `runtime_env` of a job that gets this folder.

    Args:
        folder: what `gather` filled.
        install: whether Ray installs the dependencies on each node that runs a part of the job.
    """
    from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

    # The public `worker_process_setup_hook` passes over the process that starts the job.
    hook = f"{remember_python.__module__}.{remember_python.__name__}"
    env: dict[str, Any] = {
        "working_dir": str(folder),
        "env_vars": {WORKER_PROCESS_SETUP_HOOK_ENV_VAR: hook},
    }
    if install:
        options = ["--disable-pip-version-check"]
        env["pip"] = {"packages": pip_packages(folder), "pip_install_options": options}
    return env
