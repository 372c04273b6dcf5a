"""Scripts of the robot miniatures: `script` makes a list of moves that do a task.

A pose of the tool is x y z (m) and roll pitch yaw (rad); roll is not wrapped at pi.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Size = tuple[float, float]

SAFE_Z = 0.19  # above everything that stands on the table


@dataclass(frozen=True)
class Move:
    """A minimum-jerk move to a pose, with a gripper target."""

    seconds: float
    to: Floats  # [6]
    target: float  # 1 open, 0 closed
    closes_to: float = 0.0  # metres between the fingertips when an object stops them


def home() -> Floats:
    """Pose in which the arm waits: in the middle, high, pointing down."""
    return np.array([0.33, 0.0, 0.24, np.pi, 0.0, 0.0])


def _above(point: Floats, metres: float) -> Floats:
    raised: Floats = point + np.array([0.0, 0.0, metres])
    return raised


def _at(xyz: Floats, tilt: Floats, yaw: float) -> Floats:
    return np.array([*xyz, np.pi + tilt[0], tilt[1], yaw])


def script(
    task: str, rng: np.random.Generator, thing: Floats, goal: Floats, size: Size, misses: bool
) -> list[Move]:
    """Moves that do a task.

    Args:
        task: pick, push or put.
        rng: for the pace and the tilts.
        thing: x y z yaw of the object's base.
        goal: x y z of the base when the task is done.
        size: radius and height of the object (m).
        misses: whether the gripper closes beside the object, or passes above it.
    """
    pace = float(rng.uniform(0.75, 0.95))
    tilts = rng.uniform(-0.12, 0.12, (4, 2))
    if task == "push":
        moves = _push(thing, goal, tilts, misses)
    else:
        moves = _grasp(thing, size, tilts, misses)
        moves += _place(goal, size, tilts) if task == "put" else []
    moves += [Move(0.4, moves[-1].to, moves[-1].target, moves[-1].closes_to)]
    return [Move(pace * m.seconds, m.to, m.target, m.closes_to) for m in moves]


def _grasp(thing: Floats, size: Size, tilts: Floats, misses: bool) -> list[Move]:
    """Open above the object, down, close, up."""
    spot = thing[:3] - np.array([0.06 if misses else 0.0, 0.0, 0.0])
    yaw = thing[3]
    above = _at(_above(spot, SAFE_Z), tilts[0], yaw)
    down = _at(_above(spot, 0.6 * size[1]), 0 * tilts[0], yaw)  # upright
    up = _at(_above(spot, SAFE_Z + 0.02), tilts[1], yaw + 0.4 * tilts[2, 0])
    width = 0.0 if misses else 2 * size[0]
    return [
        Move(0.4, home(), 1),
        Move(1.0, above, 1),
        Move(0.7, down, 1),
        Move(0.5, down, 0, width),
        Move(0.8, up, 0, width),
    ]


def _place(goal: Floats, size: Size, tilts: Floats) -> list[Move]:
    """Above the goal, down, open, up."""
    yaw = 0.3 * tilts[3, 0]
    above = _at(_above(goal[:3], SAFE_Z), tilts[2], yaw)
    down = _at(_above(goal[:3], 0.6 * size[1]), 0 * tilts[0], yaw)
    width = 2 * size[0]
    return [
        Move(1.0, above, 0, width),
        Move(0.6, down, 0, width),
        Move(0.4, down, 1),
        Move(0.6, above, 1),
    ]


def _push(thing: Floats, goal: Floats, tilts: Floats, misses: bool) -> list[Move]:
    """Close, down beside the object, sweep, up."""
    side = np.sign(goal[1] - thing[1])
    height = np.array([0, 0, 0.11 if misses else 0.022])
    behind = thing[:3] - (0, 0.075 * side, 0) + height
    # The fingers stop short of the goal by as much as keeps them beside the object.
    ahead = goal[:3] - (0, 0.033 * side, 0) + height
    return [
        Move(0.4, home(), 1),
        Move(1.0, _at(_above(behind, 0.12), tilts[0], 0.0), 0),
        Move(0.6, _at(behind, 0 * tilts[0], 0.0), 0),
        Move(1.0, _at(ahead, 0.5 * tilts[1], 0.4 * tilts[2, 0]), 0),
        Move(0.7, _at(_above(ahead, 0.12), tilts[2], 0.0), 0),
    ]
