"""Two miniature LeRobot datasets: v2.1 with one file an episode, v3.0 with many episodes a file.

v2.1 holds displacements of an end effector, as converted datasets do, and a damaged copy: a missing
video, one that is a Git LFS pointer, and a table of episodes whose last line is cut off. v3.0 holds
joints in degrees; files of data and of each camera end at different episodes, and the task changes
within one episode.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.files import whole
from handloom.stages.miniatures.encode import VideoEncoding, write_file
from handloom.stages.miniatures.folder import miniature_writer, write_json, write_text
from handloom.stages.miniatures.people.raster import Frame
from handloom.stages.miniatures.rlds import deltas
from handloom.stages.miniatures.robots.views import static_view, wrist_view
from handloom.stages.miniatures.robots.world import (
    WorldEpisode,
    joint_angles,
    make_episode,
    resample,
)

SIZE = (120, 160)
CAMERAS = ("observation.images.front", "observation.images.wrist")
V21_HZ, V30_HZ = 10, 15
MISSING, POINTER = 1, 2  # episodes of v2.1 whose wrist video is missing, or a pointer
TWO_TASKS = 1  # episode of v3.0 within which the task changes
LATER_TASK = "wait"
DATA_FILE_EPISODES = 3
VIDEO_FILE_EPISODES = {CAMERAS[0]: 2, CAMERAS[1]: 4}
AXES = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
MOTORS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 48213\n"


@miniature_writer("LeRobot", "v2.1", "v3.0", version=1)
def write(out: Path, clips: int = 10, seed: int = 0) -> None:
    """Write v2.1/ and v3.0/, half of `clips` episodes each."""
    count = max(2, clips // 2)
    old = [
        _store_episode(resample(make_episode(seed, i), V21_HZ), i, delta=True) for i in range(count)
    ]
    new = [_store_episode(resample(make_episode(seed, 40 + i), V30_HZ), i) for i in range(count)]
    _write_v21(out / "v2.1", number_episodes(old))
    _write_v30(out / "v3.0", number_episodes(new))


@dataclass(frozen=True)
class StoredEpisode:
    """An episode as stored: T - 1 steps of the world's T, so that every action leads to a pose."""

    world: WorldEpisode
    number: int
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    tasks: tuple[str, ...]  # one a step
    first_row: int = 0  # number of its first row in the dataset
    task_numbers: tuple[int, ...] = ()  # one a step

    def __len__(self) -> int:
        return len(self.state)

    def pictures(self, camera: str) -> list[Frame]:
        """The images of a camera, one a step."""
        view = static_view if camera == CAMERAS[0] else wrist_view
        return list(view(self.world, SIZE))[: len(self)]


