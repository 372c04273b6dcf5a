"""The curation DAG on Ray: one process runs the stages, each when those before it are done.

    ingest -> hands -> duplicates -> select -> (caption, tokens) -> pack -> report     videos
    ingest -> episodes -> (caption, tokens) -> pack -> report                  robot episodes

The edges come from the stages (`stages/graph.py`). The process of the stages takes no core: a stage
hands batches to its pool of workers, which take one each and go on to the next stage. A stage on
GPUs begins while hands are looked for, with the clips that `select` will hardly reject
(`pipeline/ahead.py`).
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from threading import Timer
from typing import Any

import ray
from ray._private.state import state as ray_state
from ray.exceptions import RayTaskError

from handloom.errors import RunError, UserError, first_line
from handloom.listings import forget_listings
from handloom.pipeline import progress
from handloom.pipeline.ahead import Ahead, going_ahead, rejected_after_all
from handloom.pipeline.batches import (
    count_listed,
    count_remaining,
    drop_outdated,
    forget_failed,
    readmit_missing,
    refuse_repeated,
    reject_duplicates,
    remaining,
)
from handloom.pipeline.crew import Crew
from handloom.pipeline.display import Display
from handloom.pipeline.folding import FoldElsewhere
from handloom.pipeline.job import Job
from handloom.pipeline.losses import DEATHS, is_loss, is_of_cluster
from handloom.pipeline.packing import pack, write_report
from handloom.pipeline.pool import Pool
from handloom.pipeline.progress import Line, Reporter, read_lines
from handloom.pipeline.recipes import Run
from handloom.pipeline.record import Record
from handloom.pipeline.session import check_alive, import_path, session
from handloom.pipeline.shuffling import work_divided
from handloom.pipeline.spread import kept_rows, write_pieces
from handloom.pipeline.worker import Counts, work
from handloom.places import is_remote, trust
from handloom.stages.ingest import card
from handloom.stages.stage import Divided, Piecewise, TableStage
from handloom.stages.tables.folding import Folding
from handloom.stages.tables.merging import complete_merges, drop_repeated, merge_parts

COUNT_AFTER_S = 5.0
COUNTED_AT_ONCE = 200_000  # clips, in a second; of more, what is left is counted meanwhile


def curate(job: Job, is_ours: Callable[[], None] = lambda: None) -> None:
    """Run the whole DAG; rows that are already stored are not computed again.

    Args:
        job: the run.
        is_ours: raises RunError once another run may have taken the output folder over.
    """
    progress.clear(job.out)
    _ = job.expected  # made here, so that all nodes are compared with this machine
    heartbeat = progress.Heartbeat(job.run_id, [*job.flow, "pack", "report"])
    heartbeat.beat(job.out)
    try:
        with session(job) as is_shared, Display(job) as display:
            path = import_path(job)
            tasks = Tasks(job, {"runtime_env": {"env_vars": path}} if is_shared and path else {})
            display.say(too_many_workers(job))
            try:
                while not tasks.are_done:
                    check_alive()
                    is_ours()
                    tasks.step(timeout_s=0.5)
                    display.show(tasks.lines(), is_last=tasks.are_done)
                    heartbeat.beat(job.out)
            except BaseException as error:
                heartbeat.fail(job.out, error)  # the other stages end by it
                if is_shared:  # or they would go on after the run
                    tasks.wait()
                raise
            finally:
                tasks.end()
    except BaseException as error:
        heartbeat.fail(job.out, error)
        raise
    heartbeat.beat(job.out, "finished")


class Conductor:
    """The process that runs the stages of a run, each in a thread: an actor."""

    def __init__(self) -> None:
        self.crew = Crew()

    def run(self, name: str, job: Job, ahead: Mapping[str, str]) -> Line:
        """Run one stage, or what comes after them; returns its progress."""
        if name in LAST:
            return LAST[name](job, self.crew)
        return run_stage(name, job, ahead, self.crew)


class Tasks:
    """The stages of a run, each submitted when those before it are done.

    They know nothing of one another; where their process is lost they are submitted again.

    Args:
        job: the run.
        options: Ray's options of that process.
    """

    def __init__(self, job: Job, options: dict[str, Any]) -> None:
        self.job, self.options = job, options
        self.before = {
            name: {gate, *job.stages[name].reads} - {""} for name, gate in job.flow.items()
        }
        self.before |= {name: set(job.flow) for name in LAST}
        self.ahead = going_ahead(job, ray.cluster_resources())
        for name, source in self.ahead.items():
            self.before[name] = self.before[source]
        self.conductor: Any = None
        self.conducted: dict[str, Any] = {}  # the process of each running stage
        self.running: dict[Any, str] = {}
        self.ended: dict[str, Line] = {}
        self.told: dict[str, Line] = {}
        self.told_s = -math.inf
        self.losses: dict[str, tuple[int, int]] = {}  # by stage: in a row, and clips done at that

    @property
    def are_done(self) -> bool:
        """True once every task has ended."""
        return len(self.ended) == len(self.before)

    def lines(self) -> dict[str, Line]:
        """Progress of all stages, in order."""
        if is_remote(self.job.out) and time.monotonic() - self.told_s < progress.REMOTE_S:
            return self.told | self.ended
        running = read_lines(self.job.out, self.running.values())
        self.told = {name: running.get(name, Line()) for name in self.before}
        self.told_s = time.monotonic()
        return self.told | self.ended

    def step(self, timeout_s: float) -> None:
        """Submit what can be done, and wait for what ends; raises the first error of a task."""
        for name, before in self.before.items():
            if before <= self.ended.keys() and name not in {*self.running.values(), *self.ended}:
                self.running[self._submit(name)] = name
        done, _ = ray.wait(list(self.running), timeout=timeout_s)
        for ref in done:
            name = self.running.pop(ref)
            try:
                self.ended[name] = ray.get(ref)
            except Exception as error:
                self._lost(name, error)

    def wait(self) -> None:
        """Wait for those that still run."""
        ray.wait(list(self.running), num_returns=len(self.running)) if self.running else None

    def _submit(self, name: str) -> Any:
        if self.conductor is None:
            options = {"num_cpus": 0, "max_restarts": 0, "max_concurrency": len(self.before)}
            self.conductor = ray.remote(**options, **self.options)(Conductor).remote()
        self.conducted[name] = self.conductor
        return self.conductor.run.remote(name, self.job, self.ahead)

    def end(self) -> None:
        """End the process of the stages, and so its workers."""
        if self.conductor is not None:
            ray.kill(self.conductor)
        self.conductor = None

    def _lost(self, name: str, error: Exception) -> None:
        """Let a task that was lost be submitted again; raises all other errors."""
        if not is_loss(error):
            raise (error.cause if isinstance(error, RayTaskError) else error) from None
        if self.conducted[name] is self.conductor:
            self.end()  # it may only be out of reach, and would go on
        if is_of_cluster(error):
            return
        done = self.lines()[name].done
        losses, before = self.losses.get(name, (0, 0))
        losses = losses + 1 if done <= before else 1  # what comes forward is not given up
        self.losses[name] = losses, done
        if losses >= DEATHS:
            raise RunError(
                f"the task of {name} died {losses} times without getting any further "
                f"({first_line(error)}); run the same command again, it goes on from there."
            ) from None


def too_many_workers(job: Job) -> str:
    """A sentence where more workers are asked for than the cluster can have; else empty."""
    workers, now = job.config.run.workers, int(ray.cluster_resources().get("CPU", 0))
    limits = ray_state.get_max_resources_from_cluster_config() or {}
    most = max(now, int(limits.get("CPU", 0)))
    if workers is None or workers <= most:
        return ""
    where = f"can have {most} cores" if limits else f"has {now} cores"
    return (
        f"--run.workers is {workers}, and Ray {where} here: the workers beyond them start if nodes "
        "join it"
    )


LAST = {"pack": pack, "report": write_report}


def run_stage(name: str, job: Job, ahead: Mapping[str, str], crew: Crew) -> Line:
    """Compute the missing rows of one stage, then write its marker; returns its progress.

    Args:
        name: the stage.
        job: the run.
        ahead: the stages that go ahead of their gates, as `going_ahead` has them.
        crew: workers of earlier stages.
    """
    forget_listings()  # other processes have written since
    trust(job.data)
    job.expected.check()
    table, reporter = job.tables[name], Reporter(job.out, name)
    by_clip = name != "ingest" and not isinstance(job.stages[name], TableStage)
    complete_merges(table)
    table.clear_stale()
    facts = {"fingerprint": table.fingerprint, "settings": job.settings[name]}
    if name != "ingest":
        facts["inputs"] = "" if name in ahead else job.inputs(name)
    record = Record(table, facts, job.run_id)
    attempts = forget_failed(job, name) if job.retry_failed else {}
    if name == "ingest":
        readmit_missing(job)
    elif by_clip and record.inputs != facts["inputs"]:
        drop_outdated(job, name, reporter.throw_away)
    is_long = by_clip and job.tables["ingest"].row_count() > COUNTED_AT_ONCE
    left = None if name in ahead or is_long else count_remaining(job, name)
    if left and isinstance(job.stages[name], TableStage):
        left -= kept_rows(job.stages[name], table, record)
    record.begin()
    reporter.start(left)
    if left != 0:
        found = _work(job, name, attempts, reporter, ahead, crew, record)
        _compute(job, name, found, record, reporter, ahead)
    forget_listings(table.folder)
    if name in ahead:
        record.facts["rejected_after_all"] = rejected_after_all(job, name)
        record.facts["inputs"] = job.inputs(name)
    if record.resumes or record.has_strange_rows():  # a lost worker may have written until now
        if by_clip:
            drop_outdated(job, name)
        drop_repeated(table, "unit" if name == "ingest" else "clip_id")
    if name == "ingest":
        reject_duplicates(job)
        refuse_repeated(job)
        card.write(table, job.config.ingest, job.cache)
    merge_parts(table)
    table.clear_work()
    record.finish()
    return reporter.finish()


def _compute(
    job: Job,
    name: str,
    work: Iterator[Counts],
    record: Record,
    reporter: Reporter,
    ahead: Mapping[str, str],
) -> None:
    counts_later = reporter.line.total is None and name not in ahead
    counting = counted_later(job, name, reporter) if counts_later else None
    try:
        with FoldElsewhere() as fold, Folding(job.tables[name], fold) as folding:
            for counts in work:
                record.add(sum(counts.values()))
                reporter.advance(dict(counts))
                folding.advance()
                progress.check_goes_on(job.out, job.run_id)
    finally:
        if counting:
            counting.cancel()


def counted_later(job: Job, name: str, reporter: Reporter) -> Timer:
    """Count what a stage has to do in a thread, while it does it: the ETA needs the number.

    Annotations are streamed, so those of `ingest` are read once more, after some seconds.
    """

    def count() -> None:
        with suppress(UserError, RunError, OSError):  # the stage itself tells what is wrong
            before = reporter.line.done
            left = count_listed(job) if name == "ingest" else count_remaining(job, name)
            reporter.line.total = left if name == "ingest" else before + (left or 0)

    timer = Timer(COUNT_AFTER_S if name == "ingest" else 0.0, count)
    timer.daemon = True
    timer.start()
    return timer


def _work(
    job: Job,
    name: str,
    attempts: dict[str, int],
    reporter: Reporter,
    ahead: Mapping[str, str],
    crew: Crew,
    record: Record,
) -> Iterator[Counts]:
    """Compute the missing rows in a pool of workers; those of light stages in this task."""
    stage, table, run = job.stages[name], job.tables[name], job.config.run
    if isinstance(stage, Piecewise):
        return write_pieces(job, name, crew)
    if isinstance(stage, TableStage):
        rows = stage.write(job.tables, table)
        if isinstance(stage, Divided):
            tasks = work_divided(job.tables, job.data, stage, crew)
            return chain((Counter() for _ in tasks), rows)
        return rows
    if stage.light:
        return (work(stage, table, batch, attempts) for batch in remaining(job, name))
    shares_cores = name in ahead or name in ahead.values()
    size = pool_size(run, stage.wants_gpu, ray.cluster_resources(), shares_cores)
    record.facts["gpus"] = size.get("gpus", 0)  # of each worker
    pool = Pool(
        stage, table, attempts, clip_timeout_s=run.clip_timeout_s,
        expected=job.expected, crew=crew, watch=reporter.watch, spent=record.spent, **size,
    )  # fmt: skip
    if name in ahead:
        return pool.run(Ahead(job, name, pool, reporter).batches())
    return pool.run(remaining(job, name))


def pool_size(
    run: Run, wants_gpu: bool, resources: Mapping[str, float], shares_cores: bool = False
) -> dict[str, Any]:
    """Number of workers of a stage at most, and the GPUs and cores that each takes.

    A worker on a GPU reads pictures on cores of its own, or the GPU would wait for them. Where
    `shares_cores`, a stage on GPUs and one on cores work at the same time: the first has up to half
    of the cores.
    """
    all_cores = int(resources.get("CPU", 0)) // (2 if shares_cores else 1)
    on_gpus = int(resources.get("GPU", 0) / run.gpu_share + 1e-6) if run.gpu_share else 0
    if not on_gpus or not (wants_gpu or shares_cores):
        return {"workers": run.workers}
    cores = max(1, min(run.gpu_cores, all_cores // min(run.workers or on_gpus, on_gpus)))
    if not wants_gpu:
        return {"workers": run.workers, "spare_cores": cores / run.gpu_share}
    return {"workers": run.workers, "gpus": run.gpu_share, "cores": cores}
