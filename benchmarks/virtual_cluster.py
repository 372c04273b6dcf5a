"""A cluster whose workers work in virtual seconds, in the place of Ray and of the clock in a pool.

`handloom.pipeline.pool.Pool` runs as it is, with its own loop, queues and bookkeeping. What it
calls of Ray is answered from a list of events, and waiting advances the clock. The CPU time that
the pool spends between two calls is added to the clock as well, so a slow driver keeps its workers
waiting as it would on a real cluster. Several pools run in threads of which one has its turn at a
time, as the threads of one Python process do.
"""

import heapq
import itertools
import math
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from ray.exceptions import ActorDiedError

from handloom.pipeline import losses, pool
from handloom.pipeline.batch import Batch
from handloom.pipeline.worker import Counts

DETECTED_S = 10.0  # until a lost node is noticed


@dataclass
class Node:
    """A machine of the cluster; `free` are the resources that no worker has."""

    resources: dict[str, float]
    name: str = ""
    is_alive: bool = False
    free: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class Ref:
    """A call of a worker; `ready_s` is when its result is there, infinite while nobody knows."""

    worker: "VirtualWorker"
    seconds: float = 0.0
    ready_s: float = math.inf
    result: Any = None


@dataclass
class Tally:
    """What the workers of a pool did; seconds of all of them together."""

    ready_s: float = 0.0
    """Seconds for which workers were there, their models loaded."""
    useful_s: float = 0.0
    redone_s: float = 0.0
    """Spent on batches whose node was lost."""
    driver_s: float = 0.0
    """CPU seconds of the driver, beside Ray's."""
    calls_s: float = 0.0
    """Assumed for the calls of Ray."""
    batches: int = 0
    lost: int = 0
    end_s: float = 0.0


class VirtualWorker:
    """The handle of an actor; `setup` and `work` are called by `.remote`."""

    def __init__(self, cluster: "Cluster", pool_name: str, needs: dict[str, float]) -> None:
        self.cluster, self.pool_name, self.needs = cluster, pool_name, needs
        self.node: Node | None = None
        self.is_dead = False
        self.ready_s = math.inf
        self.refs: set[Ref] = set()
        self.setup, self.work = _Call(self._setup), _Call(self._work)

    def _setup(self, *arguments: Any) -> Ref:
        ref = Ref(self)
        self.refs.add(ref)
        self.cluster.pending.append((self, ref))
        self.cluster.place()
        return ref

    def _work(self, batch: Batch) -> Ref:
        ref = Ref(self, self.cluster.seconds(self.pool_name, batch))
        ref.result = Counts(ok=batch.clips)
        self.refs.add(ref)
        self.cluster.at(ref, self.cluster.now + ref.seconds)
        return ref


@dataclass
class _Call:
    function: Callable[..., Ref]

    def remote(self, *arguments: Any) -> Ref:
        cluster = self.function.__self__.cluster  # type: ignore[attr-defined]
        with cluster.outside():
            return self.function(*arguments)


