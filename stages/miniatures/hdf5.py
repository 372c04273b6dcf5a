"""Miniatures of the robot datasets in HDF5: robomimic, LIBERO and ALOHA.

Each has its own unstated convention: an action follows its observation in robomimic and precedes it
in LIBERO, LIBERO's images are upside down, ALOHA's rows of JPEG are padded. Demonstrations are
missing, cut short or without observations, and one file is truncated.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.files import whole
from handloom.stages.datasets.formats.rotations import from_rpy
from handloom.stages.miniatures.folder import miniature_writer
from handloom.stages.miniatures.robots.views import jpeg, static_view, wrist_view
from handloom.stages.miniatures.robots.world import (
    OPENING_M,
    WorldEpisode,
    joint_angles,
    make_episode,
    pose_deltas,
    quaternions,
    resample,
)

HZ, ALOHA_HZ = 20.0, 50.0
ROBOMIMIC_SIZE, LIBERO_SIZE = (84, 84), (128, 128)
ALOHA_SIZE = (120, 160)  # a quarter of the original's in each direction
MAX_M, MAX_RAD = 0.05, 0.5  # an action of 1, to the controller
DROPPED_STEPS = 5  # at the start, by LIBERO's writer
BROKEN = 2  # number of the ALOHA file whose copy was interrupted
CUT_SHORT = 2  # number of the demo with fewer images than actions
LIBERO_EPISODES, ALOHA_EPISODES = (3, 8), 21  # numbers of the world's episodes

Tables = dict[str, Any]  # datasets, and groups of them, by name


@miniature_writer("HDF5 datasets", "robomimic", "libero_spatial", "sim_transfer", version=1)
def write(out: Path, clips: int = 12, seed: int = 0) -> None:
    """Write robomimic/, libero_spatial/ and sim_transfer/, about a third of `clips` each."""
    count = max(1, clips // 3)
    _write_robomimic(out / "robomimic/lift/ph", make_demos(seed, 0, count))
    for index in LIBERO_EPISODES[:count]:
        demos = [w for w in make_demos(seed, index, max(1, count // 2)) if w.success]  # as released
        name = demos[0].instruction.replace(" ", "_")
        _write_libero(out / f"libero_spatial/{name}_demo.hdf5", demos)
    for index in range(min(3, count)):
        world = resample(make_episode(seed, ALOHA_EPISODES + index), ALOHA_HZ)
        if index == BROKEN:  # shortened, so that the part to be cut off is not rendered
            world = replace(world, poses=world.poses[:40], targets=world.targets[:40])
        path = out / f"sim_transfer/episode_{index}.hdf5"
        _write_file(
            path, aloha_tables(world, compress=index == 1), {"sim": True, "compress": index == 1}
        )
        if index == BROKEN:  # the copy was interrupted
            os.truncate(path, path.stat().st_size * 3 // 5)


def make_demos(seed: int, index: int, count: int) -> list[WorldEpisode]:
    """Demonstrations of one task, as in a file of robomimic or LIBERO."""
    return [resample(make_episode(seed, index, take), HZ) for take in range(count)]


def _write_file(path: Path, tables: Tables, root: Tables, attributes: Tables | None = None) -> None:
    """Write an HDF5 file whole or not at all.

    Args:
        path: of the file.
        tables: arrays, and dicts of them as groups.
        root: attributes of the file.
        attributes: attributes of groups, by path.
    """
    import h5py

    with whole(path, sync=False) as temporary, h5py.File(temporary, "w") as file:
        _write_group(file, tables)
        file.attrs.update(root)
        for name, values in (attributes or {}).items():
            file[name].attrs.update(values)


def _write_group(group: Any, tables: Tables) -> None:
    for name, value in tables.items():
        if isinstance(value, dict):
            _write_group(group.create_group(name), value)
        else:
            group.create_dataset(name, data=value)


def actions(world: WorldEpisode) -> NDArray[np.float64]:
    """Normalised commands [T - 1, 7]: displacement, rotation vector, gripper -1 open, +1 closed."""
    normalised = pose_deltas(world) / ([MAX_M] * 3 + [MAX_RAD] * 3)
    return np.column_stack([normalised, 1 - 2 * world.targets[:-1]])


def _fingers(world: WorldEpisode) -> NDArray[np.float64]:
    half = world.poses[:, 6] * OPENING_M / 2
    return np.column_stack([half, -half])


def _scene(world: WorldEpisode) -> NDArray[np.float64]:
    """A simulator's state: joints, fingers and places of objects."""
    return np.column_stack(
        [joint_angles(world, 7), _fingers(world), world.places.reshape(len(world), -1)]
    )


