"""The layout of a LeRobot dataset, v3.0: its files, and what info.json says of them.

    meta/info.json  meta/stats.json  meta/tasks.parquet
    meta/episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet
    videos/<camera>/chunk-000/file-000.mp4

Part n of an export is file n everywhere. All that LeRobot's own code (0.4.4, 0.6.1) reads is there;
what it has no place for lies in meta/provenance.parquet.
"""

import re
from typing import Any

from handloom.export.listing import Kind, Listing
from handloom.export.mp4 import CODEC, PIXELS

VERSION = "v3.0"
FILES_A_CHUNK = 1000
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
PROVENANCE = "meta/provenance/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
STATE, ACTION, SUCCESS = "observation.state", "action", "next.success"
INDEXES = ("frame_index", "episode_index", "index", "task_index")


def place(number: int) -> dict[str, int]:
    """Chunk and file of a part."""
    return {"chunk_index": number // FILES_A_CHUNK, "file_index": number % FILES_A_CHUNK}


def camera_key(view: str) -> str:
    """The feature of a camera; LeRobot's own names stay, and none holds a slash."""
    name = re.sub(r"[/\\\s]+", "_", view)
    return name if name.startswith("observation.") else f"observation.images.{name}"


def features(
    kind: Kind, sizes: dict[str, tuple[int, int]], has_success: bool
) -> dict[str, dict[str, Any]]:
    """Columns and cameras, as in info.json.

    Args:
        kind: of the episodes.
        sizes: width and height of the cameras' videos, by feature.
        has_success: whether all episodes tell whether they reached their goal.
    """
    found: dict[str, dict[str, Any]] = {
        STATE: _vector(kind.state_names),
        ACTION: _vector(kind.action_names),
    }
    found |= {key: _camera(size, kind.hz) for key, size in sizes.items()}
    if has_success:
        found[SUCCESS] = {"dtype": "bool", "shape": [1], "names": None}
    found["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    return found | {name: {"dtype": "int64", "shape": [1], "names": None} for name in INDEXES}


def info(
    kind: Kind, described: dict[str, dict[str, Any]], totals: dict[str, int], splits: dict[str, str]
) -> dict[str, Any]:
    """Content of info.json.

    Args:
        kind: of the episodes.
        described: the features.
        totals: total_episodes, total_frames and total_tasks.
        splits: half-open ranges of episodes, `0:40`.
    """
    return {
        "codebase_version": VERSION,
        "robot_type": kind.robot or "unknown",
        **totals,
        "chunks_size": FILES_A_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": rate(kind.hz),
        "splits": splits,
        "data_path": DATA,
        "video_path": VIDEO,
        "features": described,
    }


def rate(hz: float) -> int | float:
    """Frames a second, whole where they are: LeRobot's code expects that."""
    return int(hz) if hz == int(hz) else hz


def _vector(names: tuple[str, ...]) -> dict[str, Any]:
    return {"dtype": "float32", "shape": [len(names)], "names": list(names)}


def _camera(size: tuple[int, int], hz: float) -> dict[str, Any]:
    width, height = size
    facts = {
        "video.height": height, "video.width": width, "video.codec": CODEC,
        "video.pix_fmt": PIXELS, "video.is_depth_map": False, "video.fps": rate(hz),
        "video.channels": 3, "has_audio": False,
    }  # fmt: skip
    names = ["height", "width", "channels"]
    return {"dtype": "video", "shape": [height, width, 3], "names": names, "info": facts}


def has_success(listing: Listing) -> bool:
    """Whether all episodes say whether they reached their goal."""
    return bool(listing.rows["success"].null_count == 0)
