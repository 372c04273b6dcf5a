"""Demonstrations on the tabletop, written as raw CALVIN data that `handloom curate calvin` reads.

    task_tabletop/{training,validation}/episode_0000000.npz        one file for each frame
                                        ep_start_end_ids.npy       one segment for each episode
                                        lang_annotations/auto_lang_ann.npy   and one window

Frames have the keys that are needed: two images, actions, rel_actions, robot_obs, scene_obs. As in
the original an action is the pose of the next frame, and the relative action the step to it.
"""

import io
import itertools
import json
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.errors import RunError, UserError
from handloom.files import sync_tree, write_text
from handloom.train.tabletop import tasks, touching
from handloom.train.tabletop import world as w
from handloom.train.tabletop.env import TabletopEnv, initial_state, relative_action
from handloom.train.tabletop.oracle import Oracle
from handloom.train.tabletop.world import Floats, TableWorld

VERSION = 1  # to be raised whenever the same arguments give other bytes
HOME = "task_tabletop"
OWNER, MARKER = ".miniature", ".complete.json"
TITLE = "handloom demonstrations on the tabletop"
NOISE = 0.06  # on the oracle's relative actions: 1.2 mm and 3 mrad a step
MAX_STEPS = 150  # of an attempt
MAX_ATTEMPTS = 20  # at a demonstration
VAL_EVERY = 5  # in `write` every fifth demonstration is for validation
TASK_STRIDE = 7  # in `write`, through the 18 tasks, so that the first few are of many kinds
# In a chain every task but the first begins where another one has left the gripper.
AFTER_ANOTHER_TASK = 0.5  # share of demonstrations that begin like that


@dataclass(frozen=True)
class Demonstration:
    """A demonstration of T steps.

    Attributes:
        task: name of the task.
        text: the instruction.
        frames: arrays of all steps by key: uint8 [T, H, W, 3] `rgb_static` and `rgb_gripper`,
            float64 [T, ·] `actions`, `rel_actions`, `robot_obs` and `scene_obs`.
    """

    task: str
    text: str
    frames: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        """T, the number of steps."""
        return len(self.frames["actions"])


@dataclass(frozen=True)
class DemonstrationKey:
    """Identity of a demonstration; `index` counts those of the same task and split."""

    split: str
    task: str
    index: int


