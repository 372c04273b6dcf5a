"""A miniature BridgeData in its TFDS build, bridge_dataset 1.0.0.

An action is relative to the previous target, which the arm reaches to a fraction of a millimetre;
the first action is zero.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handloom.stages.datasets.formats.rotations import from_rpy, to_rpy
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
from handloom.stages.miniatures.robots.views import jpeg, static_view, wrist_view
from handloom.stages.miniatures.robots.world import WorldEpisode, make_episode, resample

HZ = 5.0
SIZE = (256, 256)
VAL_EVERY = 5
WRONG_PATH = 3  # episode of `train` whose path contains val
SIDE_M = -0.35  # the second camera stands to the right of the first
DOWN = Rotation.from_euler("xyz", (np.pi, 0, 0))  # the tool in the pose of angles (0, 0, 0)
FULLY_OPEN = 1.0008  # measured width of the open gripper
JITTER_M, JITTER_RAD = 3e-4, 1e-3

FLAGS: Tree = {
    name: FeatureSpec("bool", kind="scalar") for name in ("is_first", "is_last", "is_terminal")
}
STEPS: Tree = {
    "action": FeatureSpec(shape=(7,)),
    "language_embedding": FeatureSpec(shape=(512,)),
    "language_instruction": FeatureSpec(kind="text"),
    "observation": {
        **{
            f"image_{k}": FeatureSpec(shape=(*SIZE, 3), kind="image", encoding="jpeg")
            for k in range(4)
        },
        "state": FeatureSpec(shape=(7,)),
    },
    **FLAGS,
    "discount": FeatureSpec(kind="scalar"),
    "reward": FeatureSpec(kind="scalar"),
}
EPISODE: Tree = {
    "episode_metadata": {
        **{f"has_image_{k}": FeatureSpec("bool", kind="scalar") for k in range(4)},
        "file_path": FeatureSpec(kind="text"),
        "has_language": FeatureSpec("bool", kind="scalar"),
        "episode_id": FeatureSpec("int32", kind="scalar"),
    }
}


@miniature_writer("Bridge", "bridge_dataset", version=1)
def write(out: Path, clips: int = 12, seed: int = 0) -> None:
    """Write bridge_dataset/1.0.0 with `clips` episodes, every fifth of them in `val`.

    A third has no language; cameras that an episode lacks are black, without a flag that says so.
    """
    payloads: dict[str, list[bytes]] = {"train": [], "val": []}
    for world in make_worlds(clips, seed):
        split = "val" if is_held_out(world) else "train"
        rng = np.random.default_rng((seed, world.index, 2))
        payloads[split].append(encode_example(flatten(_features(world, split)), rng))
    half = (len(payloads["train"]) + 1) // 2
    # Two of 1024 shards; the others were not downloaded.
    shards = {3: payloads["train"][:half], 640: payloads["train"][half:]}
    shards = {number: records for number, records in shards.items() if records}
    splits = [Shards("train", 1024, shards), Shards("val", 128, {5: payloads["val"]})]
    about = {"version": "1.0.0", "description": "A description that nobody filled in."}
    folder = out / "bridge_dataset/1.0.0"
    write_dataset(folder, "bridge_dataset", about, features_json(STEPS, EPISODE), splits)


def make_worlds(clips: int, seed: int) -> list[WorldEpisode]:
    """The episodes of the world at Bridge's rate."""
    return [resample(make_episode(seed, index), HZ) for index in range(clips)]


def is_held_out(world: WorldEpisode) -> bool:
    """Whether an episode belongs to the split that is not trained on."""
    return world.index % VAL_EVERY == VAL_EVERY - 1


def instruction(world: WorldEpisode) -> str:
    """The instruction of an episode: empty for every third, with stray capitals for some."""
    if world.index % 3 == 2:
        return ""
    if world.index % 4 == 1:
        return world.instruction.capitalize() + " \n"
    return world.instruction


def states(world: WorldEpisode) -> NDArray[np.float64]:
    """Raw states: x y z, roll pitch yaw relative to the pose that looks down, gripper; [T, 7]."""
    # DOWN first, then these: (0, 0, 0) is the pose that looks down.
    turns = from_rpy(world.poses[:, 3:6]) * DOWN.inv()
    width = FULLY_OPEN * world.poses[:, 6]
    return np.column_stack([world.poses[:, :3], to_rpy(turns), width])


def actions(world: WorldEpisode) -> NDArray[np.float64]:
    """Raw actions [T-1, 7], from target to target; the first target is the first pose."""
    rng = np.random.default_rng((world.index, 5))
    count = len(world)
    miss = rng.normal(size=(count, 6)) * ([JITTER_M / 2] * 3 + [JITTER_RAD / 2] * 3)
    miss[:2] = 1e-10  # nothing has been commanded yet
    places = world.poses[:, :3] + miss[:, :3]
    turns = Rotation.from_rotvec(miss[:, 3:]) * from_rpy(world.poses[:, 3:6])
    turned = to_rpy(turns[1:] * turns[:-1].inv())
    return np.column_stack([np.diff(places, axis=0), turned, world.targets[:-1]])


def _cameras(world: WorldEpisode) -> dict[str, list[bytes]]:
    """The JPEG files of four cameras; those that were absent are black."""
    count = len(world) - 1
    views = {f"image_{k}": [jpeg(np.zeros((*SIZE, 3), np.uint8))] * count for k in range(4)}
    views["image_0"] = [jpeg(p) for p in static_view(world, SIZE)][:count]
    if world.index % 3 == 1:
        views["image_1"] = [jpeg(p) for p in static_view(world, SIZE, SIDE_M)][:count]
    if world.index % 3 == 2:  # episodes without an instruction have a wrist camera
        views["image_3"] = [jpeg(p) for p in wrist_view(world, SIZE)][:count]
    return views


def _features(world: WorldEpisode, split: str) -> dict[str, Any]:
    count, text = len(world) - 1, instruction(world)
    vector = text_embedding(text) if text else np.zeros(512, np.float32)
    steps = {
        "action": actions(world),
        "language_embedding": np.tile(vector, (count, 1)),
        "language_instruction": [text.encode()] * count,
        "observation": {**_cameras(world), "state": states(world)[:-1]},
        **step_flags(count),
        "discount": np.ones(count),
        "reward": (np.arange(count) == count - 1).astype(np.float32),
    }
    metadata = {f"has_image_{k}": np.array([False]) for k in range(4)}  # never true
    path_split = "val" if world.index == WRONG_PATH else split
    path = f"/data/numpy_256/bridge_data_v2/toykitchen2/{world.task}/00/{path_split}/out.npy"
    metadata |= {"has_language": np.array([bool(text)]), "episode_id": np.array([world.index // 3])}
    return {"steps": steps, "episode_metadata": {**metadata, "file_path": [path.encode()]}}
