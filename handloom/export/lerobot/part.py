"""The files of a part of a LeRobot dataset: a video for each camera, its steps, its episodes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.export.clips import ExportClip, Motion, Pictures, facts_schema
from handloom.export.lerobot import layout
from handloom.export.lerobot.layout import ACTION, STATE, SUCCESS
from handloom.export.lerobot.statistics import ImageStatistics, flattened, of_values
from handloom.export.listing import Listing
from handloom.export.mp4 import Encoding, Mp4Writer
from handloom.export.parts import Part
from handloom.files import whole

KEY_EVERY = 2  # as LeRobot's recorder: training reads single frames at random


class PartWriter:
    """Writes a part, episode after episode; its files get their names when all are in them.

    Args:
        dest: the dataset.
        part: which of its parts.
        listing: all episodes, by which they are numbered.
        crf: quality of the videos.
    """

    def __init__(self, dest: Path, part: Part, listing: Listing, crf: int) -> None:
        self.part, self.listing, self.kind = part, listing, listing.kinds[0]
        self.at = layout.place(part.number)
        self.keys = {view: layout.camera_key(view) for view in self.kind.views}
        self.videos = {
            view: dest / layout.VIDEO.format(video_key=key, **self.at)
            for view, key in self.keys.items()
        }
        self.data, self.episodes, self.provenance = (
            dest / template.format(**self.at)
            for template in (layout.DATA, layout.EPISODES, layout.PROVENANCE)
        )
        fps = Fraction(self.kind.hz).limit_denominator(1001)
        self._encoding = Encoding(fps, crf, KEY_EVERY)
        self._success = layout.has_success(listing)
        self._rows: list[dict[str, Any]] = []
        self._facts: list[dict[str, Any]] = []
        self._writers: dict[str, Mp4Writer] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Open the videos and the table of steps while the body adds episodes."""
        with ExitStack() as stack:
            for view, path in self.videos.items():
                self._writers[view] = stack.enter_context(_video(path, self._encoding))
            schema = _steps_schema(self.kind.state_names, self.kind.action_names, self._success)
            temporary = stack.enter_context(whole(self.data))
            self._steps = stack.enter_context(pq.ParquetWriter(temporary, schema))
            yield

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Width and height of the videos, by feature."""
        return {self.keys[view]: writer.size for view, writer in self._writers.items()}

    def add(self, one: ExportClip, pictures: Pictures) -> None:
        """Add the next episode.

        Raises:
            MediaError: its pictures cannot be read, or are of another size than those before.
        """
        episode = self.part.start + len(self._rows)
        motion = one.motion
        assert motion is not None
        images = {
            self.keys[view]: self._encode(one, pictures, view, writer)
            for view, writer in self._writers.items()
        }
        columns = self._columns(episode, motion, one)
        self._steps.write_table(_step_table(columns, self._steps.schema))  # a row group an episode
        stats = {name: of_values(values) for name, values in columns.items()} | images
        self._rows.append(self._row(episode, len(motion.steps)) | flattened(stats))
        self._facts.append({"episode_index": episode} | one.facts())

    def finish(self) -> list[Path]:
        """Write the tables of episodes, and return all files."""
        schema = pa.schema([("episode_index", pa.int64()), *facts_schema(is_robot=True)])
        tables = {
            self.provenance: pa.Table.from_pylist(self._facts, schema),
            self.episodes: pa.Table.from_pylist(self._rows),
        }
        for path, table in tables.items():
            with whole(path) as temporary:
                pq.write_table(table, temporary)
        return [*self.videos.values(), self.data, self.provenance, self.episodes]

    def _encode(
        self, one: ExportClip, pictures: Pictures, view: str, writer: Mp4Writer
    ) -> dict[str, Any]:
        """Encode a camera's pictures; returns their statistics."""
        assert one.motion is not None
        images, wanted = ImageStatistics(len(one.motion.steps)), len(one.motion.steps)
        before = writer.count
        for frame_hwc in one.frames(pictures, view):
            writer.add(frame_hwc, starts=writer.count == before)
            images.add(frame_hwc)
        if writer.count - before != wanted:
            found = writer.count - before
            raise MediaError(f"{one.clip.clip_id}: {found} pictures of {view}, expected {wanted}")
        return images.stats()

    def _columns(self, episode: int, motion: Motion, one: ExportClip) -> dict[str, NDArray[Any]]:
        """An episode's columns of the table of steps, [T] or [T, D]."""
        frames = np.arange(len(motion.steps))
        columns: dict[str, NDArray[Any]] = {STATE: motion.state, ACTION: motion.action}
        if self._success:
            reached = bool(getattr(one.clip, "success", False))
            columns[SUCCESS] = (frames == frames[-1]) & reached
        return columns | {
            "timestamp": (frames / self.kind.hz).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(len(frames), episode),
            "index": self.listing.starts[episode] + frames,
            "task_index": np.full(len(frames), self.listing.tasks[0][episode]),
        }

    def _row(self, episode: int, length: int) -> dict[str, Any]:
        """An episode's row of the episode table, without statistics."""
        starts, tasks = self.listing.starts, self.listing.tasks
        first = int(starts[episode] - starts[self.part.start])  # in the part's files
        row: dict[str, Any] = {
            "episode_index": episode,
            "tasks": [tasks[1][tasks[0][episode]]],
            "length": length,
            "data/chunk_index": self.at["chunk_index"],
            "data/file_index": self.at["file_index"],
            "dataset_from_index": int(starts[episode]),
            "dataset_to_index": int(starts[episode]) + length,
        }
        for key in self.keys.values():
            row |= {f"videos/{key}/{name}": number for name, number in self.at.items()}
            row[f"videos/{key}/from_timestamp"] = first / self.kind.hz
            row[f"videos/{key}/to_timestamp"] = (first + length) / self.kind.hz
        return row | {f"meta/episodes/{name}": number for name, number in self.at.items()}


@contextmanager
def _video(path: Path, encoding: Encoding) -> Iterator[Mp4Writer]:
    with whole(path) as temporary, temporary.open("wb") as file:
        writer = Mp4Writer(file, encoding, path.name)
        yield writer
        writer.close()


def _steps_schema(state: tuple[str, ...], action: tuple[str, ...], success: bool) -> pa.Schema:
    fields: list[tuple[str, Any]] = [(STATE, _vector(len(state))), (ACTION, _vector(len(action)))]
    fields += [(SUCCESS, pa.bool_())] * success
    fields += [("timestamp", pa.float32()), *((name, pa.int64()) for name in layout.INDEXES)]
    return pa.schema(fields)


def _vector(width: int) -> pa.DataType:
    """Of a column of vectors; LeRobot stores those of one number as plain numbers."""
    return pa.float32() if width == 1 else pa.list_(pa.float32(), width)


def _step_table(columns: dict[str, NDArray[Any]], schema: pa.Schema) -> pa.Table:
    arrays = []
    for name, values in columns.items():
        flat = pa.array(values.ravel())
        is_list = pa.types.is_fixed_size_list(schema.field(name).type)
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, values.shape[1]) if is_list else flat)
    return pa.table(arrays, names=list(columns)).cast(schema)
