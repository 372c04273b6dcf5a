"""Writes miniatures of the robot datasets that come as HDF5: robomimic, LIBERO and ALOHA.

Each is in its own convention, and none says so: robomimic's actions lead away from an observation
and LIBERO's lead to it, LIBERO's pictures stand on their heads, ALOHA's rows of JPEG are padded.
Demos are missing, cut short or without observations, and one file is truncated.
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
from handloom.stages.miniatures.folder import Folder
from handloom.stages.miniatures.robots.views import jpeg, static_view, wrist_view
from handloom.stages.miniatures.robots.world import (
    OPENING_M,
    WorldEpisode,
    changes,
    episode,
    joints,
    quaternions,
    resampled,
)

VERSION = 1  # raise it whenever the same arguments give other bytes
HZ, ALOHA_HZ = 20.0, 50.0
ROBOMIMIC_SIZE, LIBERO_SIZE = (84, 84), (128, 128)
ALOHA_SIZE = (120, 160)  # a quarter of the original's in each direction
MOST_M, MOST_RAD = 0.05, 0.5  # what an action of 1 means to the controller
CAP = 5  # steps that LIBERO's writer drops
BROKEN = 2  # the ALOHA file that was not copied to its end
CUT_SHORT = 2  # the demo with fewer pictures than actions
LIBERO_EPISODES, ALOHA_EPISODES = (3, 8), 21  # episodes of the world

Tables = dict[str, Any]  # datasets, and groups of them, by name


def write(out: Path, clips: int = 12, seed: int = 0) -> None:
    """Write robomimic/, libero_spatial/ and sim_transfer/, about a third of `clips` episodes each.

    The same arguments give the same bytes. A finished folder is left alone. Raises UserError where
    `out` holds a dataset of that name that is not this miniature.
    """
    marker = {"clips": clips, "seed": seed, "version": VERSION}
    parts = ("robomimic", "libero_spatial", "sim_transfer")
    Folder(out, "HDF5 datasets", parts, marker).fill(lambda: _write(out, max(1, clips // 3), seed))


def _write(out: Path, count: int, seed: int) -> None:
    _write_robomimic(out / "robomimic/lift/ph", takes(seed, 0, count))
    for index in LIBERO_EPISODES[:count]:
        demos = [w for w in takes(seed, index, max(1, count // 2)) if w.success]  # as released
        name = demos[0].instruction.replace(" ", "_")
        _write_libero(out / f"libero_spatial/{name}_demo.hdf5", demos)
    for index in range(min(3, count)):
        world = resampled(episode(seed, ALOHA_EPISODES + index), ALOHA_HZ)
        if index == BROKEN:  # cut short, so that what is thrown away is not rendered first
            world = replace(world, poses=world.poses[:40], targets=world.targets[:40])
        path = out / f"sim_transfer/episode_{index}.hdf5"
        _write_file(path, aloha(world, compress=index == 1), {"sim": True, "compress": index == 1})
        if index == BROKEN:  # the copy was interrupted
            os.truncate(path, path.stat().st_size * 3 // 5)


def takes(seed: int, index: int, count: int) -> list[WorldEpisode]:
    """Demos of one task, as the files of robomimic and LIBERO hold them."""
    return [resampled(episode(seed, index, take), HZ) for take in range(count)]


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
        _fill(file, tables)
        file.attrs.update(root)
        for name, values in (attributes or {}).items():
            file[name].attrs.update(values)


def _fill(group: Any, tables: Tables) -> None:
    for name, value in tables.items():
        if isinstance(value, dict):
            _fill(group.create_group(name), value)
        else:
            group.create_dataset(name, data=value)


def actions(world: WorldEpisode) -> NDArray[np.float64]:
    """Normalised commands [T - 1, 7]: displacement, rotation vector, gripper -1 open, +1 closed."""
    told = changes(world) / ([MOST_M] * 3 + [MOST_RAD] * 3)
    return np.column_stack([told, 1 - 2 * world.targets[:-1]])


def _fingers(world: WorldEpisode) -> NDArray[np.float64]:
    half = world.poses[:, 6] * OPENING_M / 2
    return np.column_stack([half, -half])


def _scene(world: WorldEpisode) -> NDArray[np.float64]:
    """A simulator's state: whatever it takes to set up the scene."""
    return np.column_stack(
        [joints(world, 7), _fingers(world), world.places.reshape(len(world), -1)]
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
            "output_max": [MOST_M] * 3 + [MOST_RAD] * 3,
            "output_min": [-MOST_M] * 3 + [-MOST_RAD] * 3,
            "control_delta": True,
        },
        "robots": ["Panda"],
        "camera_heights": ROBOMIMIC_SIZE[0],
        "camera_widths": ROBOMIMIC_SIZE[1],
        "camera_names": ["agentview", "robot0_eye_in_hand"],
    },
}


