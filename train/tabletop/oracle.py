"""Scripted policies: one that knows how to do every task, and one that knows nothing.

Both have the interface that CALVIN's evaluation asks of a model: `reset()` before each task, then
`step(observation, instruction)` gives an action for the environment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from handloom.train.tabletop import tasks
from handloom.train.tabletop import world as w
from handloom.train.tabletop.world import Floats, World

SPEED_M, TURN_RAD = 0.01, 0.04  # most that a step moves and turns; a relative action allows more
FASTER_M = 0.003  # most by which the speed changes from step to step
CLOSE = 5  # steps in which the gripper surely closes
TRAVEL_Z = 0.55  # above everything that stands on the table
ASIDE_M = 0.105  # how far from the pillar's middle the way round it leads


@dataclass(frozen=True)
class Leg:
    """A part of a plan: go somewhere, then wait.

    Attributes:
        to: position, metres.
        gripper: command from the start of the leg on, -1 or 1.
        wait: steps to stay there.
        passing: near enough is there: the arm need not slow down.
        yaw: of the gripper.
    """

    to: tuple[float, float, float]
    gripper: float = 1.0
    wait: int = 0
    passing: bool = False
    yaw: float = float(w.NEUTRAL[5])


class Oracle:
    """Does any of the tabletop's tasks, from what observations say about the state.

    Args:
        seed: of the speed, the side at a pillar and the noise.
        noise: standard deviation of what is added to the six numbers of relative actions, which
            are within -1 and 1.
    """

    def __init__(self, seed: int = 0, noise: float = 0.0) -> None:
        self._rng = np.random.default_rng(seed)
        self._noise = noise
        self.reset()

    def reset(self) -> None:
        """Forget the plan: the next step begins another task."""
        self._legs: list[Leg] = []
        self._planned = False
        self._waited = 0
        self._velocity = np.zeros(3)
        self._speed = SPEED_M * self._rng.uniform(0.8, 1.1)

    @property
    def finished(self) -> bool:
        """Whether the plan is carried out."""
        return self._planned and not self._legs

    def step(self, obs: Mapping[str, Any], instruction: str) -> Floats:
        """The next action, relative: float64 [7].

        Args:
            obs: of TabletopEnv; its two vectors are used, pictures are not.
            instruction: one of the tabletop's, or a task's name.
        """
        world = World.of(obs["robot_obs"], obs["scene_obs"])
        if not self._planned:
            self._legs = plan(tasks.task_of(instruction), world, self._rng)
            self._planned = True
        while self._legs and self._reached(world, self._legs[0]):
            self._last = self._legs.pop(0)
            self._waited = 0
        leg = self._legs[0] if self._legs else self._last
        return self._towards(leg, world)

    def _reached(self, world: World, leg: Leg) -> bool:
        apart = float(np.linalg.norm(world.tip[:3] - leg.to))
        if apart > (0.025 if leg.passing else 0.007) and self._waited == 0:
            return False
        self._waited += 1
        return self._waited > leg.wait

    def _towards(self, leg: Leg, world: World) -> Floats:
        way = np.asarray(leg.to) - world.tip[:3]
        length = float(np.linalg.norm(way))
        most = self._speed if leg.passing else min(self._speed, 0.3 * length + 0.001)
        wanted = way / max(length, 1e-9) * min(most, length)
        self._velocity = self._velocity + np.clip(wanted - self._velocity, -FASTER_M, FASTER_M)
        rest = np.array([w.NEUTRAL[3], w.NEUTRAL[4], leg.yaw])
        turn = np.clip(0.3 * (rest - world.tip[3:]), -TURN_RAD, TURN_RAD)
        action = np.concatenate([self._velocity / w.STEP_M, turn / w.STEP_RAD])
        action += self._noise * self._rng.standard_normal(6)
        return np.append(np.clip(action, -1.0, 1.0), leg.gripper)


class RandomPolicy:
    """Moves about at random: uniform deltas, a gripper that changes its mind now and then."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._gripper = 1.0

    def reset(self) -> None:
        """Nothing to forget."""

    def step(self, obs: Mapping[str, Any], instruction: str) -> Floats:
        """A random relative action; float64 [7]."""
        if self._rng.random() < 0.1:
            self._gripper = -self._gripper
        return np.append(self._rng.uniform(-1.0, 1.0, 6), self._gripper)


