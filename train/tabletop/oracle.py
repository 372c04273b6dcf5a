"""Scripted policies: `Oracle` does every task of the tabletop, `RandomPolicy` moves at random.

Both have the interface of a model in CALVIN's evaluation: `reset()` before each task, then
`step(observation, instruction)` returns an action for the environment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from handloom.train.tabletop import tasks, touching
from handloom.train.tabletop import world as w
from handloom.train.tabletop.world import Floats, TableWorld

MAX_SPEED_M, MAX_TURN_RAD = 0.01, 0.04  # a step, less than a relative action allows
MAX_ACCEL_M = 0.003  # from step to step
CLOSE_STEPS = 5  # in which the gripper surely closes
TRAVEL_Z = 0.55  # above everything on the table
ASIDE_M = 0.105  # distance from the pillar's axis when passing it


@dataclass(frozen=True)
class Waypoint:
    """A part of a plan: move to a position, then wait.

    Attributes:
        to: position, metres.
        gripper: command on the way and there, -1 close or 1 open.
        wait: steps to wait there.
        passing: whether to pass nearby without slowing down.
        yaw: of the gripper, rad.
    """

    to: tuple[float, float, float]
    gripper: float = 1.0
    wait: int = 0
    passing: bool = False
    yaw: float = float(w.NEUTRAL[5])


class Oracle:
    """Does any task of the tabletop from the state in the observations.

    Args:
        seed: for the speed, the side of a pillar and the noise.
        noise: standard deviation of the noise on the six motion numbers of a relative action, which
            are within -1 and 1; one for all, or one for each.
    """

    def __init__(self, seed: int = 0, noise: float | Floats = 0.0) -> None:
        self._rng = np.random.default_rng(seed)
        self._noise = noise
        self.reset()

    def reset(self) -> None:
        """Drop the plan: the next step begins another task."""
        self._waypoints: list[Waypoint] = []
        self._planned = False
        self._waited = 0
        self._velocity = np.zeros(3)
        self._speed = MAX_SPEED_M * self._rng.uniform(0.8, 1.1)

    @property
    def finished(self) -> bool:
        """Whether all waypoints are reached."""
        return self._planned and not self._waypoints

    def step(self, obs: Mapping[str, Any], instruction: str) -> Floats:
        """The next relative action, float64 [7].

        Args:
            obs: of TabletopEnv; only its two vectors are used.
            instruction: of the tabletop, or the name of a task.
        """
        world = TableWorld.from_obs(obs["robot_obs"], obs["scene_obs"])
        if not self._planned:
            self._waypoints = plan(tasks.task_of(instruction), world, self._rng)
            self._planned = True
        while self._waypoints and self._is_reached(world, self._waypoints[0]):
            self._last = self._waypoints.pop(0)
            self._waited = 0
        waypoint = self._waypoints[0] if self._waypoints else self._last
        return self._action_towards(waypoint, world)

    def _is_reached(self, world: TableWorld, waypoint: Waypoint) -> bool:
        apart = float(np.linalg.norm(world.tip[:3] - waypoint.to))
        # Metres; once reached, a waypoint stays reached while the arm waits there.
        if apart > (0.025 if waypoint.passing else 0.007) and self._waited == 0:
            return False
        self._waited += 1
        return self._waited > waypoint.wait

    def _action_towards(self, waypoint: Waypoint, world: TableWorld) -> Floats:
        way = np.asarray(waypoint.to) - world.tip[:3]
        length = float(np.linalg.norm(way))
        # Slows down in proportion to the distance, unless it only passes.
        max_speed = self._speed if waypoint.passing else min(self._speed, 0.3 * length + 0.001)
        # 1e-9: no way, no division by 0.
        wanted = way / max(length, 1e-9) * min(max_speed, length)
        self._velocity = self._velocity + np.clip(
            wanted - self._velocity, -MAX_ACCEL_M, MAX_ACCEL_M
        )
        rest = np.array([w.NEUTRAL[3], w.NEUTRAL[4], waypoint.yaw])
        turn = np.clip(0.3 * (rest - world.tip[3:]), -MAX_TURN_RAD, MAX_TURN_RAD)
        action = np.concatenate([self._velocity / w.STEP_M, turn / w.STEP_RAD])
        action += self._noise * self._rng.standard_normal(6)
        return np.append(np.clip(action, -1.0, 1.0), waypoint.gripper)


class RandomPolicy:
    """Random actions: uniform deltas, and a gripper that switches in one step of ten."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._gripper = 1.0

    def reset(self) -> None:
        """Does nothing: there is no state."""

    def step(self, obs: Mapping[str, Any], instruction: str) -> Floats:
        """A random relative action; float64 [7]."""
        if self._rng.random() < 0.1:
            self._gripper = -self._gripper
        return np.append(self._rng.uniform(-1.0, 1.0, 6), self._gripper)


