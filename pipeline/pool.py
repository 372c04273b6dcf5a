"""A pool of Ray actors that work through batches; a clip that ends its workers costs itself alone.

Ray Core instead of Ray Data: the driver holds a few batches beside those of the workers, a part is
written by the worker that computed it, and no read task competes with the actors for the last core
(docs/decisions.md).

A pool asks for more workers than it has for as long as it has work for them. Those without a core
wait in Ray's queue, where an autoscaler sees them, and start as soon as a node has joined. What a
lost node took along is done again whole; what ended its process on a living node is done again one
clip at a time, after everything else. Workers on one core go on from pool to pool (`crew.py`).
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayTaskError

from handloom.errors import RunError, first_line
from handloom.pipeline.batch import Batch
from handloom.pipeline.crew import Crew
from handloom.pipeline.losses import DEATHS, is_loss, is_of_cluster
from handloom.pipeline.sameness import Sameness
from handloom.pipeline.spent import Spent
from handloom.pipeline.worker import Counts, Worker, write, written
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Table

AHEAD = 2, 256  # workers asked for beyond those that have started: at least, at most
NODE_LOSSES = 8  # lost nodes after which a batch is suspected of ending them
POLL_S = 1.0
END = object()  # of the batches
STARTS = 10  # workers in a row that may die while starting, before the run ends


class Pool:
    """Workers of one stage.

    Args:
        stage: what they run.
        table: where they write.
        attempts: earlier attempts by clip id, of clips that are tried again.
        workers: their number at most, None for as many as there is work for.
        clip_timeout_s: seconds that a clip may take before its worker is ended; where a stage works
            on several at a time, the average of its batch.
        gpus: GPUs that each takes, or a part of one.
        cores: cores that each takes.
        spare_cores: cores for each GPU of the cluster that are left to others.
        concurrency: batches that a worker has at a time; by default as many as the stage wants.
        expected: what each worker's node must have in common with the run's.
        crew: the workers of other pools; None starts them all and ends them all.
        watch: is given the number of started workers, and a sentence while all of them are missing.
        spent: counts what batches take.
    """

    def __init__(
        self,
        stage: Stage,
        table: Table,
        attempts: dict[str, int],
        workers: int | None,
        clip_timeout_s: float,
        concurrency: int | None = None,
        gpus: float = 0,
        cores: int = 1,
        spare_cores: float = 0,
        expected: Sameness | None = None,
        crew: Crew | None = None,
        watch: Callable[[int, str], None] = lambda workers, note: None,
        spent: Spent | None = None,
    ) -> None:
        self.needs = {"CPU": float(cores), "GPU": float(gpus)}
        self.spent = spent or Spent()
        self.spare_cores, self.expected, self.watch = spare_cores, expected, watch
        self.stage = stage.on("cuda" if gpus else "cpu", cores)
        self.table, self.attempts = table, attempts
        self.concurrency = concurrency or self.stage.concurrency
        self.size, self.clip_timeout_s = workers, clip_timeout_s
        self.nodes: dict[Any, str] = {}  # started workers and the ids of their nodes
        self.starting: dict[Any, Any] = {}  # ref of `setup` -> worker
        self.failed_starts = 0
        self.free: deque[Any] = deque()  # each worker once per batch that it can take
        self.running: dict[Any, _Running] = {}
        self.waiting: deque[Batch] = deque()
        self.suspects: deque[Batch] = deque()  # one input each, of batches that ended a process
        self.node_losses: Counter[str] = Counter()  # nodes lost under a batch, by its name
        self.deaths: Counter[str] = Counter()  # processes ended by a batch of one input, by name
        self.room, self.counted = 0, -math.inf  # workers that fit the cluster; when it was counted
        self.looked = -math.inf  # when it was last checked for batches that take too long
        self.is_at_end = False  # of the batches
        self.crew = crew or Crew()
        self.shares_workers = crew is not None and _is_plain(self)

    @property
    def is_idle(self) -> bool:
        """True while all batches that it was given are written."""
        return not (self.waiting or self.running or self.suspects)

    def run(self, batches: Iterator[Batch | None]) -> Iterator[Counts]:
        """Work through the batches, yielding the counts of each as it is written.

        Where the batches give None they have none yet, and are asked again a moment later.
        """
        self.crew.open(takes=self.shares_workers)
        try:
            while self._has_work(batches):
                self._submit()
                self._grow()
                yield from self._collect()
        finally:
            self._end()
        if self.suspects:  # which batch ends a worker shows where it has one at a time
            shared = self.stage, self.table, self.attempts, self.size, self.clip_timeout_s
            gpus, cores = self.needs["GPU"], int(self.needs["CPU"])
            alone = Pool(
                *shared, 1, gpus, cores, expected=self.expected, watch=self.watch, spent=self.spent
            )
            yield from alone.run(iter(self.suspects))

    def _end(self) -> None:
        """Leave the idle workers to the next pool; end the others."""
        idle = [worker for worker in dict.fromkeys(self.free) if self.shares_workers]
        # Those without a core first, or the cores of the others would be given to them.
        for worker in [*self.starting.values(), *self.nodes]:
            if worker not in idle:
                ray.kill(worker)
        self.crew.close(idle)

    def _has_work(self, batches: Iterator[Batch | None]) -> bool:
        """Take batches for the free workers and for those that are asked for; False at the end."""
        wanted = max(1, len(self.free) + self._ahead() * self.concurrency)
        while len(self.waiting) < wanted and not self.is_at_end:
            batch = next(batches, END)
            if isinstance(batch, Batch):
                self.waiting.append(batch)
                continue
            self.is_at_end = batch is END
            break
        if not self.waiting and not self.running and self.concurrency == 1:
            self.waiting, self.suspects = self.suspects, deque()
        return bool(self.waiting or self.running or not self.is_at_end)

    def _submit(self) -> None:
        while self.waiting and self.free:
            worker, batch = self.free.popleft(), self.waiting.popleft()
            self.running[worker.work.remote(batch)] = _Running(worker, batch, time.monotonic())

    def _ahead(self) -> int:
        """Workers to ask for beyond those that have started: twice as many each time, about."""
        if time.monotonic() - self.counted > POLL_S:
            total, self.counted = ray.cluster_resources(), time.monotonic()
            total["CPU"] = total.get("CPU", 0) - self.spare_cores * total.get("GPU", 0)
            self.room = int(min(total.get(kind, 0) / n for kind, n in self.needs.items() if n))
        least, most = AHEAD
        ahead = min(most, max(least, len(self.nodes), self.room - len(self.nodes)))
        if self.spare_cores:
            ahead = min(ahead, max(1, self.room) - len(self.nodes))
        return ahead if self.size is None else min(ahead, self.size - len(self.nodes))

    def _grow(self) -> None:
        """Ask for workers, for as long as there is work for them."""
        needed = -(-len(self.waiting) // self.concurrency)
        while len(self.starting) < min(needed, self._ahead()):
            worker = (self.crew.take() if self.shares_workers else None) or self._new_worker()
            arguments = (self.stage, self.table, self.attempts, self.clip_timeout_s, self.expected)
            self.starting[worker.setup.remote(*arguments)] = worker

    def _new_worker(self) -> Any:
        needs = {"num_cpus": self.needs["CPU"], "num_gpus": self.needs["GPU"]}
        return ray.remote(max_restarts=0, max_concurrency=self.concurrency, **needs)(
            Worker
        ).remote()

    def _collect(self) -> Iterator[Counts]:
        """Wait for workers that have loaded their models or finished a batch."""
        done = self._wait([*self.starting, *self.running])
        for ref in done:
            if ref in self.starting:
                self._started(ref)
            else:
                yield from self._finished(ref)
        self._end_hung()
        self.watch(len(self.nodes), self._missing() if not done and not self.nodes else "")

    def _end_hung(self) -> None:
        """End workers whose batch takes too long: those that did not end themselves."""
        now = time.monotonic()
        if (
            now - self.looked < POLL_S
        ):  # with hundreds of workers each look takes as long as a batch
            return
        self.looked = now
        for job in self.running.values():
            if now - job.since > self.clip_timeout_s * len(job.batch.inputs):
                ray.kill(job.worker)  # its batch then comes back as a RayActorError

    def _wait(self, refs: list[Any]) -> list[Any]:
        """Those that are done, after a moment at most."""
        if refs:
            done, _ = ray.wait(refs, timeout=POLL_S)
            return list(done)
        time.sleep(POLL_S)
        return []

    def _missing(self) -> str:
        """What keeps the workers from starting; empty where they are loading their models."""
        needs = {kind: n for kind, n in self.needs.items() if n}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(all(node.get(kind, 0) >= n for kind, n in needs.items()) for node in nodes):
            return ""
        want = " and ".join(f"{n:g} {kind}" for kind, n in needs.items())
        return (
            f"waits for a node: a worker takes {want}, and none of the {len(nodes)} nodes of this "
            "cluster has that; it goes on as soon as one joins"
        )

    def _started(self, ref: Any) -> None:
        worker = self.starting.pop(ref)
        try:
            self.nodes[worker] = ray.get(ref)
        except Exception as error:
            self._did_not_start(worker, error)
        else:
            self.failed_starts = 0
            self.free.extend([worker] * self.concurrency)

    def _did_not_start(self, worker: Any, error: Exception) -> None:
        """Ask for another worker where the cluster took this one; raises what it raised."""
        if not is_loss(error):
            raise (error.cause if isinstance(error, RayTaskError) else error) from None
        ray.kill(worker)  # it may only be out of reach
        self.failed_starts += not is_of_cluster(error)
        if self.failed_starts >= STARTS:
            why = first_line(error)
            raise RunError(
                f"workers of {self.stage.name} died while starting, {STARTS} in a row: {why}"
            ) from None

    def _finished(self, ref: Any) -> Iterator[Counts]:
        job = self.running.pop(ref)
        try:
            counts = ray.get(ref)
        except Exception as error:
            if not is_loss(error):
                raise (error.cause if isinstance(error, RayTaskError) else error) from None
            yield from self._lost(job, error)
        else:
            self.free.append(job.worker)
            seconds = time.monotonic() - job.since
            self.spent.add(sum(counts.values()), seconds / self.concurrency, job.batch.files)
            yield counts

    def _lost(self, job: "_Running", error: Exception) -> Iterator[Counts]:
        """A worker is gone: do its batch again, unless it had been written, or find the culprit."""
        node_id = self.nodes.pop(job.worker, job.node_id)
        for other in self.running.values():
            if other.worker == job.worker:
                other.node_id = node_id
        self.free = deque(worker for worker in self.free if worker != job.worker)
        ray.kill(job.worker)  # one that is only out of reach must not write any more
        if (counts := written(self.table, job.batch)) is not None:
            yield counts
        elif is_of_cluster(error, node_id) and self._may_be_innocent(job.batch):
            self.waiting.appendleft(job.batch)
        elif len(job.batch.inputs) > 1 or self.concurrency > 1:
            self.suspects.extend(job.batch.split())
        else:
            yield from self._died_alone(job, error)

    def _may_be_innocent(self, batch: Batch) -> bool:
        """False for a batch that was on so many lost nodes that it may be what ends them."""
        self.node_losses[batch.name] += 1
        return self.node_losses[batch.name] < NODE_LOSSES

    def _died_alone(self, job: "_Running", error: Exception) -> Iterator[Counts]:
        """Try a clip again that ended its process, or record it as failed."""
        self.deaths[job.batch.name] += 1
        hung = time.monotonic() - job.since >= self.clip_timeout_s
        if not hung and self.deaths[job.batch.name] < DEATHS:
            self.suspects.append(job.batch)
            return
        memory = " out of memory" if isinstance(error, OutOfMemoryError) else ""
        why = (
            f"the worker died{memory}, or this clip took too long, over {self.clip_timeout_s:g} s "
            "(--run.clip-timeout-s)"
        )
        rows = list(self.stage.failed(why, *job.batch.inputs[0]))
        yield write(self.stage, self.table, job.batch, rows, self.attempts)


def _is_plain(pool: Pool) -> bool:
    """Whether its workers may come from another pool and go on to the next.

    A stage of the user's own gets fresh processes and leaves none: it may have done anything there.
    """
    is_ours = type(pool.stage).__module__.startswith("handloom.")
    return is_ours and pool.concurrency == 1 and pool.needs == {"CPU": 1.0, "GPU": 0.0}


@dataclass
class _Running:
    worker: Any
    batch: Batch
    since: float
    node_id: str = ""