ENV_ARGS = {
    "env_name": "Lift",
    "type": 1,
    "env_kwargs": {
        "control_freq": 20,
        "controller_configs": {
            "type": "OSC_POSE",
            "input_max": 1,
            "input_min": -1,
            "output_max": [MAX_M] * 3 + [MAX_RAD] * 3,
            "output_min": [-MAX_M] * 3 + [-MAX_RAD] * 3,
            "control_delta": True,
        },
        "robots": ["Panda"],
        "camera_heights": ROBOMIMIC_SIZE[0],
        "camera_widths": ROBOMIMIC_SIZE[1],
        "camera_names": ["agentview", "robot0_eye_in_hand"],
    },
}


def _write_robomimic(folder: Path, worlds: list[WorldEpisode]) -> None:
    """Write image_v15.hdf5, with images, and demo_v15.hdf5 as downloaded, without observations.

    The numbers jump from 1 to 10, and the groups are in the order of their names.
    """
    names = {f"demo_{i if i < 2 else i + 8}": world for i, world in enumerate(worlds)}
    demos = {name: robomimic_demo(world) for name, world in sorted(names.items())}
    for name in list(names)[CUT_SHORT : CUT_SHORT + 1]:
        observed = demos[name]["obs"]
        observed["agentview_image"] = observed["agentview_image"][:-4]
    listed = np.array([name.encode() for name in names])
    masks = {"train": listed[:-1], "valid": listed[-1:]}
    attributes = _demo_attributes(demos)
    total = sum(len(demo["actions"]) for demo in demos.values())
    attributes["data"] = {"total": total, "env_args": json.dumps(ENV_ARGS, indent=4)}
    _write_file(folder / "image_v15.hdf5", {"data": demos, "mask": masks}, {}, attributes)
    bare = {
        name: {key: value for key, value in demo.items() if not key.endswith("obs")}
        for name, demo in demos.items()
    }
    _write_file(folder / "demo_v15.hdf5", {"data": bare, "mask": masks}, {}, attributes)


def _demo_attributes(demos: dict[str, Tables]) -> Tables:
    return {
        f"data/{name}": {"num_samples": len(demo["actions"]), "model_file": "<mujoco/>"}
        for name, demo in demos.items()
    }


def robomimic_demo(world: WorldEpisode) -> Tables:
    """A demonstration: T - 1 actions, each with the observations before and after it."""
    observed: dict[str, NDArray[Any]] = {
        "agentview_image": np.stack(list(static_view(world, ROBOMIMIC_SIZE))),
        "robot0_eye_in_hand_image": np.stack(list(wrist_view(world, ROBOMIMIC_SIZE))),
        "robot0_eef_pos": world.poses[:, :3],
        "robot0_eef_quat": quaternions(world),
        "robot0_gripper_qpos": _fingers(world),
        "robot0_joint_pos": joint_angles(world, 7),
        "object": world.places[:, 0],
    }
    count = len(world) - 1
    last = (np.arange(count) == count - 1) & world.success
    return {
        "states": _scene(world)[:-1],
        "actions": actions(world),
        "rewards": last.astype(np.float64),
        "dones": last.astype(np.int64),
        "obs": {key: values[:-1] for key, values in observed.items()},
        "next_obs": {key: values[1:] for key, values in observed.items() if "image" not in key},
    }


