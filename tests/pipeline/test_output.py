"""The output folder on file systems without locks: a lease keeps a second run out."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from handloom.errors import UserError
from handloom.pipeline.configuration import read_command
from handloom.pipeline.job import Job
from handloom.pipeline.output import claimed


def job_of(out: Path) -> Job:
    out.parent.joinpath("data").mkdir(exist_ok=True)
    return read_command(["sample", "--data", str(out.parent / "data"), "--out", str(out)], "curate")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_has_one_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As the kernel answers there: FUSE without locks, NFS without its lock service."""

    def no_locks(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    job = job_of(tmp_path / "out")
    with claimed(job) as is_ours:
        assert (job.out / ".lock").read_text() == job.run_id
        with pytest.raises(UserError, match=r"another run is writing .*out .process"):
            claimed(job_of(tmp_path / "out")).__enter__()
        is_ours()
    assert not (job.out / ".lease").exists()
    with claimed(job_of(tmp_path / "out")):
        pass


def test_with_locks_there_is_no_lease(tmp_path: Path) -> None:
    job = job_of(tmp_path / "out")
    with claimed(job):
        assert not (job.out / ".lease").exists()
        with pytest.raises(UserError, match="another run is writing"):
            claimed(job_of(tmp_path / "out")).__enter__()
