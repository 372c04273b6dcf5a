"""Which clips a run kept, in the order of the export: split, bucket, video, time, as in its shards.

Of each clip only what divides the work is listed (some 100 bytes), so that memory does not depend
on frames, states or captions. N clips.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handloom.errors import RunError
from handloom.export.options import Rate
from handloom.stages.tables.outcomes import Outcomes, all_outcomes
from handloom.stages.tables.parts import Tables
from handloom.tokenize.shards import SPLITS

CLIP_ORDER = [(name, "ascending") for name in ("video_id", "start_s", "end_s", "clip_id")]
COLUMNS = [
    "video_id", "start_s", "end_s", "split", "media_path", "width", "height", "fps", "licence",
    "dataset", "version",
]  # fmt: skip
OF_EPISODES = ["views", "hz", "action_kind", "facts", "success", "state", "action", "steps"]


@dataclass(frozen=True)
class Kind:
    """Properties that the episodes of one LeRobot or RLDS dataset share.

    Attributes:
        hz: steps a second.
        action_kind: ee_delta, joints or as_stored.
        state_names: of its numbers, where the source has names; as many as it is wide.
        action_names: the same of the action.
        views: names of the cameras, the main one first.
        size: width and height of the main camera's pictures.
        robot: its name, where the source says.
    """

    hz: float
    action_kind: str
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    views: tuple[str, ...]
    size: tuple[int, int]
    robot: str

    def __str__(self) -> str:
        widths = f"states of {len(self.state_names)}, actions of {len(self.action_names)}"
        robot = f"{self.robot}, " * (self.robot not in ("", "unknown"))
        width, height = self.size
        return (
            f"{robot}{self.action_kind} at {self.hz:g} Hz, {widths}, cameras "
            f"{' '.join(self.views)}, {width} x {height}"
        )


@dataclass(eq=False)
class Listing:
    """The clips of an export.

    Attributes:
        rows: a row a clip: clip_id, bucket, split, media_path, frames, pixels (of all cameras'
            frames), text (a number) and kind (a number, -1 of videos), with provenance to count.
        texts: captions by number.
        kinds: kinds of episodes by number, empty of videos.
    """

    rows: pa.Table
    texts: list[str] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def only(self, keep: Any) -> "Listing":
        """Some of the clips, by a mask of bool [N]."""
        return Listing(self.rows.filter(pa.array(keep)), self.texts, self.kinds)

    def numbers(self, name: str) -> Any:
        """A column of numbers, int64 [N]."""
        return self.rows[name].to_numpy()

    @cached_property
    def starts(self) -> Any:
        """How many frames lie before each clip's and in all, int64 [N + 1]."""
        return np.concatenate([[0], np.cumsum(self.numbers("frames"))])

    @cached_property
    def tasks(self) -> tuple[Any, list[str]]:
        """The captions of these clips in the order in which they first come, and each clip's number
        among them, int64 [N]."""
        found, first, number = np.unique(
            self.numbers("text"), return_index=True, return_inverse=True
        )
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return rank[number], [self.texts[i] for i in found[order].tolist()]


def list_clips(tables: Tables, rate: Rate) -> Listing:
    """The clips that passed every stage of a finished run.

    Raises:
        RunError: it kept none.
    """
    listing, numbers = Listing(pa.table({})), dict[str, int]()
    found = list[pa.Table]()
    wanted = _columns(tables, rate)
    for outcomes in all_outcomes(tables, wanted):
        kept = np.flatnonzero(outcomes.kept)
        if len(kept):
            of_bucket = _joined(outcomes, wanted, kept).sort_by(CLIP_ORDER)
            found.append(_slim(of_bucket, outcomes.bucket, listing.kinds, numbers, rate))
    if not found:
        raise RunError("the run kept no clip, so there is nothing to export.")
    rows = pa.concat_tables(found)
    by_split = [rows.filter(pc.equal(rows["split"], split)) for split in SPLITS]
    return Listing(pa.concat_tables(by_split).combine_chunks(), list(numbers), listing.kinds)


def _columns(tables: Tables, rate: Rate) -> dict[str, list[str]]:
    columns = {"ingest": COLUMNS, "caption": ["caption"]}
    if "episodes" in tables:
        columns["ingest"] = [*COLUMNS, *OF_EPISODES]
        columns["episodes"] = ["hz", "steps_taken"] if rate == "common" else []
    if "hands" in tables:
        columns["hands"] = ["shot_start_s", "shot_end_s", "picture_xyxy"]
    return {stage: names for stage, names in columns.items() if stage in tables}


def _joined(found: Outcomes, columns: dict[str, list[str]], clips: Any) -> pa.Table:
    """Columns of some clips; those of other stages than ingest as `<stage>.<column>`."""
    joined = {"clip_id": found.clip_ids.take(pa.array(clips)).cast(pa.string())}
    for stage, names in columns.items():
        rows = found.stages[stage].table.take(pa.array(found.stages[stage].row[clips]))
        prefix = "" if stage == "ingest" else f"{stage}."
        joined |= {f"{prefix}{name}": rows[name] for name in names}
    return pa.table(joined)


