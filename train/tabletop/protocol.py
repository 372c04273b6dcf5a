"""CALVIN's long-horizon evaluation: chains of five tasks, 360 steps for each task.

The same loop drives CALVIN's simulator and the built-in tabletop; a chain ends with the first task
that is not done in time. What is measured is how many of its tasks were done in a row.
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
from handloom.train.tabletop.env import Scene, TabletopEnv
from handloom.train.tabletop.world import Floats

STEPS_PER_TASK = 360
HOW_TO_INSTALL = (
    "git clone --recurse-submodules https://github.com/mees/calvin, pip install pybullet gym "
    "hydra-core hydra-colorlog gitpython numpy-quaternion, and put calvin/calvin_env and "
    "calvin/calvin_models on PYTHONPATH"
)
# The cameras that are asked for; the tactile ones would need one package more, and time.
CAMERAS = {"rgb_obs": ["rgb_static", "rgb_gripper"], "depth_obs": []}

Observation = dict[str, Any]


class Model(Protocol):
    """What is evaluated; the interface of CALVIN's `CustomModel`."""

    def reset(self) -> None:
        """Called before every task."""

    def step(self, obs: Observation, goal: str, /) -> Any:
        """An action for `env.step`; `goal` is the instruction."""


@dataclass(frozen=True)
class Setting:
    """What a model is evaluated in.

    Attributes:
        env: `reset(robot_obs=, scene_obs=)`, `get_obs()`, `get_info()`, `step(action)`.
        task_oracle: `get_task_info_for_set(start_info, end_info, {task})` gives the tasks done.
        instructions: the words for each task.
        start: robot_obs [15] and scene_obs [24] in which a chain begins.
    """

    env: Any
    task_oracle: Any
    instructions: Mapping[str, str]
    start: Callable[[Chain], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Moment:
    """One observation of an evaluation: before a task's first step, then after each step.

    Attributes:
        chain: which chain.
        position: which of its tasks, from 0.
        task, instruction: its name and words.
        step: how many steps of the task are done.
        obs: of the environment.
    """

    chain: int
    position: int
    task: str
    instruction: str
    step: int
    obs: Observation


@dataclass(frozen=True)
class Result:
    """What came of an evaluation.

    Attributes:
        lengths: for each chain, how many of its tasks were done in a row.
        done, tried: by task, how often.
        steps: by task, of all that were done together.
    """

    lengths: tuple[int, ...]
    done: Mapping[str, int]
    tried: Mapping[str, int]
    steps: Mapping[str, int]

    @property
    def in_a_row(self) -> list[float]:
        """The share of chains in which at least 1, 2, ... 5 tasks were done in a row."""
        count = max(1, len(self.lengths))
        return [sum(n >= least for n in self.lengths) / count for least in range(1, LENGTH + 1)]

    @property
    def average_length(self) -> float:
        """How many tasks were done in a row, on average; 0 to 5."""
        return sum(self.lengths) / max(1, len(self.lengths))

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
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
        """The same for people to read."""
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
    setting: Setting,
    model: Model,
    chains: Iterable[Chain],
    steps_per_task: int = STEPS_PER_TASK,
    on_frame: Callable[[Moment], None] | None = None,
    on_chain: Callable[[int, int], None] | None = None,
) -> Result:
    """Let a model try chains of tasks.

    Args:
        setting: `tabletop()` or `official(dataset)`.
        model: gets an observation and words, gives an action.
        chains: `tabletop_chains(count)`, `single_tasks(count)` or `calvin_chains()`.
        steps_per_task: after so many steps a task counts as failed; each is 1/30 s.
        on_frame: is shown every observation.
        on_chain: is told, after each chain, its number and how many of its tasks were done.
    """
    lengths: list[int] = []
    done: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    for number, chain in enumerate(chains):
        robot_obs, scene_obs = setting.start(chain)
        setting.env.reset(robot_obs=robot_obs, scene_obs=scene_obs)
        lengths.append(0)
        for task in chain.tasks:
            show = on_frame and _shown(on_frame, number, lengths[-1], task, setting)
            took = attempt(setting, model, task, steps_per_task, show)
            tried[task] += 1
            if took is None:
                break
            done[task] += 1
            steps[task] += took
            lengths[-1] += 1
        if on_chain:
            on_chain(number, lengths[-1])
    return Result(tuple(lengths), dict(done), dict(tried), dict(steps))


def attempt(
    setting: Setting,
    model: Model,
    task: str,
    steps: int = STEPS_PER_TASK,
    show: Callable[[int, Observation], None] | None = None,
) -> int | None:
    """Let a model try one task from where the environment is; the steps it took, None if not done.

    Raises:
        UserError: the setting has no words for the task.
    """
    if task not in setting.instructions:
        raise UserError(
            f"there is no instruction for {task!r}, expected one of "
            f"{', '.join(sorted(setting.instructions))}."
        )
    obs, start_info = setting.env.get_obs(), setting.env.get_info()
    model.reset()
    for step in itertools.count():
        if show:
            show(step, obs)
        if step == steps:
            return None
        obs, _, _, info = setting.env.step(model.step(obs, setting.instructions[task]))
        if setting.task_oracle.get_task_info_for_set(start_info, info, {task}):
            if show:
                show(step + 1, obs)
            return step + 1
    return None


def _shown(
    on_frame: Callable[[Moment], None], chain: int, position: int, task: str, setting: Setting
) -> Callable[[int, Observation], None]:
    words = setting.instructions.get(task, "")
    return lambda step, obs: on_frame(Moment(chain, position, task, words, step, obs))


def tabletop(
    render: bool = True, instructions: Mapping[str, str] | None = None, scene: Scene = "play"
) -> Setting:
    """The built-in tabletop.

    Args:
        render: whether observations hold pictures.
        instructions: the words for each task; by default those for validation, which no
            demonstration for training carries.
        scene: `go_round` for chains of that task, which needs a pillar on the table.
    """
    env = TabletopEnv(render=render, scene=scene)
    words = tasks.VALIDATION if instructions is None else instructions
    return Setting(env, tasks.TaskOracle(), words, starts.tabletop_start)


def official(dataset: Path) -> Setting:
    """CALVIN's own simulator, tasks and words, set up as its `evaluate_policy.py` does.

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


def _official(folder: Path) -> Setting:
    hydra: Any = importlib.import_module("hydra")
    read: Any = importlib.import_module("omegaconf").OmegaConf.load
    environments: Any = importlib.import_module("calvin_env.envs.play_table_env")
    # calvin_models/calvin_agent, which is only looked at: importing it would need much more
    spec = importlib.util.find_spec("calvin_agent")
    configs = Path((spec and spec.origin) or "").parents[1] / "conf"
    told = read(configs / "annotations" / "new_playtable_validation.yaml")
    oracle = hydra.utils.instantiate(
        read(configs / "callbacks" / "rollout" / "tasks" / "new_playtable_tasks.yaml")
    )
    words = {str(task): str(texts[0]) for task, texts in told.items()}
    env = environments.get_env(folder, obs_space=CAMERAS, show_gui=False)
    return Setting(env, oracle, words, starts.official_start)
