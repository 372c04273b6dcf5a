"""Robot trajectories: `resample` brings one to another rate, `smoothness` measures how it moves.

T steps at `hz` are observations at 0, 1 / hz, ... (T - 1) / hz seconds. Action t leads from
observation t to t + 1, so that the actions reach up to T / hz. The new rate has N steps.
Widths: S state, A action; with `ee_delta` both are seven numbers an arm (datasets/source.py).
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
MOVING_RAD = 1e-2  # a turn of this size is a command to move
EPSILON = 1e-6  # of a step; times closer than this are equal but for rounding


@dataclass(frozen=True)
class Trajectory:
    """States [T, S], actions [T, A] and idle steps [T] at `hz` steps a second.

    Of `joints`, `grippers` are the columns of the state that are no joints.
    """

    hz: float
    kind: str
    state: Floats
    action: Floats
    idle: NDArray[np.bool_]
    grippers: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.state)


def resample(source: Trajectory, hz: float) -> tuple[Trajectory, NDArray[np.int64]]:
    """The same motion at another rate, and the source step whose images each new step shows [N].

    Positions are interpolated, rotations by slerp. Deltas are composed along the path that the
    actions describe (displacements add, rotations multiply), so that the new actions lead to the
    same poses. A gripper keeps the last command. `as_stored` numbers keep their own rate.
    """
    steps = np.arange(len(source))
    if source.kind == "as_stored" or abs(source.hz - hz) < EPSILON:
        return source, steps
    count = int((len(source) - 1) / source.hz * hz + EPSILON) + 1
    starts = np.arange(count) / hz * source.hz  # in source steps, as all that follows
    ends = np.minimum(starts + source.hz / hz, len(source))
    source_steps = np.floor(starts + EPSILON).astype(np.int64)
    # The command that holds when the new step ends.
    in_force = np.clip(np.ceil(ends - EPSILON).astype(np.int64) - 1, source_steps, len(source) - 1)
    idle = np.array(
        [source.idle[a : b + 1].all() for a, b in zip(source_steps, in_force, strict=True)]
    )
    if source.kind == "joints":
        state = _interpolate(steps, source.state, starts)
        action = _interpolate(steps + 1.0, source.action, ends)
    else:
        state = np.hstack([_poses_at(arm, starts, source_steps) for arm in _arms(source.state)])
        action = np.hstack([_deltas(arm, starts, ends, in_force) for arm in _arms(source.action)])
    return Trajectory(hz, source.kind, state, action, idle, source.grippers), source_steps


@dataclass(frozen=True)
class Smoothness:
    """Measures of a trajectory's motion, each 0 where it cannot be measured."""

    max_speed_m_s: float = 0.0
    """Fastest displacement from one state to the next."""
    max_turn_rad_s: float = 0.0
    """Fastest rotation, or joint motion, from one state to the next."""
    jerk_m_s3: float = 0.0
    """Root mean square of the third difference of the positions."""
    still_share: float = 0.0
    """Share of steps with a moving action after which the state is the same, 0 to 1."""


def smoothness(source: Trajectory) -> Smoothness:
    """Smoothness of a trajectory at its own rate; of `joints` there are no positions in metres."""
    if len(source) < 2 or source.kind == "as_stored":
        return Smoothness()
    if source.kind == "joints":
        return _joint_smoothness(source)
    pairs = zip(_arms(source.state), _arms(source.action), strict=False)
    arms = [_arm_smoothness(state, action, source.hz) for state, action in pairs]
    # The worst arm counts, measure by measure.
    return Smoothness(*(max(values) for values in zip(*arms, strict=True)))


def _joint_smoothness(source: Trajectory) -> Smoothness:
    """Of the joints alone: a gripper may close within one step."""
    turns = np.abs(np.diff(np.delete(source.state, source.grippers, axis=1), axis=0)).max(
        axis=1, initial=0.0
    )
    still_share = 0.0
    if source.action.shape == source.state.shape:
        commands = np.abs(np.diff(np.delete(source.action, source.grippers, axis=1), axis=0))
        commanded = commands.max(axis=1, initial=0.0) > MOVING_RAD
        still_share = float((commanded & (turns < 1e-6)).mean())
    return Smoothness(max_turn_rad_s=float(turns.max()) * source.hz, still_share=still_share)


def _arm_smoothness(state: Floats, action: Floats, hz: float) -> tuple[float, ...]:
    moves = np.diff(state[:, :3], axis=0)
    turns = np.linalg.norm(rotations.successive_rotvecs(rotations.from_rpy(state[:, 3:6])), axis=1)
    jerks = np.diff(state[:, :3], n=3, axis=0) * hz**3
    commanded = np.linalg.norm(action[:-1, :3], axis=1) > 1e-3  # a millimetre
    commanded |= np.linalg.norm(action[:-1, 3:6], axis=1) > MOVING_RAD
    still = commanded & (np.abs(moves).max(1) < 1e-6) & (turns < 1e-6)
    return (
        float(np.linalg.norm(moves, axis=1).max()) * hz,
        float(turns.max()) * hz,
        float(np.sqrt((jerks**2).sum(1).mean())) if len(jerks) else 0.0,
        float(still.mean()),
    )


def _arms(values: Floats) -> list[Floats]:
    """The columns of each arm, float64 [T, 7] each."""
    return [values[:, end - ARM : end] for end in range(ARM, values.shape[1] + 1, ARM)]


def _interpolate(at: Numbers, values: Floats, wanted: Numbers) -> Floats:
    return np.stack([np.interp(wanted, at, column) for column in values.T], axis=1)


def _poses_at(state: Floats, starts: Numbers, source_steps: NDArray[np.int64]) -> Floats:
    steps = np.arange(len(state))
    rotation_at = Slerp(steps, rotations.from_rpy(state[:, 3:6])) if len(state) > 1 else None
    rpy = rotations.to_rpy(rotation_at(starts.clip(0, steps[-1]))) if rotation_at else state[:, 3:6]
    return np.hstack([_interpolate(steps, state[:, :3], starts), rpy, state[source_steps, 6:7]])


def _deltas(action: Floats, starts: Numbers, ends: Numbers, in_force: NDArray[np.int64]) -> Floats:
    """Deltas [N, 7] from `starts` to `ends` (in source steps) along the path of the actions."""
    steps = np.arange(len(action) + 1)
    path = np.vstack([np.zeros(3), np.cumsum(action[:, :3], axis=0)])
    turned = [Rotation.identity()]
    for delta in Rotation.from_rotvec(action[:, 3:6]):
        turned.append(delta * turned[-1])  # about base axes: a new rotation comes from the left
    rotation_at = Slerp(steps, Rotation.concatenate(turned))
    moves = _interpolate(steps, path, ends) - _interpolate(steps, path, starts)
    rotvec = (rotation_at(ends) * rotation_at(starts).inv()).as_rotvec()
    return np.hstack([moves, rotvec, action[in_force, 6:7]])