def plan(task: str, world: World, rng: np.random.Generator) -> list[Leg]:
    """The legs that do a task from where the world is."""
    x, y, z = world.tip[:3].tolist()
    if task == tasks.GO_ROUND:
        return _round_pillar(world, 1.0 if rng.random() < 0.5 else -1.0)
    if task == "place_in_drawer":
        return _place(world, float(rng.uniform(-0.05, 0.05)))
    legs = []
    if y > 0.02:  # away from what is at the back
        legs.append(Leg((x, y - 0.06, z), passing=True))
        y -= 0.06
    if z < w.REST_Z + 0.05:
        legs.append(Leg((x, y, TRAVEL_Z), passing=True))
    if task in tasks.DOORS:
        return legs + _slide(world, *tasks.DOORS[task])
    if task in tasks.PUSHES:
        return legs + _push(world, *tasks.PUSHES[task])
    if task in tasks.LIFTS:
        return legs + _lift(world, tasks.LIFTS[task])
    name, wanted = tasks.LIGHTS[task]
    return legs + (_press() if name == "led" else _switch(world, wanted))


def _slide(world: World, door: str, way: float) -> list[Leg]:
    x, y, z = world.handles()[door].tolist()
    if door == "slider":
        before, after = (x, y - 0.06, z + 0.02), (0.14 - w.SLIDER_MAX * (way > 0), y, z)
    else:
        before = (x, y, z + 0.08)
        after = (x, w.EDGE_Y - 0.03 - w.DRAWER_MAX * (way > 0), z)
    return [
        Leg(before, passing=True),
        Leg((x, y, z)),
        Leg((x, y, z), -1.0, CLOSE),
        Leg(after, -1.0, 2),
    ]


def _switch(world: World, wanted: int) -> list[Leg]:
    x, y, z = world.handles()["switch"].tolist()
    end = 0.49 + w.SWITCH_MAX * wanted
    return [
        Leg((x, y - 0.06, z), passing=True),
        Leg((x, y, z)),
        Leg((x, y, z), -1.0, CLOSE),
        Leg((x, y, end), -1.0, 2),
    ]


def _press() -> list[Leg]:
    x, y = w.BUTTON.tolist()
    low = w.BUTTON_TOP - w.BUTTON_MAX
    return [
        Leg((x, y, low + 0.08), -1.0, passing=True),
        Leg((x, y, low), -1.0),
        Leg((x, y, low + 0.06), -1.0),
    ]


def _push(world: World, colour: str, way: float) -> list[Leg]:
    x, y, z = world.blocks[w.COLOURS.index(colour), :3].tolist()
    side = float(np.sign(way))
    behind, end = x - side * 0.075, x + way + side * (0.025 - 0.04)
    return [
        Leg((behind, y, z + 0.08), -1.0, passing=True),
        Leg((behind, y, z), -1.0),
        Leg((end, y, z), -1.0, 2),
    ]


def _lift(world: World, colour: str) -> list[Leg]:
    block = world.blocks[w.COLOURS.index(colour)]
    x, y, z = block[:3].tolist()
    quarter = np.pi / 2  # a block looks the same after each
    turned = float((block[5] + quarter / 2) % quarter - quarter / 2)
    yaw = float(w.NEUTRAL[5]) + turned
    return [
        Leg((x, y, z + 0.07), passing=True, yaw=yaw),
        Leg((x, y, z), yaw=yaw),
        Leg((x, y, z), -1.0, CLOSE, yaw=yaw),
        Leg((x, y, z + 0.11), -1.0, 2, yaw=yaw),
    ]


def _place(world: World, aside: float) -> list[Leg]:
    x, y, z = world.tip[:3].tolist()
    over = w.EDGE_Y - 0.55 * world.drawer
    return [
        Leg((x, y, max(z, TRAVEL_Z)), -1.0, passing=True),
        Leg((aside, over, TRAVEL_Z), -1.0, passing=True),
        Leg((aside, over, w.REST_Z), -1.0),
        Leg((aside, over, w.REST_Z), 1.0, 2),
    ]


def _round_pillar(world: World, side: float) -> list[Leg]:
    z = float(world.tip[2])
    (px, py), (gx, gy) = world.blocks[0, :2].tolist(), world.blocks[1, :2].tolist()
    aside = px + side * ASIDE_M
    return [
        Leg((aside, py - 0.035, z), passing=True),
        Leg((aside, py + 0.03, z), passing=True),
        Leg((gx, gy, z), wait=2),
    ]
