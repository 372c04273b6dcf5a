"""A miniature RT-1: fractal20220817_data 0.1.0, a few of its 1024 shards.

It has the oddities of the original: failed episodes, and some without a verdict; an episode with
two terminate steps at its start; steps that move only the base; a duplicate in another shard; a
shard whose download stopped; maps in random order.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.stages.datasets.formats.rotations import from_rpy, rotvec_to_rpy_delta, to_rpy
from handloom.stages.miniatures.folder import miniature_writer
from handloom.stages.miniatures.robots.files import text_embedding
from handloom.stages.miniatures.robots.tfrecords import (
    FeatureSpec,
    Shards,
    Tree,
    encode_example,
    features_json,
    flatten,
    step_flags,
    write_dataset,
)
from handloom.stages.miniatures.robots.views import jpeg, static_view
from handloom.stages.miniatures.robots.world import (
    WorldEpisode,
    make_episode,
    pose_deltas,
    quaternions,
    resample,
)

HZ = 3.0
SIZE = (256, 320)
NAME = "fractal20220817_data"
SHARDS = 1024
HELD = (0, 7, 412)  # shards that were downloaded, the last one in part
TWICE_TERMINATED, BASE_MOVES, UNDESIRABLE = 3, 4, 7  # numbers of episodes
NO_VERDICT = 1  # number within every four episodes

ATTRIBUTES = {"collection_mode": (1, "teleop"), "data_type": (0, "real"), "env": (2, "table"),
              "location": (3, "kitchen"), "objects_family": (4, "toys")}  # fmt: skip

STEPS: Tree = {
    "action": {
        "base_displacement_vector": FeatureSpec(shape=(2,)),
        "base_displacement_vertical_rotation": FeatureSpec(shape=(1,)),
        "rotation_delta": FeatureSpec(shape=(3,)),
        "terminate_episode": FeatureSpec("int32", (3,)),
        "gripper_closedness_action": FeatureSpec(shape=(1,)),
        "world_vector": FeatureSpec(shape=(3,)),
    },
    "is_terminal": FeatureSpec("bool"),
    "reward": FeatureSpec(),
    "observation": {
        "base_pose_tool_reached": FeatureSpec(shape=(7,)),
        "workspace_bounds": FeatureSpec(shape=(3, 3)),
        "vector_to_go": FeatureSpec(shape=(3,)),
        "orientation_start": FeatureSpec(shape=(4,)),
        "robot_orientation_positions_box": FeatureSpec(shape=(3, 3)),
        "orientation_box": FeatureSpec(shape=(2, 3)),
        "image": FeatureSpec(shape=(*SIZE, 3), kind="image", encoding="jpeg"),
        "rotation_delta_to_go": FeatureSpec(shape=(3,)),
        "height_to_bottom": FeatureSpec(shape=(1,)),
        "gripper_closed": FeatureSpec(shape=(1,)),
        "gripper_closedness_commanded": FeatureSpec(shape=(1,)),
        "natural_language_embedding": FeatureSpec(shape=(512,)),
        "natural_language_instruction": FeatureSpec("string"),
        "src_rotation": FeatureSpec(shape=(4,)),
    },
    "is_last": FeatureSpec("bool"),
    "is_first": FeatureSpec("bool"),
}
EPISODE: Tree = {
    "attributes": {
        **{name: FeatureSpec("int64") for name in (*ATTRIBUTES, "task_family")},
        **{f"{name}_name": FeatureSpec("string") for name in (*ATTRIBUTES, "task_family")},
    },
    "aspects": {
        name: FeatureSpec("bool")
        for name in ("undesirable", "already_success", "has_aspects", "success", "feasible")
    },
}


@miniature_writer("RT-1", NAME, version=1)
def write(out: Path, clips: int = 12, seed: int = 0) -> None:
    """Write a miniature RT-1 of `clips` episodes, the last of them cut off."""
    content = [episode_features(resample(make_episode(seed, index), HZ)) for index in range(clips)]
    chosen = np.array_split(np.arange(clips), len(HELD))
    listed = {shard: [int(i) for i in part] for shard, part in zip(HELD, chosen, strict=True)}
    listed[HELD[1]].append(0)  # a duplicate, in another order of keys
    payloads = {
        shard: [
            encode_example(flatten(content[i]), np.random.default_rng((seed, shard, at)))
            for at, i in enumerate(indices)
        ]
        for shard, indices in listed.items()
        if indices
    }
    split = Shards("train", SHARDS, payloads, truncated=(HELD[-1],))
    about = {"version": "0.1.0", "description": "Table-top manipulation, in miniature"}
    write_dataset(out / NAME / "0.1.0", NAME, about, features_json(STEPS, EPISODE), [split])


def gripper_commands(targets: NDArray[np.float64]) -> NDArray[np.float32]:
    """Relative commands [T, 1] of targets: +1 close, -1 open, 0 hold; before step 0 it is open."""
    change = np.diff(targets, prepend=1.0)  # a command only where the target changes
    return -change[:, None].astype(np.float32)


def episode_features(world: WorldEpisode) -> dict[str, Any]:
    """The features of an episode; values of all steps lie in one list."""
    order = list(range(len(world)))
    if world.index == TWICE_TERMINATED:
        order = [0, 0, *order]
    if world.index == BASE_MOVES:  # the arm waits while the base moves
        order = [*order[:4], 3, *order[4:]]
    chosen_steps = np.asarray(order)
    steps = {
        "action": _actions(world, chosen_steps),
        "observation": _observations(world, chosen_steps),
        # Paid at the last step only: it is not a verdict on the episode.
        "reward": ((np.arange(len(chosen_steps)) == len(chosen_steps) - 1) & world.success).astype(
            np.float32
        ),
        **step_flags(len(chosen_steps)),
    }
    return {"steps": steps, "attributes": _attributes(world), "aspects": _aspects(world)}


def _actions(world: WorldEpisode, chosen_steps: NDArray[np.int64]) -> dict[str, Any]:
    """Commands in the base frame; repeated steps do not move the arm."""
    count = len(chosen_steps)
    moves = np.zeros((len(world), 7), np.float32)
    deltas = pose_deltas(world)
    moves[:-1, :3], moves[:-1, 3:6] = deltas[:, :3], rotvec_to_rpy_delta(deltas[:, 3:])
    moves[:, 6:] = gripper_commands(world.targets)
    moves = moves[chosen_steps]
    repeated = np.append(np.diff(chosen_steps) == 0, False)
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


def _observations(world: WorldEpisode, chosen_steps: NDArray[np.int64]) -> dict[str, Any]:
    count, turns = len(chosen_steps), from_rpy(world.poses[:, 3:6])
    quaternion = quaternions(world)
    vectors = {
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
        **{name: values[chosen_steps].astype(np.float32) for name, values in vectors.items()},
        "workspace_bounds": np.tile(bounds, (count, 1, 1)).astype(np.float32),
        "robot_orientation_positions_box": np.zeros((count, 3, 3), np.float32),
        "orientation_box": np.zeros((count, 2, 3), np.float32),
        "image": [pictures[i] for i in chosen_steps],
        "natural_language_embedding": np.tile(text_embedding(world.instruction), (count, 1)),
        "natural_language_instruction": [world.instruction.encode()] * count,
    }


def _attributes(world: WorldEpisode) -> dict[str, Any]:
    family = ("pick", "push", "put").index(world.task)
    attributes = {**ATTRIBUTES, "task_family": (family, world.task)}
    numbers = {name: np.array([number]) for name, (number, _) in attributes.items()}
    return numbers | {f"{name}_name": [word.encode()] for name, (_, word) in attributes.items()}


def _aspects(world: WorldEpisode) -> dict[str, Any]:
    """The verdict; all False where there is none."""
    has_verdict = world.index % 4 != NO_VERDICT
    aspects = {
        "has_aspects": has_verdict,
        "success": has_verdict and world.success,
        "undesirable": has_verdict and world.index == UNDESIRABLE,
        "already_success": False,
        "feasible": has_verdict,
    }
    return {name: np.array([value]) for name, value in aspects.items()}
