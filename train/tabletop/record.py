"""Writes demonstrations on the tabletop as raw CALVIN data, which `handloom curate calvin` reads.

    task_tabletop/{training,validation}/episode_0000000.npz        one file for each frame
                                        ep_start_end_ids.npy       one segment for each episode
                                        lang_annotations/auto_lang_ann.npy   and one window

Frames have the keys that are needed: two pictures, actions, rel_actions, robot_obs, scene_obs. As
in the original an action is the pose of the next frame, and the relative one is what leads there.
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
from handloom.train.tabletop import tasks
from handloom.train.tabletop import world as w
from handloom.train.tabletop.env import Scene, TabletopEnv, initial_state, relative
from handloom.train.tabletop.oracle import Oracle
from handloom.train.tabletop.world import Floats, World

VERSION = 1  # raise it whenever the same arguments give other bytes
HOME = "task_tabletop"
OWNER, MARKER = ".miniature", ".complete.json"
TITLE = "handloom demonstrations on the tabletop"
NOISE = 0.06  # of the oracle's relative actions: 1.2 mm and 3 mrad a step
LONGEST = 150  # steps after which an attempt is given up
ATTEMPTS = 20  # before a task is called impossible
VAL_EVERY = 5  # of `write`: every fifth episode is for validation
SPREAD = 7  # of `write`: its way through the 18 tasks, so that the first few are of many kinds
LEFT_THERE = 0.5  # share of episodes that begin where another task would have ended


@dataclass(frozen=True)
class Episode:
    """A demonstration: what was seen, done and said.

    Attributes:
        task: its name.
        text: the instruction.
        frames: of T steps: `rgb_static`, `rgb_gripper`, and float64 [T, ·] `actions`,
            `rel_actions`, `robot_obs`, `scene_obs`.
    """

    task: str
    text: str
    frames: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        """How many steps it has."""
        return len(self.frames["actions"])


@dataclass(frozen=True)
class Wanted:
    """Which demonstration: `index` counts those of the same task and split."""

    split: str
    task: str
    index: int


def write(out: Path, clips: int = 60, seed: int = 0, names: Sequence[str] | None = None) -> None:
    """Write `clips` demonstrations, all tasks in turn, every fifth of them for validation.

    With `names` they are of these tasks only, and every fifth of each is for validation. The same
    arguments give the same bytes. A finished folder is left alone.

    Raises:
        UserError: a task is unknown, or `out` holds a dataset that this did not write.
    """
    if names is not None:
        validation = clips // len(names) // VAL_EVERY
        return record(out, clips // len(names) - validation, names, seed, validation)
    wanted = []
    for number in range(clips):
        split = "validation" if number % VAL_EVERY == VAL_EVERY - 1 else "training"
        task = tasks.TASKS[SPREAD * number % len(tasks.TASKS)]
        wanted.append(Wanted(split, task, number // len(tasks.TASKS)))
    _fill(Path(out), wanted, seed, {"clips": clips})


def record(
    out: Path,
    episodes_per_task: int = 20,
    names: Sequence[str] = tasks.TASKS,
    seed: int = 0,
    validation_per_task: int = 2,
) -> None:
    """Write so many demonstrations of each of some tasks; `go_round` is one that can be named.

    The same as `write` for repeated calls and folders that hold something else. An episode depends
    on seed, split, task and its number among those only: more of them, or other tasks, leave its
    bytes as they are.

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
    wanted = [
        Wanted(split, task, index)
        for split, count in counts.items()
        for index in range(count)
        for task in names
    ]
    _fill(Path(out), wanted, seed, {**counts, "tasks": list(names)})


def demonstrate(wanted: Wanted, seed: int = 0, noise: float = NOISE) -> Episode:
    """Let the oracle do a task once; what fails is not shown, another start is tried.

    Raises:
        RunError: no attempt succeeds.
    """
    split = sorted(("training", "validation")).index(wanted.split)
    name = zlib.crc32(wanted.task.encode())
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([seed, split, name, wanted.index, attempt])
        frames = _attempt(wanted.task, rng, noise)
        if frames is not None:
            return Episode(wanted.task, _words(wanted, rng), frames)
    raise RunError(f"{wanted.task} failed from {ATTEMPTS} starts in a row")


