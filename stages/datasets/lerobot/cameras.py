"""The cameras of a LeRobot episode: which there are, and the frame that each row shows."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.stages.datasets.lerobot.files import INFO, Dataset, MissingFile, check_readable
from handloom.stages.datasets.lerobot.images import VideoFrames, stored_images
from handloom.stages.datasets.lerobot.stretches import episode_frames_of, frame_times, times_of_rows
from handloom.stages.datasets.lerobot.tables import claims_of, file_numbers
from handloom.stages.datasets.source import EpisodeOptions, Images

Floats = NDArray[np.float64]


def cameras(dataset: Dataset, options: EpisodeOptions) -> list[str]:
    """Names of the colour cameras, those on a wrist last.

    Raises:
        MediaError: there is none, or none of a name in `options.views`.
    """
    names = _colour_cameras(dataset)
    missing = [name for name in options.views if name not in names]
    if missing or not names:
        raise MediaError(
            f"{dataset.below_root(INFO)} names the views {', '.join(names) or 'none'}, expected "
            f"{', '.join(missing) or 'at least one'}; see --ingest.views"
        )
    # The sort is stable: within each group the order of info.json stays.
    return list(options.views) or sorted(names, key=lambda name: "wrist" in name)


def has_dtype(dataset: Dataset, name: str, dtype: str) -> bool:
    """Whether a feature is a `video` or an `image`."""
    return bool(dataset.features[name].get("dtype") == dtype)


def camera_images(
    dataset: Dataset, row: dict[str, Any], name: str, rows: pa.Table, clock_s: Floats, part: slice
) -> tuple[Images, tuple[str, ...]]:
    """A camera's images of a part of an episode's rows, and flags.

    Args:
        dataset: of the episode.
        row: of the episode table.
        name: of the camera.
        rows: of the whole episode.
        clock_s: float64 [T], seconds from the episode's start to each of its rows.
        part: the rows that are wanted.

    Raises:
        MediaError: its file is missing or damaged, or is not that of this episode.
    """
    if has_dtype(dataset, name, "image"):
        path, _ = dataset.locate(dataset.data_path(file_numbers(row, "data")))
        return stored_images(rows.slice(part.start, part.stop - part.start), name, path), ()
    prefix = f"videos/{name}"
    numbers = file_numbers(row, prefix)
    try:
        path, moved = dataset.locate(dataset.video_path(numbers, name), name)
        check_readable(dataset.root / path, path)
    except MissingFile as error:
        raise MissingFile(f"{error}{_way_out(dataset, name)}") from None
    except MediaError as error:
        raise MediaError(f"{error}{_way_out(dataset, name)}") from None
    claims = claims_of(dataset, name, numbers)
    frames, index = frame_times(dataset.root / path), row["episode_index"]
    span = episode_frames_of(frames, claims, index, path)
    start_s = 0.0 if claims is None else float(claims.from_s[claims.episodes == index][0])
    try:
        times_s, flags = times_of_rows(frames, span, start_s, clock_s, dataset.fps)
    except MediaError as error:
        raise MediaError(f"{path} {error}") from None
    flags += ("file_found_elsewhere",) * moved
    return VideoFrames(dataset.root / path, times_s[part]), flags


def _colour_cameras(dataset: Dataset) -> list[str]:
    names = []
    for name, feature in dataset.features.items():
        info = feature.get("info") or feature.get("video_info") or {}
        is_depth = isinstance(info, dict) and (
            info.get("video.is_depth_map") or info.get("is_depth_map")
        )
        if feature.get("dtype") in ("video", "image") and not is_depth:
            names.append(name)
    return names


def _way_out(dataset: Dataset, name: str) -> str:
    """How to do without a camera, where there are others."""
    others = [other for other in _colour_cameras(dataset) if other != name]
    return f", or leave the camera out with --ingest.views {' '.join(others)}" if others else ""
