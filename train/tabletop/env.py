"""The tabletop as an environment with the interface of CALVIN's `PlayTableSimEnv`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.errors import UserError
from handloom.train.tabletop import touching
from handloom.train.tabletop import world as w
from handloom.train.tabletop.tasks import Scene
from handloom.train.tabletop.world import Floats, TableWorld

Action = NDArray[Any] | Sequence[Any] | Mapping[str, Any]
HZ = 30.0
LANES_Y = (-0.16, -0.09, -0.02)  # one block in each: a push along a lane meets no other block
STARTS_X = (-0.09, 0.10)


class TabletopEnv:
    """A table with a drawer, a sliding door, a switch, a button and three blocks, at 30 Hz.

    Args:
        render: whether observations hold images: 5 ms a step instead of 0.05.
        scene: `play`; `go_round` with a pillar and a goal behind it instead of the blocks, whose
            places are then the x and y of the first two blocks in scene_obs; or `touch`, see
            touching.py.
        seed: for the initial states that `reset()` draws.
    """

    def __init__(self, render: bool = True, scene: Scene = "play", seed: int = 0) -> None:
        self.world = TableWorld()
        self.scene = scene
        self.collided = False
        self.touched_first: str | None = None  # colour of the block that was touched first
        self.renders = render
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Restart the sequence of initial states."""
        self._rng = np.random.default_rng(seed)

    def reset(
        self, robot_obs: Floats | None = None, scene_obs: Floats | None = None
    ) -> dict[str, Any]:
        """Restore the state of two observation vectors, or a random one for None."""
        if robot_obs is None or scene_obs is None:
            robot, scene = initial_state(self._rng, self.scene)
            robot_obs = robot if robot_obs is None else robot_obs
            scene_obs = scene if scene_obs is None else scene_obs
        self.world = TableWorld.from_obs(
            _vector("robot_obs", robot_obs, 15), _vector("scene_obs", scene_obs, 24)
        )
        self.collided, self.touched_first = self._hits_pillar(), None
        self._note_touch()
        return self.get_obs()

    def step(self, action: Action) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        """Act for 1/30 s; the gripper reaches its commanded pose within the step.

        Args:
            action: relative, seven numbers: displacement in units of 0.02 m, differences of roll
                pitch yaw in units of 0.05 rad, both clipped to 1, and the gripper, -1 close or 1
                open. Or absolute, a triple of position, roll pitch yaw and gripper, towards which a
                step moves at most 0.02 m and 0.05 rad along each axis. Or a mapping of `type`
                (cartesian_rel, cartesian_abs) and `action` (seven numbers).

        Returns:
            Observation, reward (always 0), done (always False) and info.
        """
        self.world.move(self._to_relative(action))
        self.collided = self.collided or self._hits_pillar()
        self._note_touch()
        return self.get_obs(), 0.0, False, self.get_info()

    def get_obs(self) -> dict[str, Any]:
        """The observation.

        Returns:
            `robot_obs` float64 [15], `scene_obs` float64 [24], and `rgb_obs` with `rgb_static`
            uint8 [200, 200, 3] and `rgb_gripper` uint8 [84, 84, 3]; empty if nothing is rendered.
        """
        return {
            "rgb_obs": self.images() if self.renders else {},
            "robot_obs": self.world.robot_obs(),
            "scene_obs": self.world.scene_obs(),
        }

    def images(self) -> dict[str, NDArray[np.uint8]]:
        """Images of the two cameras."""
        from handloom.train.tabletop import render

        goes_round, near = self.scene == "go_round", self.scene == "touch"
        return {
            "rgb_static": render.static_view(self.world, goes_round, near),
            "rgb_gripper": render.gripper_view(self.world, goes_round),
        }

    def render(self, mode: str = "rgb_array") -> NDArray[np.uint8]:
        """Image of the static camera; `mode` exists because CALVIN's method has it."""
        return self.images()["rgb_static"]

    def get_info(self) -> dict[str, Any]:
        """The facts by which tasks are judged."""
        world, robot, held_block = self.world, self.world.robot_obs(), self.world.held_block()
        blocks = {
            colour: {
                "position": world.blocks[index, :3].copy(),
                "held": held_block == index,
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
                "touched_first": self.touched_first,
            },
        }

    def _note_touch(self) -> None:
        touched = touching.touched(self.world) if self.scene == "touch" else None
        if touched is not None and self.touched_first is None:
            self.touched_first = w.COLOURS[touched]

    def _hits_pillar(self) -> bool:
        """Whether the gripper is at the pillar, which is as high as the gripper can rise."""
        if self.scene != "go_round":
            return False
        return _distance(self.world.tip, self.world.blocks[0]) < w.PILLAR_M + w.FINGERS_M

    def _to_relative(self, action: Action) -> Floats:
        kind = "cartesian_rel"
        if isinstance(action, Mapping):
            kind, action = action["type"], action["action"]
        elif len(action) == 3:
            kind, action = "cartesian_abs", np.concatenate([np.ravel(part) for part in action])
        values = _vector("an action", np.asarray(action, np.float64), 7)
        if values[6] not in (-1.0, 1.0):
            raise UserError(f"the action's gripper is {values[6]:g}, expected -1 close or 1 open.")
        if kind == "cartesian_abs":
            values = relative_action(values, self.world.tip)
        return np.append(np.clip(values[:6], -1.0, 1.0), values[6])


