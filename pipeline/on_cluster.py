"""What a submitted job runs on its node: a check of the node's Python, then the command itself.

    exec "$HANDLOOM_PYTHON" -m handloom.pipeline.on_cluster curate ego4d …

This file is read by whatever Python the cluster has, so it keeps to the syntax of old ones.
"""

import os
import re
import sys
from importlib import metadata
from pathlib import Path

PYTHON = "HANDLOOM_PYTHON"  # environment: the interpreter of Ray's worker that starts the job
NEEDS = (3, 11)  # as pyproject.toml says
REQUIREMENTS = "requirements.txt"  # beside the package, in the folder that travels


def remember_python() -> None:
    """Hook of Ray's workers: tell the job which Python they are.

    Ray hands a job's command to a shell, and `python` there is any that the node's PATH begins
    with.
    """
    os.environ[PYTHON] = sys.executable


def main() -> int:
    """Run `handloom` with this process's arguments; returns its exit status."""
    if trouble := _trouble():
        print(f"handloom: {trouble}", file=sys.stderr)
        return 2
    from handloom.cli import main as handloom

    return handloom(sys.argv[1:])


def _trouble() -> str:
    """A sentence on what this Python lacks, or nothing."""
    if sys.version_info < NEEDS:
        version = ".".join(map(str, sys.version_info[:3]))
        wanted = ".".join(map(str, NEEDS))
        return (
            f"the cluster's Python is {version} ({sys.executable}), expected {wanted} or newer: "
            "start Ray on its nodes from such a Python."
        )
    path = Path(REQUIREMENTS)
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [re.split(r"[^\w.-]", line)[0] for line in lines]
    if missing := [name for name in names if not _is_installed(name)]:
        return (
            f"the cluster's Python ({sys.executable}) lacks {', '.join(missing)}: install handloom "
            "on its nodes, or submit with --install."
        )
    return ""


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
