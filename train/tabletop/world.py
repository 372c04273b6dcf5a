"""The tabletop's state and its kinematics: what a gripper's move does to everything else.

Axes as in CALVIN: x to the right, y away from the robot, z up, metres and radians. Nothing has
velocity; what a step does follows from the state that `robot_obs` and `scene_obs` hold and from the
action alone, so that restoring these two restores the world.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COLOURS = ("red", "blue", "pink")  # of the blocks, in the order of scene_obs
STEP_M, STEP_RAD = 0.02, 0.05  # a relative action of 1
LOW = np.array([-0.36, -0.50, 0.37, 2.9, -0.2, -0.3])  # of x y z roll pitch yaw
HIGH = np.array([0.36, 0.09, 0.72, 3.14, 0.2, 3.1])
NEUTRAL = np.array([0.03, -0.23, 0.57, 3.09, 0.0, 1.5])  # where an episode starts, about

TABLE_Z = 0.435  # of the surface
EDGE_Y = -0.22  # the table's front
BLOCK = 0.05  # edge of a block
REST_Z = TABLE_Z + BLOCK / 2  # 0.46, as in CALVIN
DRAWER_Z = 0.37  # of a block's centre in the drawer
FLOOR_Z = 0.05  # of a block that fell beside the table
LOWEST_ON_TABLE = 0.45  # of the gripper's tip
ON_TABLE_LOW, ON_TABLE_HIGH = np.array([-0.24, -0.19]), np.array([0.25, 0.05])  # pushed blocks

OPEN_M, HELD_M, CLOSING_M = 0.08, BLOCK, 0.02  # widths; how much a step closes
REACH_M = 0.03  # from the tip to what the gripper closes around

SLIDER_MAX, DRAWER_MAX, SWITCH_MAX, BUTTON_MAX = 0.28, 0.22, 0.088, 0.02
SWITCH_ON, BUTTON_ON = 0.044, 0.012
BUTTON = np.array([-0.29, -0.10])
BUTTON_TOP = 0.47  # height of the tip at which the button begins to give way

PILLAR_M, GOAL_M = 0.05, 0.03  # radii of the obstacle and of the goal in `go_round`
FINGERS_M = 0.02  # from the tip to the outside of the fingers


@dataclass
class World:
    """Everything there is.

    Attributes:
        tip: pose between the finger tips: x y z, roll pitch yaw; float64 [6].
        width: of the gripper, metres, 0 closed to 0.08; 0.05 exactly while it holds a block.
        command: the last one, -1 close or 1 open.
        slider, drawer, button, switch: how far each is moved, metres; a slider of 0 is right.
        lightbulb, led: 0 or 1.
        blocks: x y z and three angles of red, blue and pink; float64 [3, 6].
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
    def of(cls, robot_obs: Floats, scene_obs: Floats) -> "World":
        """The world of two vectors in CALVIN's layout, [15] and [24]."""
        robot, scene = np.asarray(robot_obs, np.float64), np.asarray(scene_obs, np.float64)
        slider, drawer, button, switch, lightbulb, led = scene[:6].tolist()
        return cls(
            robot[:6].copy(), float(robot[6]), float(robot[14]),
            slider, drawer, button, switch, lightbulb, led, scene[6:].reshape(3, 6).copy(),
        )  # fmt: skip

    def robot_obs(self) -> Floats:
        """Pose, width, seven joints (all 0, for there is no arm) and the command; float64 [15]."""
        return np.concatenate([self.tip, [self.width], np.zeros(7), [self.command]])

    def scene_obs(self) -> Floats:
        """Slider, drawer, button, switch, lightbulb, LED, then the blocks; float64 [24]."""
        doors = [self.slider, self.drawer, self.button, self.switch, self.lightbulb, self.led]
        return np.concatenate([doors, self.blocks.ravel()])

    def held(self) -> int | None:
        """Which block the gripper holds."""
        return self._within_reach() if abs(self.width - HELD_M) < 1e-6 else None

    def handles(self) -> dict[str, Floats]:
        """Where slider, drawer and switch are to be taken hold of."""
        return {
            "slider": np.array([0.14 - self.slider, 0.06, 0.53]),
            "drawer": np.array([0.0, EDGE_Y - 0.03 - self.drawer, 0.39]),
            "switch": np.array([0.30, 0.0, 0.49 + self.switch]),
        }

    def in_drawer(self, block: int) -> bool:
        """Whether a block lies in the drawer."""
        return self.held() != block and abs(float(self.blocks[block, 2]) - DRAWER_Z) < 0.01

    def on_table(self, block: int) -> bool:
        """Whether a block lies on the table itself."""
        return self.held() != block and abs(float(self.blocks[block, 2]) - REST_Z) < 0.01

    def move(self, relative: Floats) -> None:
        """One step of 1/30 s.

        Args:
            relative: [7]: displacement in units of 0.02 m and differences of roll pitch yaw in
                units of 0.05 rad, within -1 and 1; -1 closes the gripper, 1 opens it.
        """
        self.command = float(relative[6])
        if self.command > 0:
            self.width = OPEN_M
        held, handle = self.held(), self._handle()
        before, self.tip = self.tip, self._reached(relative)
        moved = self.tip - before
        if held is not None:
            self._carry(held, before, moved)
        elif handle:
            self._pull(handle, moved)
        elif self.command < 0:
            self._close()
            if self.width < HELD_M:
                self._push()
        self._press()
        self._settle()

    def _reached(self, relative: Floats) -> Floats:
        scale = np.array([STEP_M] * 3 + [STEP_RAD] * 3)
        tip = np.clip(self.tip + scale * relative[:6], LOW, HIGH)
        if tip[1] > EDGE_Y - 0.015 and tip[2] < LOWEST_ON_TABLE:
            if self.tip[1] > EDGE_Y - 0.015:
                tip[2] = LOWEST_ON_TABLE
            else:  # from below, the table's front stops it
                tip[1] = EDGE_Y - 0.015
        return tip

    def _within_reach(self) -> int | None:
        apart = np.abs(self.blocks[:, :3] - self.tip[:3]).max(axis=1)
        nearest = int(apart.argmin())
        return nearest if apart[nearest] < REACH_M else None

    def _handle(self) -> str | None:
        """What a gripper that is nearly closed has hold of."""
        if self.command > 0 or self.width > OPEN_M - 1.5 * CLOSING_M or self.held() is not None:
            return None
        for name, place in self.handles().items():
            if np.linalg.norm(self.tip[:3] - place) < REACH_M:
                return name
        return None

    def _carry(self, block: int, before: Floats, moved: Floats) -> None:
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
        self.width = max(0.0, self.width - CLOSING_M)

    def _close(self) -> None:
        width = max(0.0, self.width - CLOSING_M)
        around = self.width >= HELD_M >= width and self._within_reach() is not None
        self.width = HELD_M if around else width

    def _push(self) -> None:
        """Move the blocks that closed fingers would overlap, and those that these overlap."""
        low = self.blocks[:, 2] < REST_Z - 0.03  # in the drawer, where nothing is pushed
        for one in np.flatnonzero(~low & (abs(self.blocks[:, 2] - self.tip[2]) < 0.035)):
            block = self.blocks[one]
            _part(block, self.tip, (BLOCK / 2 + 0.015, BLOCK / 2 + 0.02))
            for other in range(3):
                if other != one and abs(self.blocks[other, 2] - block[2]) < 0.04:
                    _part(self.blocks[other], block, (BLOCK, BLOCK))

    def _press(self) -> None:
        over = np.linalg.norm(self.tip[:2] - BUTTON) < REACH_M
        depth = float(np.clip(BUTTON_TOP - self.tip[2], 0.0, BUTTON_MAX)) if over else 0.0
        if depth >= BUTTON_ON > self.button:
            self.led = 1.0 - self.led
        self.button = depth

    def _settle(self) -> None:
        """Let every block that is not held drop to what is below it."""
        held = self.held()
        for block in np.argsort(self.blocks[:, 2]):
            if block != held:
                self.blocks[block, 2] = self._support(int(block), held)

    def _support(self, block: int, held: int | None) -> float:
        x, y, z = self.blocks[block, :3]
        if y < EDGE_Y or z < REST_Z - 0.03:
            inside = abs(x) < 0.13 and EDGE_Y - self.drawer < y
            return DRAWER_Z if inside or abs(z - DRAWER_Z) < 0.01 else FLOOR_Z
        below = REST_Z
        for other in range(3):
            place = self.blocks[other, :3]
            lower = other not in (block, held) and place[2] < z - 0.02
            if lower and np.abs(place[:2] - (x, y)).max() < 0.8 * BLOCK:
                below = max(below, float(place[2]) + BLOCK)
        return below


def _part(block: Floats, pusher: Floats, apart: tuple[float, float]) -> None:
    """Move a block out of a pusher along the axis on which they overlap less."""
    x, y = block[:2] - pusher[:2]
    over_x, over_y = apart[0] - abs(x), apart[1] - abs(y)
    if over_x <= 0 or over_y <= 0:
        return
    if over_x <= over_y:
        block[0] += over_x if x >= 0 else -over_x
    else:
        block[1] += over_y if y >= 0 else -over_y
    block[:2] = np.clip(block[:2], ON_TABLE_LOW, ON_TABLE_HIGH)
