"""CALVIN's long-horizon evaluation: rollouts of chains of five tasks, 360 steps a task.

`evaluate` drives CALVIN's simulator (`official`) and the built-in tabletop (`tabletop`) alike. A
chain ends with the first task that is not done in time; the score is the number of tasks done in a
row.
"""

import importlib
import importlib.util
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from handloom.errors import UserError
from handloom.train.tabletop import starts, tasks
from handloom.train.tabletop.chains import LENGTH, Chain
from handloom.train.tabletop.env import TabletopEnv
from handloom.train.tabletop.tasks import Scene
from handloom.train.tabletop.world import Floats

STEPS_PER_TASK = 360
HOW_TO_INSTALL = (
    "git clone --recurse-submodules https://github.com/mees/calvin, pip install pybullet gym "
    "hydra-core hydra-colorlog gitpython numpy-quaternion, and put calvin/calvin_env and "
    "calvin/calvin_models on PYTHONPATH"
)
# Only these cameras: the tactile ones need one more package, and time.
CAMERAS = {"rgb_obs": ["rgb_static", "rgb_gripper"], "depth_obs": []}

Observation = dict[str, Any]


class Model(Protocol):
    """A model that can be evaluated; the interface of CALVIN's `CustomModel`."""

    def reset(self) -> None:
        """Called before every task."""

    def step(self, obs: Observation, goal: str, /) -> Any:
        """An action for `env.step`; `goal` is the instruction."""


@dataclass(frozen=True)
class Setup:
    """The environment of an evaluation, and its tasks.

    Attributes:
        env: `reset(robot_obs=, scene_obs=)`, `get_obs()`, `get_info()`, `step(action)`.
        task_oracle: `get_task_info_for_set(start_info, end_info, {task})` returns the tasks done.
        instructions: the instruction of each task.
        start: returns robot_obs [15] and scene_obs [24] of a chain's start.
    """

    env: Any
    task_oracle: Any
    instructions: Mapping[str, str]
    start: Callable[[Chain], tuple[Floats, Floats]]


@dataclass(frozen=True)
class RolloutStep:
    """An observation of a rollout: before a task's first step, then after each step.

    Attributes:
        chain: number of the chain, from 0.
        position: number of the task in the chain, from 0.
        task: name of the task.
        instruction: its instruction.
        step: steps of the task done so far.
        obs: observation of the environment.
    """

    chain: int
    position: int
    task: str
    instruction: str
    step: int
    obs: Observation


@dataclass(frozen=True)
class Result:
    """The scores of an evaluation.

    Attributes:
        lengths: tasks done in a row, for each chain.
        done: how often each task was done.
        tried: how often each task was tried.
        steps: total steps of each task when it was done.
    """

    lengths: tuple[int, ...]
    done: Mapping[str, int]
    tried: Mapping[str, int]
    steps: Mapping[str, int]

    @property
    def in_a_row(self) -> list[float]:
        """Shares of chains with at least 1, 2, ... 5 tasks done in a row, 0 to 1."""
        count = max(1, len(self.lengths))
        return [sum(n >= least for n in self.lengths) / count for least in range(1, LENGTH + 1)]

    @property
    def average_length(self) -> float:
        """Average number of tasks done in a row, 0 to 5."""
        return sum(self.lengths) / max(1, len(self.lengths))

    def to_dict(self) -> dict[str, Any]:
        """All scores, in types that JSON has."""
        rates = {
            task: {
                "done": self.done.get(task, 0),
                "tried": tried,
                "rate": self.done.get(task, 0) / tried,
                "steps": self.steps.get(task, 0) / max(1, self.done.get(task, 0)),
            }
            for task, tried in sorted(self.tried.items())
        }
        return {
            "chains": len(self.lengths),
            "average_length": self.average_length,
            "in_a_row": self.in_a_row,
            "tasks": rates,
            "lengths": list(self.lengths),
        }

    def table(self) -> str:
        """All scores as text."""
        head = "tasks in a row  " + "".join(f"{n:>7}" for n in range(1, LENGTH + 1)) + "  average"
        rates = "".join(f"{rate:7.1%}" for rate in self.in_a_row)
        lines = [head, f"{len(self.lengths):>6} chains   {rates}  {self.average_length:7.2f}", ""]
        width = max((len(task) for task in self.tried), default=4)
        lines.append(f"{'task':<{width}}   done  tried    rate  steps")
        for task, row in self.to_dict()["tasks"].items():
            lines.append(
                f"{task:<{width}} {row['done']:>6} {row['tried']:>6} {row['rate']:7.1%} "
                f"{row['steps']:>6.0f}"
            )
        return "\n".join(lines)


