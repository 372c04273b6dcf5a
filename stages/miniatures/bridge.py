"""Writes miniatures of Bridge in the four layouts that go under its name.

`write` makes the build `bridge_dataset` 1.0.0, `write_openx` the `bridge` 0.1.0 of Open
X-Embodiment, `write_raw` the recorder's folders and `write_numpy` what the official code makes of
them. State and action mean the same in all of them: an action is counted from the previous target,
which the arm reaches to a fraction of a millimetre, and the first of them is zero.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handloom.stages.datasets.formats.rotations import from_rpy, to_rpy
from handloom.stages.miniatures.folder import Folder, write_bytes, write_json, write_text
from handloom.stages.miniatures.robots.files import (
    embedding,
    object_npy,
    pickled,
)
from handloom.stages.miniatures.robots.tfrecords import (
    Leaf,
    Shards,
    Tree,
    Values,
    example,
    features_json,
    flatten,
    step_flags,
    write_set,
)
from handloom.stages.miniatures.robots.views import (
    jpeg,
    png,
    static_view,
    wrist_view,
)
from handloom.stages.miniatures.robots.world import WorldEpisode, episode, resampled

VERSION = 1  # raise it whenever the same arguments give other bytes
HZ = 5.0
SIZE, RECORDED, SMALL = (256, 256), (480, 640), (128, 128)
VAL_EVERY = 5
WRONG_PATH = 3  # an episode of `train` whose path says val
SIDE_M = -0.35  # the second camera stands to the right of the first
DOWN = Rotation.from_euler("xyz", (np.pi, 0, 0))  # the tool in the pose that (0, 0, 0) names
FULLY_OPEN = 1.0008  # what the fingers measure when they are open
JITTER_M, JITTER_RAD = 3e-4, 1e-3

FLAGS: Tree = {name: Leaf("bool", kind="scalar") for name in ("is_first", "is_last", "is_terminal")}
STEPS: Tree = {
    "action": Leaf(shape=(7,)),
    "language_embedding": Leaf(shape=(512,)),
    "language_instruction": Leaf(kind="text"),
    "observation": {
        **{f"image_{k}": Leaf(shape=(*SIZE, 3), kind="image", encoding="jpeg") for k in range(4)},
        "state": Leaf(shape=(7,)),
    },
    **FLAGS,
    "discount": Leaf(kind="scalar"),
    "reward": Leaf(kind="scalar"),
}
EPISODE: Tree = {
    "episode_metadata": {
        **{f"has_image_{k}": Leaf("bool", kind="scalar") for k in range(4)},
        "file_path": Leaf(kind="text"),
        "has_language": Leaf("bool", kind="scalar"),
        "episode_id": Leaf("int32", kind="scalar"),
    }
}
OPENX_STEPS: Tree = {
    "action": {
        "terminate_episode": Leaf(),
        "world_vector": Leaf(shape=(3,)),
        "rotation_delta": Leaf(shape=(3,)),
        "open_gripper": Leaf("bool"),
    },
    **{name: Leaf("bool") for name in FLAGS},
    "observation": {
        "natural_language_embedding": Leaf(shape=(512,)),
        "natural_language_instruction": Leaf("string"),
        "image": Leaf(shape=(*RECORDED, 3), kind="image"),
        "state": Leaf(shape=(7,)),
    },
    "reward": Leaf(kind="scalar"),
}


def write(out: Path, clips: int = 12, seed: int = 0) -> None:
    """Write bridge_dataset/1.0.0 with `clips` episodes, every fifth of them in `val`.

    A third has no language, cameras that an episode lacks are black, and nothing says so. The same
    arguments give the same bytes. A finished folder is left alone. Raises UserError where `out`
    holds a dataset of that name that is not this miniature.
    """
    marker = {"clips": clips, "seed": seed, "version": VERSION}
    home = Folder(out, "Bridge", ("bridge_dataset",), marker)
    home.fill(lambda: _write(out / "bridge_dataset/1.0.0", clips, seed))


def write_openx(out: Path, clips: int = 5, seed: int = 0) -> None:
    """Write bridge/0.1.0 with `clips` episodes in `train` and `test`; laws as those of `write`."""
    marker = {"clips": clips, "seed": seed, "version": VERSION}
    home = Folder(out, "Bridge of Open X-Embodiment", ("bridge",), marker)
    home.fill(lambda: _write_openx(out / "bridge/0.1.0", clips, seed))


def write_raw(out: Path, clips: int = 6, seed: int = 0) -> None:
    """Write bridgedata_raw/ with `clips` trajectories; laws as those of `write`."""
    marker = {"clips": clips, "seed": seed, "version": VERSION}
    home = Folder(out, "raw Bridge", ("bridgedata_raw",), marker)
    home.fill(lambda: _write_raw(out / "bridgedata_raw", clips, seed))


def write_numpy(out: Path, clips: int = 6, seed: int = 0) -> None:
    """Write bridgedata_numpy/ with `clips` trajectories; laws as those of `write`."""
    marker = {"clips": clips, "seed": seed, "version": VERSION}
    home = Folder(out, "Bridge for numpy", ("bridgedata_numpy",), marker)
    home.fill(lambda: _write_numpy(out / "bridgedata_numpy", clips, seed))


def _worlds(clips: int, seed: int) -> list[WorldEpisode]:
    return [resampled(episode(seed, index), HZ) for index in range(clips)]


def instruction(world: WorldEpisode) -> str:
    """What was written about an episode: nothing for every third, untidy for some."""
    if world.index % 3 == 2:
        return ""
    if world.index % 4 == 1:
        return world.instruction.capitalize() + " \n"
    return world.instruction


def states(world: WorldEpisode) -> NDArray[np.float64]:
    """x y z, roll pitch yaw away from the pose that looks down, gripper; [T, 7]."""
    turns = from_rpy(world.poses[:, 3:6]) * DOWN.inv()
    width = FULLY_OPEN * world.poses[:, 6]
    return np.column_stack([world.poses[:, :3], to_rpy(turns), width])


def actions(world: WorldEpisode) -> NDArray[np.float64]:
    """What was commanded, [T-1, 7]: from target to target, where the first is the first pose."""
    rng = np.random.default_rng((world.index, 5))
    count = len(world)
    miss = rng.normal(size=(count, 6)) * ([JITTER_M / 2] * 3 + [JITTER_RAD / 2] * 3)
    miss[:2] = 1e-10  # nothing has been commanded yet
    places = world.poses[:, :3] + miss[:, :3]
    turns = Rotation.from_rotvec(miss[:, 3:]) * from_rpy(world.poses[:, 3:6])
    turned = to_rpy(turns[1:] * turns[:-1].inv())
    return np.column_stack([np.diff(places, axis=0), turned, world.targets[:-1]])


def _write(folder: Path, clips: int, seed: int) -> None:
    payloads: dict[str, list[bytes]] = {"train": [], "val": []}
    for world in _worlds(clips, seed):
        split = "val" if world.index % VAL_EVERY == VAL_EVERY - 1 else "train"
        rng = np.random.default_rng((seed, world.index, 2))
        payloads[split].append(example(flatten(_features(world, split)), rng))
    half = (len(payloads["train"]) + 1) // 2
    shards = {3: payloads["train"][:half], 640: payloads["train"][half:]}
    shards = {number: held for number, held in shards.items() if held}
    splits = [Shards("train", 1024, shards), Shards("val", 128, {5: payloads["val"]})]
    about = {"version": "1.0.0", "description": "A description that nobody filled in."}
    write_set(folder, "bridge_dataset", about, features_json(STEPS, EPISODE), splits)


def _cameras(world: WorldEpisode) -> dict[str, list[bytes]]:
    """Four cameras' pictures as JPEG files; those that were not there are black."""
    count = len(world) - 1
    found = {f"image_{k}": [jpeg(np.zeros((*SIZE, 3), np.uint8))] * count for k in range(4)}
    found["image_0"] = [jpeg(p) for p in static_view(world, SIZE)][:count]
    if world.index % 3 == 1:
        found["image_1"] = [jpeg(p) for p in static_view(world, SIZE, SIDE_M)][:count]
    if world.index % 3 == 2:  # wrists were filmed where nobody wrote an instruction
        found["image_3"] = [jpeg(p) for p in wrist_view(world, SIZE)][:count]
    return found


