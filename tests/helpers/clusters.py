"""Ray clusters of several nodes on this machine, whose nodes come and die."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from handloom.pipeline.session import QUIET, on_loopback
from handloom.tokenize.shards import sha256_file


@contextmanager
def cluster(*nodes: int) -> Iterator[Cluster]:
    """A head without cores and nodes of so many; this process is its driver."""
    assert not ray.is_initialized()
    with on_loopback():
        found = Cluster(initialize_head=True, head_node_args=small(0))
        try:
            for cpus in nodes:
                found.add_node(**small(cpus))
            ray.init(address=found.address, **QUIET)
            yield found
        finally:
            ray.shutdown()
            found.shutdown()


def small(cpus: int) -> dict[str, Any]:
    """Options of a node that takes little of the machine."""
    return {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": 80 << 20}


def kill_node(node: Any) -> None:
    """End a node's raylet at once, as a power cut would; its workers notice and end."""
    for info in node.all_processes["raylet"]:
        os.kill(info.process.pid, signal.SIGKILL)


def worker_pids() -> list[int]:
    """Processes of workers and of the stages, among those that this process has started."""
    import psutil  # Ray brings it along

    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "".join(process.cmdline()[:1]).startswith(("ray::Worker", "ray::Conductor")):
                found.append(process.pid)
    return found


def shard_digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file of a run's shards."""
    paths = sorted((out / "shards").glob("*/*.*"))
    return {str(p.relative_to(out)): sha256_file(p) for p in paths}
