"""Writes a miniature RT-1: fractal20220817_data 0.1.0, a few of its 1024 shards.

The oddities are the original's: failures among the episodes, some without a verdict; an episode
with two terminate steps at its start; steps that move the base alone; a duplicate in another
shard; a shard whose download stopped; maps in random order.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.stages.datasets.formats.rotations import from_rpy, rotvec_to_rpy_delta, to_rpy
from handloom.stages.miniatures.folder import Folder
from handloom.stages.miniatures.robots.files import embedding
from handloom.stages.miniatures.robots.tfrecords import (
    Leaf,
    Shards,
    Tree,
    example,
    features_json,
    flatten,
    step_flags,
    write_set,
)
from handloom.stages.miniatures.robots.views import jpeg, static_view
from handloom.stages.miniatures.robots.world import (
    WorldEpisode,
    changes,
    episode,
    quaternions,
    resampled,
)

VERSION = 1  # raise it whenever the same arguments give other bytes
HZ = 3.0
SIZE = (256, 320)
NAME = "fractal20220817_data"
SHARDS = 1024
HELD = (0, 7, 412)  # the shards that were downloaded; the last of them in part
TWICE_TERMINATED, BASE_MOVES, UNDESIRABLE = 3, 4, 7  # episodes
NO_VERDICT = 1  # of every four episodes

ATTRIBUTES = {"collection_mode": (1, "teleop"), "data_type": (0, "real"), "env": (2, "table"),
              "location": (3, "kitchen"), "objects_family": (4, "toys")}  # fmt: skip

STEPS: Tree = {
    "action": {
        "base_displacement_vector": Leaf(shape=(2,)),
        "base_displacement_vertical_rotation": Leaf(shape=(1,)),
        "rotation_delta": Leaf(shape=(3,)),
        "terminate_episode": Leaf("int32", (3,)),
        "gripper_closedness_action": Leaf(shape=(1,)),
        "world_vector": Leaf(shape=(3,)),
    },
    "is_terminal": Leaf("bool"),
    "reward": Leaf(),
    "observation": {
        "base_pose_tool_reached": Leaf(shape=(7,)),
        "workspace_bounds": Leaf(shape=(3, 3)),
        "vector_to_go": Leaf(shape=(3,)),
        "orientation_start": Leaf(shape=(4,)),
        "robot_orientation_positions_box": Leaf(shape=(3, 3)),
        "orientation_box": Leaf(shape=(2, 3)),
        "image": Leaf(shape=(*SIZE, 3), kind="image", encoding="jpeg"),
        "rotation_delta_to_go": Leaf(shape=(3,)),
        "height_to_bottom": Leaf(shape=(1,)),
        "gripper_closed": Leaf(shape=(1,)),
        "gripper_closedness_commanded": Leaf(shape=(1,)),
        "natural_language_embedding": Leaf(shape=(512,)),
        "natural_language_instruction": Leaf("string"),
        "src_rotation": Leaf(shape=(4,)),
    },
    "is_last": Leaf("bool"),
    "is_first": Leaf("bool"),
}
EPISODE: Tree = {
    "attributes": {
        **{name: Leaf("int64") for name in (*ATTRIBUTES, "task_family")},
        **{f"{name}_name": Leaf("string") for name in (*ATTRIBUTES, "task_family")},
    },
    "aspects": {
        name: Leaf("bool")
        for name in ("undesirable", "already_success", "has_aspects", "success", "feasible")
    },
}


def write(out: Path, clips: int = 12, seed: int = 0) -> None:
    """Write a miniature RT-1 of `clips` episodes, the last of them cut off.

    The same arguments give the same bytes. A finished folder is left alone. Raises UserError where
    `out` holds a dataset of that name that is not this miniature.
    """
    marker = {"clips": clips, "seed": seed, "version": VERSION}
    Folder(out, "RT-1", (NAME,), marker).fill(lambda: _write(out, clips, seed))


def _write(out: Path, clips: int, seed: int) -> None:
    content = [features_of(resampled(episode(seed, index), HZ)) for index in range(clips)]
    chosen = np.array_split(np.arange(clips), len(HELD))
    listed = {shard: [int(i) for i in part] for shard, part in zip(HELD, chosen, strict=True)}
    listed[HELD[1]].append(0)  # a duplicate, in another order of keys
    payloads = {
        shard: [
            example(flatten(content[i]), np.random.default_rng((seed, shard, at)))
            for at, i in enumerate(indices)
        ]
        for shard, indices in listed.items()
        if indices
    }
    split = Shards("train", SHARDS, payloads, truncated=(HELD[-1],))
    about = {"version": "0.1.0", "description": "Table-top manipulation, in miniature"}
    write_set(out / NAME / "0.1.0", NAME, about, features_json(STEPS, EPISODE), [split])


def gripper_commands(targets: NDArray[np.float64]) -> NDArray[np.float32]:
    """Relative commands [T, 1]: +1 closes, -1 opens, 0 holds; nothing was told before step 0."""
    change = np.diff(targets, prepend=1.0)
    return -change[:, None].astype(np.float32)


def features_of(world: WorldEpisode) -> dict[str, Any]:
    """The features of an episode, every step's in one list."""
    order = list(range(len(world)))
    if world.index == TWICE_TERMINATED:
        order = [0, 0, *order]
    if world.index == BASE_MOVES:  # the arm waits while the base moves
        order = [*order[:4], 3, *order[4:]]
    picked = np.asarray(order)
    steps = {
        "action": _actions(world, picked),
        "observation": _observations(world, picked),
        # Pays at the end at best: no verdict on the episode.
        "reward": ((np.arange(len(picked)) == len(picked) - 1) & world.success).astype(np.float32),
        **step_flags(len(picked)),
    }
    return {"steps": steps, "attributes": _attributes(world), "aspects": _aspects(world)}


