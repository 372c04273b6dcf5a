"""Whole runs under storms: what random kills cost, and whether the shards stay the same.

    python benchmarks/storms.py [--storms 20] [--strikes 6]      three local nodes
    python benchmarks/storms.py --one-machine [--strikes 10] [--clips 300]

A storm strikes every few seconds: a raylet (another node joins), a worker or the process of the
stages, or the process that started the run, which is then started again by the same command. With
--one-machine that process and all of its Ray are ended together, as by a power cut. Prints for each
storm what was struck, whether the shards equal those of an undisturbed run byte for byte, failed
clips, and rows that were computed twice; the last line sums up. docs/decisions.md quotes it.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ray.cluster_utils import Cluster

from handloom.stages.miniatures import ego4d
from handloom.stages.tables import funnel
from handloom.stages.tables.parts import effort, open_tables
from tests.helpers.clusters import cluster, kill_node, shard_digests, small, worker_pids

import psutil  # isort: skip  # which Ray brings along, so it is there after the imports above

STAGES = ("hands", "tokens")


def command(data: Path, out: Path) -> list[str]:
    """What a user would type, with small batches."""
    options = ["--data", data, "--out", out, "--run.batch-clips", 2, "--tokens.frames", 1]
    return [sys.executable, "-m", "handloom", "curate", "sample", *map(str, options)]


def started(data: Path, out: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """The run in a process group of its own; its output is kept beside `out`."""
    log = out.with_suffix(".log").open("ab")
    return subprocess.Popen(
        command(data, out), env=os.environ | env, stdout=log, stderr=log, start_new_session=True
    )


def through(
    data: Path, out: Path, env: dict[str, str], strikes: int, strike: Callable[[int], str]
) -> Counter[str]:
    """A whole run, struck so many times at random moments; returns what was struck."""
    struck: Counter[str] = Counter()
    run = started(data, out, env)
    while True:
        wait_s = random.uniform(2, 8) if struck.total() < strikes else 600
        with suppress(subprocess.TimeoutExpired):
            status = run.wait(wait_s)
            if status == 0:
                return struck
            if status > 0:
                raise SystemExit(f"the run ended with {status}, see {out.with_suffix('.log')}")
            run = started(data, out, env)  # it had been killed
            continue
        struck[strike(run.pid)] += 1


def kill(process: psutil.Process) -> None:
    """End a process at once, if it is still there."""
    with suppress(psutil.Error):
        process.kill()


def processes_below(pid: int) -> list[psutil.Process]:
    """All processes that a process started, and those that they started."""
    with suppress(psutil.Error):
        return list(psutil.Process(pid).children(recursive=True))
    return []


def cut_power(driver: int) -> str:
    """End the run with all of its processes."""
    family = processes_below(driver)
    os.kill(driver, signal.SIGKILL)
    for process in family:
        kill(process)
    return "run"


def strike_cluster(nodes: Cluster) -> Callable[[int], str]:
    """Strikes at random against one of three nodes, a worker or the driver."""

    def strike(driver: int) -> str:
        target = random.choice(("node", "worker", "worker", "driver"))
        if target == "node":
            nodes.add_node(**small(1))
            lost = random.choice(sorted(nodes.worker_nodes, key=str))
            kill_node(lost)
            nodes.worker_nodes.discard(lost)
            return target
        if target == "driver":
            os.kill(driver, signal.SIGKILL)
            return target
        if workers := worker_pids():
            with suppress(ProcessLookupError):
                os.kill(random.choice(workers), signal.SIGKILL)
        return target

    return strike


@dataclass
class Outcome:
    """What a storm has left."""

    same: bool
    failed: int
    lost: int
    twice: int
    """Rows of `STAGES` that were computed more than once."""
    rows: int
    left_behind: int
    """Temporary files."""


def outcome(out: Path, undisturbed: Path) -> Outcome:
    """Compare a run with an undisturbed one."""
    count, expected = (funnel.count(open_tables(folder)) for folder in (out, undisturbed))
    rows = sum(open_tables(out)[name].row_count() for name in STAGES)
    computed = sum(effort(out / "tables" / name)[0] for name in STAGES)
    temporary = [*out.rglob("*.tmp"), *out.rglob("*.merging")]
    return Outcome(
        shard_digests(out) == shard_digests(undisturbed),
        count.failed - expected.failed,
        expected.ingested - count.ingested,
        computed - rows,
        rows,
        len(temporary),
    )


def report(number: int, struck: Counter[str], found: Outcome, seconds: float) -> None:
    """Print a storm's outcome."""
    told = ", ".join(f"{count} {name}" for name, count in sorted(struck.items()))
    print(
        f"storm {number}: struck {told}; {'same' if found.same else 'OTHER'} shards, "
        f"{found.failed} failed, {found.lost} lost, {found.twice} of {found.rows} rows twice, "
        f"{found.left_behind} temporary files, {seconds:.0f} s",
        flush=True,
    )


def main() -> None:
    """Storms, one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storms", type=int, default=20)
    parser.add_argument("--strikes", type=int, default=6)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--one-machine", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, undisturbed = folder / "ego4d", folder / "undisturbed"
        ego4d.write(data, clips=options.clips)
        if (status := started(data, undisturbed, {}).wait()) != 0:
            raise SystemExit(f"the undisturbed run ended with {status}")

        def storm(number: int, env: dict[str, str], strike: Callable[[int], str]) -> None:
            out, began = folder / f"storm{number}", time.monotonic()
            struck = through(data, out, env, options.strikes, strike)
            found.append(outcome(out, undisturbed))
            report(number, struck, found[-1], time.monotonic() - began)

        if options.one_machine:
            for number in range(options.storms):
                storm(number, {}, cut_power)
        else:
            with cluster(1, 1, 1) as nodes:
                for number in range(options.storms):
                    storm(number, {"RAY_ADDRESS": nodes.address}, strike_cluster(nodes))
    print(
        f"{len(found)} storms: {sum(o.same for o in found)} with the same shards, "
        f"{sum(o.failed for o in found)} clips failed, {sum(o.lost for o in found)} lost, "
        f"{sum(o.twice for o in found) / sum(o.rows for o in found):.2%} of the rows twice, "
        f"{sum(o.left_behind for o in found)} temporary files"
    )


if __name__ == "__main__":
    main()
