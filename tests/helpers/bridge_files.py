"""BridgeData outside of TFDS: one trajectory as it is recorded, and converted to two forms."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handloom.stages.datasets.bridge import raw as bridge_raw
from handloom.stages.datasets.source import Episode, EpisodeOptions, SourceEpisode
from handloom.stages.miniatures.robots.tfrecords import encode_example, frame_record
from tests.helpers.tensor_protos import proto

OPTIONS = EpisodeOptions()
TRAJ = "rail/toykitchen2/pick/00/2022-01-01_00-00-00/raw/traj_group0/traj0"
STEPS = 12  # observations of a raw trajectory


def recorded(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """States [STEPS, 7] and commands [STEPS - 1, 7]."""
    rng = np.random.default_rng(seed)
    states = np.cumsum(rng.uniform(-0.02, 0.02, (STEPS, 7)), axis=0)
    states[:, 6] = np.where(np.arange(STEPS) < 6, 1.0008, 0.1)
    commands = np.diff(states, axis=0) + rng.uniform(-1e-3, 1e-3, (STEPS - 1, 7))
    commands[0, :6] = 1e-9
    commands[:, 6] = np.where(np.arange(STEPS - 1) < 5, 1.0, 0.0)
    return states, commands


def picture(step: int, camera: int) -> NDArray[np.uint8]:
    return np.full((12, 16, 3), [10 * step + 5, 100 * camera, 50], np.uint8)


def png(array: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")  # under the name .jpg: the content counts
    return file.getvalue()


def write_raw(
    root: Path, path: str = TRAJ, seed: int = 0, cameras: int = 2, protocol: int = 4
) -> Path:
    """A trajectory as recorded; commands are dicts where the seed is odd."""
    folder = root / path
    folder.mkdir(parents=True)
    states, commands = recorded(seed)
    stored = {"state": states, "time_stamp": [0.2 * i for i in range(STEPS)], "full_state": states}
    (folder / "obs_dict.pkl").write_bytes(pickle.dumps(stored, protocol))
    told = [{"actions": row, "policy_type": "VR"} for row in commands] if seed % 2 else [*commands]
    (folder / "policy_out.pkl").write_bytes(pickle.dumps(told, protocol))
    (folder / "agent_data.pkl").write_bytes(pickle.dumps({"camera_info": object}))
    for camera in range(cameras):
        (folder / f"images{camera}").mkdir()
        for step in range(STEPS):
            content = png(picture(step, camera))
            (folder / f"images{camera}/im_{step}.jpg").write_bytes(content)
    (folder / "depth_images0").mkdir()
    (folder / "lang.txt").write_text("pick up the cup \nconfidence: 1\nlift the cup\n")
    return folder


def listed(root: Path, options: EpisodeOptions = OPTIONS) -> list[SourceEpisode]:
    return list(bridge_raw.episodes(root, options))


def only(root: Path, options: EpisodeOptions = OPTIONS) -> Episode:
    (source,) = listed(root, options)
    return bridge_raw.load(root, source, options)


def shown(episode: Episode, view: str) -> list[int]:
    """Steps that the pictures of a view are of."""
    pictures = episode.views[view]
    return [(int(pictures[i][0, 0, 0]) - 5) // 10 for i in range(len(pictures))]


class Harm:
    def __reduce__(self) -> Any:
        return os.system, ("touch harm",)


def converted(seed: int) -> dict[str, Any]:
    """A trajectory as the official conversion writes it from a raw one; camera 1 is black."""
    states, commands = recorded(seed)
    observed = [
        {"images0": picture(i, 0), "images1": 0 * picture(i, 0), "state": state, "time_stamp": i}
        for i, state in enumerate(states)
    ]
    return {
        "observations": observed[:-1],
        "next_observations": observed[1:],
        "actions": list(commands),
        "terminals": [i == STEPS - 2 for i in range(STEPS - 1)],
        "language": ["pick up the cup\n", "lift the cup"],
    }


def write_npy(path: Path, trajectories: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    held = np.empty(len(trajectories), object)
    held[:] = trajectories
    np.save(path, held, allow_pickle=True)


def write_records(path: Path, trajectories: list[dict[str, Any]]) -> None:
    """The features of a trajectory are serialised tensors."""
    content, rng = b"", np.random.default_rng(0)
    for told in trajectories:
        features = {
            "actions": proto(np.array(told["actions"], np.float32), 1),
            "terminals": proto(np.array(told["terminals"]), 10),
            "language": proto(told["language"], 7),
        }
        for name in ("observations", "next_observations"):
            for key, dtype in (("images0", 4), ("images1", 4), ("state", 1)):
                kind = np.uint8 if dtype == 4 else np.float32
                values = np.array([step[key] for step in told[name]], kind)
                features[f"{name}/{key}"] = proto(values, dtype)
        content += frame_record(
            encode_example({key: [value] for key, value in features.items()}, rng)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
