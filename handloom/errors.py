"""The kinds of error that handloom reports in one sentence instead of a traceback."""


class UserError(Exception):
    """The command line, configuration or data folder is wrong: exit status 2.

    The message says what was found, what was expected and what to do.
    """


class RunError(Exception):
    """The run itself failed: exit status 1."""


class StoreError(RunError):
    """An object store, or a disk, refuses to go on: it ends the run, and counts for no clip."""


class MediaError(Exception):
    """One media file cannot be read. It costs the clips of that file and nothing else."""


def first_line(error: BaseException) -> str:
    """An error's message in one line of at most 200 characters; its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