def _store_episode(world: WorldEpisode, number: int, delta: bool = False) -> StoredEpisode:
    count = len(world) - 1
    tasks = [world.instruction] * count
    if delta:
        state, action = world.poses.astype(np.float32)[:-1], deltas(world)[:-1]
    else:
        angles = degrees(world)
        # Leader and follower: an action is the pose that the arm reaches a step later.
        state, action = angles[:-1], angles[1:].copy()
        action[:, -1] = 100 * world.targets[:-1]
        if number == TWO_TASKS:
            tasks[count * 3 // 4 :] = [LATER_TASK] * (count - count * 3 // 4)
    return StoredEpisode(world, number, state, action, tuple(tasks))


def degrees(world: WorldEpisode) -> NDArray[np.float32]:
    """Five joints in degrees and the gripper from 0 closed to 100 open, [T, 6]."""
    angles = np.rad2deg(joint_angles(world, 5))
    return np.column_stack([angles, 100 * world.poses[:, 6]]).astype(np.float32)


def number_episodes(episodes: list[StoredEpisode]) -> list[StoredEpisode]:
    """The episodes with their first rows, and with tasks numbered in the order of occurrence."""
    numbered: list[StoredEpisode] = []
    numbers: dict[str, int] = {}
    row = 0
    for episode in episodes:
        for task in episode.tasks:
            numbers.setdefault(task, len(numbers))
        task_numbers = tuple(numbers[task] for task in episode.tasks)
        numbered.append(replace(episode, first_row=row, task_numbers=task_numbers))
        row += len(episode)
    return numbered


def _task_names(episodes: list[StoredEpisode]) -> list[str]:
    """The tasks of the dataset in the order of their numbers."""
    return list(dict.fromkeys(task for episode in episodes for task in episode.tasks))


def _table(episode: StoredEpisode, fps: int) -> Any:
    """An episode's rows as an Arrow table."""
    import pyarrow as pa

    count = len(episode)
    columns = {
        "observation.state": _vectors(episode.state),
        "action": _vectors(episode.action),
        "timestamp": pa.array((np.arange(count) / fps).astype(np.float32)),
        "frame_index": pa.array(np.arange(count)),
        "episode_index": pa.array(np.full(count, episode.number)),
        "index": pa.array(episode.first_row + np.arange(count)),
        "task_index": pa.array(np.asarray(episode.task_numbers, np.int64)),
    }
    return pa.table(columns)


def _vectors(values: NDArray[np.float32]) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _write_parquet(path: Path, tables: Iterable[Any]) -> None:
    """Write tables of one schema as the row groups of a file."""
    import pyarrow.parquet as pq

    tables = list(tables)
    with (
        whole(path, sync=False) as temporary,
        pq.ParquetWriter(temporary, tables[0].schema) as writer,
    ):
        for table in tables:
            writer.write_table(table)


def _h264(fps: int) -> VideoEncoding:
    return VideoEncoding("h264", fps=Fraction(fps), render_fps=fps)


def _camera_feature(fps: int) -> dict[str, Any]:
    info = {
        "video.height": SIZE[0], "video.width": SIZE[1], "video.codec": "h264",
        "video.pix_fmt": "yuv420p", "video.is_depth_map": False, "video.fps": fps,
        "video.channels": 3, "has_audio": False,
    }  # fmt: skip
    names = ["height", "width", "channel"]
    return {"dtype": "video", "shape": [*SIZE, 3], "names": names, "info": info}


def _info(
    episodes: list[StoredEpisode], fps: int, names: Any, info: dict[str, Any]
) -> dict[str, Any]:
    width = episodes[0].state.shape[1]
    vector = {"dtype": "float32", "shape": [width], "names": names}
    number = {"dtype": "int64", "shape": [1], "names": None}
    columns = ("frame_index", "episode_index", "index", "task_index")
    return {
        **info,
        "total_episodes": len(episodes),
        "total_frames": sum(len(episode) for episode in episodes),
        "total_tasks": len(_task_names(episodes)),
        "chunks_size": 1000,
        "fps": fps,
        "splits": {"train": f"0:{len(episodes)}"},
        "features": {
            "observation.state": vector,
            "action": vector,
            **{camera: _camera_feature(fps) for camera in CAMERAS},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            **dict.fromkeys(columns, number),
        },
    }


def _write_v21(home: Path, episodes: list[StoredEpisode]) -> None:
    for episode in episodes:
        name = f"episode_{episode.number:06d}"
        _write_parquet(home / f"data/chunk-000/{name}.parquet", [_table(episode, V21_HZ)])
        for camera in CAMERAS:
            path = home / f"videos/chunk-000/{camera}/{name}.mp4"
            if camera == CAMERAS[1] and episode.number == POINTER:
                write_text(path, LFS.format("9f" * 32))
            elif camera != CAMERAS[1] or episode.number != MISSING:
                write_file(path, episode.pictures(camera), _h264(V21_HZ))
    tasks = [{"task_index": n, "task": task} for n, task in enumerate(_task_names(episodes))]
    write_text(home / "meta/tasks.jsonl", _lines(tasks))
    rows = [
        {"episode_index": episode.number, "tasks": [episode.tasks[0]], "length": len(episode)}
        for episode in episodes
    ]
    write_text(home / "meta/episodes.jsonl", _lines(rows)[:-12])  # as if the disk had been full
    stats = [{"episode_index": episode.number, "stats": _stats(episode)} for episode in episodes]
    write_text(home / "meta/episodes_stats.jsonl", _lines(stats))
    video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    info = {
        "codebase_version": "v2.1",
        "robot_type": "unknown",
        "total_videos": 2 * len(episodes),
        "total_chunks": 1,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": video,
    }
    write_json(home / "meta/info.json", _info(episodes, V21_HZ, [AXES], info))


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _stats(episode: StoredEpisode) -> dict[str, Any]:
    values = {"observation.state": episode.state, "action": episode.action}
    return {
        name: {
            "min": table.min(axis=0).tolist(),
            "max": table.max(axis=0).tolist(),
            "mean": table.mean(axis=0).tolist(),
            "std": table.std(axis=0).tolist(),
            "count": [len(table)],
        }
        for name, table in values.items()
    }


def _write_v30(home: Path, episodes: list[StoredEpisode]) -> None:
    import pyarrow as pa

    for number, group in _grouped(episodes, DATA_FILE_EPISODES).items():
        tables = [_table(episode, V30_HZ) for episode in group]
        _write_parquet(home / f"data/chunk-000/file-{number:03d}.parquet", tables)
    for camera in CAMERAS:
        for number, group in _grouped(episodes, VIDEO_FILE_EPISODES[camera]).items():
            joined = [picture for episode in group for picture in episode.pictures(camera)]
            path = home / f"videos/{camera}/chunk-000/file-{number:03d}.mp4"
            write_file(path, joined, _h264(V30_HZ))
    names = _task_names(episodes)
    tasks = pa.table({"task_index": pa.array(range(len(names))), "__index_level_0__": names})
    _write_parquet(home / "meta/tasks.parquet", [tasks])
    rows = pa.Table.from_pylist(_episode_rows(episodes))
    _write_parquet(home / "meta/episodes/chunk-000/file-000.parquet", [rows])
    write_json(home / "meta/stats.json", _stats(episodes[0]))
    info = {
        "codebase_version": "v3.0",
        "robot_type": "so101_follower",
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    motors = [f"{motor}.pos" for motor in MOTORS]
    write_json(home / "meta/info.json", _info(episodes, V30_HZ, motors, info))


def _grouped(episodes: list[StoredEpisode], size: int) -> dict[int, list[StoredEpisode]]:
    """Episodes by the number of their file, `size` a file."""
    starts = range(0, len(episodes), size)
    return {number: episodes[at : at + size] for number, at in enumerate(starts)}


def _episode_rows(episodes: list[StoredEpisode]) -> list[dict[str, Any]]:
    """Rows of the episode table; times are sums of steps, with their rounding errors."""
    ends = dict.fromkeys(CAMERAS, 0.0)
    rows = []
    for episode in episodes:
        row: dict[str, Any] = {
            "episode_index": episode.number,
            "tasks": sorted(set(episode.tasks), reverse=True),  # not in the order of occurrence
            "length": len(episode),
            "data/chunk_index": 0,
            "data/file_index": episode.number // DATA_FILE_EPISODES,
            "dataset_from_index": episode.first_row,
            "dataset_to_index": episode.first_row + len(episode),
        }
        for camera, size in VIDEO_FILE_EPISODES.items():
            # Each file begins at 0.
            start = 0.0 if episode.number % size == 0 else ends[camera]
            ends[camera] = start
            for _ in range(len(episode)):
                ends[camera] += 1 / V30_HZ
            row |= {
                f"videos/{camera}/chunk_index": 0,
                f"videos/{camera}/file_index": episode.number // size,
                f"videos/{camera}/from_timestamp": start,
                f"videos/{camera}/to_timestamp": ends[camera],
            }
        rows.append({**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
    return rows
