"""Writes a miniature of a robot dataset that nobody knows, in RLDS: my_robot/1.0.0.

It tells neither its rate nor what its numbers mean; the state is position and roll pitch yaw with
the gripper's opening, the action the way to the next one, 1 open.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.stages.miniatures.folder import Folder
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
from handloom.stages.miniatures.robots.views import jpeg, static_view, wrist_view
from handloom.stages.miniatures.robots.world import (
    WorldEpisode,
    changes,
    episode,
    resampled,
)

VERSION = 1  # raise it whenever the same arguments give other bytes
HZ = 10.0  # nowhere in the files
SIZE = (128, 128)
VAL_EVERY = 5

STEPS: Tree = {
    "observation": {
        "image": Leaf(shape=(*SIZE, 3), kind="image", encoding="jpeg"),
        "wrist_image": Leaf(shape=(*SIZE, 3), kind="image", encoding="jpeg"),
        "state": Leaf(shape=(7,)),
    },
    "action": Leaf(shape=(7,)),
    "discount": Leaf(kind="scalar"),
    "reward": Leaf(kind="scalar"),
    "is_first": Leaf("bool", kind="scalar"),
    "is_last": Leaf("bool", kind="scalar"),
    "is_terminal": Leaf("bool", kind="scalar"),
    "language_instruction": Leaf(kind="text"),
}
EPISODE: Tree = {"episode_metadata": {"file_path": Leaf(kind="text")}}


def write(out: Path, clips: int = 10, seed: int = 0) -> None:
    """Write my_robot/1.0.0 with `clips` episodes, every fifth of them in `val`.

    The same arguments give the same bytes. A finished folder is left alone. Raises UserError where
    `out` holds a dataset of that name that is not this miniature.
    """
    marker = {"clips": clips, "seed": seed, "version": VERSION}
    Folder(out, "RLDS", ("my_robot",), marker).fill(lambda: _write(out, clips, seed))


def _write(out: Path, clips: int, seed: int) -> None:
    payloads: dict[str, list[bytes]] = {"train": [], "val": []}
    for index in range(clips):
        world = resampled(episode(seed, index), HZ)
        rng = np.random.default_rng((seed, index, 1))
        payloads["val" if index % VAL_EVERY == VAL_EVERY - 1 else "train"].append(
            example(flatten(features_of(world)), rng)
        )
    half = (len(payloads["train"]) + 1) // 2
    parts = [p for p in (payloads["train"][:half], payloads["train"][half:]) if p]
    train = Shards("train", len(parts), dict(enumerate(parts)))
    splits = [train, Shards("val", 1, {0: payloads["val"]})]
    about = {"version": "1.0.0", "description": "A robot at a table."}
    told = features_json(STEPS, EPISODE)
    write_set(out / "my_robot/1.0.0", "my_robot", about, told, splits)


def deltas(world: WorldEpisode) -> NDArray[np.float32]:
    """What leads from each step to the next, [T, 7]: metres, rotation vector, gripper target.

    The last step leads nowhere: zeros, and the gripper as it was told.
    """
    found = np.zeros((len(world), 7), np.float32)
    found[:-1, :6] = changes(world)
    found[:, 6] = world.targets
    return found


def features_of(world: WorldEpisode) -> dict[str, Any]:
    """The features of an episode, every step's in one list."""
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
