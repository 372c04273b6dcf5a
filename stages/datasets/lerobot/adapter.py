"""LeRobot datasets, v2.0, v2.1 and v3.0: Parquet tables, and MP4 files or PNG pictures.

The format says how often a robot was told something, and not what: its vectors may be joints in
degrees, in radians or in per cent, or motions of the hand. So they are passed on `as_stored` unless
--ingest.action-kind says what they are.

An episode during which the task changes is cut there, into parts `episode_000012.1`, `.2` and so
on. A task is known by its number in the rows: the episode's own list of tasks is in any order.
"""

import os
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.lerobot.files import (
    INFO,
    Dataset,
    MissingFile,
    check_readable,
    datasets,
    opened,
)
from handloom.stages.datasets.lerobot.images import VideoPictures, stored_pictures
from handloom.stages.datasets.lerobot.tables import (
    episode_frames,
    episode_row,
    episode_rows,
    file_numbers,
    integers,
    task_texts,
)
from handloom.stages.datasets.media import contents
from handloom.stages.datasets.source import (
    ActionKind,
    Episode,
    EpisodeOptions,
    Pictures,
    RobotAdapter,
    SourceEpisode,
)
from handloom.tokenize.shards.format import ARM

HOW_TO_GET = (
    "`huggingface-cli download --repo-type dataset OWNER/NAME --local-dir DIR` takes a set from "
    "the hub; the folder holds meta/info.json, data/ and videos/."
)
STATE_KEYS = ("observation.state", "state")
ACTION_KEYS = ("action", "actions")
INDEX = ("episode_index", "frame_index", "timestamp", "task_index", "next.success", "next.reward")
TOLERANCE_S = 1e-4
"""Of time stamps, which are float32: LeRobot's own tolerance."""


def episodes(root: Path, options: EpisodeOptions) -> Iterator[SourceEpisode]:
    """List the episodes of the dataset, or of the datasets, in a folder.

    Only the episode tables are read, and of an episode with several tasks its column of tasks.
    Episodes whose table is not there are left out as `missing_file`: a part may be downloaded.

    Raises:
        UserError: there is no dataset, or its info.json is damaged.
    """
    for dataset in _datasets(root):
        meta = dataset.below_root(INFO)
        for number, row in enumerate(episode_rows(dataset)):
            if isinstance(row, str):
                unit = f"{meta}#damaged_{number}"
                yield SourceEpisode(unit, meta, (), "", dataset.version, error=row)
            else:
                yield from _listed(dataset, row)


def load(root: Path, source: SourceEpisode, options: EpisodeOptions) -> Episode:
    """Read an episode, or the part of one during which the task stays the same.

    Raises:
        MediaError: a file is damaged, absent or closed, or a column is not what it should be.
    """
    meta, _, number = source.unit.rpartition("#")
    folder = meta.removesuffix(INFO).rstrip("/")
    dataset = _dataset(root, folder, os.getpid())
    index, first, end = source.place
    row = episode_row(dataset, index)
    path, moved = dataset.located(dataset.data_path(file_numbers(row, "data")))
    keys = (
        _role(dataset, options.state_key, STATE_KEYS, "state-key"),
        _role(dataset, options.action_key, ACTION_KEYS, "action-key"),
    )
    cameras = _cameras(dataset, options)
    columns = [*INDEX, *keys, *(name for name in cameras if _is(dataset, name, "image"))]
    rows = episode_frames(root, path, columns, index)
    if end > len(rows) or ("." not in number and end != len(rows)):
        raise MediaError(
            f"{path} has {len(rows)} rows of episode {index}, {meta} and its tables say {end}; the "
            "recording was interrupted, or the files are of different releases"
        )
    times_s, flags = _times(rows, dataset.fps)
    part = rows.slice(first, end - first)
    views: dict[str, Pictures] = {}
    for name in cameras:
        if _is(dataset, name, "image"):
            views[name] = stored_pictures(part, name, path)
        else:
            views[name], elsewhere = _video_pictures(dataset, row, name, times_s[first:end])
            moved = moved or elsewhere
    text, others = _texts(dataset, part, row)
    state, action = (_vectors(part, key, path) for key in keys)
    return Episode(
        episode_id=dataset.below_root(f"episode_{number}"),
        recording=dataset.below_root(f"episode_{number.partition('.')[0]}"),
        text=text or options.text,
        other_texts=others,
        hz=options.hz or dataset.fps,
        views=views,
        state=state,
        action=action,
        action_kind=_kind(path, state, action, options),
        success=_success(part) if end == len(rows) else None,
        flags=(*flags, *["file_found_elsewhere"] * moved, *["several_tasks"] * bool(others)),
        facts=_facts(dataset, keys),
    )


