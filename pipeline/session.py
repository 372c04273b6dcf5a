"""The connection to Ray: one of this machine alone, or the cluster that a job was submitted to."""

import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import ray
from ray._private import ray_constants  # the only switch that keeps all of Ray on loopback
from ray._private import worker as ray_worker
from ray._private.node import Node

from handloom.copies import GIGABYTES
from handloom.errors import RunError, Terminated, UserError, first_line
from handloom.pipeline.job import Job

# Environment of workers. Without the thresholds glibc returns big blocks to the kernel and faults
# them in again for each picture, 40 % of encoding; MediaPipe and TF Lite log a line per model.
WORKER_ENV = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "OMP_NUM_THREADS": "1",
    "GLOG_minloglevel": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
STARTS = 3
SIGTERM = threading.Event()  # it was received
QUIET: dict[str, Any] = {
    "log_to_driver": False,
    "logging_level": "ERROR",
    "configure_logging": True,
}


@contextmanager
def session(job: Job) -> Iterator[bool]:
    """Connect to Ray for one run; yields whether the connection outlives it.

    It is the one that this process has already, or the cluster of a submitted job, or else this
    machine alone.
    """
    os.environ.update(cache_room(job))
    if ray.is_initialized():
        yield True
        return
    try:
        with _own_session(job):
            yield False
    except KeyboardInterrupt:
        if SIGTERM.is_set():  # whatever was raised for it: Ray knows Ctrl-C alone
            raise Terminated from None
        raise


@contextmanager
def _own_session(job: Job) -> Iterator[None]:
    raise_on_sigterm()
    if "RAY_ADDRESS" in os.environ:
        ray.init(runtime_env={"env_vars": WORKER_ENV | import_path(job) | cache_room(job)}, **QUIET)
        raise_on_sigterm()
        try:
            yield
        finally:
            ray.shutdown()
    else:
        os.environ.update(import_path(job))
        with local_ray(job.config.run.num_cpus):
            raise_on_sigterm()  # Ray has set a handler of its own
            yield


def raise_on_sigterm() -> None:
    """Let SIGTERM raise `Terminated` in the main thread, so that a run ends as by Ctrl-C."""

    def terminate(number: int, frame: Any) -> None:
        SIGTERM.set()
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)


def check_alive() -> None:
    """Raise RunError if the Ray that this process has started has ended."""
    node = ray_worker._global_node
    if node and {"raylet", "gcs_server"} & {kind for kind, _ in node.dead_processes()}:
        raise RunError(
            "Ray has ended on this machine: it was killed, or had no memory left (see the messages "
            "above); the same command goes on where this one stopped."
        )


@contextmanager
def local_ray(num_cpus: int | None = None) -> Iterator[None]:
    """Ray on this machine alone, for one run or for several in a row: starting it takes seconds.

    All its processes listen on loopback, and only this user can read its token.

    Args:
        num_cpus: cores to use; by default all.
    """
    os.environ.update(WORKER_ENV, RAY_USAGE_STATS_ENABLED="0")
    keep_token_private(Path.home() / ".ray" / "auth_token", os.environ)
    with on_loopback(), without_services():
        # "local", or ray.init() would join any cluster that happens to run on this machine
        _until_up(
            lambda: ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **QUIET)
        )
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def on_loopback() -> Iterator[None]:
    """Give the Ray that is started inside 127.0.0.1 as its node's address.

    `ray.init(_node_ip_address="127.0.0.1")` does not: it turns loopback into the address of this
    machine in its network, and everything then listens on all interfaces.
    """
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(name)
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[name] = "0"  # for the processes that it starts
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[0]
        os.environ.pop(name, None)
        if before[1] is not None:
            os.environ[name] = before[1]


@contextmanager
def without_services() -> Iterator[None]:
    """Leave out what Ray starts for others, which takes seconds on two cores.

    That is the process of the dashboard (`include_dashboard=False` starts it too, without its
    pages) and the one that sends workers' logs to the driver. The autoscaler's stays: without it
    Ray Train waits for ever.
    """
    names = ("start_api_server", "start_log_monitor")
    # Private to Ray: another version that has none of a name starts what it starts.
    before = {name: getattr(Node, name) for name in names if hasattr(Node, name)}
    for name in before:
        setattr(Node, name, lambda node, **options: None)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


def keep_token_private(path: Path, env: Mapping[str, str]) -> None:
    """Make Ray's token file, by which its processes know each other, readable by its owner alone.

    Ray writes one where there is none, and leaves it readable by everyone.

    Args:
        path: where Ray looks for it.
        env: the environment, which may hold a token or name another file.

    Raises:
        UserError: the file cannot be written.
    """
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & env.keys():
        return
    try:
        _make_private(path)
    except OSError as error:
        raise UserError(
            f"Ray keeps the token of its processes in {path}, which cannot be written "
            f"({error.strerror}); set HOME to a folder of yours, or RAY_AUTH_TOKEN to a secret."
        ) from None


def _make_private(path: Path) -> None:
    if path.exists():
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        os.link(temporary, path)  # another run may have written one meanwhile: its token stays
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _until_up(start: Callable[[], Any]) -> None:
    """Start Ray; on a busy machine a node may not be up in the 30 s that Ray gives it.

    Raises:
        RunError: it did not start in several tries, with Ray's reason.
    """
    for left in reversed(range(STARTS)):
        before = _children()
        try:
            start()
            return
        except ValueError:
            raise  # a wrong argument stays wrong
        except Exception as error:  # Ray raises nothing more special
            ray.shutdown()
            for process in _children() - before:  # what has started slows the next try down
                process.kill()
            if "AF_UNIX path length" in str(error):
                raise UserError(
                    f"the path of the temporary folder {gettempdir()} is too long for Ray's "
                    "sockets; set TMPDIR to a shorter one, such as /tmp."
                ) from None
            if left == 0:
                raise RunError(
                    f"Ray was not up within 30 s, {STARTS} times in a row ({first_line(error)}); "
                    "run the same command again when this machine is less busy."
                ) from None


def _children() -> set[Any]:
    import psutil  # comes with Ray

    return set(psutil.Process().children(recursive=True))


def cache_room(job: Job) -> dict[str, str]:
    """Environment by which a run's processes know how much room copies of remote files have."""
    room = job.config.run.cache_gb
    return {} if room is None else {GIGABYTES: str(room)}


def import_path(job: Job) -> dict[str, str]:
    """PYTHONPATH of workers: this process's own, then the folders of the user's modules."""
    if not job.folders:
        return {}
    before = filter(None, [os.environ.get("PYTHONPATH")])
    return {"PYTHONPATH": os.pathsep.join([*before, *map(str, job.folders)])}