def _features(world: WorldEpisode, split: str) -> dict[str, Any]:
    count, text = len(world) - 1, instruction(world)
    vector = embedding(text) if text else np.zeros(512, np.float32)
    steps = {
        "action": actions(world),
        "language_embedding": np.tile(vector, (count, 1)),
        "language_instruction": [text.encode()] * count,
        "observation": {**_cameras(world), "state": states(world)[:-1]},
        **step_flags(count),
        "discount": np.ones(count),
        "reward": (np.arange(count) == count - 1).astype(np.float32),
    }
    told = {f"has_image_{k}": np.array([False]) for k in range(4)}  # never true
    path_split = "val" if world.index == WRONG_PATH else split
    path = f"/data/numpy_256/bridge_data_v2/toykitchen2/{world.task}/00/{path_split}/out.npy"
    told |= {"has_language": np.array([bool(text)]), "episode_id": np.array([world.index // 3])}
    return {"steps": steps, "episode_metadata": {**told, "file_path": [path.encode()]}}


def _write_openx(folder: Path, clips: int, seed: int) -> None:
    payloads: dict[str, list[bytes]] = {"train": [], "test": []}
    for world in _worlds(clips, seed):
        split = "test" if world.index % VAL_EVERY == VAL_EVERY - 1 else "train"
        rng = np.random.default_rng((seed, world.index, 3))
        payloads[split].append(example(flatten({"steps": _openx_steps(world)}), rng))
    splits = [
        Shards("train", 1024, {11: payloads["train"]}),
        Shards("test", 512, {0: payloads["test"]}),
    ]
    about = {"version": "0.1.0", "description": "WidowX interacting with toy kitchens"}
    write_set(folder, "bridge", about, features_json(OPENX_STEPS, {}), splits)


def _openx_steps(world: WorldEpisode) -> dict[str, Any]:
    count, moves = len(world) - 1, actions(world)
    text = instruction(world)
    encode = png if world.index == 0 else jpeg  # features.json does not say which
    pictures = [encode(p) for p in static_view(world, RECORDED)][:count]
    last = np.arange(count) == count - 1
    flags: dict[str, Values] = step_flags(count)
    return {
        "action": {
            "terminate_episode": last.astype(np.float32),
            "world_vector": moves[:, :3],
            "rotation_delta": moves[:, 3:6],
            "open_gripper": moves[:, 6] > 0.5,
        },
        **flags,
        "observation": {
            "natural_language_embedding": np.tile(embedding(text), (count, 1)),
            "natural_language_instruction": [text.encode()] * count,
            "image": pictures,
            "state": states(world)[:-1],
        },
        "reward": last.astype(np.float32),
    }


RECORDED_ON = ("2022-01-01_00-00-00", "2021-06-12_09-30-00")  # the second one's camera lags


def _write_raw(root: Path, clips: int, seed: int) -> None:
    for world in _worlds(clips, seed):
        _write_traj(root, world)


def _write_traj(root: Path, world: WorldEpisode) -> None:
    """One trajectory as it was recorded: T pictures and states, T - 1 commands."""
    lags = world.index % 3 == 1
    home = root / f"rail/toykitchen2/{world.task}/00" / RECORDED_ON[lags]
    traj = home / f"raw/traj_group0/traj{world.index // 3}"
    seen = np.arange(len(world))
    if lags:  # what is observed is what was one step ago
        seen = np.maximum(seen - 1, 0)
    pictures = list(static_view(world, RECORDED))
    for at, step in enumerate(seen):
        write_bytes(traj / f"images0/im_{at}.jpg", jpeg(pictures[step]))
    if world.index % 3 == 2:
        for at, picture in enumerate(wrist_view(world, RECORDED)):
            write_bytes(traj / f"images1/im_{at}.jpg", jpeg(picture))
    told = {"state": states(world)[seen], "time_stamp": 1.6e9 + np.arange(len(world)) / HZ}
    write_bytes(traj / "obs_dict.pkl", pickled(told))
    write_bytes(traj / "agent_data.pkl", pickled({"traj_ok": True, "camera_info": None}))
    moves = actions(world)
    commanded: list[Any] = [{"actions": move, "policy_type": "VR"} for move in moves]
    if world.index % 2:  # both forms are around
        commanded = list(moves)
    write_bytes(traj / "policy_out.pkl", pickled(commanded))
    if text := instruction(world):
        write_text(traj / "lang.txt", f"{text.strip()}\nconfidence: 1\n")
    write_json(home / "config.json", {"camera_topics": ["/D435/color/image_raw"]})
    write_json(home / "collection_metadata.json", {"robot": "widowx", "environment": "toykitchen2"})


def _write_numpy(root: Path, clips: int, seed: int) -> None:
    """out.npy for each task and split, a pickled list of trajectories."""
    files: dict[str, list[dict[str, Any]]] = {}
    for world in _worlds(clips, seed):
        split = "val" if world.index % VAL_EVERY == VAL_EVERY - 1 else "train"
        files.setdefault(f"toykitchen2/{world.task}/00/{split}", []).append(_trajectory(world))
    for path, trajectories in files.items():
        write_bytes(root / path / "out.npy", object_npy(trajectories))


def _trajectory(world: WorldEpisode) -> dict[str, Any]:
    pictures, poses = list(static_view(world, SMALL)), states(world)
    observed = [
        {"images0": picture, "state": pose, "time_stamp": 1.6e9 + at / HZ}
        for at, (picture, pose) in enumerate(zip(pictures, poses, strict=True))
    ]
    count = len(world) - 1
    return {
        "observations": observed[:-1],
        "next_observations": observed[1:],
        "actions": list(actions(world).astype(np.float32)),
        "terminals": [at == count - 1 for at in range(count)],
        "language": [text.strip()] if (text := instruction(world)) else [],
    }
