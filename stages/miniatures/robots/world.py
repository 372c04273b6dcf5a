"""The world of the robot miniatures: a gripper picks up, pushes and places coloured objects.

Base frame in metres: x forward, y to the robot's left, z up; the table is the plane z = 0. A pose
is x y z of the point between the fingertips, roll pitch yaw (R = Rz Ry Rx), gripper 0 closed to 1
open. The tool looks down, so roll lies near pi, on both sides of the wrap.

The motion is a function of the instruction and the places of the objects, so that a small model can
learn it.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from handloom.stages.datasets.formats.rotations import from_rpy, wrap_angles
from handloom.stages.miniatures.robots.script import Move, home, script

Floats = NDArray[np.float64]

INNER_HZ = 30.0
OPENING_M = 0.08  # between the fingertips of the open gripper
GRIPPER_SPEED = 0.12  # share of the whole opening that the fingers move in one step
COLORS = ("red", "blue", "green", "yellow", "purple")


@dataclass(frozen=True)
class Prop:
    """An object; its size in metres depends on its kind."""

    kind: str  # one of SIZES
    color: str

    @property
    def name(self) -> str:
        """Name in instructions; a plate needs no colour, since there is one at most."""
        return self.kind if self.kind == "plate" else f"{self.color} {self.kind}"

    @property
    def radius(self) -> float:
        """Half of its width (m)."""
        return SIZES[self.kind][0]

    @property
    def height(self) -> float:
        """Height above the table (m)."""
        return SIZES[self.kind][1]


SIZES = {"block": (0.021, 0.042), "can": (0.025, 0.085), "cup": (0.030, 0.062),
         "plate": (0.070, 0.012)}  # fmt: skip


@dataclass(frozen=True)
class WorldEpisode:
    """An episode of the world, independent of the format in which it is stored.

    Attributes:
        index: number of the episode.
        instruction: one imperative sentence in lower case, without a full stop.
        task: pick, push or put.
        success: whether the instruction was carried out; not if the grasp missed.
        hz: steps per second.
        poses: float64 [T, 7], see above; roll in (-pi, pi].
        targets: float64 [T], gripper target from each step to the next: 0 or 1.
        props: the objects.
        places: float64 [T, objects, 4]: x y z of the middle of each base (m), yaw (rad).
    """

    index: int
    instruction: str
    task: str
    success: bool
    hz: float
    poses: Floats
    targets: Floats
    props: tuple[Prop, ...]
    places: Floats

    def __len__(self) -> int:
        return len(self.poses)


def make_episode(seed: int, index: int, take: int = 0) -> WorldEpisode:
    """Episode `index` of a seed, at INNER_HZ; tasks are pick, push and put in turn.

    Other takes have the same instruction and objects at other places. Every fourth one fails.
    """
    words = np.random.default_rng((seed, index))
    rng = np.random.default_rng((seed, index, 1 + take))
    task = ("pick", "push", "put")[index % 3]
    props = _props(words, task)
    start = _places(rng, task)
    side = 1.0 if words.random() < 0.5 else -1.0
    goal = {
        "pick": start[0, :3],
        "push": start[0, :3] + (0.0, 0.12 * side, 0.0),
        "put": start[1, :3] + (0.0, 0.0, props[1].height),
    }[task]
    moves = script(task, rng, start[0], goal, SIZES[props[0].kind], misses=(index + take) % 4 == 2)
    poses, targets = _execute_moves(moves)
    places = _move_objects(task, poses, targets, props, start, goal)
    instruction = {
        "pick": f"pick up the {props[0].name}",
        "push": f"push the {props[0].name} to the {'left' if side > 0 else 'right'}",
        "put": f"put the {props[0].name} on the {props[1].name}",
    }[task]
    success = _is_reached(task, places[:, 0], goal)
    return WorldEpisode(index, instruction, task, success, INNER_HZ, poses, targets, props, places)


def _props(rng: np.random.Generator, task: str) -> tuple[Prop, ...]:
    """Three objects: the first one is acted on; the second is the goal if it is a plate."""
    kinds = {"pick": ("cup", "can", "block"), "push": ("block", "can"), "put": ("can", "block")}
    acted = str(rng.choice(kinds[task]))
    second = "plate" if task == "put" else str(rng.choice(("block", "can", "cup")))
    colors = [str(c) for c in rng.permutation(COLORS)[:3]]
    third = str(rng.choice(("block", "cup")))
    return (
        Prop(acted, colors[0]),
        Prop(second, "white" if second == "plate" else colors[1]),
        Prop(third, colors[2]),
    )


def _places(rng: np.random.Generator, task: str) -> Floats:
    """Places [3, 4] of the objects, each in a cell of a grid."""
    cells = [(x, y) for x in (0.36, 0.53) for y in (-0.15, 0.0, 0.15)]
    if task == "push":  # both sides of the object stay free
        row = int(rng.integers(2))
        chosen = [cells[3 * row + 1], cells[3 * (1 - row)], cells[3 * (1 - row) + 2]]
    else:
        chosen = [cells[i] for i in rng.permutation(6)[:3]]
    places = np.zeros((3, 4))
    places[:, :2] = np.asarray(chosen) + rng.uniform(-0.02, 0.02, (3, 2))
    places[:, 3] = rng.uniform(-0.35, 0.35, 3)
    if task == "push":  # so that the fingers meet a face squarely
        places[0, 3] = 0.0
    return places


def _execute_moves(moves: list[Move]) -> tuple[Floats, Floats]:
    """Poses [T, 7] and gripper targets [T] of minimum-jerk moves, one after the other."""
    at, widths, targets, rows = home(), [1.0], [1.0], [home()]
    for move in moves:
        steps = max(1, round(move.seconds * INNER_HZ))
        share = np.arange(1, steps + 1) / steps
        # The minimum-jerk profile: speed and acceleration are 0 at both ends.
        smooth = share**3 * (10 - 15 * share + 6 * share**2)
        rows += list(at + smooth[:, None] * (move.to - at))
        at = move.to
        targets[-1] = move.target  # commanded when the move begins
        targets += [move.target] * steps
        for _ in range(steps):
            goal = move.target if move.target > 0 else move.closes_to / OPENING_M
            widths.append(
                widths[-1] + float(np.clip(goal - widths[-1], -GRIPPER_SPEED, GRIPPER_SPEED))
            )
    poses = np.column_stack([np.asarray(rows), widths])
    poses[:, 3] = wrap_angles(poses[:, 3])
    return poses, np.asarray(targets)


def _move_objects(
    task: str, poses: Floats, targets: Floats, props: tuple[Prop, ...], start: Floats, goal: Floats
) -> Floats:
    """Places of the objects at each step, [T, objects, 4]; only the first one moves."""
    places = np.repeat(start[None], len(poses), axis=0)
    here, held = start[0].copy(), False
    for step, pose in enumerate(poses):
        if task == "push":
            _push_object(here, pose, np.sign(goal[1] - start[0, 1]), props[0])
        elif held and targets[step] == 0:
            here[:3] += pose[:3] - poses[step - 1, :3]
            here[3] += float(wrap_angles(pose[5] - poses[step - 1, 5]))
        elif held:  # let go
            held, here[2] = False, goal[2]
        elif targets[step] == 0 and 2 * props[0].radius >= pose[6] * OPENING_M - 1e-9:
            near = np.hypot(*(pose[:2] - here[:2])) < 0.5 * props[0].radius
            held = bool(near) and pose[2] < props[0].height
        places[step, 0] = here
    return places


def _push_object(here: Floats, pose: Floats, side: float, prop: Prop) -> None:
    """Keep the object at least its radius and a finger away from a low gripper, along y."""
    if pose[2] < prop.height and abs(pose[0] - here[0]) < prop.radius:
        ahead = side * (here[1] - pose[1])
        reach = prop.radius + 0.012
        if 0 < ahead < reach:
            here[1] += side * (reach - ahead)


def _is_reached(task: str, track: Floats, goal: Floats) -> bool:
    if task == "pick":
        return bool(track[-1, 2] > 0.05)
    return bool(np.linalg.norm(track[-1, :3] - goal) < 0.03)


def resample(world: WorldEpisode, hz: float) -> WorldEpisode:
    """The same episode at another rate, by linear interpolation of poses and places."""
    # 1e-6: a time that is a whole step but for rounding counts as that step.
    times = np.arange(int((len(world) - 1) / world.hz * hz + 1e-6) + 1) / hz * world.hz
    below = np.minimum(np.floor(times + 1e-6).astype(int), len(world) - 1)
    above = np.minimum(below + 1, len(world) - 1)
    share = np.clip(times - below, 0, 1)
    poses = world.poses.copy()
    poses[:, 3] = np.unwrap(poses[:, 3])  # else it would turn once around between -pi and pi
    poses = poses[below] + share[:, None] * (poses[above] - poses[below])
    poses[:, 3] = wrap_angles(poses[:, 3])
    places = world.places
    places = places[below] + share[:, None, None] * (places[above] - places[below])
    targets = world.targets[below]
    return replace(world, hz=hz, poses=poses, targets=targets, places=places)


def quaternions(world: WorldEpisode) -> Floats:
    """Orientations [T, 4] as unit quaternions x y z w."""
    return np.asarray(from_rpy(world.poses[:, 3:6]).as_quat(), np.float64)


def pose_deltas(world: WorldEpisode) -> Floats:
    """The step from each pose to the next, [T-1, 6]: metres, rotation vector (rad), base axes."""
    turns = from_rpy(world.poses[:, 3:6])
    turned = (turns[1:] * turns[:-1].inv()).as_rotvec()
    return np.column_stack([np.diff(world.poses[:, :3], axis=0), turned])


def joint_angles(world: WorldEpisode, count: int) -> Floats:
    """Joint angles [T, count] (rad) of an imaginary arm: smooth, one to one with poses."""
    x, y, z = world.poses[:, :3].T
    shoulder = np.arctan2(y, x)
    reach, yaw = np.hypot(x, y), world.poses[:, 5]
    angles = (
        shoulder,
        2.4 * (reach - 0.45),
        -1.1 - 2.0 * z,
        0.5 * yaw,
        1.3 + z - reach,
        yaw,
        0 * x,
    )
    return np.column_stack(angles[:count])
