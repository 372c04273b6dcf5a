"""Scripts that lack a sense: what they do of a task shows what the task does not need.

`Blind` knows the instruction and its own pose, and goes where things are on average. `Deaf` sees
everything and does one of the tasks that may be asked for, whichever. Both have the interface of a
model in CALVIN's evaluation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from handloom.train.tabletop import tasks
from handloom.train.tabletop.oracle import Oracle
from handloom.train.tabletop.record import start
from handloom.train.tabletop.world import Floats

DRAWS = 256  # starts whose mean is the scene that a blind script expects


class Blind:
    """The oracle on the mean of a task's starts instead of the scene.

    Args:
        seed: of the oracle and of the starts.
    """

    def __init__(self, seed: int = 0) -> None:
        self._oracle, self._seed = Oracle(seed), seed
        self._expected: dict[str, Floats] = {}  # scene_obs [24] by task

    def reset(self) -> None:
        """Begin a task."""
        self._oracle.reset()

    def step(self, obs: Mapping[str, Any], instruction: str) -> Floats:
        """The next relative action, float64 [7]."""
        task = tasks.task_of(instruction)
        if task not in self._expected:
            rng = np.random.default_rng([self._seed, len(self._expected)])
            scenes = [start(task, rng)[1] for _ in range(DRAWS)]
            self._expected[task] = np.mean(scenes, axis=0)
        imagined = {"robot_obs": obs["robot_obs"], "scene_obs": self._expected[task]}
        return self._oracle.step(imagined, instruction)


class Deaf:
    """The oracle, doing at random one of the tasks that may be asked for.

    Args:
        may_be_asked: names of these tasks.
        seed: of the oracle and of the choice.
    """

    def __init__(self, may_be_asked: Sequence[str], seed: int = 0) -> None:
        self._oracle, self._tasks = Oracle(seed), tuple(may_be_asked)
        self._rng = np.random.default_rng(seed)
        self.reset()

    def reset(self) -> None:
        """Begin a task: choose one."""
        self._oracle.reset()
        self._task = self._tasks[self._rng.integers(len(self._tasks))]

    def step(self, obs: Mapping[str, Any], instruction: str) -> Floats:
        """The next relative action, float64 [7]."""
        return self._oracle.step(obs, self._task)
