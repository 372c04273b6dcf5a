"""Tables of a LeRobot dataset: episodes, tasks, and the rows of an episode."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from handloom.errors import MediaError, UserError, first_line
from handloom.stages.datasets.formats.json_stream import load_value
from handloom.stages.datasets.lerobot.files import (
    MAX_JSON_BYTES,
    Dataset,
    check_readable,
    open_dataset,
)
from handloom.stages.datasets.lerobot.stretches import Claims
from handloom.stages.datasets.media import files_below

PLACE = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
"""Columns of the episode table that say where a camera's frames of an episode lie."""
MAX_EPISODES = 1 << 30
MAX_ROWS = 1 << 24
MAX_VALUES = 1 << 28
"""Most values of a table. A Parquet file of a kilobyte can declare any number of equal ones."""


def episode_frames(root: Path, path: str, columns: list[str], index: int) -> pa.Table:
    """Some columns of an episode's rows, in the order of its frames."""
    rows = read_table(root / path, path, columns, index)
    if len(rows) == 0:
        raise MediaError(f"{path} holds no rows of episode {index}; download it again")
    if "frame_index" in rows.column_names:
        frames = integer_column(rows, "frame_index")
        if len(np.unique(frames)) != len(frames):
            raise MediaError(f"{path} holds frames of episode {index} twice; download it again")
        if (np.diff(frames) < 0).any():
            rows = rows.take(pa.array(np.argsort(frames)))
    return rows


def episode_rows(dataset: Dataset) -> Iterator[dict[str, Any] | str]:
    """Rows of the episode table with episode_index, tasks and length; damaged ones as a message."""
    seen: set[int] = set()
    for row, name in _read_episode_rows(dataset):
        if isinstance(row, str):
            yield row
            continue
        index, length, tasks = (row.get(key) for key in ("episode_index", "length", "tasks"))
        if not _is_count(index, 0, MAX_EPISODES) or not _is_count(length, 1, MAX_ROWS):
            yield f"{name} has an episode {index!r} of {length!r} rows, expected two numbers"
        elif index in seen:
            yield f"{name} names episode {index} again, expected once; one of the two is wrong"
        else:
            seen.add(index)
            tasks = tasks if isinstance(tasks, list) else []
            yield row | {"tasks": [str(task) for task in tasks]}


def _is_count(value: Any, least: int, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and least <= value <= most


def _read_episode_rows(dataset: Dataset) -> Iterator[tuple[dict[str, Any] | str, str]]:
    """Rows of the episode table as stored, each with the name of its file."""
    if dataset.layout == 2:
        name = dataset.below_root("meta/episodes.jsonl")
        try:
            yield from ((row, name) for row in read_json_lines(dataset.root / name, name))
        except MediaError as error:
            raise UserError(f"{error}.") from None
        return
    for path in _episode_table_files(dataset):
        try:
            rows = read_table(dataset.root / path, path, _episode_table_columns(dataset))
        except MediaError as error:  # for example the last file of an unfinished recording
            yield str(error), path
            continue
        for batch in rows.to_batches(max_chunksize=1024):
            yield from ((row, path) for row in batch.to_pylist())


def _episode_table_files(dataset: Dataset) -> list[str]:
    folder = dataset.root / dataset.below_root("meta/episodes")
    paths = list(files_below(dataset.root, folder, (".parquet",))) if folder.is_dir() else []
    if not paths:
        raise UserError(
            f"{folder} holds no Parquet file, expected the episode table; download it again."
        )
    return paths


def _episode_table_columns(dataset: Dataset) -> list[str]:
    """Columns of the episode table without the statistics, which are most of it."""
    columns = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index"]
    for name in dataset.features:
        columns += [f"videos/{name}/{x}" for x in PLACE]
    return columns


@lru_cache(maxsize=2)
def _episode_table(root: Path, folder: str) -> pa.Table:
    """The whole episode table of layout 3, without files that cannot be read."""
    dataset = open_dataset(root, folder)
    tables = []
    for path in _episode_table_files(dataset):
        try:
            tables.append(read_table(root / path, path, _episode_table_columns(dataset)))
        except MediaError:
            continue  # its episodes were not listed
    return pa.concat_tables(tables, promote_options="permissive")


def episode_row(dataset: Dataset, index: int) -> dict[str, Any]:
    """An episode's row of the episode table; in layout 2 only its number."""
    if dataset.layout == 2:
        return {"episode_index": index, "tasks": []}
    rows = _episode_table(dataset.root, dataset.folder)
    matches = rows.filter(pc.equal(rows["episode_index"], index)).to_pylist()
    if len(matches) != 1:
        raise MediaError(
            f"{dataset.below_root('meta/episodes')} names episode {index} "
            f"{len(matches)} times, expected once"
        )
    row: dict[str, Any] = matches[0]
    return row


def file_numbers(row: dict[str, Any], prefix: str) -> dict[str, int]:
    """The numbers that fill a template; `prefix` is `data` or a camera's `videos/<name>`."""
    numbers = {"episode_index": row["episode_index"]}
    for key in ("chunk_index", "file_index"):
        value = row.get(f"{prefix}/{key}")
        if isinstance(value, int):
            numbers[key] = value
    return numbers


def claims_of(dataset: Dataset, camera: str, numbers: dict[str, int]) -> Claims | None:
    """The parts of one video that the episode table gives to episodes; None in layout 2.

    Args:
        dataset: whose episode table it is.
        camera: of the video.
        numbers: `chunk_index` and `file_index` of the video.

    Raises:
        MediaError: the times are no numbers.
    """
    if dataset.layout == 2:
        return None
    rows = _episode_table(dataset.root, dataset.folder)
    for key in ("chunk_index", "file_index"):
        name = f"videos/{camera}/{key}"
        if name in rows.column_names and key in numbers:
            rows = rows.filter(pc.equal(rows[name], numbers[key]))
    return Claims(
        integer_column(rows, "episode_index"),
        _seconds(rows, f"videos/{camera}/from_timestamp", dataset),
        _seconds(rows, f"videos/{camera}/to_timestamp", dataset),
        integer_column(rows, "length"),
    )


def _seconds(rows: pa.Table, name: str, dataset: Dataset) -> NDArray[np.float64]:
    """A column of times, float64 [N], NaN where it has none."""
    if name not in rows.column_names:
        # Without the column each video holds one episode; several that begin at 0 are refused.
        return np.full(len(rows), 0.0 if name.endswith("from_timestamp") else np.nan)
    try:
        return np.asarray(rows[name].cast(pa.float64()).to_numpy(), np.float64)
    except pa.ArrowException:
        raise MediaError(
            f"{dataset.below_root('meta/episodes')} has {rows[name].type} as {name}, expected "
            "seconds; download it again"
        ) from None


def integer_column(rows: pa.Table, name: str) -> NDArray[np.int64]:
    """A column as int64 [T]. Raises MediaError if it is missing or holds other values."""
    values = rows[name].to_numpy() if name in rows.column_names else np.empty(0)
    if len(values) != len(rows) or values.dtype.kind not in "iu":
        raise MediaError(f"the column {name} is no column of whole numbers; download it again")
    return values.astype(np.int64)


@lru_cache(maxsize=8)
def task_texts(root: Path, folder: str) -> dict[int, str]:
    """Tasks by number.

    In tasks.parquet the column of the text is `task`, or `__index_level_0__` where pandas wrote it
    as an index; it is the only one of strings.
    """
    name = f"{folder}/meta/tasks.parquet".lstrip("/")
    if (root / name).is_file():
        rows = read_table(root / name, name, None)
        texts = [
            f.name
            for f in rows.schema
            if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)
        ]
        if not texts:
            raise MediaError(f"{name} has no column of strings, expected tasks; download it again")
        pairs = zip(
            integer_column(rows, "task_index").tolist(), rows[texts[0]].to_pylist(), strict=True
        )
        return {number: str(text or "") for number, text in pairs}
    name = f"{folder}/meta/tasks.jsonl".lstrip("/")
    if not (root / name).is_file():
        return {}
    tasks = {}
    for row in read_json_lines(root / name, name):
        if isinstance(row, dict) and isinstance(row.get("task_index"), int):
            tasks[row["task_index"]] = str(row.get("task") or "")
    return tasks


