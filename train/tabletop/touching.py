"""The scene `touch`: which block is touched first decides, so that eyes and words are needed.

Three blocks lie anywhere on the table, every door and light is anywhere on its way, and the closed
gripper begins anywhere in front. A camera looks at the table top from nearer than CALVIN's.
"""

import numpy as np

from handloom.train.tabletop import world as w
from handloom.train.tabletop.world import Floats, TableWorld

LOW, HIGH = np.array([-0.17, -0.18]), np.array([0.17, 0.03])  # x and y of the blocks
APART_M = 0.1  # between the centres of two blocks
START = w.NEUTRAL - np.array([0.0, 0.06, 0.0, 0.0, 0.0, 0.0])
# Numbers of a pose that change. The gripper never turns: else half of an action's numbers would be
# noise that nothing explains.
MOVES = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
SPREAD = np.array([0.15, 0.04, 0.05, 0.0, 0.0, 0.0])  # of the gripper's pose at the start
# From the tip to the centre of a block that the fingers touch, along x and y.
ASIDE_M = w.BLOCK / 2 + w.FINGERS_M
TOP_Z = w.TABLE_Z + w.BLOCK  # upper face of a block
ABOVE_M = 0.02  # height of the tip over a block that it touches

EYE, TARGET = np.array([0.0, -0.62, 1.25]), np.array([0.0, -0.075, 0.45])
FOV = np.radians(27.0)


def start(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A random start: robot_obs [15] and scene_obs [24]."""
    world = TableWorld(tip=START + rng.uniform(-1, 1, 6) * SPREAD, width=0.0, command=-1.0)
    world.slider = rng.uniform(0, w.SLIDER_MAX)
    world.drawer = rng.uniform(0, w.DRAWER_MAX)
    world.switch = rng.uniform(0, w.SWITCH_MAX)
    world.lightbulb, world.led = float(world.switch > w.SWITCH_ON), float(rng.integers(2))
    world.blocks[:, :2] = places(rng)
    world.blocks[:, 2], world.blocks[:, 5] = w.REST_Z, rng.uniform(-np.pi / 8, np.pi / 8, 3)
    return world.robot_obs(), world.scene_obs()


def places(rng: np.random.Generator) -> Floats:
    """Places of three blocks that do not touch each other: x and y, [3, 2]."""
    while True:
        found = rng.uniform(LOW, HIGH, (3, 2))
        apart = [np.linalg.norm(found[i] - found[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        if min(apart) > APART_M:
            return found


def touched(world: TableWorld) -> int | None:
    """Number of the block that the tip touches, or None."""
    if world.tip[2] > TOP_Z + ABOVE_M:
        return None
    aside = np.abs(world.blocks[:, :2] - world.tip[:2]).max(axis=1)
    nearest = int(aside.argmin())
    return nearest if aside[nearest] < ASIDE_M else None