class Cluster:
    """Stands for the modules `ray` and `time`.

    Args:
        seconds: how long a batch takes in the pool of some name.
        start_s: how long a worker takes to load its models.
        call_s: what Ray's calls cost the driver for each batch.
        seed: of the times of starting.
    """

    def __init__(
        self,
        seconds: Callable[[str, Batch], float],
        start_s: tuple[float, float] = (5.0, 20.0),
        call_s: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.seconds, self.start_s, self.call_s = seconds, start_s, call_s
        self.random, self.numbers = random.Random(seed), itertools.count()
        self.now = 0.0
        self.all_nodes: list[Node] = []
        self.pending: list[tuple[VirtualWorker, Ref]] = []
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.due: dict[str, list[tuple[float, int, Ref]]] = defaultdict(list)  # by pool
        self.tallies: dict[str, Tally] = defaultdict(Tally)
        self.deadlines: dict[str, float] = {}  # pools that wait, and until when at most
        self.turn, self.turns = "", threading.Condition()
        self.resumed = 0.0  # CPU seconds of the running thread when it was given its turn

    # The cluster's own side.

    def join(self, at_s: float, node: Node) -> None:
        """Let a node join at some time."""

        def joins() -> None:
            node.name, node.is_alive = f"node-{next(self.numbers)}", True
            node.free = dict(node.resources)
            self.all_nodes.append(node)
            self.place()

        heapq.heappush(self.events, (at_s, next(self.numbers), joins))

    def lose(self, at_s: float, back_s: float) -> None:
        """Lose a node at some time; another one of its kind joins later."""

        def leaves() -> None:
            alive = [node for node in self.all_nodes if node.is_alive]
            if not alive:
                return
            node = self.random.choice(alive)
            node.is_alive = False
            for workers in self.workers.values():
                for worker in [one for one in workers if one.node is node]:
                    self._dies(worker)
            self.join(self.now + back_s, Node(node.resources))

        heapq.heappush(self.events, (at_s, next(self.numbers), leaves))

    @property
    def workers(self) -> dict[str, list[VirtualWorker]]:
        """Workers that have a node, by pool."""
        return self._workers

    def place(self) -> None:
        """Give nodes to the workers that wait for one, first come, first served."""
        alive = [node for node in self.all_nodes if node.is_alive]
        for kind in {tuple(worker.needs.items()) for worker, _ in self.pending}:
            needs = dict(kind)
            nodes = (n for n in alive if all(n.free.get(k, 0) >= v for k, v in needs.items()))
            node = next(nodes, None)
            while node and (one := self._first_pending(needs)):
                self._start(*one, node)
                if any(node.free.get(k, 0) < v for k, v in needs.items()):
                    node = next(nodes, None)

    def _first_pending(self, needs: dict[str, float]) -> tuple[VirtualWorker, Ref] | None:
        for number, (worker, _) in enumerate(self.pending):
            if worker.needs == needs:
                return self.pending.pop(number)
        return None

    def _start(self, worker: VirtualWorker, ref: Ref, node: Node) -> None:
        worker.node, ref.result = node, node.name
        for kind, value in worker.needs.items():
            node.free[kind] = node.free.get(kind, 0) - value
        self._workers[worker.pool_name].append(worker)
        worker.ready_s = self.now + self.random.uniform(*self.start_s)
        self.at(ref, worker.ready_s)

    def at(self, ref: Ref, ready_s: float) -> None:
        """Have a result at some time."""
        ref.ready_s = ready_s
        heapq.heappush(self.due[ref.worker.pool_name], (ready_s, next(self.numbers), ref))

    def _dies(self, worker: VirtualWorker) -> None:
        if worker.is_dead:
            return
        worker.is_dead = True
        tally = self.tallies[worker.pool_name]
        tally.ready_s += max(0.0, self.now - worker.ready_s)
        self._workers[worker.pool_name].remove(worker) if worker.node else None
        for ref in worker.refs:
            if ref.seconds:
                tally.lost += 1
                tally.redone_s += max(0.0, self.now - (ref.ready_s - ref.seconds))
            ref.result = ActorDiedError()
            self.at(ref, self.now + DETECTED_S)
        if worker.node and worker.node.is_alive:
            for kind, value in worker.needs.items():
                worker.node.free[kind] += value
            self.place()

    # Turns of the pools, and the clock.

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Time in here is the cluster's, not the driver's."""
        self._charge()
        try:
            yield
        finally:
            self.resumed = time.thread_time()

    def _charge(self) -> None:
        spent = time.thread_time() - self.resumed
        self.now += spent
        self.tallies[self.turn].driver_s += spent

    def _next(self, name: str) -> float:
        """When a waiting pool goes on."""
        due = self.due[name]
        while due and due[0][2].ready_s != due[0][0]:
            heapq.heappop(due)  # its node was lost before
        return min(self.deadlines[name], due[0][0] if due else math.inf)

    def _pass_on(self) -> None:
        """Let the pool have its turn that goes on first, after what happens until then."""
        while True:
            name = min(self.deadlines, key=self._next)
            if not self.events or self.events[0][0] > self._next(name):
                break
            at_s, _, happens = heapq.heappop(self.events)
            self.now = max(self.now, at_s)
            happens()
        self.now = max(self.now, self._next(name))
        self.turn = name

    def _wait_until(self, deadline_s: float) -> None:
        mine = self.turn
        self.deadlines[mine] = deadline_s
        self._pass_on()
        if self.turn != mine:
            with self.turns:
                self.turns.notify_all()
                self.turns.wait_for(lambda: self.turn == mine)
        self.deadlines[mine] = math.inf

    def run(self, work: dict[str, Callable[[], None]]) -> None:
        """Run pools side by side to their end: functions by name, each of which runs one."""
        self._workers = {name: [] for name in work}
        self.deadlines = dict.fromkeys(work, 0.0)
        errors: list[BaseException] = []

        def one(name: str, function: Callable[[], None]) -> None:
            with self.turns:
                self.turns.wait_for(lambda: self.turn == name)
            self.deadlines[name] = math.inf
            self.resumed = time.thread_time()
            try:
                function()
            except BaseException as error:
                errors.append(error)
            self._charge()
            self._ends(name)

        threads = [threading.Thread(target=one, args=each) for each in work.items()]
        names = "ray", "time"
        with patch.multiple(pool, **dict.fromkeys(names, self)), patch.object(losses, "ray", self):
            for thread in threads:
                thread.start()
            with self.turns:
                self._pass_on()
                self.turns.notify_all()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]

    def _ends(self, name: str) -> None:
        for worker in list(self._workers[name]):
            self._dies(worker)
        del self.deadlines[name]
        with self.turns:
            if self.deadlines:
                self._pass_on()
            self.turns.notify_all()

    # What a pool calls of Ray, and of the clock.

    def remote(self, **options: Any) -> Callable[[type], Any]:
        """Options of an actor; what it returns makes the actor's class."""
        needs = {"CPU": options["num_cpus"], "GPU": options["num_gpus"]}

        class Actor:
            @staticmethod
            def remote() -> VirtualWorker:
                return VirtualWorker(self, self.turn, needs)

        return lambda cls: Actor

    def wait(self, refs: list[Ref], timeout: float, num_returns: int = 1) -> tuple[list[Ref], None]:
        """Those that are done, `num_returns` at most, after `timeout` seconds at most."""
        with self.outside():
            mine = self.turn
            self._wait_until(self.now + timeout)
            done: list[Ref] = []
            due = self.due[mine]
            while due and due[0][0] <= self.now and len(done) < num_returns:
                ready_s, _, ref = heapq.heappop(due)
                if ref.ready_s == ready_s:
                    done.append(ref)
            return done, None

    def get(self, ref: Ref) -> Any:
        """A result, or the error of a worker that was lost."""
        with self.outside():
            self.now += self.call_s
            tally = self.tallies[self.turn]
            tally.calls_s += self.call_s
            ref.worker.refs.discard(ref)
            if isinstance(ref.result, Exception):
                raise ref.result
            if ref.seconds:
                tally.batches += 1
                tally.useful_s += ref.seconds
                tally.end_s = self.now
            return ref.result

    def kill(self, worker: VirtualWorker) -> None:
        """End a worker, or take back the request for one."""
        with self.outside():
            if worker.node:
                self._dies(worker)
            else:
                self.pending = [one for one in self.pending if one[0] is not worker]

    def cluster_resources(self) -> dict[str, float]:
        """What all nodes have together."""
        total: dict[str, float] = defaultdict(float)
        for node in self.all_nodes:
            for kind, value in node.resources.items():
                total[kind] += value * node.is_alive
        return dict(total)

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes that were ever there."""
        return [
            {"NodeID": node.name, "Alive": node.is_alive, "Resources": node.resources}
            for node in self.all_nodes
        ]

    def monotonic(self) -> float:
        """Seconds of the virtual clock."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let others have their turn."""
        with self.outside():
            self._wait_until(self.now + seconds)
