"""Trajectories of robot episodes: brought to one rate, and measured for smoothness.

T steps of the source at `hz` show observations at 0, 1 / hz, … (T - 1) / hz. Action t leads from
observation t to t + 1, so the actions reach up to T / hz. N steps at the new rate likewise.
Widths: S state, A action; with `ee_delta` both are seven numbers for each arm (source.Episode).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from handloom.stages.datasets.formats import rotations
from handloom.tokenize.shards.format import ARM

Floats = NDArray[np.float64]
Numbers = NDArray[np.floating[Any] | np.integer[Any]]
NEARLY = 1e-6  # of a step: times that are equal but for rounding


@dataclass(frozen=True)
class Trajectory:
    """States [T, S], actions [T, A] and idle steps [T] at `hz`."""

    hz: float
    kind: str
    state: Floats
    action: Floats
    idle: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.state)


def resample(source: Trajectory, hz: float) -> tuple[Trajectory, NDArray[np.int64]]:
    """The same motion at another rate, and of each new step the source step it shows [N].

    Positions are interpolated, rotations by slerp, and deltas are composed: displacements add up
    and rotations multiply along the path that the actions describe, so that the new actions lead to
    the same poses. Grippers keep the command in force. What is `as_stored` keeps its own rate.
    """
    every = np.arange(len(source))
    if source.kind == "as_stored" or abs(source.hz - hz) < NEARLY:
        return source, every
    count = int((len(source) - 1) / source.hz * hz + NEARLY) + 1
    starts = np.arange(count) / hz * source.hz  # in source steps, as all that follows
    ends = np.minimum(starts + source.hz / hz, len(source))
    shown = np.floor(starts + NEARLY).astype(np.int64)
    in_force = np.clip(np.ceil(ends - NEARLY).astype(np.int64) - 1, shown, len(source) - 1)
    idle = np.array([source.idle[a : b + 1].all() for a, b in zip(shown, in_force, strict=True)])
    if source.kind == "joints":
        state = _interpolate(every, source.state, starts)
        action = _interpolate(every + 1.0, source.action, ends)
    else:
        arms = range(source.state.shape[1] // ARM)
        state = np.hstack([_poses_at(_arm(source.state, i), starts, shown) for i in arms])
        arms = range(source.action.shape[1] // ARM)
        action = np.hstack([_moves(_arm(source.action, i), starts, ends, in_force) for i in arms])
    return Trajectory(hz, source.kind, state, action, idle), shown


@dataclass(frozen=True)
class Smoothness:
    """How a trajectory moves: fastest positions (m/s), turns (rad/s), jerk (rms, m/s^3)."""

    max_speed_m_s: float = 0.0
    max_turn_rad_s: float = 0.0
    jerk_m_s3: float = 0.0
    still_share: float = 0.0
    """Steps after which the state is the same although the action moves the arm, 0 to 1."""


def smoothness(source: Trajectory) -> Smoothness:
    """Measure a trajectory at its own rate; of `joints` only the turns can be told."""
    if len(source) < 2 or source.kind == "as_stored":
        return Smoothness()
    if source.kind == "joints":
        return Smoothness(
            max_turn_rad_s=float(np.abs(np.diff(source.state, axis=0)).max()) * source.hz
        )
    found = [
        _arm_smoothness(_arm(source.state, i), _arm(source.action, i), source.hz)
        for i in range(min(source.state.shape[1], source.action.shape[1]) // ARM)
    ]
    return Smoothness(*(max(values) for values in zip(*found, strict=True)))


def _arm_smoothness(state: Floats, action: Floats, hz: float) -> tuple[float, ...]:
    moved = np.diff(state[:, :3], axis=0)
    turned = np.linalg.norm(rotations.deltas(rotations.from_rpy(state[:, 3:6])), axis=1)
    thirds = np.diff(state[:, :3], n=3, axis=0) * hz**3
    told = np.linalg.norm(action[:-1, :3], axis=1) > 1e-3  # a millimetre
    told |= np.linalg.norm(action[:-1, 3:6], axis=1) > 1e-2
    still = told & (np.abs(moved).max(1) < 1e-6) & (turned < 1e-6)
    return (
        float(np.linalg.norm(moved, axis=1).max()) * hz,
        float(turned.max()) * hz,
        float(np.sqrt((thirds**2).sum(1).mean())) if len(thirds) else 0.0,
        float(still.mean()),
    )


def _arm(values: Floats, index: int) -> Floats:
    return values[:, index * ARM : (index + 1) * ARM]


def _interpolate(at: Numbers, values: Floats, wanted: Numbers) -> Floats:
    return np.stack([np.interp(wanted, at, column) for column in values.T], axis=1)


def _poses_at(state: Floats, starts: Numbers, shown: NDArray[np.int64]) -> Floats:
    every = np.arange(len(state))
    turn = Slerp(every, rotations.from_rpy(state[:, 3:6])) if len(state) > 1 else None
    rpy = rotations.to_rpy(turn(starts.clip(0, every[-1]))) if turn else state[:, 3:6]
    return np.hstack([_interpolate(every, state[:, :3], starts), rpy, state[shown, 6:7]])


def _moves(action: Floats, starts: Numbers, ends: Numbers, in_force: NDArray[np.int64]) -> Floats:
    """Deltas of the path that the actions describe, from `starts` to `ends`, [N, 7]."""
    every = np.arange(len(action) + 1)
    path = np.vstack([np.zeros(3), np.cumsum(action[:, :3], axis=0)])
    turned = [Rotation.identity()]
    for delta in Rotation.from_rotvec(action[:, 3:6]):
        turned.append(delta * turned[-1])  # about base axes: the new rotation comes from the left
    turn = Slerp(every, Rotation.concatenate(turned))
    moved = _interpolate(every, path, ends) - _interpolate(every, path, starts)
    rotvec = (turn(ends) * turn(starts).inv()).as_rotvec()
    return np.hstack([moved, rotvec, action[in_force, 6:7]])