def annotations(root: Path) -> list[Path]:
    """What the columns are called, and what the tasks are."""
    names = (INFO, "meta/tasks.jsonl", "meta/tasks.parquet")
    paths = [root / dataset.folder / name for dataset in _datasets(root) for name in names]
    return [path for path in paths if path.is_file()]


def _datasets(root: Path) -> Iterator[Dataset]:
    found = False
    for dataset in datasets(root):
        found = True
        yield dataset
    if not found:
        raise UserError(
            f"{root} is not a LeRobot dataset, nor a folder of some: expected {INFO}, found "
            f"{contents(root)}. {HOW_TO_GET}"
        )


def _listed(dataset: Dataset, row: dict[str, Any]) -> Iterator[SourceEpisode]:
    """An episode, or its parts if it has several tasks."""
    index, length = row["episode_index"], row["length"]
    unit = f"{dataset.below_root(INFO)}#{index:06d}"
    split, version = dataset.split(index), dataset.version
    path = dataset.below_root(INFO)
    places = [(index, 0, length)]
    reason = error = ""
    try:
        path, _ = dataset.located(dataset.data_path(file_numbers(row, "data")))
        if len(set(row["tasks"])) > 1:
            places = list(_parts(dataset.root, path, index))
    except MissingFile:
        reason = "missing_file"
    except MediaError as damage:
        error = str(damage)
    for i, place in enumerate(places, 1):
        name = f"{unit}.{i}" if len(places) > 1 else unit
        yield SourceEpisode(name, path, place, split, version, reason=reason, error=error)


def _parts(root: Path, path: str, index: int) -> Iterator[tuple[int, int, int]]:
    """Places of an episode's parts: runs of rows with the same task."""
    rows = episode_frames(root, path, ["episode_index", "frame_index", "task_index"], index)
    tasks = integers(rows, "task_index")
    borders = [0, *(np.flatnonzero(np.diff(tasks)) + 1).tolist(), len(rows)]
    for first, end in pairwise(borders):
        yield index, first, end


def _cameras(dataset: Dataset, options: EpisodeOptions) -> list[str]:
    """Names of the cameras: those on a wrist last, depth left out."""
    found = []
    for name, feature in dataset.features.items():
        info = feature.get("info") or feature.get("video_info") or {}
        is_depth = isinstance(info, dict) and (
            info.get("video.is_depth_map") or info.get("is_depth_map")
        )
        if feature.get("dtype") in ("video", "image") and not is_depth:
            found.append(name)
    missing = [name for name in options.views if name not in found]
    if missing or not found:
        raise MediaError(
            f"{dataset.below_root(INFO)} names the views {', '.join(found) or 'none'}, expected "
            f"{', '.join(missing) or 'at least one'}; see --ingest.views"
        )
    return list(options.views) or sorted(found, key=lambda name: "wrist" in name)


def _video_pictures(
    dataset: Dataset, row: dict[str, Any], name: str, times_s: NDArray[np.float64]
) -> tuple[VideoPictures, bool]:
    """A camera's frames, and whether its video lies elsewhere than info.json says."""
    of = f"videos/{name}"
    path, moved = dataset.located(dataset.video_path(file_numbers(row, of), name), name)
    check_readable(dataset.root / path, path)
    start_s = row.get(f"{of}/from_timestamp") or 0.0
    if not isinstance(start_s, int | float) or not np.isfinite(start_s):
        raise MediaError(
            f"{path} begins at {start_s!r} s, as the episode table says; it is damaged"
        )
    info = dataset.features[name].get("info")
    told = info.get("video.fps") if isinstance(info, dict) else None
    fps = float(told) if isinstance(told, int | float) and 0 < told < 1e4 else dataset.fps
    return VideoPictures(dataset.root / path, times_s + float(start_s), fps), moved


@lru_cache(maxsize=8)
def _dataset(root: Path, folder: str, process: int) -> Dataset:
    return opened(root, folder)


def _is(dataset: Dataset, name: str, dtype: str) -> bool:
    return bool(dataset.features[name].get("dtype") == dtype)


def _role(dataset: Dataset, wanted: str, usual: tuple[str, ...], option: str) -> str:
    """The column that holds the state or the action."""
    for name in (wanted,) if wanted else usual:
        if name in dataset.features:
            return name
    raise MediaError(
        f"{dataset.below_root(INFO)} has the columns {', '.join(dataset.features)}, expected "
        f"{wanted or ' or '.join(usual)}; set --ingest.{option}"
    )


