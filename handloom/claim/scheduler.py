"""Runs steps concurrently, each in one of a few processes that keep torch loaded.

OUT/claim.json    the steps that are done and the commands they were done with
OUT/log/          what each command printed
"""

import contextlib
import json
import os
import shlex
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from pathlib import Path

from handloom.claim.plan import Step
from handloom.errors import RunError, UserError
from handloom.files import read_facts, write_text

RECORD = "claim.json"
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # read when torch is imported


def run(steps: Sequence[Step], out: Path, workers: int) -> None:
    """Do the steps that are not done, in their order as far as they need not wait.

    A step is done if its command is recorded and its marker is there. One that runs makes those
    undone that use its results.

    Raises:
        UserError: results were made by other commands.
        RunError: a step failed; the others that were running are finished first.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "log").mkdir(exist_ok=True)
    record = read_facts(out / RECORD)
    done = _done(steps, record, out)
    left = [step for step in steps if step.name not in done]
    _refuse_to_replace(left, record, out)
    print(f"{len(done)} of {len(steps)} steps are done", flush=True)
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(THREADS)
    try:
        # Spawned: a fork of a process with threads may hang.
        spawned = get_context("spawn")
        with ProcessPoolExecutor(workers, spawned, _end_with_parent) as pool:
            _run_all(left, done, record, out, workers, pool)
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _run_all(
    left: list[Step],
    done: dict[str, str],
    record: dict[str, str],
    out: Path,
    workers: int,
    pool: ProcessPoolExecutor,
) -> None:
    total, failed = len(left) + len(done), list[str]()
    running: dict[Future[int], Step] = {}
    while left or running:
        while not failed and (step := _next(left, done, running, workers)):
            left.remove(step)
            log = out / "log" / f"{step.name.replace('/', '_')}.txt"
            running[pool.submit(_work, words_of(step, out), log)] = step
        if not running:
            break
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            step = running.pop(future)
            if future.result() or not (out / step.name / step.marker).is_file():
                failed.append(step.name)
                continue
            # Steps of another plan with the same sizes stay in the record.
            done[step.name] = record[step.name] = command_of(step, out)
            write_text(out / RECORD, json.dumps(record, indent=1) + "\n")
            print(f"{len(done)} / {total}  {step.name}", flush=True)
    if failed:
        logs = ", ".join(f"{out}/log/{name.replace('/', '_')}.txt" for name in failed)
        raise RunError(f"{' and '.join(failed)} failed; {logs} says why. Run it again to go on.")


def _next(
    left: Sequence[Step], done: Mapping[str, str], running: Mapping[Future[int], Step], workers: int
) -> Step | None:
    """The first step that can begin now, if any."""
    if len(running) == workers or any(step.whole_machine for step in running.values()):
        return None
    ready = [step for step in left if all(name in done for name in step.after)]
    for step in ready:
        if not step.whole_machine or not running:
            return step
    return None


def _done(steps: Sequence[Step], record: Mapping[str, str], out: Path) -> dict[str, str]:
    """Commands of the steps that are done, by name."""
    done: dict[str, str] = {}
    for step in steps:  # those that a step uses come before it
        whole = (out / step.name / step.marker).is_file()
        same = record.get(step.name) == command_of(step, out)
        if whole and same and all(name in done for name in step.after):
            done[step.name] = record[step.name]
    return done


def _refuse_to_replace(left: Sequence[Step], record: Mapping[str, str], out: Path) -> None:
    """Raise UserError where results would be made anew by another command than before."""
    for step in left:
        now = command_of(step, out)
        if (was := record.get(step.name, now)) != now:
            raise UserError(
                f"{out} holds an experiment of other sizes: {step.name} was made by `{was}`, "
                f"expected `{now}`; name another --out, or remove {out} first."
            )


def words_of(step: Step, out: Path) -> list[str]:
    """The words of a step's command, behind `handloom`."""
    return [*shlex.split(step.line), "--out", str(out / step.name)]


def command_of(step: Step, out: Path) -> str:
    """A step's command as a shell has it."""
    return shlex.join(["handloom", *words_of(step, out)])


def _end_with_parent() -> None:
    """End this process when its parent does, even by a kill: nobody would record what it does."""

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(words: list[str], log: Path) -> int:
    """Run a command in this process, its output into a file; returns its status."""
    from handloom.cli import main

    with log.open("w", encoding="utf-8") as file:
        file.write(shlex.join(["handloom", *words]) + "\n")
        file.flush()
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            try:
                return main(words)
            except SystemExit as ended:
                return int(ended.code or 0) if isinstance(ended.code, int | None) else 1
            except Exception:  # the parent says which step failed; the log says why
                sys.excepthook(*sys.exc_info())
                return 1
