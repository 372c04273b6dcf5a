"""The tabletop as an environment with the interface of CALVIN's `PlayTableSimEnv`."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from handloom.errors import UserError
from handloom.train.tabletop import world as w
from handloom.train.tabletop.world import Floats, World

Scene = Literal["play", "go_round"]
Action = NDArray[Any] | Sequence[Any] | Mapping[str, Any]
HZ = 30.0
LANES_Y = (-0.16, -0.09, -0.02)  # one block in each, so that a push meets no other block
STARTS_X = (-0.09, 0.10)


class TabletopEnv:
    """A table with a drawer, a sliding door, a switch, a button and three blocks, at 30 Hz.

    Args:
        render: whether observations hold pictures; without them a step takes a tenth of the time.
        scene: `play`, or `go_round`: a pillar and a goal behind it instead of the blocks. Their
            places are then the first two blocks' x and y in scene_obs.
        seed: of the initial states that `reset()` draws.
    """

    def __init__(self, render: bool = True, scene: Scene = "play", seed: int = 0) -> None:
        self.world = World()
        self.scene = scene
        self.collided = False
        self.renders = render
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Begin the sequence of initial states anew."""
        self._rng = np.random.default_rng(seed)

    def reset(
        self, robot_obs: Floats | None = None, scene_obs: Floats | None = None
    ) -> dict[str, Any]:
        """Put everything where two vectors of an observation say, or at random where None."""
        if robot_obs is None or scene_obs is None:
            robot, scene = initial_state(self._rng, self.scene)
            robot_obs = robot if robot_obs is None else robot_obs
            scene_obs = scene if scene_obs is None else scene_obs
        self.world = World.of(
            _vector("robot_obs", robot_obs, 15), _vector("scene_obs", scene_obs, 24)
        )
        self.collided = self._touches_pillar()
        return self.get_obs()

    def step(self, action: Action) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        """Act for 1/30 s; the gripper is where it was told to be when the step ends.

        Args:
            action: relative, seven numbers: displacement in units of 0.02 m, differences of roll
                pitch yaw in units of 0.05 rad, both clipped to 1, and the gripper, -1 close or 1
                open. Or absolute, a pair of three numbers and a gripper: position, roll pitch
                yaw, gripper; a step goes at most 0.02 m and 0.05 rad along each axis towards it.
                Or a mapping of `type` (cartesian_rel, cartesian_abs) and `action` (seven numbers).

        Returns:
            Observation, reward (always 0), done (always False) and info.
        """
        self.world.move(self._relative(action))
        self.collided = self.collided or self._touches_pillar()
        return self.get_obs(), 0.0, False, self.get_info()

    def get_obs(self) -> dict[str, Any]:
        """What there is to see and to know.

        Returns:
            `robot_obs` float64 [15], `scene_obs` float64 [24], and `rgb_obs` with `rgb_static`
            uint8 [200, 200, 3] and `rgb_gripper` uint8 [84, 84, 3]; empty if nothing is rendered.
        """
        return {
            "rgb_obs": self.pictures() if self.renders else {},
            "robot_obs": self.world.robot_obs(),
            "scene_obs": self.world.scene_obs(),
        }

    def pictures(self) -> dict[str, NDArray[np.uint8]]:
        """What the two cameras see."""
        from handloom.train.tabletop import draw

        goes_round = self.scene == "go_round"
        return {
            "rgb_static": draw.static(self.world, goes_round),
            "rgb_gripper": draw.gripper(self.world, goes_round),
        }

    def render(self, mode: str = "rgb_array") -> NDArray[np.uint8]:
        """The static camera's picture; `mode` is there because CALVIN's has it."""
        return self.pictures()["rgb_static"]

    def get_info(self) -> dict[str, Any]:
        """What the tasks are judged by."""
        world, robot, held = self.world, self.world.robot_obs(), self.world.held()
        blocks = {
            colour: {
                "position": world.blocks[index, :3].copy(),
                "held": held == index,
                "on_table": world.on_table(index),
                "in_drawer": world.in_drawer(index),
            }
            for index, colour in enumerate(w.COLOURS)
        }
        return {
            "robot_info": {
                "tcp_pos": robot[:3],
                "tcp_orn": robot[3:6],
                "gripper_opening_width": world.width,
                "gripper_action": world.command,
            },
            "scene_info": {
                "blocks": blocks,
                "doors": {"slider": world.slider, "drawer": world.drawer},
                "lights": {"lightbulb": world.lightbulb, "led": world.led},
                "at_goal": self.scene == "go_round"
                and _distance(world.tip, world.blocks[1]) < w.GOAL_M,
                "collided": self.collided,
            },
        }

    def _touches_pillar(self) -> bool:
        """The pillar is as high as the gripper can rise: nothing goes over it."""
        if self.scene != "go_round":
            return False
        return _distance(self.world.tip, self.world.blocks[0]) < w.PILLAR_M + w.FINGERS_M

    def _relative(self, action: Action) -> Floats:
        kind = "cartesian_rel"
        if isinstance(action, Mapping):
            kind, action = action["type"], action["action"]
        elif len(action) == 3:
            kind, action = "cartesian_abs", np.concatenate([np.ravel(part) for part in action])
        given = _vector("an action", np.asarray(action, np.float64), 7)
        if given[6] not in (-1.0, 1.0):
            raise UserError(f"the action's gripper is {given[6]:g}, expected -1 close or 1 open.")
        if kind == "cartesian_abs":
            given = relative(given, self.world.tip)
        return np.append(np.clip(given[:6], -1.0, 1.0), given[6])