def _write_robomimic(folder: Path, worlds: list[WorldEpisode]) -> None:
    """image_v15.hdf5, with pictures, and demo_v15.hdf5 as it is downloaded, without observations.

    The numbering jumps from 1 to 10, and the groups are in the order of their names.
    """
    names = {f"demo_{i if i < 2 else i + 8}": world for i, world in enumerate(worlds)}
    demos = {name: robomimic_demo(world) for name, world in sorted(names.items())}
    for name in list(names)[CUT_SHORT : CUT_SHORT + 1]:
        observed = demos[name]["obs"]
        observed["agentview_image"] = observed["agentview_image"][:-4]
    listed = np.array([name.encode() for name in names])
    masks = {"train": listed[:-1], "valid": listed[-1:]}
    told: Tables = {f"data/{name}": {"num_samples": len(demo["actions"]), "model_file": "<mujoco/>"}
                    for name, demo in demos.items()}  # fmt: skip
    total = sum(len(demo["actions"]) for demo in demos.values())
    told["data"] = {"total": total, "env_args": json.dumps(ENV_ARGS, indent=4)}
    _write_file(folder / "image_v15.hdf5", {"data": demos, "mask": masks}, {}, told)
    bare = {
        name: {key: value for key, value in demo.items() if not key.endswith("obs")}
        for name, demo in demos.items()
    }
    _write_file(folder / "demo_v15.hdf5", {"data": bare, "mask": masks}, {}, told)


def robomimic_demo(world: WorldEpisode) -> Tables:
    """A demo: T - 1 actions, each with the observation before and the one after it."""
    observed: dict[str, NDArray[Any]] = {
        "agentview_image": np.stack(list(static_view(world, ROBOMIMIC_SIZE))),
        "robot0_eye_in_hand_image": np.stack(list(wrist_view(world, ROBOMIMIC_SIZE))),
        "robot0_eef_pos": world.poses[:, :3],
        "robot0_eef_quat": quaternions(world),
        "robot0_gripper_qpos": _fingers(world),
        "robot0_joint_pos": joints(world, 7),
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
    if worlds[0].task == "put":  # some files hold a list, and quotes
        words = [f'"{worlds[0].instruction}"']
    problem = {"problem_name": "libero_tabletop_manipulation", "language_instruction": words}
    told: Tables = {f"data/{name}": {"num_samples": len(demo["actions"]), "model_file": "<mujoco/>"}
                    for name, demo in demos.items()}  # fmt: skip
    told["data"] = {
        "env_name": "Libero_Tabletop_Manipulation",
        "problem_info": json.dumps(problem),
        "bddl_file_name": f"bddl_files/libero_spatial/{path.name[: -len('_demo.hdf5')]}.bddl",
        "bddl_file_content": "(define (problem tabletop))",
        "env_args": json.dumps({**ENV_ARGS, "env_name": "Libero_Tabletop_Manipulation"}),
        "macros_image_convention": "opengl",
        "num_demos": len(demos),
        "total": sum(len(demo["actions"]) for demo in demos.values()),
    }
    _write_file(path, {"data": demos}, {}, told)


def libero_demo(world: WorldEpisode) -> Tables:
    """A demo whose observations were taken after the action of the same row."""
    poses, vectors = world.poses, from_rpy(world.poses[:, 3:6]).as_rotvec()
    count = len(world) - 1
    # Row j was stored after actions[j] had been carried out; the first CAP rows are dropped.
    reached = slice(CAP + 1, None)
    upside_down = {  # who trains on LIBERO turns its pictures by 180 degrees
        "agentview_rgb": np.stack(list(static_view(world, LIBERO_SIZE)))[reached, ::-1, ::-1],
        "eye_in_hand_rgb": np.stack(list(wrist_view(world, LIBERO_SIZE)))[reached, ::-1, ::-1],
    }
    last = (np.arange(count) == count - 1).astype(np.uint8)[CAP:]
    robot = np.column_stack([_fingers(world), poses[:, :3], quaternions(world)])
    return {
        "actions": actions(world)[CAP:],
        "states": _scene(world)[reached],
        "robot_states": robot[reached],
        "rewards": last,
        "dones": last,
        "obs": {
            **upside_down,
            "gripper_states": _fingers(world)[reached],
            "joint_states": joints(world, 7)[reached],
            "ee_states": np.column_stack([poses[:, :3], vectors])[reached],
            "ee_pos": poses[reached, :3],
            "ee_ori": vectors[reached],
        },
    }


def arms(world: WorldEpisode) -> NDArray[np.float32]:
    """Two arms' joints and grippers, [T, 14]: the left one waits, the right one acts."""
    waits = np.tile(np.array([0, -0.96, 1.16, 0, -0.3, 0, 1.0]), (len(world), 1))
    return np.hstack([waits, joints(world, 6), world.poses[:, 6:]]).astype(np.float32)


def aloha(world: WorldEpisode, compress: bool) -> Tables:
    """An ALOHA file: what the leader arms were moved to is what the arms then reach."""
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
