"""Joint positions in radians, whichever unit a source stores.

Sources that hold joints rarely say in which unit. Joints of an arm turn by one revolution or two,
so that numbers beyond 7 are no radians.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from handloom.tokenize.shards.format import ARM

Floats = NDArray[np.float32]
JointUnit = Literal["radians", "degrees"]

MAX_RAD = 7.0
"""Joints reach 2 pi at most in either direction, but for offsets of calibration."""

_GRIPPER = re.compile(r"grip|jaw|finger|claw", re.IGNORECASE)


@dataclass(frozen=True)
class Joints:
    """State [T, S] and action [T, A] of `joints` in radians.

    Attributes:
        state: float32.
        action: float32.
        grippers: columns of the state that are grippers.
        facts: in which unit they were stored, if they were not in radians or that was guessed.
    """

    state: Floats
    action: Floats
    grippers: tuple[int, ...]
    facts: dict[str, str] = field(default_factory=dict)


def in_radians(
    state: Floats,
    action: Floats,
    unit: JointUnit | Literal["auto"],
    state_names: Sequence[str] = (),
    action_names: Sequence[str] = (),
    largest: float | None = None,
) -> Joints:
    """Joints and grippers as the convention has them.

    Grippers beside joints in degrees are percent, 0 closed to 100 open, as LeRobot records both;
    beside radians they stay as they are.

    Args:
        state: float32 [T, S] as stored.
        action: float32 [T, A] as stored.
        unit: of the joints; `auto` guesses it from the numbers.
        state_names: of the state's columns, where the source has any.
        action_names: of the action's columns, likewise.
        largest: the largest joint of the whole dataset, for the guess; by default that of this
            episode.
    """
    grippers = gripper_columns(state_names, state.shape[1])
    others = gripper_columns(action_names, action.shape[1])
    facts = {}
    if unit == "auto":
        if largest is None:
            largest = max(largest_joint(state, grippers), largest_joint(action, others))
        unit = guess(largest)
        facts = {"joint_unit": f"{unit}, guessed: the largest joint is {largest:.1f}"}
    if unit == "radians":
        return Joints(state, action, grippers, facts)
    facts = facts or {"joint_unit": unit}
    return Joints(_from_degrees(state, grippers), _from_degrees(action, others), grippers, facts)


def guess(largest: float) -> JointUnit:
    """The unit of joints of which the largest is known."""
    return "degrees" if largest > MAX_RAD else "radians"


def largest_joint(values: Floats, grippers: Sequence[int]) -> float:
    """Largest absolute value in [T, D] beside those of grippers."""
    return float(np.abs(np.delete(values, list(grippers), axis=1)).max(initial=0.0))


def gripper_columns(names: Sequence[str], width: int) -> tuple[int, ...]:
    """Columns of the grippers: by their names, or without names the last of each arm of seven."""
    if len(names) == width:
        return tuple(i for i, name in enumerate(names) if _GRIPPER.search(name))
    return tuple(range(ARM - 1, width, ARM)) if width % ARM == 0 else ()


def _from_degrees(values: Floats, grippers: tuple[int, ...]) -> Floats:
    converted = np.deg2rad(values).astype(np.float32)
    converted[:, grippers] = values[:, grippers] / 100
    return converted
