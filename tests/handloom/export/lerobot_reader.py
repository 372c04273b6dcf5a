"""Reads a LeRobot dataset with the real `lerobot` package; runs in an environment that has it.

python lerobot_reader.py FOLDER     a line of JSON on the dataset, then one on each of its steps
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def main(folder: str) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("export/test", root=Path(folder), video_backend="pyav")
    step_s = 1 / dataset.fps
    window = {"action": [0.0, step_s], "observation.state": [-step_s, 0.0]}
    windows = LeRobotDataset(
        "export/test", root=Path(folder), video_backend="pyav", delta_timestamps=window
    )
    told = {"episodes": dataset.num_episodes, "frames": dataset.num_frames, "fps": dataset.fps}
    told["cameras"] = dataset.meta.camera_keys
    told["stats"] = {
        name: {key: value.tolist() for key, value in stats.items()}
        for name, stats in dataset.meta.stats.items()
    }
    print(json.dumps(told))
    for number in range(len(dataset)):
        item: dict[str, Any] = dataset[number]
        step = {key: item[key].tolist() for key in ("action", "observation.state", "index")}
        step |= {"task": item["task"], "episode": int(item["episode_index"])}
        step["greys"] = {key: 255 * float(item[key].mean()) for key in told["cameras"]}
        step["next"] = windows[number]["action"][1].tolist()
        step["is_last"] = bool(windows[number]["action_is_pad"][1])
        print(json.dumps(step))


if __name__ == "__main__":
    main(sys.argv[1])