def evaluate(
    setup: Setup,
    model: Model,
    chains: Iterable[Chain],
    steps_per_task: int = STEPS_PER_TASK,
    on_frame: Callable[[RolloutStep], None] | None = None,
    on_chain: Callable[[int, int], None] | None = None,
) -> Result:
    """Roll out a model on chains of tasks.

    Args:
        setup: `tabletop()` or `official(dataset)`.
        model: maps observation and instruction to an action.
        chains: `tabletop_chains(count)`, `single_tasks(count)` or `calvin_chains()`.
        steps_per_task: steps of 1/30 s after which a task counts as failed.
        on_frame: called with every observation.
        on_chain: called after each chain, with its number and the number of its tasks done.
    """
    lengths: list[int] = []
    done: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    for number, chain in enumerate(chains):
        robot_obs, scene_obs = setup.start(chain)
        setup.env.reset(robot_obs=robot_obs, scene_obs=scene_obs)
        lengths.append(0)
        for task in chain.tasks:
            on_step = on_frame and _step_callback(on_frame, number, lengths[-1], task, setup)
            took = try_task(setup, model, task, steps_per_task, on_step)
            tried[task] += 1
            if took is None:
                break
            done[task] += 1
            steps[task] += took
            lengths[-1] += 1
        if on_chain:
            on_chain(number, lengths[-1])
    return Result(tuple(lengths), dict(done), dict(tried), dict(steps))


def try_task(
    setup: Setup,
    model: Model,
    task: str,
    steps: int = STEPS_PER_TASK,
    on_step: Callable[[int, Observation], None] | None = None,
) -> int | None:
    """Roll out a model on one task from the environment's present state.

    Returns:
        The number of steps until the task was done, or None if it was not.

    Raises:
        UserError: the setup has no instruction for the task.
    """
    if task not in setup.instructions:
        raise UserError(
            f"there is no instruction for {task!r}, expected one of "
            f"{', '.join(sorted(setup.instructions))}."
        )
    obs, start_info = setup.env.get_obs(), setup.env.get_info()
    model.reset()
    # One observation more than steps: the last one shows what the last action did.
    for step in itertools.count():
        if on_step:
            on_step(step, obs)
        if step == steps:
            return None
        obs, _, _, info = setup.env.step(model.step(obs, setup.instructions[task]))
        if setup.task_oracle.get_task_info_for_set(start_info, info, {task}):
            if on_step:
                on_step(step + 1, obs)
            return step + 1
    return None


def _step_callback(
    on_frame: Callable[[RolloutStep], None], chain: int, position: int, task: str, setup: Setup
) -> Callable[[int, Observation], None]:
    words = setup.instructions.get(task, "")
    return lambda step, obs: on_frame(RolloutStep(chain, position, task, words, step, obs))


def tabletop(
    render: bool = True, instructions: Mapping[str, str] | None = None, scene: Scene = "play"
) -> Setup:
    """The built-in tabletop.

    Args:
        render: whether observations hold images.
        instructions: the instruction of each task; by default those for validation, which no
            demonstration for training has.
        scene: that of all tasks of the chains, as `tasks.scene_of` gives it.
    """
    env = TabletopEnv(render=render, scene=scene)
    words = tasks.VALIDATION if instructions is None else instructions
    return Setup(env, tasks.TaskOracle(), words, starts.tabletop_start)


def official(dataset: Path) -> Setup:
    """CALVIN's own simulator, tasks and instructions, set up as its `evaluate_policy.py` does.

    Args:
        dataset: a download such as task_ABCD_D, whose `validation/.hydra` configures the scene.

    Raises:
        UserError: CALVIN's packages are not installed, or the folder is none of its downloads.
    """
    names = ("calvin_env", "calvin_agent", "hydra", "omegaconf")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"CALVIN's simulator needs {', '.join(missing)}, which this Python does not have: "
            f"{HOW_TO_INSTALL}; or evaluate on the tabletop, which needs nothing."
        )
    folder = Path(dataset) / "validation"
    if not (folder / ".hydra" / "merged_config.yaml").is_file():
        raise UserError(
            f"{folder}/.hydra/merged_config.yaml is not there, expected a CALVIN download such as "
            "task_ABCD_D, which configures its scene in it: run dataset/download_data.sh ABCD."
        )
    return _official(folder)


def _official(folder: Path) -> Setup:
    hydra: Any = importlib.import_module("hydra")
    load: Any = importlib.import_module("omegaconf").OmegaConf.load
    play_table_env: Any = importlib.import_module("calvin_env.envs.play_table_env")
    # Located in calvin_models/calvin_agent but not imported, which would need many more packages.
    spec = importlib.util.find_spec("calvin_agent")
    configs = Path((spec and spec.origin) or "").parents[1] / "conf"
    texts_by_task = load(configs / "annotations" / "new_playtable_validation.yaml")
    oracle = hydra.utils.instantiate(
        load(configs / "callbacks" / "rollout" / "tasks" / "new_playtable_tasks.yaml")
    )
    words = {str(task): str(texts[0]) for task, texts in texts_by_task.items()}
    env = play_table_env.get_env(folder, obs_space=CAMERAS, show_gui=False)
    return Setup(env, oracle, words, starts.official_start)