def write(out: Path, clips: int = 60, seed: int = 0, names: Sequence[str] | None = None) -> None:
    """Write `clips` demonstrations of all tasks in turn, every fifth for validation.

    With `names` they are of these tasks only, and every fifth of each task is for validation. The
    same arguments give the same bytes. A complete folder is left alone.

    Raises:
        UserError: a task is unknown, or `out` holds a dataset that this did not write.
    """
    if names is not None:
        validation = clips // len(names) // VAL_EVERY
        return record(out, clips // len(names) - validation, names, seed, validation)
    keys = []
    for number in range(clips):
        split = "validation" if number % VAL_EVERY == VAL_EVERY - 1 else "training"
        task = tasks.TASKS[TASK_STRIDE * number % len(tasks.TASKS)]
        keys.append(DemonstrationKey(split, task, number // len(tasks.TASKS)))
    _write_once(Path(out), keys, seed, {"clips": clips})


def record(
    out: Path,
    episodes_per_task: int = 20,
    names: Sequence[str] = tasks.TASKS,
    seed: int = 0,
    validation_per_task: int = 2,
) -> None:
    """Write a number of demonstrations of each of some tasks, which may include `go_round`.

    Repeated calls, and folders that hold something else, are treated as by `write`. The bytes of a
    demonstration depend only on seed, split, task and its number among those of the task.

    Raises:
        UserError: a task is unknown, or `out` holds another dataset.
    """
    unknown = [name for name in names if name not in tasks.VALIDATION]
    if unknown:
        raise UserError(
            f"the tabletop has no task {unknown[0]!r}, expected some of "
            f"{', '.join(tasks.VALIDATION)}."
        )
    counts = {"training": episodes_per_task, "validation": validation_per_task}
    keys = [
        DemonstrationKey(split, task, index)
        for split, count in counts.items()
        for index in range(count)
        for task in names
    ]
    _write_once(Path(out), keys, seed, {**counts, "tasks": list(names)})


def make_demonstration(key: DemonstrationKey, seed: int = 0, noise: float = NOISE) -> Demonstration:
    """A demonstration by the oracle; after a failed attempt another start is tried.

    Raises:
        RunError: no attempt succeeds.
    """
    split = ("training", "validation").index(key.split)
    name = zlib.crc32(key.task.encode())  # hash() differs from process to process
    for attempt in range(MAX_ATTEMPTS):
        rng = np.random.default_rng([seed, split, name, key.index, attempt])
        frames = _attempt(key.task, rng, noise)
        if frames is not None:
            return Demonstration(key.task, _instruction(key, rng), frames)
    raise RunError(f"{key.task} failed from {MAX_ATTEMPTS} starts in a row")


def start(task: str, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A random start in which a task can be done: robot_obs [15] and scene_obs [24].

    In half of the starts the gripper is where another task would have left it.
    """
    scene = tasks.scene_of(task)
    if scene != "play":
        return initial_state(rng, scene)
    world = TableWorld.from_obs(*initial_state(rng))
    if task in tasks.DOORS:
        door, way = tasks.DOORS[task]
        most = w.SLIDER_MAX if door == "slider" else w.DRAWER_MAX
        setattr(world, door, 0.0 if way > 0 else most)
    elif task in tasks.LIGHTS:
        light, lit = tasks.LIGHTS[task]
        setattr(world, light, float(not lit))
        world.switch = w.SWITCH_MAX * world.lightbulb
    elif task == "place_in_drawer":
        return _start_holding_block(world, rng)
    if rng.random() < AFTER_ANOTHER_TASK:
        _move_gripper_aside(world, rng)
    return world.robot_obs(), world.scene_obs()


def _start_holding_block(world: TableWorld, rng: np.random.Generator) -> tuple[Floats, Floats]:
    block = world.blocks[rng.integers(3)]
    world.drawer, world.width, world.command = w.DRAWER_MAX, w.HELD_M, -1.0
    world.tip[:2] = block[:2] + rng.uniform(-0.005, 0.005, 2)
    world.tip[2] = rng.uniform(0.512, 0.57)
    block[2] = world.tip[2]
    return world.robot_obs(), world.scene_obs()


def _move_gripper_aside(world: TableWorld, rng: np.random.Generator) -> None:
    """Move the closed gripper to a handle, above the button, or beside a block."""
    places = list(world.handles().values())
    places.append(np.append(w.BUTTON, w.BUTTON_TOP - 0.005))
    side = float(rng.choice([-1.0, 1.0]))
    places += [block[:3] + np.array([0.045 * side, 0.0, 0.0]) for block in world.blocks]
    place = places[rng.integers(len(places))] + rng.uniform(-0.006, 0.006, 3)
    world.tip[:3] = np.clip(place, w.LOW[:3], w.HIGH[:3])
    world.width, world.command = 0.0, -1.0


def _attempt(task: str, rng: np.random.Generator, noise: float) -> dict[str, NDArray[Any]] | None:
    scene = tasks.scene_of(task)
    noises = noise * touching.MOVES if scene == "touch" else noise
    env, oracle = TabletopEnv(scene=scene), Oracle(int(rng.integers(2**31)), noises)
    obs, judge = env.reset(*start(task, rng)), tasks.TaskOracle()
    info, start_info, rows = env.get_info(), env.get_info(), []
    for _ in range(MAX_STEPS):
        action = oracle.step(obs, task)
        if oracle.finished:  # then the action only holds the pose: it is not recorded
            break
        before = obs
        obs, _, _, info = env.step(action)
        rows.append(_frame(before, obs["robot_obs"]))
    if not oracle.finished or not judge.get_task_info_for_set(start_info, info, {task}):
        return None
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _frame(obs: dict[str, Any], following: Floats) -> dict[str, NDArray[Any]]:
    """The arrays of a frame; the gripper's command is the one given in this frame."""
    action = np.append(following[:6], following[14])
    moved = relative_action(action, obs["robot_obs"][:6])
    return {
        "rgb_static": obs["rgb_obs"]["rgb_static"],
        "rgb_gripper": obs["rgb_obs"]["rgb_gripper"],
        "actions": action,
        "rel_actions": np.append(np.clip(moved[:6], -1, 1), action[6]),
        "robot_obs": obs["robot_obs"],
        "scene_obs": obs["scene_obs"],
    }


def _instruction(key: DemonstrationKey, rng: np.random.Generator) -> str:
    if key.split == "validation":
        return tasks.VALIDATION[key.task]
    return str(rng.choice(tasks.TRAINING[key.task]))


def _write_once(
    out: Path, keys: Sequence[DemonstrationKey], seed: int, settings: dict[str, Any]
) -> None:
    """Write a folder unless it is complete; the owner file first, the marker last."""
    marker = {"dataset": "tabletop", **settings, "seed": seed, "version": VERSION}
    done, owner, home = out / MARKER, out / OWNER, out / HOME
    if done.is_file() and json.loads(done.read_text()) == marker:
        return
    if owner.is_file() and owner.read_text().strip() != TITLE:
        raise UserError(
            f"{out} holds another miniature ({OWNER} says whose), expected none or one of the "
            "tabletop. Name another folder to write to."
        )
    if home.exists() and not owner.is_file():
        raise UserError(
            f"{home} exists and was not written by this command. Name another folder to write to."
        )
    done.unlink(missing_ok=True)
    if home.exists():
        shutil.rmtree(home)
    write_text(owner, f"{TITLE}\n")
    for split in ("training", "validation"):
        _write_split(home / split, [key for key in keys if key.split == split], seed)
    sync_tree(home)  # once: each of thousands of frames apart would take longer
    write_text(done, json.dumps(marker) + "\n")


def _write_split(folder: Path, keys: Sequence[DemonstrationKey], seed: int) -> None:
    if not keys:
        return
    folder.mkdir(parents=True)
    texts, names, bounds = [], [], []
    ids = itertools.count()
    for key in keys:
        demonstration = make_demonstration(key, seed)
        first = last = next(ids)
        for step in range(len(demonstration)):
            last = first if step == 0 else next(ids)
            _write_frame(folder / f"episode_{last:07d}.npz", demonstration.frames, step)
        texts.append(demonstration.text)
        names.append(demonstration.task)
        bounds.append((first, last))
    segments = np.array(bounds, np.int64)
    annotation = {
        "language": {"ann": texts, "task": names},
        "info": {"episodes": [], "indx": bounds},
    }
    np.save(folder / "ep_start_end_ids.npy", segments)
    np.save(folder / "ep_lens.npy", segments[:, 1] - segments[:, 0] + 1)
    scenes = {"tabletop": (0, bounds[-1][1])}
    np.save(folder / "scene_info.npy", np.array(scenes, object), allow_pickle=True)
    (folder / "lang_annotations").mkdir()
    file = folder / "lang_annotations" / "auto_lang_ann.npy"
    np.save(file, np.array(annotation, object), allow_pickle=True)


def _write_frame(path: Path, frames: dict[str, NDArray[Any]], step: int) -> None:
    """Write one frame as .npz."""
    file = io.BytesIO()
    # Level 1 takes half of savez_compressed's time, for 16 % more bytes.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for key, values in frames.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(values[step]))
            entry = zipfile.ZipInfo(f"{key}.npy")  # dated 1980: the same bytes at any time
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue(), compresslevel=1)
    path.write_bytes(file.getvalue())
