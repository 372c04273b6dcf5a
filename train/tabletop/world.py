"""The tabletop's state and its kinematics: how a motion of the gripper changes everything else.

Axes as in CALVIN: x to the right, y away from the robot, z up, metres and radians. Nothing has
velocity: a step depends only on the action and the state in `robot_obs` and `scene_obs`, so that
restoring these two vectors restores the world.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COLOURS = ("red", "blue", "pink")  # of the blocks, in the order of scene_obs
STEP_M, STEP_RAD = 0.02, 0.05  # a relative action of 1
LOW = np.array([-0.36, -0.50, 0.37, 2.9, -0.2, -0.3])  # limits of x y z roll pitch yaw
HIGH = np.array([0.36, 0.09, 0.72, 3.14, 0.2, 3.1])
NEUTRAL = np.array([0.03, -0.23, 0.57, 3.09, 0.0, 1.5])  # about the pose at the start of an episode

TABLE_Z = 0.435  # height of the surface
EDGE_Y = -0.22  # front edge of the table
BLOCK = 0.05  # edge of a block
REST_Z = TABLE_Z + BLOCK / 2  # centre of a block on the table; 0.46, as in CALVIN
DRAWER_Z = 0.37  # centre of a block in the drawer
FLOOR_Z = 0.05  # centre of a block that fell beside the table
LOWEST_ON_TABLE = 0.45  # of the tip above the table
# Limits of x and y of pushed blocks, whose edges stay on the table.
ON_TABLE_LOW, ON_TABLE_HIGH = np.array([-0.24, -0.19]), np.array([0.25, 0.05])

OPEN_M, HELD_M, CLOSING_M = 0.08, BLOCK, 0.02  # widths: open, with a block; closed by a step
REACH_M = 0.03  # from the tip to an object that the gripper can grasp

SLIDER_MAX, DRAWER_MAX, SWITCH_MAX, BUTTON_MAX = 0.28, 0.22, 0.088, 0.02
SWITCH_ON, BUTTON_ON = 0.044, 0.012
BUTTON = np.array([-0.29, -0.10])
BUTTON_TOP = 0.47  # height of the tip at which it touches the button

PILLAR_M, GOAL_M = 0.05, 0.03  # radii of the obstacle and of the goal in `go_round`
FINGERS_M = 0.02  # from the tip to the outside of the fingers


@dataclass
class TableWorld:
    """The whole state of the tabletop.

    Attributes:
        tip: pose between the fingertips: x y z, roll pitch yaw; float64 [6].
        width: opening of the gripper, metres, 0 to 0.08; exactly 0.05 while it holds a block.
        command: last gripper command, -1 close or 1 open.
        slider, drawer, button, switch: displacement of each, metres; a slider at 0 is on the right.
        lightbulb, led: 0 off or 1 on.
        blocks: x y z and three angles of the red, blue and pink block; float64 [3, 6].
    """

    tip: Floats = field(default_factory=NEUTRAL.copy)
    width: float = OPEN_M
    command: float = 1.0
    slider: float = 0.0
    drawer: float = 0.0
    button: float = 0.0
    switch: float = 0.0
    lightbulb: float = 0.0
    led: float = 0.0
    blocks: Floats = field(default_factory=lambda: np.zeros((3, 6)))

    @classmethod
    def from_obs(cls, robot_obs: Floats, scene_obs: Floats) -> "TableWorld":
        """The world of two vectors in CALVIN's layout, float64 [15] and [24]."""
        robot, scene = np.asarray(robot_obs, np.float64), np.asarray(scene_obs, np.float64)
        slider, drawer, button, switch, lightbulb, led = scene[:6].tolist()
        return cls(
            robot[:6].copy(), float(robot[6]), float(robot[14]),
            slider, drawer, button, switch, lightbulb, led, scene[6:].reshape(3, 6).copy(),
        )  # fmt: skip

    def robot_obs(self) -> Floats:
        """Pose, width, seven joints (all 0: there is no arm) and the command; float64 [15]."""
        return np.concatenate([self.tip, [self.width], np.zeros(7), [self.command]])

    def scene_obs(self) -> Floats:
        """Slider, drawer, button, switch, lightbulb, LED, then the blocks; float64 [24]."""
        doors = [self.slider, self.drawer, self.button, self.switch, self.lightbulb, self.led]
        return np.concatenate([doors, self.blocks.ravel()])

    def held_block(self) -> int | None:
        """Number of the block that the gripper holds, or None."""
        # Closing fingers stop at exactly this width only around a block.
        return self._block_in_reach() if abs(self.width - HELD_M) < 1e-6 else None

    def handles(self) -> dict[str, Floats]:
        """Positions [3] of the handles of slider, drawer and switch."""
        return {
            "slider": np.array([0.14 - self.slider, 0.06, 0.53]),
            "drawer": np.array([0.0, EDGE_Y - 0.03 - self.drawer, 0.39]),
            "switch": np.array([0.30, 0.0, 0.49 + self.switch]),
        }

    def in_drawer(self, block: int) -> bool:
        """Whether a block lies in the drawer."""
        return self.held_block() != block and abs(float(self.blocks[block, 2]) - DRAWER_Z) < 0.01

    def on_table(self, block: int) -> bool:
        """Whether a block lies on the table itself."""
        return self.held_block() != block and abs(float(self.blocks[block, 2]) - REST_Z) < 0.01

    def move(self, relative: Floats) -> None:
        """Advance by one step of 1/30 s.

        Args:
            relative: [7]: displacement in units of 0.02 m and differences of roll pitch yaw in
                units of 0.05 rad, within -1 and 1; gripper -1 close or 1 open.
        """
        self.command = float(relative[6])
        if self.command > 0:
            self.width = OPEN_M
        # What is grasped is decided before the motion, which moves it.
        held, handle = self.held_block(), self._grasped_handle()
        before, self.tip = self.tip, self._next_tip(relative)
        moved = self.tip - before
        if held is not None:
            self._carry(held, before, moved)
        elif handle:
            self._pull(handle, moved)
        elif self.command < 0:
            self._close()
            if self.width < HELD_M:  # wider fingers pass a block on both sides
                self._push()
        self._press()
        self._settle()

    def _next_tip(self, relative: Floats) -> Floats:
        scale = np.array([STEP_M] * 3 + [STEP_RAD] * 3)
        tip = np.clip(self.tip + scale * relative[:6], LOW, HIGH)
        if tip[1] > EDGE_Y - 0.015 and tip[2] < LOWEST_ON_TABLE:
            if self.tip[1] > EDGE_Y - 0.015:
                tip[2] = LOWEST_ON_TABLE
            else:  # from below, the front edge of the table stops it
                tip[1] = EDGE_Y - 0.015
        return tip

    def _block_in_reach(self) -> int | None:
        apart = np.abs(self.blocks[:, :3] - self.tip[:3]).max(axis=1)
        nearest = int(apart.argmin())
        return nearest if apart[nearest] < REACH_M else None

    def _grasped_handle(self) -> str | None:
        """Name of the handle that a nearly closed gripper holds, or None."""
        if (
            self.command > 0
            or self.width > OPEN_M - 1.5 * CLOSING_M
            or self.held_block() is not None
        ):
            return None
        for name, place in self.handles().items():
            if np.linalg.norm(self.tip[:3] - place) < REACH_M:
                return name
        return None

    def _carry(self, block: int, before: Floats, moved: Floats) -> None:
        # The block keeps its place relative to the gripper, which may turn.
        pose, (c, s) = self.blocks[block], (np.cos(moved[5]), np.sin(moved[5]))
        x, y, z = pose[:3] - before[:3]
        pose[:3] = self.tip[:3] + np.array([c * x - s * y, s * x + c * y, z])
        pose[5] += moved[5]

    def _pull(self, handle: str, moved: Floats) -> None:
        if handle == "slider":
            self.slider = float(np.clip(self.slider - moved[0], 0.0, SLIDER_MAX))
        elif handle == "switch":
            self.switch = float(np.clip(self.switch + moved[2], 0.0, SWITCH_MAX))
            self.lightbulb = float(self.switch > SWITCH_ON)
        else:
            before = self.drawer
            self.drawer = float(np.clip(before - moved[1], 0.0, DRAWER_MAX))
            for block in range(3):
                if self.in_drawer(block):
                    self.blocks[block, 1] -= self.drawer - before
        # A handle is thin: the fingers go on closing.
        self.width = max(0.0, self.width - CLOSING_M)

    def _close(self) -> None:
        width = max(0.0, self.width - CLOSING_M)
        # The fingers meet a block in the step in which they pass its width.
        around = self.width >= HELD_M >= width and self._block_in_reach() is not None
        self.width = HELD_M if around else width

    def _push(self) -> None:
        """Move blocks out of the closed fingers, and other blocks out of those."""
        low = self.blocks[:, 2] < REST_Z - 0.03  # in the drawer, where nothing is pushed
        for one in np.flatnonzero(~low & (abs(self.blocks[:, 2] - self.tip[2]) < 0.035)):
            block = self.blocks[one]
            _push_apart(block, self.tip, (BLOCK / 2 + 0.015, BLOCK / 2 + 0.02))
            for other in range(3):
                if other != one and abs(self.blocks[other, 2] - block[2]) < 0.04:
                    _push_apart(self.blocks[other], block, (BLOCK, BLOCK))

    def _press(self) -> None:
        # The button is a spring: it is as deep as the tip pushes it, and 0 without.
        over = np.linalg.norm(self.tip[:2] - BUTTON) < REACH_M
        depth = float(np.clip(BUTTON_TOP - self.tip[2], 0.0, BUTTON_MAX)) if over else 0.0
        if depth >= BUTTON_ON > self.button:  # once for each press
            self.led = 1.0 - self.led
        self.button = depth

    def _settle(self) -> None:
        """Drop every block that is not held to the surface below it."""
        held = self.held_block()
        # From the lowest up, so that a block comes to rest on one that already rests.
        for block in np.argsort(self.blocks[:, 2]):
            if block != held:
                self.blocks[block, 2] = self._support(int(block), held)

    def _support(self, block: int, held: int | None) -> float:
        x, y, z = self.blocks[block, :3]
        if y < EDGE_Y or z < REST_Z - 0.03:
            # In front of the table: either in the drawer, as far as it is open, or on the floor.
            inside = abs(x) < 0.13 and EDGE_Y - self.drawer < y
            return DRAWER_Z if inside or abs(z - DRAWER_Z) < 0.01 else FLOOR_Z
        below = REST_Z
        for other in range(3):
            place = self.blocks[other, :3]
            lower = other not in (block, held) and place[2] < z - 0.02
            if lower and np.abs(place[:2] - (x, y)).max() < 0.8 * BLOCK:
                below = max(below, float(place[2]) + BLOCK)
        return below


def _push_apart(block: Floats, pusher: Floats, apart: tuple[float, float]) -> None:
    """Move a block out of a pusher, along the axis on which they overlap less."""
    x, y = block[:2] - pusher[:2]
    over_x, over_y = apart[0] - abs(x), apart[1] - abs(y)
    if over_x <= 0 or over_y <= 0:
        return
    if over_x <= over_y:
        block[0] += over_x if x >= 0 else -over_x
    else:
        block[1] += over_y if y >= 0 else -over_y
    block[:2] = np.clip(block[:2], ON_TABLE_LOW, ON_TABLE_HIGH)
