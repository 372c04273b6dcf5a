"""RT-1 (`fractal20220817_data` 0.1.0): 87,212 table-top episodes of a mobile manipulator, 3 Hz.

An action is a displacement (m) and a rotation (roll pitch yaw, rad) of the end effector in the base
frame, and a relative gripper command: -1 open, 0 hold, +1 close, the opposite sign of most other
datasets. Steps that move the base instead of the arm, or end the episode, are `idle`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from handloom.errors import MediaError
from handloom.stages.datasets import rlds
from handloom.stages.datasets.formats import rotations
from handloom.stages.datasets.formats.tfds_features import Features, Record, read_features
from handloom.stages.datasets.source import (
    Episode,
    EpisodeOptions,
    RobotAdapter,
    SourceEpisode,
    naming,
)

HOW_TO_GET = (
    "RT-1 is public, 111 GiB in 1024 shards: `gsutil -m cp -r "
    "gs://gresearch/robotics/fractal20220817_data/0.1.0 DIR/fractal20220817_data/`; a part of the "
    "shards will do, with features.json and dataset_info.json."
)
HZ = 3.0
HOLD_BELOW = 0.1  # gripper commands closer to 0 mean hold

MOVE = "steps/action/world_vector"
TURN = "steps/action/rotation_delta"
GRIP = "steps/action/gripper_closedness_action"
MODE = "steps/action/terminate_episode"  # one-hot: terminate, arm and gripper, base
POSE = "steps/observation/base_pose_tool_reached"
CLOSED = "steps/observation/gripper_closed"
IMAGE = "steps/observation/image"
TEXT = "steps/observation/natural_language_instruction"
ASPECTS = ("aspects/has_aspects", "aspects/success", "aspects/undesirable")

NEEDED = (MOVE, TURN, GRIP, POSE, CLOSED, IMAGE)
WANTED = frozenset({*NEEDED, MODE, TEXT, *ASPECTS})
# Keys that are hashed to an episode id, as RT-1 has no ids of its own.
CONTENT = (MOVE, TURN, GRIP, MODE, POSE, CLOSED, IMAGE, TEXT)


def episodes(root: Path, options: EpisodeOptions) -> Iterator[SourceEpisode]:
    """List the episodes. Raises UserError if the folder does not hold RT-1."""
    rlds.refuse_relabel(options)
    dataset = _find_dataset(root)
    rlds.choose_cameras(dataset.features, options)
    yield from rlds.list_episodes(root, dataset, rlds.SPLITS)


def load(root: Path, source: SourceEpisode, options: EpisodeOptions) -> Episode:
    """Read one episode. Raises MediaError if it is damaged."""
    with naming(source.unit):
        return _load(root, source, options)


def _load(root: Path, source: SourceEpisode, options: EpisodeOptions) -> Episode:
    features = read_features((root / source.media_path).parent / "features.json")
    cameras = rlds.choose_cameras(features, options)
    record = rlds.read_record(root, source, WANTED.union(cameras).__contains__)
    return Episode(
        episode_id=record.content_id(CONTENT),
        text=record.text(TEXT) or options.text,
        hz=options.hz or HZ,
        views={rlds.view_name(key): record.images(key) for key in cameras},
        state=_state(record),
        action=convert_actions(
            record.numbers(MOVE, 3), record.numbers(TURN, 3), record.numbers(GRIP, 1)[:, 0]
        ),
        action_kind="ee_delta",
        success=_success(record),
        idle=_idle(record),
    )


def annotations(root: Path) -> list[Path]:
    """The files that say how the records are read."""
    return rlds.description_files(_find_dataset(root))


def convert_actions(
    world_vector: ArrayLike, rotation_delta: ArrayLike, closedness: ArrayLike
) -> NDArray[np.float32]:
    """RT-1's actions in handloom's convention.

    Args:
        world_vector: displacement [T, 3], m.
        rotation_delta: roll pitch yaw [T, 3], rad.
        closedness: relative gripper commands [T].

    Returns:
        float32 [T, 7]: displacement, rotation vector, gripper 0 closed or 1 open.
    """
    turn = rotations.rpy_delta_to_rotvec(rotation_delta)
    grip = absolute_gripper(closedness)
    return np.column_stack([np.asarray(world_vector), turn, grip]).astype(np.float32)


def absolute_gripper(closedness: ArrayLike) -> NDArray[np.float32]:
    """Targets [T], 0 closed or 1 open, of relative commands [T] (-1 open, 0 hold, +1 close).

    A command holds until the next one. Before the first one the gripper is assumed to be in the
    opposite state, and open if there is none.
    """
    values = np.asarray(closedness, np.float64)
    commands = np.flatnonzero(np.abs(values) > HOLD_BELOW)
    if not len(commands):
        return np.ones(len(values), np.float32)
    opens = values[commands] < 0  # RT-1's -1 opens
    # Of each step the last command up to it, or -1 before the first.
    last = np.searchsorted(commands, np.arange(len(values)), side="right") - 1
    return np.where(last < 0, not opens[0], opens[last]).astype(np.float32)


def convert_poses(pose: ArrayLike) -> NDArray[np.float64]:
    """Poses x y z roll pitch yaw [T, 6] of positions and quaternions x y z w [T, 7].

    Raises:
        MediaError: the length of a quaternion is not about 1.
    """
    values = np.asarray(pose, np.float64)
    lengths = np.linalg.norm(values[:, 3:], axis=1)
    wrong = np.flatnonzero(np.abs(lengths - 1) > 0.1)
    if len(wrong):
        raise MediaError(
            f"{POSE} has a quaternion of length {lengths[wrong[0]]:.3g} at step {wrong[0]}, "
            "expected 1: the pose was not recorded"
        )
    return np.column_stack([values[:, :3], rotations.to_rpy(Rotation.from_quat(values[:, 3:]))])


def _state(record: Record) -> NDArray[np.float32]:
    """State [T, 7]; gripper_closed is 1 where handloom's gripper is 0."""
    pose = convert_poses(record.numbers(POSE, 7))
    opening = 1 - record.numbers(CLOSED, 1)
    return np.column_stack([pose, opening.clip(0, 1)]).astype(np.float32)


def _idle(record: Record) -> NDArray[np.bool_] | None:
    """Steps that do not command the arm, bool [T], or None if there are none.

    The terminate flag ends nothing: one episode has it on its first two steps and goes on.
    """
    if MODE not in record.values:
        return None
    mode = record.numbers(MODE, 3)
    # A step whose mode names the arm beside another one does move the arm.
    idle = (mode[:, 1] != 1) & ((mode[:, 0] == 1) | (mode[:, 2] == 1))
    return idle if idle.any() else None


def _success(record: Record) -> bool | None:
    """The verdict of a person. The reward does not count: successful episodes may have 0."""
    has_verdict, success, undesirable = (record.scalar(key) for key in ASPECTS)
    if not has_verdict or success is None:
        return None
    return bool(success) and not undesirable


def _find_dataset(root: Path) -> rlds.RldsDataset:
    def is_rt1(features: Features) -> bool:
        return features.keys() >= set(NEEDED)

    return rlds.find_dataset(root, is_rt1, "RT-1 (fractal20220817_data)", HOW_TO_GET)


ADAPTER = RobotAdapter(
    episodes=episodes,
    load=load,
    annotations=annotations,
    licence="cc-by-4.0",
    terms="CC BY 4.0, as all of Open X-Embodiment: use, change and share it, with attribution.",
    how_to_get=HOW_TO_GET,
)