def _vectors(rows: pa.Table, name: str, path: str) -> NDArray[np.float32]:
    """A column of numbers, or of lists of numbers of one length, as float32 [T, D]."""
    if name not in rows.column_names:
        raise MediaError(f"{path} has no column {name}, which {INFO} names; download it again")
    array: Any = pa.concat_arrays(rows[name].chunks)
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    while pa.types.is_nested(array.type) and not pa.types.is_struct(array.type):
        lengths = pc.unique(pc.list_value_length(array))
        if array.null_count or len(lengths) != 1:
            raise MediaError(f"{path}: the lists of {name} are of several lengths, expected one")
        array = array.flatten()
    numeric = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    if array.null_count or not (numeric or pa.types.is_boolean(array.type)):
        raise MediaError(f"{path}: {name} holds {array.type} or gaps, expected numbers")
    values = array.to_numpy(zero_copy_only=False).astype(np.float32)
    if not np.isfinite(values).all():
        raise MediaError(f"{path}: {name} holds values that are not finite numbers")
    vectors: NDArray[np.float32] = values.reshape(len(rows), -1)
    return vectors


def _times(rows: pa.Table, fps: float) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Seconds from the episode's start to each of its rows, and what is odd about them."""
    even_s = np.arange(len(rows)) / fps
    if "timestamp" not in rows.column_names:
        return even_s, ("no_timestamps",)
    stored_s = _vectors(rows, "timestamp", "the table")[:, 0].astype(np.float64)
    off_s = float(np.abs(stored_s - even_s).max())
    if (np.diff(stored_s) <= 0).any() or stored_s[0] < 0:
        return even_s, ("timestamps_irregular",)
    if off_s > 0.5 / fps:
        return stored_s, ("timestamps_irregular",)
    return stored_s, ("timestamps_inexact",) * (off_s > TOLERANCE_S)


def _texts(dataset: Dataset, rows: pa.Table, row: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The task of the rows, and further ones if their number changes after all."""
    told = task_texts(dataset.root, dataset.folder, os.getpid())
    if "task_index" in rows.column_names and told:
        numbers = dict.fromkeys(integers(rows, "task_index").tolist())
        first, *others = [told.get(number, "") for number in numbers]
        return first, tuple(text for text in others if text)
    tasks = row["tasks"] or []
    return (str(tasks[0]) if len(tasks) == 1 else ""), ()


def _success(rows: pa.Table) -> bool | None:
    """What the columns next.success and next.reward say; a reward of 0 may mean that none is
    given, and next.done only that the recording ended.
    """
    if "next.success" in rows.column_names:
        return bool(_vectors(rows, "next.success", "the table").any())
    if "next.reward" in rows.column_names:
        return True if _vectors(rows, "next.reward", "the table")[-1, 0] == 1 else None
    return None


def _kind(
    path: str, state: NDArray[np.float32], action: NDArray[np.float32], options: EpisodeOptions
) -> ActionKind:
    kind: ActionKind = "as_stored" if options.action_kind == "auto" else options.action_kind
    if kind == "ee_delta" and (state.shape[1] % ARM or action.shape[1] % ARM):
        raise MediaError(
            f"{path} has {action.shape[1]} values an action and {state.shape[1]} a state, expected "
            f"{ARM} for each arm; set --ingest.action-kind as_stored"
        )
    return kind


def _facts(dataset: Dataset, keys: tuple[str, str]) -> dict[str, str]:
    """The robot, and what info.json calls the numbers, as nobody else says what they are."""
    facts = {"layout": dataset.version, "robot": str(dataset.info.get("robot_type") or "")}
    for role, key in zip(("state_names", "action_names"), keys, strict=True):
        facts[role] = ",".join(_names(dataset.features[key].get("names")))
    return {name: value for name, value in facts.items() if value}


def _names(told: Any, depth: int = 4) -> list[str]:
    """Names of a vector's values: told as a list, a list of lists, a dict of lists, or null."""
    if isinstance(told, dict):
        told = (
            list(told.values()) if any(isinstance(v, list) for v in told.values()) else list(told)
        )
    if isinstance(told, list):
        return [name for part in told for name in _names(part, depth - 1)] if depth else []
    return [] if told is None else [str(told)]


ADAPTER = RobotAdapter(
    episodes=episodes,
    load=load,
    annotations=annotations,
    licence="unknown",
    terms="Each set has its own licence, mostly told in its card; set --ingest.licence.",
    how_to_get=HOW_TO_GET,
)
