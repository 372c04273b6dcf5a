"""Numbers of a LeRobot episode: states, actions and times of its rows, and what they are called."""

from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.stages.datasets.joints import gripper_columns, largest_joint
from handloom.stages.datasets.lerobot.files import INFO, Dataset, open_dataset
from handloom.stages.datasets.lerobot.tables import episode_frames, episode_rows, file_numbers

Keys = tuple[str, ...]
"""Columns whose values, side by side, are the state or the action."""

STATE_KEYS = ("observation.state", "state")
ACTION_KEYS = ("action", "actions")
TOLERANCE_S = 1e-4
"""LeRobot's own tolerance of timestamps, which are float32."""
SAMPLED_EPISODES = 8
"""Episodes of a dataset that are looked at to guess the unit of its joints."""


def vector_keys(dataset: Dataset, wanted: str, usual: tuple[str, ...], option: str) -> Keys:
    """The columns that hold the state or the action: those of `wanted`, joined by `+`, else the
    first usual one."""
    given = [(wanted,), tuple(wanted.split("+"))]  # a name may hold a plus of its own
    for names in given if wanted else [(name,) for name in usual]:
        if all(name in dataset.features for name in names):
            return names
    raise MediaError(
        f"{dataset.below_root(INFO)} has the columns {', '.join(dataset.features)}, expected "
        f"{wanted or ' or '.join(usual)}; set --ingest.{option}"
    )


def float_matrix(rows: pa.Table, name: str, path: str) -> NDArray[np.float32]:
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


def joined(rows: pa.Table, keys: Keys, path: str) -> NDArray[np.float32]:
    """Columns of numbers side by side, float32 [T, sum of their widths]."""
    return np.concatenate([float_matrix(rows, name, path) for name in keys], axis=1)


def names_of(dataset: Dataset, keys: Keys) -> list[str]:
    """Names of the values of columns side by side; none where one of them has none."""
    found = [value_names(dataset.features[name].get("names")) for name in keys]
    return [name for names in found for name in names] if all(found) else []


def timestamps(rows: pa.Table, fps: float) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Seconds from the episode's start to each of its rows, and flags of what is odd about them."""
    even_s = np.arange(len(rows)) / fps
    if "timestamp" not in rows.column_names:
        return even_s, ("no_timestamps",)
    stored_s = float_matrix(rows, "timestamp", "the table")[:, 0].astype(np.float64)
    off_s = float(np.abs(stored_s - even_s).max())
    if (np.diff(stored_s) <= 0).any() or stored_s[0] < 0:
        return even_s, ("timestamps_irregular",)
    if off_s > 0.5 / fps:  # half a frame: another frame would be nearest
        return stored_s, ("timestamps_irregular",)
    return stored_s, ("timestamps_inexact",) * (off_s > TOLERANCE_S)


def value_names(names: Any, depth: int = 4) -> list[str]:
    """Names of a vector's values, given as a list, a list of lists, a dict of lists, or null."""
    if isinstance(names, dict):
        names = (
            list(names.values())
            if any(isinstance(v, list) for v in names.values())
            else list(names)
        )
    if isinstance(names, list):
        return [name for part in names for name in value_names(part, depth - 1)] if depth else []
    return [] if names is None else [str(names)]


@lru_cache(maxsize=8)
def largest_of_dataset(root: Path, folder: str, keys: tuple[Keys, Keys]) -> float:
    """The largest absolute joint in the first episodes that can be read, 0 without any.

    One number for a whole dataset, so that all its episodes are read in one unit: one in which the
    arm hardly moves tells nothing.
    """
    dataset = open_dataset(root, folder)
    readable = (found for row in episode_rows(dataset) if (found := _largest(dataset, row, keys)))
    return max(islice(readable, SAMPLED_EPISODES), default=0.0)


def _largest(dataset: Dataset, row: dict[str, Any] | str, keys: tuple[Keys, Keys]) -> float:
    """The largest joint of an episode; 0 where it cannot be read."""
    if isinstance(row, str):
        return 0.0
    try:
        path, _ = dataset.locate(dataset.data_path(file_numbers(row, "data")))
        columns = ["episode_index", "frame_index", *keys[0], *keys[1]]
        rows = episode_frames(dataset.root, path, columns, row["episode_index"])
        found = []
        for key in keys:
            values, names = joined(rows, key, path), names_of(dataset, key)
            found.append(largest_joint(values, gripper_columns(names, values.shape[1])))
    except MediaError:
        return 0.0
    return max(found)
