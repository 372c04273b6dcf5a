"""Attempts at single tasks on the tabletop that are made side by side.

The images of all attempts go through the model in one batch, and are rendered only when the policy
needs them: an attempt costs a tenth of one that is made alone.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from handloom.train.policy.policy import Policy, act_together
from handloom.train.tabletop import starts, tasks
from handloom.train.tabletop.chains import Chain
from handloom.train.tabletop.env import TabletopEnv
from handloom.train.tabletop.protocol import Result
from handloom.train.tabletop.spread import SUBSTEPS, SpreadOut, state_of

Actions = npt.NDArray[np.float32]


class GivenActions:
    """A ChunkPolicy that returns the actions set from outside."""

    actions: Actions

    def reset(self) -> None:
        """Does nothing: `Attempt` resets the policy itself."""

    def act(self, obs: Mapping[str, Any], instruction: str, /) -> Actions:
        """The actions [n, 7] that were set last."""
        return self.actions


class Attempt:
    """An attempt at a task: its environment, its policy, and the adapter between their actions."""

    def __init__(self, chain: Chain, instruction: str, policy: Policy) -> None:
        self.task, self.instruction, self.policy = chain.tasks[0], instruction, policy
        self.env = TabletopEnv(render=False, scene=tasks.scene_of(self.task))
        self.env.reset(*starts.tabletop_start(chain))
        self._start = self.env.get_info()
        self._given = GivenActions()
        self._spread = SpreadOut(self._given)
        self._spread.reset()
        self.policy.reset()
        self.steps = 0
        self.done = self.over = False

    def images(self) -> dict[str, Any]:
        """What the policy's cameras show now."""
        images = self.env.images()
        return {view: images[f"rgb_{view}"] for view in self.policy.views}

    def execute(self, actions: Actions, most: int) -> None:
        """Execute actions [n, 7], until the task is done or `most` steps of the attempt are."""
        self._given.actions = actions
        for _ in range(min(SUBSTEPS * len(actions), most - self.steps)):
            action = self._spread.step(self.env.get_obs(), self.instruction)
            _, _, _, info = self.env.step(action)
            self.steps += 1
            self.done = tasks.is_done(self.task, self._start, info)
            # The block touched first decides: after another one nothing can be won.
            self.over = self.done or self.env.touched_first is not None
            if self.over:
                return


def evaluate(
    make_policy: Callable[[], Policy],
    chains: Sequence[Chain],
    instructions: Mapping[str, str],
    steps: int,
    at_once: int,
) -> list[Attempt]:
    """Try the first task of each chain.

    Args:
        make_policy: returns policies that share a model, each with a memory of its own.
        chains: of single tasks.
        instructions: of each task.
        steps: 30 a second, after which an attempt has failed.
        at_once: attempts side by side.
    """
    attempts: list[Attempt] = []
    policies = [make_policy() for _ in range(min(at_once, len(chains)))]
    for first in range(0, len(chains), at_once):
        some = chains[first : first + at_once]
        attempts += _run_batch(some, instructions, policies[: len(some)], steps)
    return attempts


def result_of(attempts: Sequence[Attempt]) -> Result:
    """The scores of some attempts."""
    done = Counter(attempt.task for attempt in attempts if attempt.done)
    used = Counter[str]()
    for attempt in attempts:
        used[attempt.task] += attempt.steps if attempt.done else 0
    tried = Counter(attempt.task for attempt in attempts)
    return Result(tuple(int(a.done) for a in attempts), done, tried, used)


def touched_another(attempts: Sequence[Attempt]) -> int:
    """How many attempts at a touch touched another block first."""
    return sum(a.env.touched_first is not None and not a.done for a in attempts)


def _run_batch(
    chains: Sequence[Chain], instructions: Mapping[str, str], policies: Sequence[Policy], steps: int
) -> list[Attempt]:
    pairs = zip(chains, policies, strict=True)
    attempts = [Attempt(chain, instructions[chain.tasks[0]], policy) for chain, policy in pairs]
    for _ in range(steps):
        busy = [a for a in attempts if not a.over and a.steps < steps]
        if not busy:
            break
        chunks = act_together(
            [a.policy for a in busy],
            [a.instruction for a in busy],
            [a.images() for a in busy],
            [state_of(a.env.world.robot_obs()) for a in busy],
        )
        for attempt, chunk in zip(busy, chunks, strict=True):
            attempt.execute(chunk.execute, steps)
    return attempts