def _slim(
    rows: pa.Table, bucket: str, kinds: list[Kind], texts: dict[str, int], rate: Rate
) -> pa.Table:
    """The columns of a listing; new texts and kinds get the next numbers."""
    is_robot = "views" in rows.column_names
    frames, pixels = (_of_episodes if is_robot else _of_videos)(rows, rate)
    kind = [_number(kinds, one) for one in _kinds(rows, rate)] if is_robot else [-1] * len(rows)
    text = [texts.setdefault(one or "", len(texts)) for one in rows["caption.caption"].to_pylist()]
    slim = rows.select(["clip_id", "split", "media_path", "licence", "dataset", "version"])
    success = rows["success"] if is_robot else pa.nulls(len(rows), pa.bool_())
    return (
        slim.append_column("bucket", pa.repeat(bucket, len(rows)))
        .append_column("frames", pa.array(frames, pa.int64()))
        .append_column("seconds", pa.array(_seconds(rows, frames, rate), pa.float64()))
        .append_column("pixels", pa.array(pixels, pa.int64()))
        .append_column("text", pa.array(text, pa.int64()))
        .append_column("kind", pa.array(kind, pa.int64()))
        .append_column("success", success)
    )


def _number(known: list[Kind], one: Kind) -> int:
    if one not in known:
        known.append(one)
    return known.index(one)


def _hz(rows: pa.Table, rate: Rate) -> Any:
    return rows["hz" if rate == "source" else "episodes.hz"].to_numpy()


def _of_episodes(rows: pa.Table, rate: Rate) -> tuple[Any, Any]:
    """Steps of each episode, and pixels of all its cameras."""
    common = pc.list_value_length(rows["episodes.steps_taken"]) if rate == "common" else None
    frames = (rows["steps"] if common is None else common).to_numpy().astype(np.int64)
    views = pc.list_value_length(rows["views"]).to_numpy()
    return frames, frames * views * rows["width"].to_numpy() * rows["height"].to_numpy()


def _of_videos(rows: pa.Table, rate: Rate) -> tuple[Any, Any]:
    """Frames of each clip's longest shot, and their pixels without bars."""
    frames = frame_counts(_shot_s(rows), rows["fps"].to_numpy())
    return frames, frames * rows["width"].to_numpy() * rows["height"].to_numpy()


def _shot_s(rows: pa.Table) -> Any:
    names = ("shot_start_s", "shot_end_s")
    start, end = (f"hands.{n}" if f"hands.{n}" in rows.column_names else n[5:] for n in names)
    return rows[end].to_numpy() - rows[start].to_numpy()


def _seconds(rows: pa.Table, frames: Any, rate: Rate) -> Any:
    return frames / _hz(rows, rate) if "views" in rows.column_names else _shot_s(rows)


def frame_counts(seconds: Any, fps: Any) -> Any:
    """How many frames `spaced_times` gives of spans at the frame rate of their videos."""
    counts: Any = np.maximum(1, (seconds / (1 / fps) + 1e-6).astype(np.int64))
    return counts


def _kinds(rows: pa.Table, rate: Rate) -> Iterator[Kind]:
    columns: dict[str, Callable[[int], Any]] = {
        name: rows[name].to_pylist().__getitem__
        for name in ("views", "action_kind", "facts", "width", "height")
    }
    widths = {name: _widths(rows[name]) for name in ("state", "action")}
    for i, hz in enumerate(_hz(rows, rate).tolist()):
        facts = dict(fact.split(": ", 1) for fact in columns["facts"](i) if ": " in fact)
        action_kind = columns["action_kind"](i)
        state, action = (
            _names(facts.get(f"{role}_names", ""), widths[role][i], action_kind, role)
            for role in ("state", "action")
        )
        size = columns["width"](i), columns["height"](i)
        views = tuple(columns["views"](i))
        yield Kind(hz, action_kind, state, action, views, size, facts.get("robot", ""))


def _widths(values: pa.ChunkedArray) -> list[int]:
    """How many numbers each episode's states, or actions, have."""
    widths: list[int] = pc.list_value_length(pc.list_element(values, 0)).to_pylist()
    return widths


AXES = {
    "state": ("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
    "action": ("dx", "dy", "dz", "wx", "wy", "wz", "gripper"),
}


def _names(stored: str, width: int, action_kind: str, role: str) -> tuple[str, ...]:
    """Names of a state's or action's numbers, as many as there are."""
    names = tuple(stored.split(",")) if stored else ()
    if action_kind == "ee_delta":
        arms = width // len(AXES[role])
        prefixes = [f"arm_{i}_" if arms > 1 else "" for i in range(arms)]
        return tuple(prefix + axis for prefix in prefixes for axis in AXES[role])
    return names if len(names) == width else tuple(f"{role}_{i}" for i in range(width))
