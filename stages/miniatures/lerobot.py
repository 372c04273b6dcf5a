"""Writes two miniature LeRobot datasets: v2.1 with a file per episode, v3.0 with many in each.

v2.1 holds displacements of an end effector, as converted datasets do, and the accidents of a copy:
a video that is missing, one that is a Git LFS pointer, a table of episodes whose last line is cut.
v3.0 holds joints in degrees; its files end in different episodes for data and for each camera, and
one episode changes its task half-way.
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
from handloom.stages.miniatures.encode import Format, write_file
from handloom.stages.miniatures.folder import Folder, write_json, write_text
from handloom.stages.miniatures.people.raster import Frame
from handloom.stages.miniatures.rlds import deltas
from handloom.stages.miniatures.robots.views import static_view, wrist_view
from handloom.stages.miniatures.robots.world import (
    WorldEpisode,
    episode,
    joints,
    resampled,
)

VERSION = 1  # raise it whenever the same arguments give other bytes
SIZE = (120, 160)
CAMERAS = ("observation.images.front", "observation.images.wrist")
V21_HZ, V30_HZ = 10, 15
MISSING, POINTER = 1, 2  # episodes of v2.1 whose wrist video is not there, or is a pointer
TWO_TASKS = 1  # the episode of v3.0 that changes its task
LATER_TASK = "wait"
DATA_FILE_EPISODES = 3
VIDEO_FILE_EPISODES = {CAMERAS[0]: 2, CAMERAS[1]: 4}
AXES = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
MOTORS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 48213\n"


def write(out: Path, clips: int = 10, seed: int = 0) -> None:
    """Write v2.1/ and v3.0/, half of `clips` episodes each.

    The same arguments give the same bytes. A finished folder is left alone. Raises UserError where
    `out` holds a dataset of that name that is not this miniature.
    """
    marker = {"clips": clips, "seed": seed, "version": VERSION}
    count = max(2, clips // 2)
    home = Folder(out, "LeRobot", ("v2.1", "v3.0"), marker)
    home.fill(lambda: _write(out, count, seed))


def _write(out: Path, count: int, seed: int) -> None:
    # With one stored step less than the world has, every action leads to a pose.
    old = [_recording(resampled(episode(seed, i), V21_HZ), i, delta=True) for i in range(count)]
    new = [_recording(resampled(episode(seed, 40 + i), V30_HZ), i) for i in range(count)]
    _write_v21(out / "v2.1", number_rows(old))
    _write_v30(out / "v3.0", number_rows(new))


@dataclass(frozen=True)
class Recording:
    """An episode as it is stored: T - 1 steps of the world's T."""

    world: WorldEpisode
    number: int
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    tasks: tuple[str, ...]  # of each step
    first_row: int = 0  # of the dataset
    task_numbers: tuple[int, ...] = ()  # of each step

    def __len__(self) -> int:
        return len(self.state)

    def pictures(self, camera: str) -> list[Frame]:
        """What a camera saw, one picture for each step."""
        view = static_view if camera == CAMERAS[0] else wrist_view
        return list(view(self.world, SIZE))[: len(self)]


