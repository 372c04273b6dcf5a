"""LeRobot datasets, v2.0, v2.1 and v3.0: Parquet tables, and MP4 files or PNG images.

The format states the rate of actions but not their meaning: vectors may be joints in degrees, in
radians or in per cent, or motions of the end effector. So they are passed on `as_stored` unless
--ingest.action-kind says what they are.

An episode during which the task changes is cut there, into parts `episode_000012.1`, `.2` and so
on. Tasks are identified by their number in the rows: the episode's list of tasks has no order.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.joints import Joints, guess, in_radians
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
from handloom.stages.datasets.lerobot.vectors import (
    ACTION_KEYS,
    STATE_KEYS,
    Keys,
    float_matrix,
    joined,
    largest_of_dataset,
    names_of,
    timestamps,
    vector_keys,
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
USUAL = (STATE_KEYS, ACTION_KEYS)
INDEX = ("episode_index", "frame_index", "timestamp", "task_index", "next.success", "next.reward")
_open_dataset = lru_cache(maxsize=8)(open_dataset)  # a worker loads many episodes of one


def episodes(root: Path, options: EpisodeOptions) -> Iterator[SourceEpisode]:
    """List the episodes of the dataset or datasets in a folder.

    Only the episode tables are read, and the column of tasks for episodes with several tasks.
    Episodes without their table are left out as `missing_file`: a part may be downloaded.

    Raises:
        UserError: there is no dataset, or its info.json is damaged.
    """
    for dataset in _find_datasets(root):
        if options.action_kind == "joints" and options.joint_unit == "auto":
            _tell_unit(dataset, options)
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
        vector_keys(dataset, options.state_key, STATE_KEYS, "state-key"),
        vector_keys(dataset, options.action_key, ACTION_KEYS, "action-key"),
    )
    names = cameras(dataset, options)
    own = [name for k, usual in zip(keys, USUAL, strict=True) for name in _usual(dataset, k, usual)]
    images = [name for name in names if has_dtype(dataset, name, "image")]
    columns = list(dict.fromkeys([*INDEX, *keys[0], *keys[1], *own, *images]))
    rows = episode_frames(root, path, columns, index)
    # An episode must have all its rows; a part of one (`000012.1`) may end before them.
    if end > len(rows) or ("." not in number and end != len(rows)):
        raise MediaError(
            f"{path} has {len(rows)} rows of episode {index}, {meta} and its tables say {end}; the "
            "recording was interrupted, or the files are of different releases"
        )
    clock_s, flags = timestamps(rows, dataset.fps)
    flags += ("file_found_elsewhere",) * moved
    part = rows.slice(first, end - first)
    views: dict[str, Images] = {}
    for name in names:
        views[name], more = camera_images(dataset, row, name, rows, clock_s, slice(first, end))
        flags += more
    text, others = _texts(dataset, part, row)
    state, action = (joined(part, names, path) for names in keys)
    kind = _action_kind(path, state, action, options)
    joints = _joints(dataset, state, action, keys, options) if kind == "joints" else None
    state, action = (joints.state, joints.action) if joints else (state, action)
    content = _content_id(_texts(dataset, rows, row), (float_matrix(rows, k, path) for k in own))
    return Episode(
        # Every dataset numbers from 0; the hash distinguishes the episodes of two of them, and
        # stays the same wherever they lie.
        episode_id=f"episode_{number}-{content}",
        recording=f"episode_{number.partition('.')[0]}-{content}",
        text=text or options.text,
        other_texts=others,
        hz=options.hz or dataset.fps,
        views=views,
        state=state,
        action=action,
        action_kind=kind,
        grippers=joints.grippers if joints else (),
        success=_success(part) if end == len(rows) else None,
        flags=(*dict.fromkeys(flags), *["several_tasks"] * bool(others)),
        facts=_facts(dataset, keys) | (joints.facts if joints else {}),
    )


def _tell_unit(dataset: Dataset, options: EpisodeOptions) -> None:
    """Say in one sentence which unit joints are taken to have."""
    try:
        keys = (
            vector_keys(dataset, options.state_key, STATE_KEYS, "state-key"),
            vector_keys(dataset, options.action_key, ACTION_KEYS, "action-key"),
        )
    except MediaError:
        return  # each episode fails with that sentence
    largest = largest_of_dataset(dataset.root, dataset.folder, keys)
    logging.getLogger(__name__).warning(
        "%s: joints are taken to be in %s, as the largest is %.1f; if they are not, set "
        "--ingest.joint-unit",
        dataset.folder or dataset.root.name, guess(largest), largest,
    )  # fmt: skip


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
        return bool(float_matrix(rows, "next.success", "the table").any())
    if "next.reward" in rows.column_names:
        return True if float_matrix(rows, "next.reward", "the table")[-1, 0] == 1 else None
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


def _joints(
    dataset: Dataset,
    state: NDArray[np.float32],
    action: NDArray[np.float32],
    keys: tuple[Keys, Keys],
    options: EpisodeOptions,
) -> Joints:
    names, others = (names_of(dataset, key) for key in keys)
    largest = None
    if options.joint_unit == "auto":
        largest = largest_of_dataset(dataset.root, dataset.folder, keys)
    return in_radians(state, action, options.joint_unit, names, others, largest)


def _usual(dataset: Dataset, keys: Keys, usual: tuple[str, ...]) -> Keys:
    """The columns that an episode is known by, whichever ones the options choose."""
    return next(((name,) for name in usual if name in dataset.features), keys)


def _content_id(texts: tuple[str, tuple[str, ...]], vectors: Iterable[NDArray[np.float32]]) -> str:
    """A hash of a whole episode's tasks, states and actions."""
    digest = hashlib.blake2b("\0".join([texts[0], *texts[1]]).encode(), digest_size=6)
    for values in vectors:
        digest.update(np.ascontiguousarray(values, "<f4").tobytes())
    return digest.hexdigest()


def _facts(dataset: Dataset, keys: tuple[Keys, Keys]) -> dict[str, str]:
    """Provenance: the robot, and the names of state and action, whose meaning is not stated."""
    facts = {"layout": dataset.version, "robot": str(dataset.info.get("robot_type") or "")}
    for role, key in zip(("state_names", "action_names"), keys, strict=True):
        facts[role] = ",".join(names_of(dataset, key))
    return {name: value for name, value in facts.items() if value}


ADAPTER = RobotAdapter(
    episodes=episodes,
    load=load,
    annotations=annotations,
    licence="unknown",
    terms="Each set has its own licence, mostly told in its card; set --ingest.licence.",
    how_to_get=HOW_TO_GET,
)