def _write_libero(path: Path, worlds: list[WorldEpisode]) -> None:
    demos = {f"demo_{number}": libero_demo(world) for number, world in enumerate(worlds)}
    words: str | list[str] = worlds[0].instruction
    if worlds[0].task == "put":  # some files hold a list, with quotes
        words = [f'"{worlds[0].instruction}"']
    problem = {"problem_name": "libero_tabletop_manipulation", "language_instruction": words}
    attributes = _demo_attributes(demos)
    attributes["data"] = {
        "env_name": "Libero_Tabletop_Manipulation",
        "problem_info": json.dumps(problem),
        "bddl_file_name": f"bddl_files/libero_spatial/{path.name[: -len('_demo.hdf5')]}.bddl",
        "bddl_file_content": "(define (problem tabletop))",
        "env_args": json.dumps({**ENV_ARGS, "env_name": "Libero_Tabletop_Manipulation"}),
        "macros_image_convention": "opengl",
        "num_demos": len(demos),
        "total": sum(len(demo["actions"]) for demo in demos.values()),
    }
    _write_file(path, {"data": demos}, {}, attributes)


def libero_demo(world: WorldEpisode) -> Tables:
    """A demonstration whose observations were made after the action of the same row."""
    poses, vectors = world.poses, from_rpy(world.poses[:, 3:6]).as_rotvec()
    count = len(world) - 1
    # Row j was stored after actions[j] had been executed.
    reached = slice(DROPPED_STEPS + 1, None)
    upside_down = {  # rotated by 180 degrees
        "agentview_rgb": np.stack(list(static_view(world, LIBERO_SIZE)))[reached, ::-1, ::-1],
        "eye_in_hand_rgb": np.stack(list(wrist_view(world, LIBERO_SIZE)))[reached, ::-1, ::-1],
    }
    last = (np.arange(count) == count - 1).astype(np.uint8)[DROPPED_STEPS:]
    robot = np.column_stack([_fingers(world), poses[:, :3], quaternions(world)])
    return {
        "actions": actions(world)[DROPPED_STEPS:],
        "states": _scene(world)[reached],
        "robot_states": robot[reached],
        "rewards": last,
        "dones": last,
        "obs": {
            **upside_down,
            "gripper_states": _fingers(world)[reached],
            "joint_states": joint_angles(world, 7)[reached],
            "ee_states": np.column_stack([poses[:, :3], vectors])[reached],
            "ee_pos": poses[reached, :3],
            "ee_ori": vectors[reached],
        },
    }


def arms(world: WorldEpisode) -> NDArray[np.float32]:
    """Joints and grippers of two arms, [T, 14]: the left one waits, the right one acts."""
    waits = np.tile(np.array([0, -0.96, 1.16, 0, -0.3, 0, 1.0]), (len(world), 1))
    return np.hstack([waits, joint_angles(world, 6), world.poses[:, 6:]]).astype(np.float32)


def aloha_tables(world: WorldEpisode, compress: bool) -> Tables:
    """Content of an ALOHA file: the arms reach at each step what the leaders commanded before."""
    reached = arms(world)
    commanded = np.concatenate([reached[1:], reached[-1:]])
    commanded[:, 13] = world.targets
    views = {"top": static_view(world, ALOHA_SIZE)}
    if compress:
        views["right_wrist"] = wrist_view(world, ALOHA_SIZE)
    images: dict[str, NDArray[np.uint8]] = {}
    lengths = []
    for camera, pictures in views.items():
        if compress:
            files = [jpeg(picture, quality=50) for picture in pictures]
            rows = [np.frombuffer(file, np.uint8) for file in files]
            widest = max(len(row) for row in rows) + 64
            images[camera] = np.stack([np.pad(row, (0, widest - len(row))) for row in rows])
            lengths.append([len(row) for row in rows])
        else:
            images[camera] = np.stack(list(pictures))
    tables: Tables = {
        "action": commanded,
        "observations": {
            "qpos": reached,
            "qvel": np.gradient(reached, 1 / ALOHA_HZ, axis=0).astype(np.float32),
            "images": images,
        },
    }
    return tables | ({"compress_len": np.array(lengths, np.float32)} if compress else {})
