"""Miniatures of BridgeData in the three layouts that `handloom sample` does not write.

They are `bridge` 0.1.0 of Open X-Embodiment, the recorder's folders, and what the official code
makes of them. State and action mean the same as in stages/miniatures/bridge.py.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handloom.stages.miniatures import bridge
from handloom.stages.miniatures.folder import miniature_writer, write_bytes, write_json, write_text
from handloom.stages.miniatures.people.raster import Frame
from handloom.stages.miniatures.robots.files import text_embedding, to_object_npy, to_pickle
from handloom.stages.miniatures.robots.tfrecords import (
    FeatureSpec,
    Shards,
    Tree,
    Values,
    encode_example,
    features_json,
    flatten,
    step_flags,
    write_dataset,
)
from handloom.stages.miniatures.robots.views import jpeg, static_view, wrist_view
from handloom.stages.miniatures.robots.world import WorldEpisode

RECORDED, SMALL = (480, 640), (128, 128)


def png(image: Frame) -> bytes:
    """An image as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


OPENX_STEPS: Tree = {
    "action": {
        "terminate_episode": FeatureSpec(),
        "world_vector": FeatureSpec(shape=(3,)),
        "rotation_delta": FeatureSpec(shape=(3,)),
        "open_gripper": FeatureSpec("bool"),
    },
    **{name: FeatureSpec("bool") for name in bridge.FLAGS},
    "observation": {
        "natural_language_embedding": FeatureSpec(shape=(512,)),
        "natural_language_instruction": FeatureSpec("string"),
        "image": FeatureSpec(shape=(*RECORDED, 3), kind="image"),
        "state": FeatureSpec(shape=(7,)),
    },
    "reward": FeatureSpec(kind="scalar"),
}


@miniature_writer("Bridge of Open X-Embodiment", "bridge", version=1)
def write_openx(out: Path, clips: int = 5, seed: int = 0) -> None:
    """Write bridge/0.1.0 with `clips` episodes in `train` and `test`."""
    payloads: dict[str, list[bytes]] = {"train": [], "test": []}
    for world in bridge.make_worlds(clips, seed):
        split = "test" if bridge.is_held_out(world) else "train"
        rng = np.random.default_rng((seed, world.index, 3))
        payloads[split].append(encode_example(flatten({"steps": _openx_steps(world)}), rng))
    splits = [
        Shards("train", 1024, {11: payloads["train"]}),
        Shards("test", 512, {0: payloads["test"]}),
    ]
    about = {"version": "0.1.0", "description": "WidowX interacting with toy kitchens"}
    write_dataset(out / "bridge/0.1.0", "bridge", about, features_json(OPENX_STEPS, {}), splits)


def _openx_steps(world: WorldEpisode) -> dict[str, Any]:
    count, moves = len(world) - 1, bridge.actions(world)
    text = bridge.instruction(world)
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
            "natural_language_embedding": np.tile(text_embedding(text), (count, 1)),
            "natural_language_instruction": [text.encode()] * count,
            "image": pictures,
            "state": bridge.states(world)[:-1],
        },
        "reward": last.astype(np.float32),
    }


RECORDED_ON = ("2022-01-01_00-00-00", "2021-06-12_09-30-00")  # the second one's camera lags


@miniature_writer("raw Bridge", "bridgedata_raw", version=1)
def write_raw(out: Path, clips: int = 6, seed: int = 0) -> None:
    """Write the recorder's folders, bridgedata_raw/, with `clips` trajectories."""
    for world in bridge.make_worlds(clips, seed):
        _write_traj(out / "bridgedata_raw", world)


def _write_traj(root: Path, world: WorldEpisode) -> None:
    """One trajectory as it was recorded: T pictures and states, T - 1 commands."""
    lags = world.index % 3 == 1
    home = root / f"rail/toykitchen2/{world.task}/00" / RECORDED_ON[lags]
    traj = home / f"raw/traj_group0/traj{world.index // 3}"
    shown_steps = np.arange(len(world))
    if lags:  # what is observed is what was one step ago
        shown_steps = np.maximum(shown_steps - 1, 0)
    pictures = list(static_view(world, RECORDED))
    for at, step in enumerate(shown_steps):
        write_bytes(traj / f"images0/im_{at}.jpg", jpeg(pictures[step]))
    if world.index % 3 == 2:
        for at, picture in enumerate(wrist_view(world, RECORDED)):
            write_bytes(traj / f"images1/im_{at}.jpg", jpeg(picture))
    observations = {
        "state": bridge.states(world)[shown_steps],
        "time_stamp": 1.6e9 + np.arange(len(world)) / bridge.HZ,
    }
    write_bytes(traj / "obs_dict.pkl", to_pickle(observations))
    write_bytes(traj / "agent_data.pkl", to_pickle({"traj_ok": True, "camera_info": None}))
    moves = bridge.actions(world)
    commanded: list[Any] = [{"actions": move, "policy_type": "VR"} for move in moves]
    if world.index % 2:  # both forms are around
        commanded = list(moves)
    write_bytes(traj / "policy_out.pkl", to_pickle(commanded))
    if text := bridge.instruction(world):
        write_text(traj / "lang.txt", f"{text.strip()}\nconfidence: 1\n")
    write_json(home / "config.json", {"camera_topics": ["/D435/color/image_raw"]})
    write_json(home / "collection_metadata.json", {"robot": "widowx", "environment": "toykitchen2"})


@miniature_writer("Bridge for numpy", "bridgedata_numpy", version=1)
def write_numpy(out: Path, clips: int = 6, seed: int = 0) -> None:
    """Write bridgedata_numpy/: out.npy for each task and split, a pickled list of trajectories."""
    files: dict[str, list[dict[str, Any]]] = {}
    for world in bridge.make_worlds(clips, seed):
        split = "val" if bridge.is_held_out(world) else "train"
        files.setdefault(f"toykitchen2/{world.task}/00/{split}", []).append(_trajectory(world))
    for path, trajectories in files.items():
        write_bytes(out / "bridgedata_numpy" / path / "out.npy", to_object_npy(trajectories))


def _trajectory(world: WorldEpisode) -> dict[str, Any]:
    pictures, poses = list(static_view(world, SMALL)), bridge.states(world)
    observed = [
        {"images0": picture, "state": pose, "time_stamp": 1.6e9 + at / bridge.HZ}
        for at, (picture, pose) in enumerate(zip(pictures, poses, strict=True))
    ]
    count = len(world) - 1
    return {
        "observations": observed[:-1],
        "next_observations": observed[1:],
        "actions": list(bridge.actions(world).astype(np.float32)),
        "terminals": [at == count - 1 for at in range(count)],
        "language": [text.strip()] if (text := bridge.instruction(world)) else [],
    }