def _recording(world: WorldEpisode, number: int, delta: bool = False) -> Recording:
    count = len(world) - 1
    tasks = [world.instruction] * count
    if delta:
        state, action = world.poses.astype(np.float32)[:-1], deltas(world)[:-1]
    else:
        angles = degrees(world)
        state, action = angles[:-1], angles[1:].copy()
        action[:, -1] = 100 * world.targets[:-1]
        if number == TWO_TASKS:
            tasks[count * 3 // 4 :] = [LATER_TASK] * (count - count * 3 // 4)
    return Recording(world, number, state, action, tuple(tasks))


def degrees(world: WorldEpisode) -> NDArray[np.float32]:
    """Five joints in degrees and the gripper from 0 closed to 100 open, [T, 6]."""
    angles = np.rad2deg(joints(world, 5))
    return np.column_stack([angles, 100 * world.poses[:, 6]]).astype(np.float32)


def number_rows(recordings: list[Recording]) -> list[Recording]:
    """Give each recording its place in the dataset, and tasks their numbers as they occur."""
    found: list[Recording] = []
    numbers: dict[str, int] = {}
    row = 0
    for one in recordings:
        for task in one.tasks:
            numbers.setdefault(task, len(numbers))
        told = tuple(numbers[task] for task in one.tasks)
        found.append(replace(one, first_row=row, task_numbers=told))
        row += len(one)
    return found


def _tasks(recordings: list[Recording]) -> list[str]:
    """The dataset's tasks in the order of their numbers."""
    told = {n: t for one in recordings for n, t in zip(one.task_numbers, one.tasks, strict=True)}
    return [told[number] for number in sorted(told)]


def _table(recording: Recording, fps: int) -> Any:
    """An episode's rows as an Arrow table."""
    import pyarrow as pa

    count = len(recording)
    columns = {
        "observation.state": _vectors(recording.state),
        "action": _vectors(recording.action),
        "timestamp": pa.array((np.arange(count) / fps).astype(np.float32)),
        "frame_index": pa.array(np.arange(count)),
        "episode_index": pa.array(np.full(count, recording.number)),
        "index": pa.array(recording.first_row + np.arange(count)),
        "task_index": pa.array(np.asarray(recording.task_numbers, np.int64)),
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


def _h264(fps: int) -> Format:
    return Format("h264", fps=Fraction(fps), render_fps=fps)


def _camera_feature(fps: int) -> dict[str, Any]:
    info = {
        "video.height": SIZE[0], "video.width": SIZE[1], "video.codec": "h264",
        "video.pix_fmt": "yuv420p", "video.is_depth_map": False, "video.fps": fps,
        "video.channels": 3, "has_audio": False,
    }  # fmt: skip
    names = ["height", "width", "channel"]
    return {"dtype": "video", "shape": [*SIZE, 3], "names": names, "info": info}


def _info(
    recordings: list[Recording], fps: int, names: Any, told: dict[str, Any]
) -> dict[str, Any]:
    width = recordings[0].state.shape[1]
    vector = {"dtype": "float32", "shape": [width], "names": names}
    number = {"dtype": "int64", "shape": [1], "names": None}
    columns = ("frame_index", "episode_index", "index", "task_index")
    return {
        **told,
        "total_episodes": len(recordings),
        "total_frames": sum(len(one) for one in recordings),
        "total_tasks": len(_tasks(recordings)),
        "chunks_size": 1000,
        "fps": fps,
        "splits": {"train": f"0:{len(recordings)}"},
        "features": {
            "observation.state": vector,
            "action": vector,
            **{camera: _camera_feature(fps) for camera in CAMERAS},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            **dict.fromkeys(columns, number),
        },
    }


def _write_v21(home: Path, recordings: list[Recording]) -> None:
    for one in recordings:
        name = f"episode_{one.number:06d}"
        _write_parquet(home / f"data/chunk-000/{name}.parquet", [_table(one, V21_HZ)])
        for camera in CAMERAS:
            path = home / f"videos/chunk-000/{camera}/{name}.mp4"
            if camera == CAMERAS[1] and one.number == POINTER:
                write_text(path, LFS.format("9f" * 32))
            elif camera != CAMERAS[1] or one.number != MISSING:
                write_file(path, one.pictures(camera), _h264(V21_HZ))
    tasks = [{"task_index": n, "task": task} for n, task in enumerate(_tasks(recordings))]
    write_text(home / "meta/tasks.jsonl", _lines(tasks))
    episodes = [
        {"episode_index": one.number, "tasks": [one.tasks[0]], "length": len(one)}
        for one in recordings
    ]
    write_text(home / "meta/episodes.jsonl", _lines(episodes)[:-12])  # the disk was full
    stats = [{"episode_index": one.number, "stats": _stats(one)} for one in recordings]
    write_text(home / "meta/episodes_stats.jsonl", _lines(stats))
    video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    told = {
        "codebase_version": "v2.1",
        "robot_type": "unknown",
        "total_videos": 2 * len(recordings),
        "total_chunks": 1,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": video,
    }
    write_json(home / "meta/info.json", _info(recordings, V21_HZ, [AXES], told))


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _stats(recording: Recording) -> dict[str, Any]:
    values = {"observation.state": recording.state, "action": recording.action}
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


def _write_v30(home: Path, recordings: list[Recording]) -> None:
    import pyarrow as pa

    for number, group in _grouped(recordings, DATA_FILE_EPISODES).items():
        tables = [_table(one, V30_HZ) for one in group]
        _write_parquet(home / f"data/chunk-000/file-{number:03d}.parquet", tables)
    for camera in CAMERAS:
        for number, group in _grouped(recordings, VIDEO_FILE_EPISODES[camera]).items():
            joined = [picture for one in group for picture in one.pictures(camera)]
            path = home / f"videos/{camera}/chunk-000/file-{number:03d}.mp4"
            write_file(path, joined, _h264(V30_HZ))
    names = _tasks(recordings)
    tasks = pa.table({"task_index": pa.array(range(len(names))), "__index_level_0__": names})
    _write_parquet(home / "meta/tasks.parquet", [tasks])
    rows = pa.Table.from_pylist(_episode_rows(recordings))
    _write_parquet(home / "meta/episodes/chunk-000/file-000.parquet", [rows])
    write_json(home / "meta/stats.json", _stats(recordings[0]))
    told = {
        "codebase_version": "v3.0",
        "robot_type": "so101_follower",
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    motors = [f"{motor}.pos" for motor in MOTORS]
    write_json(home / "meta/info.json", _info(recordings, V30_HZ, motors, told))


def _grouped(recordings: list[Recording], size: int) -> dict[int, list[Recording]]:
    """Which recordings go into which file."""
    starts = range(0, len(recordings), size)
    return {number: recordings[at : at + size] for number, at in enumerate(starts)}


def _episode_rows(recordings: list[Recording]) -> list[dict[str, Any]]:
    """The table of episodes. Times are added up step by step, with the error that this brings."""
    ends = dict.fromkeys(CAMERAS, 0.0)
    rows = []
    for one in recordings:
        row: dict[str, Any] = {
            "episode_index": one.number,
            "tasks": sorted(set(one.tasks), reverse=True),  # in no order that means anything
            "length": len(one),
            "data/chunk_index": 0,
            "data/file_index": one.number // DATA_FILE_EPISODES,
            "dataset_from_index": one.first_row,
            "dataset_to_index": one.first_row + len(one),
        }
        for camera, size in VIDEO_FILE_EPISODES.items():
            start = 0.0 if one.number % size == 0 else ends[camera]
            ends[camera] = start
            for _ in range(len(one)):
                ends[camera] += 1 / V30_HZ
            row |= {
                f"videos/{camera}/chunk_index": 0,
                f"videos/{camera}/file_index": one.number // size,
                f"videos/{camera}/from_timestamp": start,
                f"videos/{camera}/to_timestamp": ends[camera],
            }
        rows.append({**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
    return rows