def relative_action(absolute: Floats, tip: Floats) -> Floats:
    """The step [7] from a pose [6] to an absolute action [7], in units of 0.02 m and 0.05 rad."""
    # Differences of angles are taken the short way round.
    turned = (absolute[3:6] - tip[3:6] + np.pi) % (2 * np.pi) - np.pi
    moved = absolute[:3] - tip[:3]
    return np.concatenate([moved / w.STEP_M, turned / w.STEP_RAD, absolute[6:]])


def initial_state(rng: np.random.Generator, scene: Scene = "play") -> tuple[Floats, Floats]:
    """A random start, robot_obs [15] and scene_obs [24], with the open gripper above the front.

    In `play` doors and lights are in either state, and the blocks on the table, one in each lane.
    """
    if scene == "touch":
        return touching.start(rng)
    world = TableWorld(tip=w.NEUTRAL + rng.uniform(-1, 1, 6) * [0.08, 0.03, 0.05, 0.03, 0.03, 0.1])
    if scene == "go_round":
        return _start_before_pillar(world, rng)
    world.slider = w.SLIDER_MAX * rng.integers(2)
    world.drawer = w.DRAWER_MAX * rng.integers(2)
    world.switch = w.SWITCH_MAX * (lit := float(rng.integers(2)))
    world.lightbulb, world.led = lit, float(rng.integers(2))
    world.blocks = blocks_in_lanes(rng)
    return world.robot_obs(), world.scene_obs()


def blocks_in_lanes(rng: np.random.Generator) -> Floats:
    """Poses [3, 6] of three blocks on the table, one in each lane, slightly turned."""
    blocks = np.zeros((3, 6))
    blocks[:, 0] = rng.uniform(*STARTS_X, 3)
    blocks[:, 1] = rng.permutation(LANES_Y) + rng.uniform(-0.006, 0.006, 3)
    blocks[:, 2], blocks[:, 5] = w.REST_Z, rng.uniform(-np.pi / 8, np.pi / 8, 3)
    return blocks


def _start_before_pillar(world: TableWorld, rng: np.random.Generator) -> tuple[Floats, Floats]:
    world.tip[:3] = [0.0, -0.2, 0.49]
    world.tip[:3] += rng.uniform(-1, 1, 3) * [0.015, 0.01, 0.01]
    world.blocks[:, 2] = w.FLOOR_Z  # far below: nothing can touch them, only x and y count
    world.blocks[:2, :2] = [(0.0, -0.075), (0.0, 0.05)]
    world.blocks[:2, :2] += rng.uniform(-0.01, 0.01, (2, 2))
    return world.robot_obs(), world.scene_obs()


def _distance(one: Floats, other: Floats) -> float:
    """Distance in x and y."""
    return float(np.hypot(*(one[:2] - other[:2])))


def _vector(name: str, given: Any, width: int) -> Floats:
    values = np.asarray(given, np.float64)
    if values.shape != (width,) or not np.isfinite(values).all():
        raise UserError(
            f"{name} is {np.array2string(values, threshold=16, precision=3)}, expected {width} "
            "finite numbers."
        )
    return values