def relative(absolute: Floats, tip: Floats) -> Floats:
    """The way [7] from a pose [6] to an absolute action [7], in units of 0.02 m and 0.05 rad."""
    turned = (absolute[3:6] - tip[3:6] + np.pi) % (2 * np.pi) - np.pi
    moved = absolute[:3] - tip[:3]
    return np.concatenate([moved / w.STEP_M, turned / w.STEP_RAD, absolute[6:]])


def initial_state(rng: np.random.Generator, scene: Scene = "play") -> tuple[Floats, Floats]:
    """A random start, robot_obs [15] and scene_obs [24]: the gripper open, about above the front.

    In `play` doors and lights are at either end and the blocks on the table, one in each lane.
    """
    world = World(tip=w.NEUTRAL + rng.uniform(-1, 1, 6) * [0.08, 0.03, 0.05, 0.03, 0.03, 0.1])
    if scene == "go_round":
        return _behind_pillar(world, rng)
    world.slider = w.SLIDER_MAX * rng.integers(2)
    world.drawer = w.DRAWER_MAX * rng.integers(2)
    world.switch = w.SWITCH_MAX * (lit := float(rng.integers(2)))
    world.lightbulb, world.led = lit, float(rng.integers(2))
    world.blocks = blocks_in_lanes(rng)
    return world.robot_obs(), world.scene_obs()


def blocks_in_lanes(rng: np.random.Generator) -> Floats:
    """Three blocks on the table, [3, 6], somewhere along a lane each, slightly turned."""
    blocks = np.zeros((3, 6))
    blocks[:, 0] = rng.uniform(*STARTS_X, 3)
    blocks[:, 1] = rng.permutation(LANES_Y) + rng.uniform(-0.006, 0.006, 3)
    blocks[:, 2], blocks[:, 5] = w.REST_Z, rng.uniform(-np.pi / 8, np.pi / 8, 3)
    return blocks


def _behind_pillar(world: World, rng: np.random.Generator) -> tuple[Floats, Floats]:
    world.tip[:3] = [0.0, -0.2, 0.49]
    world.tip[:3] += rng.uniform(-1, 1, 3) * [0.015, 0.01, 0.01]
    world.blocks[:, 2] = w.FLOOR_Z  # far below: nothing can touch them, only x and y count
    world.blocks[:2, :2] = [(0.0, -0.075), (0.0, 0.05)]
    world.blocks[:2, :2] += rng.uniform(-0.01, 0.01, (2, 2))
    return world.robot_obs(), world.scene_obs()


def _distance(one: Floats, other: Floats) -> float:
    """Seen from above."""
    return float(np.hypot(*(one[:2] - other[:2])))


def _vector(name: str, given: Any, width: int) -> Floats:
    values = np.asarray(given, np.float64)
    if values.shape != (width,) or not np.isfinite(values).all():
        raise UserError(
            f"{name} is {np.array2string(values, threshold=16, precision=3)}, expected {width} "
            "finite numbers."
        )
    return values