def _actions(world: WorldEpisode, picked: NDArray[np.int64]) -> dict[str, Any]:
    """Commands: displacements in the base frame; a step is repeated where the arm is not moved."""
    count = len(picked)
    moves = np.zeros((len(world), 7), np.float32)
    made = changes(world)
    moves[:-1, :3], moves[:-1, 3:6] = made[:, :3], rotvec_to_rpy_delta(made[:, 3:])
    moves[:, 6:] = gripper_commands(world.targets)
    moves = moves[picked]
    repeated = np.append(np.diff(picked) == 0, False)
    moves[repeated] = 0
    mode = np.full(count, 1)
    mode[repeated] = 0 if world.index == TWICE_TERMINATED else 2
    mode[-1], moves[-1] = 0, 0
    base = np.zeros((count, 3), np.float32)
    base[mode == 2] = (0.05, 0.0, 0.02)
    return {
        "base_displacement_vector": base[:, :2],
        "base_displacement_vertical_rotation": base[:, 2:],
        "rotation_delta": moves[:, 3:6],
        "terminate_episode": np.eye(3, dtype=np.int32)[mode],
        "gripper_closedness_action": moves[:, 6:],
        "world_vector": moves[:, :3],
    }


def _observations(world: WorldEpisode, picked: NDArray[np.int64]) -> dict[str, Any]:
    count, turns = len(picked), from_rpy(world.poses[:, 3:6])
    quaternion = quaternions(world)
    told = {
        "base_pose_tool_reached": np.hstack([world.poses[:, :3], quaternion]),
        "vector_to_go": world.poses[-1, :3] - world.poses[:, :3],
        "rotation_delta_to_go": to_rpy(turns[-1] * turns.inv()),
        "height_to_bottom": world.poses[:, 2:3],
        "gripper_closed": 1 - world.poses[:, 6:],
        "gripper_closedness_commanded": 1 - world.targets[:, None],
        "src_rotation": np.repeat(quaternion[:1], len(world), axis=0),
        "orientation_start": np.repeat(quaternion[:1], len(world), axis=0),
    }
    pictures = [jpeg(picture) for picture in static_view(world, SIZE)]
    bounds = np.array([[0.25, -0.25, 0.0], [0.65, 0.25, 0.4], [0.0, 0.0, 0.0]])
    return {
        **{name: values[picked].astype(np.float32) for name, values in told.items()},
        "workspace_bounds": np.tile(bounds, (count, 1, 1)).astype(np.float32),
        "robot_orientation_positions_box": np.zeros((count, 3, 3), np.float32),
        "orientation_box": np.zeros((count, 2, 3), np.float32),
        "image": [pictures[i] for i in picked],
        "natural_language_embedding": np.tile(embedding(world.instruction), (count, 1)),
        "natural_language_instruction": [world.instruction.encode()] * count,
    }


def _attributes(world: WorldEpisode) -> dict[str, Any]:
    family = ("pick", "push", "put").index(world.task)
    told = {**ATTRIBUTES, "task_family": (family, world.task)}
    numbers = {name: np.array([number]) for name, (number, _) in told.items()}
    return numbers | {f"{name}_name": [word.encode()] for name, (_, word) in told.items()}


def _aspects(world: WorldEpisode) -> dict[str, Any]:
    """The verdict; where there is none, all of it is False."""
    judged = world.index % 4 != NO_VERDICT
    told = {
        "has_aspects": judged,
        "success": judged and world.success,
        "undesirable": judged and world.index == UNDESIRABLE,
        "already_success": False,
        "feasible": judged,
    }
    return {name: np.array([value]) for name, value in told.items()}
