"""Training in the processes of Ray Train: on this machine, or on the cluster of a Ray job.

Ray Train starts the processes, joins them to a process group and gives each its GPU. What they run
is `loop.run`, as under torchrun. A checkpoint of one number of processes resumes in any other.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.config import LoggingConfig

from handloom.errors import RunError, UserError
from handloom.train.trainer.options import TrainOptions

# Threads that wait leave a shared core alone (see start.py); lines come once, not twice.
WORKER_ENV = {"OMP_WAIT_POLICY": "PASSIVE", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}


def with_ray(config: TrainOptions) -> None:
    """Train in `config.workers` processes.

    Raises:
        UserError, RunError: what one of the processes raised.
    """
    with session(config):
        first_error = ray.remote(num_cpus=0)(FirstError).remote()
        trainer = TorchTrainer(
            train_in_worker,
            train_loop_config={"config": config.with_absolute_paths(), "first_error": first_error},
            scaling_config=ScalingConfig(
                num_workers=config.workers, use_gpu=config.device.startswith("cuda")
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(config.out.absolute()),
                failure_config=FailureConfig(max_failures=0),  # an error would come again
                logging_config=LoggingConfig(log_level="ERROR"),
                worker_runtime_env={"env_vars": WORKER_ENV},
            ),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise ray.get(first_error.get.remote()) or _lost(config, error) from None


def train_in_worker(job: dict[str, Any]) -> None:
    """The program of every process."""
    from handloom.train.trainer import loop

    config: TrainOptions = job["config"]
    try:
        loop.run(replace(config, workers=0))
    except (UserError, RunError) as error:
        ray.get(job["first_error"].record.remote(error))
        raise


class FirstError:
    """An actor that keeps the first process's error; Ray itself only keeps its traceback."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def record(self, error: Exception) -> None:
        """Called by the process that gives up."""
        self.error = self.error or error

    def get(self) -> Exception | None:
        """The error of the process that gave up first."""
        return self.error


@contextmanager
def session(config: TrainOptions) -> Iterator[None]:
    """Ray for the time of a run: the cluster of a submitted job, else this machine alone."""
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": True}
    if "RAY_ADDRESS" in os.environ:
        ray.init(**quiet)
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        cpus = max(config.workers, os.cpu_count() or 1)
        # "local", or ray.init() would join any cluster that happens to run on this machine
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
        _check_gpus(config)
    try:
        yield
    finally:
        ray.shutdown()


def _check_gpus(config: TrainOptions) -> None:
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if config.device.startswith("cuda") and gpus < config.workers:
        raise UserError(
            f"--workers {config.workers} with --device cuda need as many GPUs, this machine has "
            f"{gpus}: lower --workers, or use a cluster with `handloom submit train …`."
        )


def _lost(config: TrainOptions, error: Exception) -> RunError:
    return RunError(
        f"a training process was lost ({str(error).strip().splitlines()[-1][:200]}); the same "
        f"command goes on from the last checkpoint in {config.out}."
    )
