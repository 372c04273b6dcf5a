"""A miniature CALVIN, task_D_D: one file a frame, segments of play, language windows.

As in the original, ids do not start at 0 and have a gap, and windows overlap. An interrupted unzip
left out a frame, and one window reaches across the gap. Depth and tactile images are constant.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.stages.datasets.formats.rotations import wrap_angles
from handloom.stages.miniatures.folder import miniature_writer, write_bytes, write_text
from handloom.stages.miniatures.robots.files import text_embedding, to_npy, to_object_npy
from handloom.stages.miniatures.robots.views import static_view, wrist_view
from handloom.stages.miniatures.robots.world import (
    OPENING_M,
    WorldEpisode,
    joint_angles,
    make_episode,
    resample,
)

HZ = 30.0
FIRST_ID = 361
GAP = 137  # ids that are missing in the middle of training
VAL_EVERY = 4
SHORTER = 12  # frames by which the second window of a segment starts later
MAX_M, MAX_RAD = 0.02, 0.05  # a relative action of 1
FLAT: dict[str, NDArray[Any]] = {
    "rgb_tactile": np.zeros((160, 120, 6), np.uint8),
    "depth_static": np.full((200, 200), 3.9, np.float32),
    "depth_gripper": np.full((84, 84), 0.3, np.float32),
    "depth_tactile": np.zeros((160, 120, 2), np.float32),
}


@dataclass(frozen=True)
class PlaySegment:
    """A segment of play: one episode of the world, and the id of its first frame."""

    world: WorldEpisode
    first: int

    @property
    def last(self) -> int:
        """Id of the last frame; the last step of the world has no file."""
        return self.first + len(self.world) - 2


@miniature_writer("CALVIN", "task_D_D", version=1)
def write(out: Path, clips: int = 6, seed: int = 0) -> None:
    """Write task_D_D with `clips` segments of play, every fourth of them for validation."""
    for split, parts in segments(clips, seed).items():
        if not parts:
            continue
        folder = out / "task_D_D" / split
        for number, part in enumerate(parts):
            # Files written before the gripper's command was changed have 0 for closed.
            closed = 0.0 if split == "training" and number == 2 else -1.0
            missing = {part.last - 5} if split == "training" and number == 1 else set()
            _write_frames(folder, part, closed, missing)
        _write_index(folder, parts)
        _write_language(folder, parts, split)


def segments(clips: int, seed: int) -> dict[str, list[PlaySegment]]:
    """The segments of training and validation; the gap follows the second one of training."""
    by_split: dict[str, list[PlaySegment]] = {"training": [], "validation": []}
    ids = {"training": FIRST_ID, "validation": 0}
    for index in range(clips):
        split = "validation" if index % VAL_EVERY == VAL_EVERY - 1 else "training"
        world = resample(make_episode(seed, index), HZ)
        by_split[split].append(PlaySegment(world, ids[split]))
        ids[split] = by_split[split][-1].last + 1
        if split == "training" and len(by_split[split]) == 2:
            ids[split] += GAP
    return by_split


def _write_frames(folder: Path, part: PlaySegment, closed: float, missing: set[int]) -> None:
    vectors = frame_vectors(part.world, closed)
    views = zip(static_view(part.world, (200, 200)), wrist_view(part.world, (84, 84)), strict=True)
    for step, (static, wrist) in enumerate(views):
        if step == len(part.world) - 1 or part.first + step in missing:
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


def frame_vectors(world: WorldEpisode, closed: float = -1.0) -> dict[str, NDArray[np.float64]]:
    """The four vectors of each frame, float64 [T - 1, ·].

    An action is the pose of the next frame. The relative action is the difference of poses, also of
    angles, clipped and scaled to [-1, 1].
    """
    poses, now, following = world.poses, world.poses[:-1, :6], world.poses[1:, :6]
    command = np.where(world.targets > 0, 1.0, closed)
    before = np.append(1.0, command[:-1])
    moved = np.hstack([following[:, :3] - now[:, :3], wrap_angles(following[:, 3:] - now[:, 3:])])
    most = np.array([MAX_M] * 3 + [MAX_RAD] * 3)
    relative = np.clip(moved, -most, most) / most
    robot = np.column_stack([poses[:, :6], poses[:, 6] * OPENING_M, joint_angles(world, 7), before])
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


def _write_index(folder: Path, parts: list[PlaySegment]) -> None:
    bounds = np.array([(part.first, part.last) for part in parts], np.int64)
    write_bytes(folder / "ep_start_end_ids.npy", to_npy(bounds))
    write_bytes(folder / "ep_lens.npy", to_npy(bounds[:, 1] - bounds[:, 0] + 1))
    scene = {"calvin_scene_D": (int(bounds[0, 0]), int(bounds[-1, 1]))}
    write_bytes(folder / "scene_info.npy", to_object_npy(scene))
    write_text(folder / "statistics.yaml", "robot_obs: []\nact_min_bound: []\n")
    write_text(folder / ".hydra/merged_config.yaml", "env:\n  control_freq: 30\nscene: D\n")


def language_windows(
    parts: list[PlaySegment], split: str
) -> list[tuple[tuple[int, int], WorldEpisode]]:
    """Language windows (first and last id), each with the episode of its instruction.

    Two overlap in each segment. In training one more reaches from the second segment into the
    third, across the gap.
    """
    windows = []
    for part in parts:
        windows.append(((part.first, part.last), part.world))
        if split == "training":
            windows.append(((part.first + SHORTER, part.last), part.world))
    if split == "training" and len(parts) > 2:
        windows.append(((parts[1].last - 20, parts[2].first + 20), parts[1].world))
    return windows


def _write_language(folder: Path, parts: list[PlaySegment], split: str) -> None:
    listed = language_windows(parts, split)
    texts = [phrase(world, split, bounds) for bounds, world in listed]
    vectors = np.stack([text_embedding(text, 384)[None] for text in texts])
    annotation = {
        "language": {"ann": texts, "task": [task_key(w) for _, w in listed], "emb": vectors},
        "info": {"episodes": [], "indx": [bounds for bounds, _ in listed]},
    }
    write_bytes(folder / "lang_annotations/auto_lang_ann.npy", to_object_npy(annotation))
    if split == "validation":
        by_task = {
            task_key(world): {"emb": vectors[i][None], "ann": [texts[i]]}
            for i, (_, world) in enumerate(listed)
        }
        write_bytes(folder / "lang_annotations/embeddings.npy", to_object_npy(by_task))


def phrase(world: WorldEpisode, split: str, bounds: tuple[int, int]) -> str:
    """The text of a window: the instruction, reworded if the first id is a multiple of three."""
    if split == "validation" or bounds[0] % 3:
        return world.instruction
    return "go and " + world.instruction


def task_key(world: WorldEpisode) -> str:
    """The task in snake case, such as push_blue_block_left."""
    return "_".join(w for w in world.instruction.split() if w not in ("the", "up", "to", "on"))
