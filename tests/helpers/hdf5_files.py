"""HDF5 files as robomimic, robosuite, LIBERO and ALOHA write them, with random content."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handloom.errors import MediaError
from handloom.stages.datasets.hdf5 import adapter as hdf5
from handloom.stages.datasets.source import Episode, EpisodeOptions, SourceEpisode

AUTO = EpisodeOptions()
STORED = EpisodeOptions(action_kind="as_stored")
STEPS = 6

# As robomimic and robosuite 1.4 write it, shortened.
OSC = {
    "type": "OSC_POSE", "input_max": 1, "input_min": -1, "control_delta": True,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
}  # fmt: skip


def environment(name: str = "Lift", **controller: Any) -> dict[str, Any]:
    return {
        "env_name": name,
        "type": 1,
        "env_kwargs": {"control_freq": 20, "controller_configs": OSC | controller},
    }


def pictures(seed: int, steps: int = STEPS) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (steps, 8, 10, 3), np.uint8)


def told(seed: int, arms: int = 1, steps: int = STEPS) -> NDArray[np.float64]:
    values = np.random.default_rng(seed).uniform(-0.9, 0.9, (steps, 7 * arms))
    values[:, 6::7] = np.sign(values[:, 6::7])
    return values


def turned(seed: int, steps: int = STEPS) -> Rotation:
    return Rotation.from_rotvec(np.random.default_rng(seed).uniform(-1, 1, (steps, 3)))


Parts = dict[str, Any]


def robomimic_demo(seed: int, arms: int = 1, steps: int = STEPS) -> Parts:
    parts: Parts = {
        "actions": told(seed, arms, steps),
        "states": np.zeros((steps, 4)),
        "rewards": np.eye(steps)[-1],
        "dones": np.eye(steps)[-1],
        "obs/agentview_image": pictures(seed, steps),
        "obs/robot0_eye_in_hand_image": pictures(seed + 1, steps),
        "obs/agentview_depth": np.zeros((steps, 8, 10, 1), np.float32),
        "obs/normals": np.zeros((steps, 8, 10, 3), np.float32),
        "obs/object": np.zeros((steps, 10)),
    }
    for arm in range(arms):
        parts[f"obs/robot{arm}_eef_pos"] = told(seed + arm, 1, steps)[:, :3]
        parts[f"obs/robot{arm}_eef_quat"] = turned(seed + arm, steps).as_quat()
        parts[f"obs/robot{arm}_gripper_qpos"] = np.tile([0.04, -0.04], (steps, 1))
    return parts


def libero_demo(seed: int) -> Parts:
    return {
        "actions": told(seed),
        "states": np.zeros((STEPS, 4)),
        "rewards": np.eye(STEPS, dtype=np.uint8)[-1],
        "dones": np.eye(STEPS, dtype=np.uint8)[-1],
        "obs/agentview_rgb": pictures(seed),
        "obs/eye_in_hand_rgb": pictures(seed + 1),
        "obs/ee_pos": told(seed)[:, :3],
        "obs/ee_ori": turned(seed).as_rotvec(),
        "obs/gripper_states": np.tile([0.02, -0.02], (STEPS, 1)),
    }


LIBERO: Parts = {
    "env_args": json.dumps(environment("Libero_Kitchen")),
    "problem_info": json.dumps({"language_instruction": "turn on the stove"}),
    "bddl_file_name": "kitchen.bddl",
    "macros_image_convention": "opengl",
    "tag": "libero-v1",
}


def write(path: Path, demos: dict[str, Parts], attributes: Parts | None = None) -> Path:
    """A file of demonstrations; by default with robomimic's attributes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    default = {"env_args": json.dumps(environment()), "total": 1}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs.update(default if attributes is None else attributes)
        for name, parts in demos.items():
            for where, values in parts.items():
                data[f"{name}/{where}"] = values
    return path


def aloha(path: Path, seed: int = 0, width: int = 14, **parts: Any) -> Path:
    rng = np.random.default_rng(seed)
    found: Parts = {
        "action": rng.normal(size=(STEPS, width)).astype(np.float32),
        "observations/qpos": rng.normal(size=(STEPS, width)).astype(np.float32),
        "observations/images/cam_left_wrist": pictures(seed),
        "observations/images/cam_high": pictures(seed + 1),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for where, values in (found | parts).items():
            if values is not None:
                file[where] = values
    return path


def listed(root: Path) -> list[SourceEpisode]:
    return list(hdf5.episodes(root, AUTO))


def loaded(root: Path, options: EpisodeOptions = AUTO) -> Episode:
    (source,) = listed(root)
    assert (source.reason, source.error) == ("", "")
    return hdf5.load(root, source, options)


def seen(episode: Episode, camera: str) -> NDArray[np.uint8]:
    return np.stack([episode.views[camera][i] for i in range(len(episode.views[camera]))])


def refused(root: Path, options: EpisodeOptions = AUTO) -> str:
    """What loading the one demonstration says."""
    with pytest.raises(MediaError) as caught:
        loaded(root, options)
    assert str(root) not in str(caught.value)
    return str(caught.value)
