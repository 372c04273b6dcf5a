"""Writes a miniature CALVIN, task_D_D: one file per frame, play segments, language windows.

As in the original, ids do not start at 0 and have a hole, windows overlap, an interrupted unzip
left out a frame, and one window reaches across the hole. Depth and touch are flat.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.stages.datasets.formats.rotations import wrap_angles
from handloom.stages.miniatures.folder import Folder, write_bytes, write_text
from handloom.stages.miniatures.robots.files import (
    embedding,
    npy,
    object_npy,
)
from handloom.stages.miniatures.robots.views import static_view, wrist_view
from handloom.stages.miniatures.robots.world import (
    OPENING_M,
    WorldEpisode,
    episode,
    joints,
    resampled,
)

VERSION = 1  # raise it whenever the same arguments give other bytes
HZ = 30.0
FIRST_ID = 361
HOLE = 137  # ids that are missing in the middle of training
VAL_EVERY = 4
SMALLER = 12  # frames by which the second window of a segment is shorter, at its start
MOST_M, MOST_RAD = 0.02, 0.05  # a relative action of 1
FLAT: dict[str, NDArray[Any]] = {
    "rgb_tactile": np.zeros((160, 120, 6), np.uint8),
    "depth_static": np.full((200, 200), 3.9, np.float32),
    "depth_gripper": np.full((84, 84), 0.3, np.float32),
    "depth_tactile": np.zeros((160, 120, 2), np.float32),
}


@dataclass(frozen=True)
class Segment:
    """Some seconds of play: one episode of the world, and the id of its first frame."""

    world: WorldEpisode
    first: int

    @property
    def last(self) -> int:
        """The id of its last frame; the frame after it in the world has no file."""
        return self.first + len(self.world) - 2


def write(out: Path, clips: int = 6, seed: int = 0) -> None:
    """Write task_D_D with `clips` segments of play, every fourth of them for validation.

    The same arguments give the same bytes. A finished folder is left alone. Raises UserError where
    `out` holds a dataset of that name that is not this miniature.
    """
    marker = {"clips": clips, "seed": seed, "version": VERSION}
    Folder(out, "CALVIN", ("task_D_D",), marker).fill(lambda: _write(out / "task_D_D", clips, seed))


def segments(clips: int, seed: int) -> dict[str, list[Segment]]:
    """The segments of training and validation; the hole comes after the second."""
    found: dict[str, list[Segment]] = {"training": [], "validation": []}
    ids = {"training": FIRST_ID, "validation": 0}
    for index in range(clips):
        split = "validation" if index % VAL_EVERY == VAL_EVERY - 1 else "training"
        world = resampled(episode(seed, index), HZ)
        found[split].append(Segment(world, ids[split]))
        ids[split] = found[split][-1].last + 1
        if split == "training" and len(found[split]) == 2:
            ids[split] += HOLE
    return found


def _write(home: Path, clips: int, seed: int) -> None:
    for split, parts in segments(clips, seed).items():
        if not parts:
            continue
        folder = home / split
        for number, part in enumerate(parts):
            # Files of before the gripper's command was rewritten have 0 where it closes.
            closed = 0.0 if split == "training" and number == 2 else -1.0
            absent = {part.last - 5} if split == "training" and number == 1 else set()
            _write_frames(folder, part, closed, absent)
        _write_index(folder, parts)
        _write_language(folder, parts, split)


def _write_frames(folder: Path, part: Segment, closed: float, absent: set[int]) -> None:
    vectors = numbers(part.world, closed)
    views = zip(static_view(part.world, (200, 200)), wrist_view(part.world, (84, 84)), strict=True)
    for step, (static, wrist) in enumerate(views):
        if step == len(part.world) - 1 or part.first + step in absent:
            continue
        frame: dict[str, NDArray[Any]] = {
            **{name: values[step] for name, values in vectors.items()},
            "rgb_static": static,
            "rgb_gripper": wrist,
            **FLAT,
        }
        file = io.BytesIO()
        np.savez_compressed(file, **frame)  # type: ignore[arg-type]
        write_bytes(folder / f"episode_{part.first + step:07d}.npz", file.getvalue())


def numbers(world: WorldEpisode, closed: float = -1.0) -> dict[str, NDArray[np.float64]]:
    """The four vectors of each frame, [T - 1, ·] float64; the simulator never cast them.

    An action is the pose of the next frame. The relative one is a difference, of angles too; it is
    clipped and scaled to [-1, 1].
    """
    poses, now, following = world.poses, world.poses[:-1, :6], world.poses[1:, :6]
    command = np.where(world.targets > 0, 1.0, closed)
    before = np.append(1.0, command[:-1])
    moved = np.hstack([following[:, :3] - now[:, :3], wrap_angles(following[:, 3:] - now[:, 3:])])
    most = np.array([MOST_M] * 3 + [MOST_RAD] * 3)
    relative = np.clip(moved, -most, most) / most
    robot = np.column_stack([poses[:, :6], poses[:, 6] * OPENING_M, joints(world, 7), before])
    scene = np.zeros((len(world), 24))
    scene[:, 6:] = np.concatenate(  # x y z and three angles of each object
        [np.insert(world.places[:, i], [3, 3], 0.0, axis=1) for i in range(3)], axis=1
    )
    return {
        "actions": np.column_stack([following, command[:-1]]),
        "rel_actions": np.column_stack([relative, command[:-1]]),
        "robot_obs": robot[:-1],
        "scene_obs": scene[:-1],
    }


def _write_index(folder: Path, parts: list[Segment]) -> None:
    bounds = np.array([(part.first, part.last) for part in parts], np.int64)
    write_bytes(folder / "ep_start_end_ids.npy", npy(bounds))
    write_bytes(folder / "ep_lens.npy", npy(bounds[:, 1] - bounds[:, 0] + 1))
    scene = {"calvin_scene_D": (int(bounds[0, 0]), int(bounds[-1, 1]))}
    write_bytes(folder / "scene_info.npy", object_npy(scene))
    write_text(folder / "statistics.yaml", "robot_obs: []\nact_min_bound: []\n")
    write_text(folder / ".hydra/merged_config.yaml", "env:\n  control_freq: 30\nscene: D\n")


def windows(parts: list[Segment], split: str) -> list[tuple[tuple[int, int], WorldEpisode]]:
    """Language windows, first and last id, with the episode whose words they carry.

    Two overlap in each segment; in training a last one reaches from the second segment into the
    third, across the hole.
    """
    found = []
    for part in parts:
        found.append(((part.first, part.last), part.world))
        if split == "training":
            found.append(((part.first + SMALLER, part.last), part.world))
    if split == "training" and len(parts) > 2:
        found.append(((parts[1].last - 20, parts[2].first + 20), parts[1].world))
    return found


def _write_language(folder: Path, parts: list[Segment], split: str) -> None:
    listed = windows(parts, split)
    texts = [phrase(world, split, bounds) for bounds, world in listed]
    vectors = np.stack([embedding(text, 384)[None] for text in texts])
    told = {
        "language": {"ann": texts, "task": [task_key(w) for _, w in listed], "emb": vectors},
        "info": {"episodes": [], "indx": [bounds for bounds, _ in listed]},
    }
    write_bytes(folder / "lang_annotations/auto_lang_ann.npy", object_npy(told))
    if split == "validation":
        by_task = {
            task_key(world): {"emb": vectors[i][None], "ann": [texts[i]]}
            for i, (_, world) in enumerate(listed)
        }
        write_bytes(folder / "lang_annotations/embeddings.npy", object_npy(by_task))


def phrase(world: WorldEpisode, split: str, bounds: tuple[int, int]) -> str:
    """What a window says: the instruction, in other words where every third window starts."""
    if split == "validation" or bounds[0] % 3:
        return world.instruction
    return "go and " + world.instruction


def task_key(world: WorldEpisode) -> str:
    """The task in snake case, such as push_blue_block_left."""
    return "_".join(w for w in world.instruction.split() if w not in ("the", "up", "to", "on"))
