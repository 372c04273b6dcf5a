"""A submitted job as it is watched from elsewhere: its log, its end, its exit status."""

import asyncio
import shlex
import sys
import time
from contextlib import suppress
from typing import Any

from handloom.errors import JobFailed, RunError, UserError, first_line

AGAIN_S = 0.5  # between questions whether the job has ended, once its log has
SILENT_S = 60.0  # a cluster that answers nothing for longer has gone
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def how_to_follow(job_id: str, address: str) -> str:
    """A line for the reader."""
    at = shlex.quote(address)
    return (
        f"follow it: handloom submit --follow {job_id} --address {at}\n"
        f"end it:    ray job stop {job_id} --address {at}"
    )


def follow(client: Any, job_id: str, address: str) -> None:
    """Print a job's log, from the beginning to its end.

    Args:
        client: Ray's `JobSubmissionClient`.
        job_id: the job's name.
        address: of the cluster, for messages.

    Raises:
        UserError: the cluster does not know the job.
        JobFailed: the job did not succeed, or Ctrl-C ended this command while the job goes on.
        RunError: the cluster does not answer any more.
    """
    log = _Log(client, job_id)
    last_answer = time.monotonic()
    try:
        while True:
            asyncio.run(log.tail())
            try:
                job = client.get_job_info(job_id)
                last_answer = time.monotonic()
            except (RuntimeError, OSError) as error:
                if "does not exist" in str(error):
                    raise UserError(
                        f"the cluster at {address} knows no job {job_id}; `ray job list --address "
                        f"{address}` lists those that it knows."
                    ) from None
                if time.monotonic() - last_answer > SILENT_S:
                    raise RunError(
                        f"the cluster at {address} does not answer any more ({first_line(error)}); "
                        f"the job may go on.\n{how_to_follow(job_id, address)}"
                    ) from None
            else:
                if job.status.value in ENDED:
                    break
            time.sleep(AGAIN_S)
        log.rest()
    except KeyboardInterrupt:
        raise JobFailed(
            f"interrupted; the job goes on.\n{how_to_follow(job_id, address)}", 130
        ) from None
    _end_as(job, job_id)


class _Log:
    """A job's log on its way to our output. A new connection sends it from the beginning."""

    def __init__(self, client: Any, job_id: str) -> None:
        self.client, self.job_id, self.printed = client, job_id, 0

    async def tail(self) -> None:
        """Print what is new, until the job ends or the connection breaks."""
        from aiohttp import ClientError  # comes with Ray

        seen = 0
        with suppress(ClientError, RuntimeError, OSError):  # whether it answers is asked next
            async for text in self.client.tail_job_logs(self.job_id):
                self._print(text[max(0, self.printed - seen) :])
                seen += len(text)

    def rest(self) -> None:
        """Print what the log of an ended job has beyond."""
        with suppress(RuntimeError, OSError):  # the node with the log has gone
            self._print(self.client.get_job_logs(self.job_id)[self.printed :])

    def _print(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        self.printed += len(text)


def _end_as(job: Any, job_id: str) -> None:
    """Raise JobFailed with the exit status of a job that did not succeed."""
    if job.status.value == "SUCCEEDED":
        return
    code, said = job.driver_exit_code, f"the job {job_id} ended as {job.status.value}"
    if code is None and job.status.value == "FAILED":  # it never began
        raise JobFailed(f"{said} before its command began: {_reason(job.message)}", 1)
    status = 1 if code is None else 128 - code if code < 0 else code or 1
    raise JobFailed(f"{said}, with exit status {status}; its log is above.", status)


def _reason(message: str | None) -> str:
    """The line of Ray's message that says most: pip's own error, or else the last one."""
    lines = [line.strip() for line in (message or "Ray gives no reason").splitlines()]
    lines = list(filter(None, lines))
    return next((line for line in lines if line.startswith("ERROR:")), lines[-1])[:400]