def plan(task: str, world: TableWorld, rng: np.random.Generator) -> list[Waypoint]:
    """The waypoints that do a task from the present state."""
    x, y, z = world.tip[:3].tolist()
    if task == tasks.GO_ROUND:
        return _round_pillar(world, 1.0 if rng.random() < 0.5 else -1.0)
    if task == "place_in_drawer":
        return _place(world, float(rng.uniform(-0.05, 0.05)))
    waypoints = []
    # A new task begins where the last one ended, perhaps inside a handle.
    if y > 0.02:  # away from the cabinet at the back
        waypoints.append(Waypoint((x, y - 0.06, z), passing=True))
        y -= 0.06
    if z < w.REST_Z + 0.05:
        waypoints.append(Waypoint((x, y, TRAVEL_Z), passing=True))
    if task in tasks.DOORS:
        return waypoints + _slide(world, *tasks.DOORS[task])
    if task in tasks.PUSHES:
        return waypoints + _push(world, *tasks.PUSHES[task])
    if task in tasks.LIFTS:
        return waypoints + _lift(world, tasks.LIFTS[task])
    if task in tasks.TOUCHES:
        return _touch(world, tasks.TOUCHES[task])
    name, wanted = tasks.LIGHTS[task]
    return waypoints + (_press() if name == "led" else _switch(world, wanted))


def _slide(world: TableWorld, door: str, way: float) -> list[Waypoint]:
    x, y, z = world.handles()[door].tolist()
    if door == "slider":
        before, after = (x, y - 0.06, z + 0.02), (0.14 - w.SLIDER_MAX * (way > 0), y, z)
    else:
        before = (x, y, z + 0.08)
        after = (x, w.EDGE_Y - 0.03 - w.DRAWER_MAX * (way > 0), z)
    return [
        Waypoint(before, passing=True),
        Waypoint((x, y, z)),
        Waypoint((x, y, z), -1.0, CLOSE_STEPS),
        Waypoint(after, -1.0, 2),
    ]


def _switch(world: TableWorld, wanted: int) -> list[Waypoint]:
    x, y, z = world.handles()["switch"].tolist()
    end = 0.49 + w.SWITCH_MAX * wanted
    return [
        Waypoint((x, y - 0.06, z), passing=True),
        Waypoint((x, y, z)),
        Waypoint((x, y, z), -1.0, CLOSE_STEPS),
        Waypoint((x, y, end), -1.0, 2),
    ]


def _press() -> list[Waypoint]:
    x, y = w.BUTTON.tolist()
    low = w.BUTTON_TOP - w.BUTTON_MAX
    return [
        Waypoint((x, y, low + 0.08), -1.0, passing=True),
        Waypoint((x, y, low), -1.0),
        Waypoint((x, y, low + 0.06), -1.0),
    ]


def _push(world: TableWorld, colour: str, way: float) -> list[Waypoint]:
    x, y, z = world.blocks[w.COLOURS.index(colour), :3].tolist()
    side = float(np.sign(way))
    behind, end = x - side * 0.075, x + way + side * (0.025 - 0.04)
    return [
        Waypoint((behind, y, z + 0.08), -1.0, passing=True),
        Waypoint((behind, y, z), -1.0),
        Waypoint((end, y, z), -1.0, 2),
    ]


def _touch(world: TableWorld, colour: str) -> list[Waypoint]:
    x, y, _ = world.blocks[w.COLOURS.index(colour), :3].tolist()
    z = touching.TOP_Z + 0.5 * touching.ABOVE_M
    return [Waypoint((x, y, z + 0.05), -1.0, passing=True), Waypoint((x, y, z), -1.0)]


def _lift(world: TableWorld, colour: str) -> list[Waypoint]:
    block = world.blocks[w.COLOURS.index(colour)]
    x, y, z = block[:3].tolist()
    quarter = np.pi / 2  # a block is symmetric under it
    turned = float((block[5] + quarter / 2) % quarter - quarter / 2)
    yaw = float(w.NEUTRAL[5]) + turned
    return [
        Waypoint((x, y, z + 0.07), passing=True, yaw=yaw),
        Waypoint((x, y, z), yaw=yaw),
        Waypoint((x, y, z), -1.0, CLOSE_STEPS, yaw=yaw),
        Waypoint((x, y, z + 0.11), -1.0, 2, yaw=yaw),
    ]


def _place(world: TableWorld, aside: float) -> list[Waypoint]:
    x, y, z = world.tip[:3].tolist()
    over = w.EDGE_Y - 0.55 * world.drawer
    return [
        Waypoint((x, y, max(z, TRAVEL_Z)), -1.0, passing=True),
        Waypoint((aside, over, TRAVEL_Z), -1.0, passing=True),
        Waypoint((aside, over, w.REST_Z), -1.0),
        Waypoint((aside, over, w.REST_Z), 1.0, 2),
    ]


def _round_pillar(world: TableWorld, side: float) -> list[Waypoint]:
    z = float(world.tip[2])
    (px, py), (gx, gy) = world.blocks[0, :2].tolist(), world.blocks[1, :2].tolist()
    aside = px + side * ASIDE_M
    return [
        Waypoint((aside, py - 0.035, z), passing=True),
        Waypoint((aside, py + 0.03, z), passing=True),
        Waypoint((gx, gy, z), wait=2),
    ]
