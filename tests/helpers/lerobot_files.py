"""LeRobot datasets as versions 2.1 and 3.0 of the library write them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from handloom.stages.datasets.lerobot import adapter as lerobot
from handloom.stages.datasets.source import Episode, EpisodeOptions, SourceEpisode
from tests.helpers.videos import write_grey_video

AUTO = EpisodeOptions()
FPS = 10
CAMERAS = ("observation.images.cam_wrist", "observation.images.cam_high")
TASKS = ["pick up the cup", "put down the cup"]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def level(camera: int, index: int, episode: int = 0) -> int:
    """Grey level of a frame: tells its number, its camera and its episode."""
    return 20 + (6 * index + 100 * camera + 33 * episode) % 210


def shown(episode: Episode, camera: str) -> list[int]:
    """Mean grey level of every picture."""
    pictures = episode.views[camera]
    return [round(float(pictures[i].mean())) for i in range(len(pictures))]


def info(version: str, total: int, **changes: Any) -> dict[str, Any]:
    vector = {"dtype": "float32", "shape": [2], "names": {"motors": ["shoulder", "gripper"]}}
    video = {"dtype": "video", "shape": [48, 64, 3], "info": {"video.is_depth_map": False}}
    depth = {"dtype": "video", "shape": [48, 64, 1], "info": {"is_depth_map": True}}
    return {
        "codebase_version": version,
        "robot_type": "so101",
        "fps": FPS,
        "chunks_size": 2,
        "splits": {"train": f"0:{total}"},
        "features": {
            "observation.state": vector | {"names": [["shoulder", "gripper"]]},
            "action": vector,
            **dict.fromkeys(CAMERAS, video),
            "observation.images.depth": depth,
            "task_index": {"dtype": "int64", "shape": [1], "names": None},
        },
    } | changes


def rows(episode: int, tasks: list[int], start: int = 0) -> pa.Table:
    """An episode's rows: state [frame, episode], action its double."""
    frames = np.arange(len(tasks))
    state = np.stack([frames, np.full(len(tasks), episode)], axis=1).astype(np.float32)
    fixed = pa.list_(pa.float32(), 2)
    return pa.table(
        {
            "observation.state": pa.array(list(state), fixed),
            "action": pa.array(list(2 * state), fixed),
            "timestamp": pa.array((frames / FPS).astype(np.float32)),
            "frame_index": frames,
            "episode_index": np.full(len(tasks), episode),
            "index": frames + start,
            "task_index": np.array(tasks),
        }
    )


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_table(path: Path, table: pa.Table, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)


def write_lines(path: Path, values: list[Any]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def write_v2(root: Path, episodes: list[list[int]], version: str = "v2.1") -> Path:
    """Episodes given as the task of each row, a file for each, two in a chunk."""
    write_json(root / "meta/info.json", info(version, len(episodes)))
    write_lines(
        root / "meta/tasks.jsonl", [{"task_index": i, "task": t} for i, t in enumerate(TASKS)]
    )
    listed = [
        # The list of an episode's tasks is in any order.
        {"episode_index": i, "tasks": [TASKS[t] for t in sorted(set(e), reverse=True)],
         "length": len(e)}
        for i, e in enumerate(episodes)
    ]  # fmt: skip
    write_lines(root / "meta/episodes.jsonl", listed)
    for i, tasks in enumerate(episodes):
        write_table(root / f"data/chunk-00{i // 2}/episode_{i:06d}.parquet", rows(i, tasks))
        for camera, name in enumerate(CAMERAS):
            video = root / f"videos/chunk-00{i // 2}/{name}/episode_{i:06d}.mp4"
            write_grey_video(video, [level(camera, f, i) for f in range(len(tasks))], FPS)
    return root


def write_v3(root: Path, episodes: list[list[int]], task_column: str = "__index_level_0__") -> Path:
    """Episodes in one data file; the wrist camera's in one video, the other's in one for each."""
    write_json(root / "meta/info.json", info("v3.0", len(episodes)))
    tasks = {"task_index": range(len(TASKS)), task_column: TASKS}
    write_table(root / "meta/tasks.parquet", pa.table(tasks))
    listed, tables, levels, at = [], [], [], 0
    for i, e in enumerate(episodes):
        tables.append(rows(i, e, at))
        levels += [level(0, f, i) for f in range(len(e))]
        row: dict[str, Any] = {"episode_index": i, "length": len(e), "data/chunk_index": 0}
        row |= {"tasks": [TASKS[t] for t in sorted(set(e), reverse=True)], "data/file_index": 0}
        for name, file, start_s in ((CAMERAS[0], 0, at / FPS), (CAMERAS[1], i + 3, 0.0)):
            row |= {f"videos/{name}/chunk_index": 0, f"videos/{name}/file_index": file}
            # Less than half a frame early or late: the nearest one is meant.
            row |= {f"videos/{name}/from_timestamp": start_s + (-0.03 if i % 2 else 0.03)}
        row |= {"stats/action/min": [[[0.0]]]}
        write_grey_video(
            root / f"videos/{CAMERAS[1]}/chunk-000/file-{i + 3:03d}.mp4",
            [level(1, f, i) for f in range(len(e))],
            FPS,
        )
        listed.append(row)
        at += len(e)
    write_grey_video(root / f"videos/{CAMERAS[0]}/chunk-000/file-000.mp4", levels, FPS)
    write_table(root / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(listed))
    data = pa.concat_tables(tables)
    write_table(root / "data/chunk-000/file-000.parquet", data, row_group_size=7)
    return root


def loaded(root: Path, options: EpisodeOptions = AUTO) -> list[Episode]:
    return [lerobot.load(root, s, options) for s in lerobot.episodes(root, options)]


def first(root: Path) -> SourceEpisode:
    return next(iter(lerobot.episodes(root, AUTO)))
