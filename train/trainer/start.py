"""Entry point of training, in this process or in those of Ray Train. Imports no torch."""

import os

from handloom.train.trainer.options import TrainOptions


def train(config: TrainOptions) -> None:
    """Train, resume, or say that the run in `config.out` is finished.

    Raises:
        UserError: data, options or the checkpoint in `out` do not fit each other.
        RunError: the loss is no longer finite, memory or disk are too small, or SIGTERM stopped
            the run (after saving).
    """
    # Threads that spin while they wait make a step five times slower where cores are shared; OpenMP
    # reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    config.check()
    if config.workers:
        from handloom.train.trainer import ray_train

        ray_train.with_ray(config)
    else:
        from handloom.train.trainer import loop

        loop.run(config)
