"""The kinds of error that handloom reports in one sentence instead of a traceback."""

from errno import EACCES, EDQUOT, ENOSPC, EPERM, EROFS


class UserError(Exception):
    """The command line, configuration or data folder is wrong: exit status 2.

    The message says what was found, what was expected and what to do.
    """


class RunError(Exception):
    """The run itself failed: exit status 1."""


class JobFailed(RunError):
    """A job on a cluster did not succeed: our exit status is its own."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class StoreError(RunError):
    """An object store, or a disk, refuses to go on: it ends the run, and counts for no clip."""


class DiskError(StoreError, OSError):
    """A file cannot be written here: the disk is full, or may not be written to."""


FULL = frozenset({ENOSPC, EDQUOT, EROFS})  # what no clip can be blamed for
CLOSED = frozenset({EACCES, EPERM})


def unwritable(path: object, error: OSError) -> OSError:
    """A `DiskError` on a file that could not be written; other errors as they are."""
    if isinstance(error, DiskError) or error.errno not in FULL | CLOSED:
        return error
    out = "the disk is full: free some of it, inodes too"
    ways = {
        EROFS: "the file system is read-only: mount it for writing",
        EDQUOT: "your quota is used up: free some of it",
        ENOSPC: out,
    }
    way = ways.get(error.errno or 0, "permission denied: give yourself the right to write there")
    return DiskError(
        f"{path} cannot be written ({way}); what was there is as it was. Then run the same command "
        "again, it goes on from there."
    )


class MediaError(Exception):
    """One media file cannot be read. It costs the clips of that file and nothing else."""


class Terminated(KeyboardInterrupt):
    """SIGTERM was received, as containers, batch systems and `timeout` send it."""


def first_line(error: BaseException) -> str:
    """An error's message in one line of at most 200 characters; its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
