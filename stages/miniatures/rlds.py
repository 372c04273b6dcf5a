"""A miniature RLDS dataset of an unknown robot, my_robot/1.0.0.

It states neither its rate nor the meaning of its numbers. The state is position, roll pitch yaw and
gripper, 1 open; the action is the step to the next state.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.stages.miniatures.folder import miniature_writer
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
from handloom.stages.miniatures.robots.world import (
    WorldEpisode,
    make_episode,
    pose_deltas,
    resample,
)

HZ = 10.0  # not stated in the files
SIZE = (128, 128)
VAL_EVERY = 5

STEPS: Tree = {
    "observation": {
        "image": FeatureSpec(shape=(*SIZE, 3), kind="image", encoding="jpeg"),
        "wrist_image": FeatureSpec(shape=(*SIZE, 3), kind="image", encoding="jpeg"),
        "state": FeatureSpec(shape=(7,)),
    },
    "action": FeatureSpec(shape=(7,)),
    "discount": FeatureSpec(kind="scalar"),
    "reward": FeatureSpec(kind="scalar"),
    "is_first": FeatureSpec("bool", kind="scalar"),
    "is_last": FeatureSpec("bool", kind="scalar"),
    "is_terminal": FeatureSpec("bool", kind="scalar"),
    "language_instruction": FeatureSpec(kind="text"),
}
EPISODE: Tree = {"episode_metadata": {"file_path": FeatureSpec(kind="text")}}


@miniature_writer("RLDS", "my_robot", version=1)
def write(out: Path, clips: int = 10, seed: int = 0) -> None:
    """Write my_robot/1.0.0 with `clips` episodes, every fifth of them in `val`."""
    payloads: dict[str, list[bytes]] = {"train": [], "val": []}
    for index in range(clips):
        world = resample(make_episode(seed, index), HZ)
        rng = np.random.default_rng((seed, index, 1))
        payloads["val" if index % VAL_EVERY == VAL_EVERY - 1 else "train"].append(
            encode_example(flatten(episode_features(world)), rng)
        )
    half = (len(payloads["train"]) + 1) // 2
    parts = [p for p in (payloads["train"][:half], payloads["train"][half:]) if p]
    train = Shards("train", len(parts), dict(enumerate(parts)))
    splits = [train, Shards("val", 1, {0: payloads["val"]})]
    about = {"version": "1.0.0", "description": "A robot at a table."}
    features = features_json(STEPS, EPISODE)
    write_dataset(out / "my_robot/1.0.0", "my_robot", about, features, splits)


def deltas(world: WorldEpisode) -> NDArray[np.float32]:
    """The step from each pose to the next, [T, 7]: metres, rotation vector, gripper target.

    The last step moves nothing and keeps its gripper target.
    """
    actions = np.zeros((len(world), 7), np.float32)
    actions[:-1, :6] = pose_deltas(world)
    actions[:, 6] = world.targets
    return actions


def episode_features(world: WorldEpisode) -> dict[str, Any]:
    """The features of an episode; values of all steps lie in one list."""
    count = len(world)
    steps = {
        "observation": {
            "image": [jpeg(picture) for picture in static_view(world, SIZE)],
            "wrist_image": [jpeg(picture) for picture in wrist_view(world, SIZE)],
            "state": world.poses.astype(np.float32),
        },
        "action": deltas(world),
        "discount": np.ones(count, np.float32),
        "reward": (np.arange(count) == count - 1).astype(np.float32),
        **step_flags(count),
        "language_instruction": [world.instruction.encode()] * count,
    }
    path = f"/data/my_robot/episode_{world.index}.npy"
    return {"steps": steps, "episode_metadata": {"file_path": [path.encode()]}}