def start(task: str, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A random start from which a task can be done: robot_obs [15] and scene_obs [24].

    In half of them the gripper is where another task would have left it.
    """
    if task == tasks.GO_ROUND:
        return initial_state(rng, "go_round")
    world = World.of(*initial_state(rng))
    if task in tasks.DOORS:
        door, way = tasks.DOORS[task]
        most = w.SLIDER_MAX if door == "slider" else w.DRAWER_MAX
        setattr(world, door, 0.0 if way > 0 else most)
    elif task in tasks.LIGHTS:
        light, lit = tasks.LIGHTS[task]
        setattr(world, light, float(not lit))
        world.switch = w.SWITCH_MAX * world.lightbulb
    elif task == "place_in_drawer":
        return _holding(world, rng)
    if rng.random() < LEFT_THERE:
        _leave_gripper(world, rng)
    return world.robot_obs(), world.scene_obs()


def _holding(world: World, rng: np.random.Generator) -> tuple[Floats, Floats]:
    block = world.blocks[rng.integers(3)]
    world.drawer, world.width, world.command = w.DRAWER_MAX, w.HELD_M, -1.0
    world.tip[:2] = block[:2] + rng.uniform(-0.005, 0.005, 2)
    world.tip[2] = rng.uniform(0.512, 0.57)
    block[2] = world.tip[2]
    return world.robot_obs(), world.scene_obs()


def _leave_gripper(world: World, rng: np.random.Generator) -> None:
    """Put the gripper, closed, at a handle, above the button or beside a block that was pushed."""
    places = list(world.handles().values())
    places.append(np.append(w.BUTTON, w.BUTTON_TOP - 0.005))
    side = float(rng.choice([-1.0, 1.0]))
    places += [block[:3] + np.array([0.045 * side, 0.0, 0.0]) for block in world.blocks]
    place = places[rng.integers(len(places))] + rng.uniform(-0.006, 0.006, 3)
    world.tip[:3] = np.clip(place, w.LOW[:3], w.HIGH[:3])
    world.width, world.command = 0.0, -1.0


def _attempt(task: str, rng: np.random.Generator, noise: float) -> dict[str, NDArray[Any]] | None:
    scene: Scene = "go_round" if task == tasks.GO_ROUND else "play"
    env, oracle = TabletopEnv(scene=scene), Oracle(int(rng.integers(2**31)), noise)
    obs, judge = env.reset(*start(task, rng)), tasks.TaskOracle()
    info, start_info, rows = env.get_info(), env.get_info(), []
    for _ in range(LONGEST):
        action = oracle.step(obs, task)
        if oracle.finished:
            break
        before = obs
        obs, _, _, info = env.step(action)
        rows.append(_frame(before, obs["robot_obs"]))
    if not oracle.finished or not judge.get_task_info_for_set(start_info, info, {task}):
        return None
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _frame(obs: dict[str, Any], following: Floats) -> dict[str, NDArray[Any]]:
    """A frame's arrays; the gripper's command is the one that was given in it."""
    action = np.append(following[:6], following[14])
    moved = relative(action, obs["robot_obs"][:6])
    return {
        "rgb_static": obs["rgb_obs"]["rgb_static"],
        "rgb_gripper": obs["rgb_obs"]["rgb_gripper"],
        "actions": action,
        "rel_actions": np.append(np.clip(moved[:6], -1, 1), action[6]),
        "robot_obs": obs["robot_obs"],
        "scene_obs": obs["scene_obs"],
    }


def _words(wanted: Wanted, rng: np.random.Generator) -> str:
    if wanted.split == "validation":
        return tasks.VALIDATION[wanted.task]
    return str(rng.choice(tasks.TRAINING[wanted.task]))


def _fill(out: Path, wanted: Sequence[Wanted], seed: int, settings: dict[str, Any]) -> None:
    """Write a folder unless it is there; the owner's file comes first, the marker last."""
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
        _write_split(home / split, [one for one in wanted if one.split == split], seed)
    sync_tree(home)  # once: each of thousands of frames apart would take longer
    write_text(done, json.dumps(marker) + "\n")


def _write_split(folder: Path, wanted: Sequence[Wanted], seed: int) -> None:
    if not wanted:
        return
    folder.mkdir(parents=True)
    texts, names, bounds = [], [], []
    ids = itertools.count()
    for one in wanted:
        episode = demonstrate(one, seed)
        first = last = next(ids)
        for step in range(len(episode)):
            last = first if step == 0 else next(ids)
            _write_frame(folder / f"episode_{last:07d}.npz", episode.frames, step)
        texts.append(episode.text)
        names.append(episode.task)
        bounds.append((first, last))
    segments = np.array(bounds, np.int64)
    told = {
        "language": {"ann": texts, "task": names},
        "info": {"episodes": [], "indx": bounds},
    }
    np.save(folder / "ep_start_end_ids.npy", segments)
    np.save(folder / "ep_lens.npy", segments[:, 1] - segments[:, 0] + 1)
    scenes = {"tabletop": (0, bounds[-1][1])}
    np.save(folder / "scene_info.npy", np.array(scenes, object), allow_pickle=True)
    (folder / "lang_annotations").mkdir()
    file = folder / "lang_annotations" / "auto_lang_ann.npy"
    np.save(file, np.array(told, object), allow_pickle=True)


def _write_frame(path: Path, frames: dict[str, NDArray[Any]], step: int) -> None:
    """One frame; the lowest compression takes half of savez_compressed's time, for 16 % more."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for key, values in frames.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(values[step]))
            entry = zipfile.ZipInfo(f"{key}.npy")  # of 1980: the same bytes at any time
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue(), compresslevel=1)
    path.write_bytes(file.getvalue())