def read_json_lines(path: Path, name: str) -> Iterator[dict[str, Any] | str]:
    """Objects of a .jsonl file; a line that is not an object is yielded as a message.

    The last line is cut off where a recording or a download was interrupted.
    """
    check_readable(path, name)
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_JSON_BYTES), b""), 1):
            try:
                value = load_value(line) if line.strip() else {}
            except ValueError:
                value = None
            if not isinstance(value, dict):
                yield f"line {number} of {name} is not a complete JSON object; download it again"
            elif value:
                yield value


def read_table(
    path: Path, name: str, columns: list[str] | None, episode: int | None = None
) -> pa.Table:
    """Columns of a Parquet file, of all rows or of one episode.

    Args:
        path: of the file.
        name: the path below the data folder, for messages.
        columns: names; missing columns are left out. None for all.
        episode: the episode whose rows are wanted; row groups of others are not read.

    Raises:
        MediaError: the file is damaged, unfinished, a Git LFS pointer, or not readable.
    """
    check_readable(path, name)
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            present = names if columns is None else [name for name in columns if name in names]
            groups = _row_groups(file, episode)
            _check_size(file.metadata, groups, name)
            # Without threads: there is a worker for each core already.
            rows = file.read_row_groups(groups, columns=present, use_threads=False)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if "magic bytes" in str(error) or "footer" in str(error).lower():
            raise MediaError(
                f"{name} has no Parquet footer: its writer did not finish; finalize the recording "
                "or download it again"
            ) from None
        why = first_line(error).replace(str(path), name)
        raise MediaError(f"{name} is damaged ({why}); download it again") from None
    if episode is not None and "episode_index" in present:
        # A row group may hold several episodes.
        rows = rows.filter(pc.equal(rows["episode_index"], episode))
    return rows


def _row_groups(file: pq.ParquetFile, episode: int | None) -> list[int]:
    """Row groups that may hold an episode, by the statistics of the column episode_index."""
    groups = range(file.num_row_groups)
    names = [file.schema.column(i).path for i in range(len(file.schema))]
    if episode is None or "episode_index" not in names:
        return list(groups)
    column = names.index("episode_index")
    matching = []
    for group in groups:
        statistics = file.metadata.row_group(group).column(column).statistics
        if (
            not statistics
            or not statistics.has_min_max
            or statistics.min <= episode <= statistics.max
        ):
            matching.append(group)
    return matching


def _check_size(metadata: pq.FileMetaData, groups: list[int], name: str) -> None:
    rows = sum(metadata.row_group(g).num_rows for g in groups)
    values = sum(
        metadata.row_group(g).column(c).num_values
        for g in groups
        for c in range(metadata.num_columns)
    )
    if rows > MAX_ROWS or values > MAX_VALUES:
        raise MediaError(f"{name} claims {rows} rows with {values} values; it is damaged")
