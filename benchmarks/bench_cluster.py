"""What a cluster of 512 workers on cores and 64 on GPUs costs the process that hands out batches.

    python benchmarks/scale_tables.py /tmp/scale/big --clips 1187500 --buckets 8
    python benchmarks/bench_cluster.py /tmp/scale/big batches virtual real [--rounds 4]

The tables have buckets as large as those of 38 million clips; each round goes through them once
more, so that 32 rounds are the 38 million.

batches   making the batches of `hands` and `tokens`: CPU seconds and memory
calls     Ray's calls for one batch, with as many calls going on as there are workers
virtual   the pools of both stages at the same time, whose workers work in virtual seconds
          (virtual_cluster.py); nodes join late and are lost
real      the same pools on a Ray on this machine: 512 and 64 calls that sleep, in few processes;
          batches come in as often as on the large cluster, and their parts are written

Without a folder, tables of 65,536 clips in two buckets are written first.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import psutil
import ray
from virtual_cluster import Cluster, Node

from handloom.pipeline import dag
from handloom.pipeline.batch import Batch
from handloom.pipeline.batches import count_remaining, remaining
from handloom.pipeline.dag import _compute, pool_size
from handloom.pipeline.folding import FoldElsewhere
from handloom.pipeline.pool import Pool
from handloom.pipeline.progress import Heartbeat, Reporter
from handloom.pipeline.recipes import Run, ego4d, row_stages
from handloom.pipeline.record import Record
from handloom.pipeline.session import local_ray
from handloom.pipeline.worker import Counts
from handloom.stages.hands.rows import HandRow
from handloom.stages.stage import Stage
from handloom.stages.tables import folding
from handloom.stages.tables.parts import Table, open_tables
from handloom.stages.tables.rows import Row

RUN, STAGES = ego4d().run, {stage.name: stage for stage in row_stages(ego4d())}
SECONDS = {"hands": 0.15, "tokens": 0.05}  # a clip: measured on a core; assumed for a GPU
SPREAD = 0.3  # of the logarithm of a batch's seconds
WORKERS = {"hands": 512, "tokens": 64}
NODES, CORES, GPUS = 8, 96, 8  # a worker on a GPU has four cores
LATE, LATE_S = 2, 600.0  # nodes that join later
LOST_EVERY_S, BACK_S = 600.0, 300.0
CALL_S = 0.0008  # of the driver, for the calls of Ray that a batch takes: `calls` measures it
RATES = {name: WORKERS[name] / SECONDS[name] / RUN.batch_clips for name in WORKERS}


def main() -> None:
    """Measure what is named, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", help="folder that scale_tables.py has written")
    parser.add_argument("steps", nargs="*", help=", ".join(STEPS))
    parser.add_argument("--rounds", type=int, default=1, help="virtual: through the tables")
    parser.add_argument("--seconds", type=float, default=60.0, help="real: of work")
    parser.add_argument("--processes", type=int, default=18, help="real: with workers")
    parser.add_argument("--light", action="store_true", help="real: rows of ids alone")
    parser.add_argument("--unfolded", action="store_true", help="real: parts stay as they are")
    parser.add_argument("--fold-here", action="store_true", help="real: the driver folds parts")
    parser.add_argument("--here", action="store_true", help="run one step in this process")
    options = parser.parse_args()
    if options.here:
        STEPS[options.steps[0]](options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        if options.out is None:
            options.out = Path(scratch) / "tables"
            tables = [str(Path(__file__).with_name("scale_tables.py")), str(options.out)]
            subprocess.run(
                [sys.executable, *tables, "--clips", "65536", "--buckets", "2"], check=True
            )
        for step in options.steps or STEPS:
            numbers = [f"--{n}={getattr(options, n)}" for n in ("rounds", "seconds", "processes")]
            command = [sys.executable, __file__, str(options.out), step, "--here", *numbers]
            command += [f"--{name}" for name in ("light", "unfolded") if getattr(options, name)]
            command += ["--fold-here"] * options.fold_here
            subprocess.run(command, check=True)


def job_of(out: Path, scratch: Path) -> Any:
    """A job over the made-up tables in which `hands` and `tokens` have no rows, however many are
    written: what is read is not where the pools write."""
    config, tables = ego4d(), open_tables(out)
    empty = {name: Table(scratch / name, "e" * 64, tables[name].gate) for name in WORKERS}
    stages = {name: STAGES[name].at(out) for name in tables if name in STAGES}
    stages["ingest"] = config.ingest.at(out)
    flow = {name: table.gate for name, table in tables.items()}
    job = SimpleNamespace(out=scratch, run_id="bench", config=config, stages=stages, flow=flow)
    written = {name: Table(scratch / "written" / name, "e" * 64) for name in WORKERS}
    # `tokens` reads the made-up rows of `hands`: each stage lacks its own rows alone
    job.of = {
        name: SimpleNamespace(**vars(job), tables=tables | {name: empty[name]}) for name in WORKERS
    }
    job.tables = tables | written
    Heartbeat("bench", []).beat(scratch)
    return job


def all_batches(job: Any, name: str, rounds: int) -> Iterator[Batch]:
    """The batches of a stage, again and again."""
    for _ in range(rounds):
        yield from remaining(job.of[name], name)


def compute(job: Any, name: str, pool: Pool, batches: Iterator[Batch]) -> int:
    """Work through batches as a run does; returns the clips that were counted."""
    reporter = Reporter(job.out, name)
    pool.watch = reporter.watch
    record = Record(job.tables[name], {}, job.run_id)
    record.begin()
    reporter.start(None)
    _compute(job, name, pool.run(batches), record, reporter, {name: ""})  # not counted before
    return reporter.line.done


def measure_batches(options: argparse.Namespace) -> None:
    """CPU seconds and memory of making batches."""
    with tempfile.TemporaryDirectory() as scratch:
        job = job_of(options.out, Path(scratch))
        for name in WORKERS:
            before_mb, begun = peak_mb(), time.process_time()
            clips = count_remaining(job.of[name], name) or 0
            counted, batches, longest = time.process_time(), 0, 0.0
            last = time.perf_counter()
            for _ in all_batches(job, name, 1):
                batches, now = batches + 1, time.perf_counter()
                longest, last = max(longest, now - last), now
            cpu_s = time.process_time() - counted
            print(
                f"batches {name}: {clips:,} clips; a million counted in "
                f"{(counted - begun) / clips * 1e6:.1f} CPU s, made into batches in "
                f"{cpu_s / clips * 1e6:.1f} ({cpu_s / batches * 1e3:.2f} ms a batch, the longest "
                f"wait for one {longest:.2f} s); peak {peak_mb():,.0f} MB ({before_mb:,.0f})",
                flush=True,
            )


def measure_virtual(options: argparse.Namespace) -> None:
    """Both pools on a virtual cluster."""
    rng = random.Random(1)

    def seconds(name: str, batch: Batch) -> float:
        return batch.clips * SECONDS[name] * rng.lognormvariate(-(SPREAD**2) / 2, SPREAD)

    cluster = Cluster(seconds, call_s=CALL_S)
    for number in range(NODES):
        cluster.join(LATE_S * (number < LATE), Node({"CPU": CORES, "GPU": GPUS}))
    for number in range(1, 100):
        cluster.lose(number * LOST_EVERY_S, BACK_S)
    resources = {"CPU": NODES * CORES, "GPU": NODES * GPUS}
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        job = job_of(options.out, Path(scratch))
        given = dict.fromkeys(WORKERS, 0)

        def run(name: str) -> None:
            def counting() -> Iterator[Batch]:
                for batch in all_batches(job, name, options.rounds):
                    given[name] += batch.clips
                    yield batch

            stage = STAGES[name]
            size = pool_size(Run(), stage.wants_gpu, resources, shares_cores=True)
            pool = Pool(stage, job.tables[name], {}, clip_timeout_s=RUN.clip_timeout_s, **size)
            done = compute(job, name, pool, counting())
            assert done == given[name], f"{name}: {done} clips of {given[name]}"

        cluster.run({name: lambda name=name: run(name) for name in WORKERS})
    for name in WORKERS:
        tally = cluster.tallies[name]
        worked = tally.useful_s + tally.redone_s
        print(
            f"virtual {name}: {given[name]:,} clips, {tally.batches:,} batches in "
            f"{tally.end_s:,.0f} s; workers ready {tally.ready_s:,.0f} s, at work {worked:,.0f} s: "
            f"overhead {tally.ready_s / worked - 1:.2%}, beside it {tally.redone_s / worked:.2%} "
            f"for {tally.lost} batches on lost nodes; driver "
            f"{tally.driver_s / tally.batches * 1e3:.2f} ms a batch and Ray's calls "
            f"{CALL_S * 1e3:.2f}: {share(tally):.1%} of a core",
            flush=True,
        )
    print(
        f"virtual: {time.process_time() - begun:,.0f} CPU s of this process in all, peak "
        f"{peak_mb():,.0f} MB",
        flush=True,
    )


def share(tally: Any) -> float:
    """Of a core, while the pool works."""
    return float(tally.driver_s + tally.calls_s) / float(tally.end_s)


@dataclass(frozen=True)
class Sleeps(Stage):
    """A stage that takes its time, several batches in one process; rows are as large as those of
    `hands`, without landmarks."""

    name: ClassVar[str] = "sleeps"
    row_type: ClassVar[type[Row]] = HandRow
    seconds: float = 1.0
    is_light: bool = False

    @property
    def takes_batches(self) -> bool:
        """True, so that no timer of the process watches its clips."""
        return True

    def batch(self, inputs: Sequence[tuple[Any, ...]]) -> list[Row]:
        """Sleep as long as the clips take."""
        factor = random.lognormvariate(-(SPREAD**2) / 2, SPREAD)
        time.sleep(self.seconds * len(inputs) * factor)
        return [row_of(one[0].clip_id, self.is_light) for one in inputs]


def row_of(clip_id: str, is_light: bool) -> Row:
    """A row of `hands` of six frames, of which a light one has next to nothing."""
    numbers = [] if is_light else [random.random() for _ in range(6)]
    return HandRow(
        clip_id=clip_id, times_s=numbers, detector_ran=[True] * len(numbers),
        hand_counts=[1] * len(numbers),
        confidence=numbers, brightness=numbers, contrast=numbers, sharpness=numbers,
        flat_share=numbers, change=0.5, picture_xyxy=[0.0, 0.0, 1.0, 1.0], bar_share=0.0,
        stereo="", stereo_score=0.0, cuts_s=[], shot_start_s=0.0, shot_end_s=5.0,
        fingerprints=random.randbytes(len(numbers) * 1152), detections=[],
    )  # fmt: skip


class FoldHere(FoldElsewhere):
    """Folds in the process that hands out batches."""

    def __call__(self, table: Table) -> int:
        """Do one round."""
        return folding.fold_parts(table)


def measure_real(options: argparse.Namespace) -> None:
    """Both pools on a real Ray, batches coming in as often as on the large cluster."""
    if options.unfolded:
        folding.EVERY = 10**9
    if options.fold_here:
        dag.FoldElsewhere = FoldHere  # type: ignore[misc]
    processes = {"hands": options.processes * 8 // 9, "tokens": options.processes // 9}
    cpus, gpus = sum(processes.values()), processes["tokens"]
    with tempfile.TemporaryDirectory() as scratch, cores(cpus, gpus):
        job, stop = job_of(options.out, Path(scratch)), threading.Event()
        done = dict.fromkeys(WORKERS, 0)
        pools = {
            name: Pool(
                Sleeps(SECONDS[name], options.light), job.tables[name], {}, None, 600.0,
                WORKERS[name] // processes[name], gpus=float(name == "tokens"),
                spare_cores=float(name == "hands"),
            )
            for name in WORKERS
        }  # fmt: skip

        def run(name: str) -> None:
            def until_stopped() -> Iterator[Batch]:
                for batch in all_batches(job, name, 1000):
                    if stop.is_set():
                        return
                    done[name] += batch.clips
                    yield batch

            compute(job, name, pools[name], until_stopped())

        threads = [threading.Thread(target=run, args=[name]) for name in WORKERS]
        for thread in threads:
            thread.start()
        while any(len(pools[name].running) < WORKERS[name] for name in WORKERS):
            assert all(thread.is_alive() for thread in threads)
            time.sleep(0.5)
        time.sleep(10.0)  # the first batches all began at once
        before, begun, clips = used(), time.perf_counter(), dict(done)
        time.sleep(options.seconds)
        after, wall_s, folder_mb = used(), time.perf_counter() - begun, folders_mb()
        worked = {name: done[name] - clips[name] for name in WORKERS}
        stop.set()
        for thread in threads:
            thread.join()
    for name in WORKERS:
        ideal = WORKERS[name] / SECONDS[name] * wall_s
        print(
            f"real {name}: {worked[name] / wall_s:,.0f} clips/s in {WORKERS[name]} calls of "
            f"{processes[name]} processes, ideal {ideal / wall_s:,.0f}: overhead "
            f"{ideal / worked[name] - 1:.1%}",
            flush=True,
        )
    shares = {who: (after[who] - before.get(who, 0.0)) / wall_s for who in after}
    say_shares(shares, sum(worked.values()) / RUN.batch_clips / wall_s, folder_mb)


def say_shares(shares: dict[str, float], rate: float, folder_mb: list[float]) -> None:
    """Print what processes took of a core, at so many batches a second."""
    told = ", ".join(f"{who} {value:.1%}" for who, value in sorted(shares.items()))
    print(
        f"real: {rate:.0f} batches/s; of a core: {told}; the driver takes "
        f"{shares['driver'] / rate * 1e3:.2f} ms a batch, peak {peak_mb():,.0f} MB; folding "
        f"processes {', '.join(f'{mb:,.0f}' for mb in folder_mb) or 0} MB",
        flush=True,
    )


@contextmanager
def cores(cpus: int, gpus: int = 0) -> Iterator[None]:
    """A Ray that believes in so many cores and GPUs."""
    resources = {"RAY_OVERRIDE_RESOURCES": json.dumps({"GPU": gpus})} if gpus else {}
    os.environ.update(resources)
    with local_ray(cpus):
        yield


def used() -> dict[str, float]:
    """CPU seconds of this process, of Ray's own processes, of folding and of the workers."""
    seconds = {"driver": time.process_time()}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            name = "folding" if folds(process) else process.name()
            kind = name if name in ("gcs_server", "raylet", "folding") else "workers"
            times = process.cpu_times()
            seconds[kind] = seconds.get(kind, 0.0) + times.user + times.system
    return seconds


def folds(process: psutil.Process) -> bool:
    """Whether a process folds parts."""
    return "".join(process.cmdline()[:1]).startswith("ray::Folder")


def folders_mb() -> list[float]:
    """Resident memory of the processes that fold parts, less what they share with others."""
    found = [one for one in psutil.Process().children(recursive=True) if folds(one)]
    facts = [process.memory_info() for process in found]
    return [(one.rss - one.shared) / 1024**2 for one in facts]


def measure_calls(options: argparse.Namespace) -> None:
    """What Ray's calls for one batch take of this process, with many going on."""
    count, rounds, actors = sum(WORKERS.values()), 300, 9
    with tempfile.TemporaryDirectory() as scratch, cores(actors):
        batch = next(all_batches(job_of(options.out, Path(scratch)), "tokens", 1))
        kind = ray.remote(num_cpus=1, max_concurrency=count)(_Waits)
        workers = [kind.remote() for _ in range(actors)]
        ray.get([worker.work.remote(batch, 0.0) for worker in workers])
        going_on = [workers[n % actors].work.remote(batch, 120.0) for n in range(count)]
        time.sleep(3.0)
        cpu, begun = time.process_time(), time.thread_time()
        ended = [workers[n % actors].work.remote(batch, 0.0) for n in range(rounds)]
        submitted = time.thread_time() - begun
        time.sleep(3.0)
        begun = time.thread_time()
        for ref in ended:
            ray.wait([*going_on[1:], ref], timeout=1.0)
            ray.get(ref)
        collected = time.thread_time() - begun
        print(
            f"calls: submitting {submitted / rounds * 1e3:.2f} ms a batch, waiting and getting "
            f"{collected / rounds * 1e3:.2f}; with Ray's threads "
            f"{(time.process_time() - cpu) / rounds * 1e3:.2f}"
        )


class _Waits:
    def work(self, batch: Batch, seconds: float) -> Counts:
        """Take the batch apart, and wait."""
        time.sleep(seconds)
        return Counts(ok=batch.clips)


def peak_mb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


STEPS = {
    "batches": measure_batches, "calls": measure_calls, "virtual": measure_virtual,
    "real": measure_real,
}  # fmt: skip


if __name__ == "__main__":
    main()
