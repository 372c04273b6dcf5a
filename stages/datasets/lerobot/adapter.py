"""LeRobot datasets, v2.0, v2.1 and v3.0: Parquet tables, and MP4 files or PNG images.

The format states the rate of actions but not their meaning: vectors may be joints in degrees, in
radians or in per cent, or motions of the end effector. So they are passed on `as_stored` unless
--ingest.action-kind says what they are.

An episode during which the task changes is cut there, into parts `episode_000012.1`, `.2` and so
on. Tasks are identified by their number in the rows: the episode's list of tasks has no order.
"""

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
from handloom.stages.datasets.lerobot.cameras import camera_images, cameras, has_dtype
from handloom.stages.datasets.lerobot.files import (
    INFO,
    Dataset,
    MissingFile,
    find_datasets,
    open_dataset,
)
from handloom.stages.datasets.lerobot.tables import (
    episode_frames,
    episode_row,
    episode_rows,
    file_numbers,
    integer_column,
    task_texts,
)
from handloom.stages.datasets.media import contents
from handloom.stages.datasets.source import (
    ActionKind,
    Episode,
    EpisodeOptions,
    Images,
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
_open_dataset = lru_cache(maxsize=8)(open_dataset)  # a worker loads many episodes of one

TOLERANCE_S = 1e-4
"""LeRobot's own tolerance of timestamps, which are float32."""


def episodes(root: Path, options: EpisodeOptions) -> Iterator[SourceEpisode]:
    """List the episodes of the dataset or datasets in a folder.

    Only the episode tables are read, and the column of tasks for episodes with several tasks.
    Episodes without their table are left out as `missing_file`: a part may be downloaded.

    Raises:
        UserError: there is no dataset, or its info.json is damaged.
    """
    for dataset in _find_datasets(root):
        meta = dataset.below_root(INFO)
        for number, row in enumerate(episode_rows(dataset)):
            if isinstance(row, str):
                unit = f"{meta}#damaged_{number}"
                yield SourceEpisode(unit, meta, (), "", dataset.version, error=row)
            else:
                yield from _list_episode(dataset, row)


def load(root: Path, source: SourceEpisode, options: EpisodeOptions) -> Episode:
    """Read an episode, or the part of one with one task.

    Raises:
        MediaError: a file is damaged, missing or not readable, or a column is of the wrong kind.
    """
    meta, _, number = source.unit.rpartition("#")
    folder = meta.removesuffix(INFO).rstrip("/")
    dataset = _open_dataset(root, folder)
    index, first, end = source.place
    row = episode_row(dataset, index)
    path, moved = dataset.locate(dataset.data_path(file_numbers(row, "data")))
    keys = (
        _vector_key(dataset, options.state_key, STATE_KEYS, "state-key"),
        _vector_key(dataset, options.action_key, ACTION_KEYS, "action-key"),
    )
    names = cameras(dataset, options)
    columns = [*INDEX, *keys, *(name for name in names if has_dtype(dataset, name, "image"))]
    rows = episode_frames(root, path, columns, index)
    # An episode must have all its rows; a part of one (`000012.1`) may end before them.
    if end > len(rows) or ("." not in number and end != len(rows)):
        raise MediaError(
            f"{path} has {len(rows)} rows of episode {index}, {meta} and its tables say {end}; the "
            "recording was interrupted, or the files are of different releases"
        )
    clock_s, flags = _timestamps(rows, dataset.fps)
    flags += ("file_found_elsewhere",) * moved
    part = rows.slice(first, end - first)
    views: dict[str, Images] = {}
    for name in names:
        views[name], more = camera_images(dataset, row, name, rows, clock_s, slice(first, end))
        flags += more
    text, others = _texts(dataset, part, row)
    state, action = (_float_matrix(part, key, path) for key in keys)
    return Episode(
        episode_id=dataset.below_root(f"episode_{number}"),
        recording=dataset.below_root(f"episode_{number.partition('.')[0]}"),
        text=text or options.text,
        other_texts=others,
        hz=options.hz or dataset.fps,
        views=views,
        state=state,
        action=action,
        action_kind=_action_kind(path, state, action, options),
        success=_success(part) if end == len(rows) else None,
        flags=(*dict.fromkeys(flags), *["several_tasks"] * bool(others)),
        facts=_facts(dataset, keys),
    )


def annotations(root: Path) -> list[Path]:
    """The files that name the columns and the tasks."""
    names = (INFO, "meta/tasks.jsonl", "meta/tasks.parquet")
    paths = [root / dataset.folder / name for dataset in _find_datasets(root) for name in names]
    return [path for path in paths if path.is_file()]


def _find_datasets(root: Path) -> Iterator[Dataset]:
    any_found = False
    for dataset in find_datasets(root):
        any_found = True
        yield dataset
    if not any_found:
        raise UserError(
            f"{root} is not a LeRobot dataset, nor a folder of some: expected {INFO}, found "
            f"{contents(root)}. {HOW_TO_GET}"
        )


def _list_episode(dataset: Dataset, row: dict[str, Any]) -> Iterator[SourceEpisode]:
    """The SourceEpisode of an episode, or of its parts if it has several tasks."""
    index, length = row["episode_index"], row["length"]
    unit = f"{dataset.below_root(INFO)}#{index:06d}"
    split, version = dataset.split(index), dataset.version
    path = dataset.below_root(INFO)
    places = [(index, 0, length)]
    reason = error = ""
    try:
        path, _ = dataset.locate(dataset.data_path(file_numbers(row, "data")))
        if len(set(row["tasks"])) > 1:
            places = list(_parts(dataset.root, path, index))
    except MissingFile:
        reason = "missing_file"
    except MediaError as problem:
        error = str(problem)
    for i, place in enumerate(places, 1):
        name = f"{unit}.{i}" if len(places) > 1 else unit
        yield SourceEpisode(name, path, place, split, version, reason=reason, error=error)


def _parts(root: Path, path: str, index: int) -> Iterator[tuple[int, int, int]]:
    """Places (episode, first row, end row) of an episode's parts: runs of rows with one task."""
    rows = episode_frames(root, path, ["episode_index", "frame_index", "task_index"], index)
    tasks = integer_column(rows, "task_index")
    borders = [0, *(np.flatnonzero(np.diff(tasks)) + 1).tolist(), len(rows)]
    for first, end in pairwise(borders):
        yield index, first, end


def _vector_key(dataset: Dataset, wanted: str, usual: tuple[str, ...], option: str) -> str:
    """The column that holds the state or the action: `wanted`, else the first usual one."""
    for name in (wanted,) if wanted else usual:
        if name in dataset.features:
            return name
    raise MediaError(
        f"{dataset.below_root(INFO)} has the columns {', '.join(dataset.features)}, expected "
        f"{wanted or ' or '.join(usual)}; set --ingest.{option}"
    )


def _float_matrix(rows: pa.Table, name: str, path: str) -> NDArray[np.float32]:
    """A column of numbers, or of nested lists of equal length, as float32 [T, D]."""
    if name not in rows.column_names:
        raise MediaError(f"{path} has no column {name}, which {INFO} names; download it again")
    array: Any = pa.concat_arrays(rows[name].chunks)
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    # Tensors are nested lists: one level is flattened at a time.
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


def _timestamps(rows: pa.Table, fps: float) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Seconds from the episode's start to each of its rows, and flags of what is odd about them."""
    even_s = np.arange(len(rows)) / fps
    if "timestamp" not in rows.column_names:
        return even_s, ("no_timestamps",)
    stored_s = _float_matrix(rows, "timestamp", "the table")[:, 0].astype(np.float64)
    off_s = float(np.abs(stored_s - even_s).max())
    if (np.diff(stored_s) <= 0).any() or stored_s[0] < 0:
        return even_s, ("timestamps_irregular",)
    if off_s > 0.5 / fps:  # half a frame: another frame would be nearest
        return stored_s, ("timestamps_irregular",)
    return stored_s, ("timestamps_inexact",) * (off_s > TOLERANCE_S)


def _texts(dataset: Dataset, rows: pa.Table, row: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The task of the rows, and further ones if it changes within them after all."""
    tasks = task_texts(dataset.root, dataset.folder)
    if "task_index" in rows.column_names and tasks:
        numbers = dict.fromkeys(integer_column(rows, "task_index").tolist())
        first, *others = [tasks.get(number, "") for number in numbers]
        return first, tuple(text for text in others if text)
    names = row["tasks"] or []
    return (str(names[0]) if len(names) == 1 else ""), ()


def _success(rows: pa.Table) -> bool | None:
    """Success by next.success or next.reward, or None if it is unknown.

    A reward of 0 may mean that there are no rewards, and next.done that the recording ended.
    """
    if "next.success" in rows.column_names:
        return bool(_float_matrix(rows, "next.success", "the table").any())
    if "next.reward" in rows.column_names:
        return True if _float_matrix(rows, "next.reward", "the table")[-1, 0] == 1 else None
    return None


def _action_kind(
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
    """Provenance: the robot, and the names of state and action, whose meaning is not stated."""
    facts = {"layout": dataset.version, "robot": str(dataset.info.get("robot_type") or "")}
    for role, key in zip(("state_names", "action_names"), keys, strict=True):
        facts[role] = ",".join(_names(dataset.features[key].get("names")))
    return {name: value for name, value in facts.items() if value}


def _names(names: Any, depth: int = 4) -> list[str]:
    """Names of a vector's values, given as a list, a list of lists, a dict of lists, or null."""
    if isinstance(names, dict):
        names = (
            list(names.values())
            if any(isinstance(v, list) for v in names.values())
            else list(names)
        )
    if isinstance(names, list):
        return [name for part in names for name in _names(part, depth - 1)] if depth else []
    return [] if names is None else [str(names)]


ADAPTER = RobotAdapter(
    episodes=episodes,
    load=load,
    annotations=annotations,
    licence="unknown",
    terms="Each set has its own licence, mostly told in its card; set --ingest.licence.",
    how_to_get=HOW_TO_GET,
)
