"""Demonstrations recorded in robosuite: robomimic's files, LIBERO's, and robosuite's own.

    /data            attributes env_args (JSON), problem_info (LIBERO), env_info (robosuite)
    /data/demo_<n>   actions [T, A], states, rewards, dones, obs/<key>
    /mask/<split>    names of demonstrations (robomimic)

An action is 6 numbers in [-1, 1] and a gripper (-1 open to +1 close) for each arm. The controller
clips them (recordings of a space mouse go far beyond) and scales them to metres and a rotation
vector, both along the axes of the world, which are those of a single arm's base.

Where the three differ:

- robomimic names observations `robot0_eef_pos`, `robot0_eef_quat` (x y z w), `agentview_image`;
  obs[t] was made before actions[t]. There is no instruction.
- LIBERO names them `ee_pos`, `ee_ori` (a rotation vector), `agentview_rgb`. Its writer stores the
  observation *after* an action, so that obs[t] goes with actions[t + 1]. Files that were
  regenerated without idle steps have no attributes, and store the observation before. Its images
  are upside down; they are rotated by 180 degrees, as OpenVLA, openpi and LeRobot do in training
  and evaluation.
- robosuite's own files (and robomimic's demo_*.hdf5) hold simulator states and no images.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handloom.errors import MediaError
from handloom.stages.datasets.formats import rotations
from handloom.stages.datasets.formats.hdf5 import Hdf5File
from handloom.stages.datasets.formats.images import hash_arrays
from handloom.stages.datasets.source import Episode, EpisodeOptions, SourceEpisode
from handloom.tokenize.shards.format import ARM

Floats = NDArray[np.float64]

HZ = 20.0  # robosuite's default
OPENING_M = 0.08
"""Opening of the Panda gripper: the sum of the travel of both fingers."""
IDLE_BELOW = 1e-4
"""Norm of an action's six numbers below which a step is idle (as in LIBERO's filtered versions)."""

MAIN = ("agentview_image", "agentview_rgb")  # the camera that shows the whole scene

# robomimic has no instructions; these are its tasks in words.
TASKS = {
    "Lift": "lift the red cube",
    "PickPlaceCan": "put the can into its bin",
    "NutAssemblySquare": "put the square nut onto the square peg",
    "TwoArmTransport": "take the hammer out of its box, hand it over and put it into the bin",
    "ToolHang": "assemble the frame and hang the tool on its hook",
}
SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}

_DEMO = re.compile(r"demo_(\d{1,9})")
_ARM_KEY = re.compile(r"(robot(\d{1,3})(?:_(right|left))?)_eef_pos")
_SCENE = re.compile(r"^[A-Z]+(?:_[A-Z]+)*_SCENE\d+_")


def matches_layout(file: Hdf5File) -> bool:
    """Whether the file has the layout of robosuite's recordings."""
    return file.find("data") is not None and file.shape("data") is None


def episodes(file: Hdf5File) -> Iterator[SourceEpisode]:
    """The demonstrations in the order of their numbers, which may have gaps."""
    splits = _splits(file)
    version = str(file.attribute("data", "tag") or "unknown")  # LIBERO: libero-v1
    named = [(match, name) for name in file.names("data") if (match := _DEMO.fullmatch(name))]
    # By number: h5py lists demo_10 before demo_2.
    for number, name in sorted((int(match.group(1)), name) for match, name in named):
        unit, place, split = f"{file.name}#{name}", (number,), splits.get(name, "")
        try:
            reason = "" if _cameras(file, f"data/{name}/obs") else "no_pictures"
            yield SourceEpisode(unit, file.name, place, split, version, reason=reason)
        except MediaError as error:
            yield SourceEpisode(unit, file.name, place, split, version, error=str(error))


def load(file: Hdf5File, source: SourceEpisode, options: EpisodeOptions) -> Episode:
    """Read one demonstration.

    Raises:
        MediaError: it is not complete, its parts differ in length, or its actions are not deltas
            of an operational space controller.
    """
    demo = "data/" + source.unit.rpartition("#")[2]
    recorded = file.array(f"{demo}/actions")
    is_libero = file.shape(f"{demo}/obs/ee_ori") is not None
    env = _environment(file, is_libero)
    actions, idle = _pair_actions(recorded, late=is_libero and _is_official(file))
    if is_libero:
        arms = [_libero_arm(file, f"{demo}/obs")]
    else:
        arms = _robomimic_arms(file, f"{demo}/obs", max(1, actions.shape[1] // ARM))
    if any(len(arm.position) != len(actions) for arm in arms):
        raise MediaError(
            f"{file.name}: {demo} has {len(arms[0].position)} observations for {len(actions)} "
            "actions; the recording or its conversion was interrupted"
        )
    kind = "ee_delta" if options.action_kind == "auto" else options.action_kind
    as_deltas = kind == "ee_delta"
    rotated = _is_upside_down(file, is_libero)
    text, flags = _text(file, env, options)
    flags += ["rotated_180"] * rotated
    flags += ["actions_shifted"] * (is_libero and _is_official(file))
    flags += ["no_ops"] * bool(idle[:-1].any())
    flags += ["actions_clipped"] * (as_deltas and bool((np.abs(actions) > 1).any()))
    return Episode(
        episode_id=_content_id(recorded, arms),
        text=text,
        hz=options.hz or _rate(_kwargs(env).get("control_freq")) or HZ,
        views=file.views(_cameras(file, f"{demo}/obs"), len(actions), options, rotated=rotated),
        state=np.hstack([a.converted(file) if as_deltas else a.stored() for a in arms], dtype="f4"),
        action=(_deltas(file, actions, env) if as_deltas else actions).astype(np.float32),
        action_kind=kind,
        success=_success(file, demo),
        idle=idle,
        flags=tuple(flags),
        facts={"file": file.name, "demo": demo, "environment": str(env.get("env_name") or "")},
    )


def _pair_actions(recorded: Floats, late: bool) -> tuple[Floats, NDArray[np.bool_]]:
    """The action that follows each observation [T, A], and the idle steps [T].

    Args:
        recorded: actions [T, A] as stored.
        late: whether observations were stored after their actions: the first action led to the
            first observation, and none follows the last one.
    """
    actions = recorded
    is_gripper = np.arange(actions.shape[1]) % ARM == ARM - 1
    if late:
        actions = np.roll(recorded, -1, axis=0)
        # After the last observation the arms rest and the grippers keep their target.
        actions[-1] = np.where(is_gripper, recorded[-1], 0.0)
    # Idle: no motion, and no gripper changes its command.
    idle = np.linalg.norm(actions[:, ~is_gripper], axis=1) < IDLE_BELOW
    idle[1:] &= (actions[1:, is_gripper] == actions[:-1, is_gripper]).all(axis=1)
    return actions, idle


@dataclass(frozen=True)
class _Arm:
    """Measurements of one arm.

    Attributes:
        position: metres, [T, 3].
        orientation: rotation vector [T, 3] or quaternion x y z w [T, 4].
        fingers: positions of the finger joints, metres, [T, fingers].
    """

    position: Floats
    orientation: Floats
    fingers: Floats

    def stored(self) -> Floats:
        """The numbers as stored, side by side."""
        return np.hstack([self.position, self.orientation, self.fingers])

    def converted(self, file: Hdf5File) -> Floats:
        """Position, roll pitch yaw and gripper, 0 closed to 1 open; [T, 7]."""
        if self.fingers.shape[1] != 2:
            raise MediaError(
                f"{file.name}: the gripper has {self.fingers.shape[1]} joints, expected Panda's "
                "two fingers, whose opening is known; set --ingest.action-kind as_stored"
            )
        if self.orientation.shape[1] == 3:
            rotation = Rotation.from_rotvec(self.orientation)
        elif (np.linalg.norm(self.orientation, axis=1) < 0.5).any():
            raise MediaError(f"{file.name}: an orientation is no quaternion (its length is not 1)")
        else:
            rotation = Rotation.from_quat(self.orientation)
        # The two fingers move along one axis in opposite directions: their signs differ.
        opening = np.abs(self.fingers).sum(axis=1, keepdims=True) / OPENING_M
        return np.hstack([self.position, rotations.to_rpy(rotation), opening.clip(0.0, 1.0)])


def _libero_arm(file: Hdf5File, obs: str) -> _Arm:
    parts = file.array(f"{obs}/ee_pos", 3), file.array(f"{obs}/ee_ori", 3)
    return _Arm(*parts, file.array(f"{obs}/gripper_states"))


def _robomimic_arms(file: Hdf5File, obs: str, count: int) -> list[_Arm]:
    """The arms in the order of the action: by robot; of one with two arms the right one first."""
    keys = [match for name in file.names(obs) if (match := _ARM_KEY.fullmatch(name))]
    for sided in (False, True):  # robot0_eef_pos, or robot0_right_eef_pos of a robot with two arms
        matching = [match for match in keys if bool(match.group(3)) == sided]
        if len(matching) == count:
            break
    else:
        raise MediaError(
            f"{file.name}: {obs} has the poses {', '.join(m.group() for m in keys) or 'of no arm'},"
            f" expected those of {count} arms, as the actions have"
        )
    matching.sort(key=lambda match: (int(match.group(2)), match.group(3) == "left"))
    names = [f"{obs}/{match.group(1)}" for match in matching]
    return [
        _Arm(
            file.array(f"{name}_eef_pos", 3),
            file.array(f"{name}_eef_quat", 4),
            file.array(f"{name}_gripper_qpos"),
        )
        for name in names
    ]


@dataclass(frozen=True)
class _Controller:
    """Limits by which robosuite's operational space controller scales six numbers, [6] each."""

    input_low: Floats
    input_high: Floats
    output_low: Floats
    output_high: Floats
    is_delta: bool

    @staticmethod
    def of(settings: dict[str, Any]) -> "_Controller":
        """From a controller's settings. Raises ValueError if the limits are not in order."""
        names = ("input_min", "input_max", "output_min", "output_max")
        lows_and_highs = [np.asarray(settings[name], np.float64) for name in names]
        a, b, c, d = (np.broadcast_to(values, (6,)) for values in lows_and_highs)
        # Since robosuite 1.5 `input_type` says what `control_delta` said before.
        is_delta = settings.get("control_delta", settings.get("input_type", "delta") == "delta")
        if not np.isfinite([a, b, c, d]).all() or (a >= b).any() or (c >= d).any():
            raise ValueError("limits are not in order")
        return _Controller(a, b, c, d, is_delta=bool(is_delta))

    def scaled(self, actions: Floats) -> Floats:
        """Metres and rotation vectors [T, 6] of normalised actions [T, 6]."""
        share = (actions.clip(self.input_low, self.input_high) - self.input_low) / (
            self.input_high - self.input_low
        )
        return self.output_low + share * (self.output_high - self.output_low)


# LIBERO's only controller, for files that were regenerated without attributes.
_LIBERO_CONTROLLER = {
    "type": "OSC_POSE",
    "input_min": -1,
    "input_max": 1,
    "output_min": [-0.05] * 3 + [-0.5] * 3,
    "output_max": [0.05] * 3 + [0.5] * 3,
    "control_delta": True,
}


def _deltas(file: Hdf5File, actions: Floats, env: dict[str, Any]) -> Floats:
    """Actions [T, A] as displacement (m), rotation vector (rad) and gripper 0 closed to 1 open."""
    way_out = "set --ingest.action-kind as_stored to take its numbers as they are"
    count, rest = divmod(actions.shape[1], ARM)
    if rest:
        raise MediaError(
            f"{file.name} has {actions.shape[1]} values an action, expected {ARM} an arm; {way_out}"
        )
    settings = list(_controllers(_kwargs(env).get("controller_configs")))
    kinds = {str(s.get("type")) for s in settings}
    if kinds != {"OSC_POSE"}:
        raise MediaError(
            f"{file.name} names the controller {', '.join(sorted(kinds)) or 'nowhere'}, expected "
            f"OSC_POSE in env_args; {way_out}"
        )
    try:
        controllers = [_Controller.of(s) for s in settings]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise MediaError(f"{file.name}: the controller's limits are damaged; {way_out}") from None
    if not all(c.is_delta for c in controllers):
        raise MediaError(
            f"{file.name} has absolute actions (control_delta is false), expected deltas; {way_out}"
        )
    if len(controllers) == 1:  # one for all arms
        controllers *= count
    if len(controllers) != count:
        raise MediaError(
            f"{file.name} names {len(controllers)} controllers for {count} arms; {way_out}"
        )
    arms = []
    for i, controller in enumerate(controllers):
        arm = actions[:, i * ARM : (i + 1) * ARM]
        # From -1 open, +1 closed to 1 open, 0 closed.
        gripper = (1.0 - arm[:, 6:].clip(-1.0, 1.0)) / 2.0
        arms += [controller.scaled(arm[:, :6]), gripper]
    return np.hstack(arms)


def _controllers(settings: Any, depth: int = 4) -> Iterator[dict[str, Any]]:
    """Settings of the arms' controllers: one, a list, or since robosuite 1.5 parts of a body."""
    if isinstance(settings, list) and depth:
        for part in settings:
            yield from _controllers(part, depth - 1)
    elif isinstance(settings, dict) and depth:
        if "output_max" in settings:
            yield settings
        else:
            for part in settings.values():
                yield from _controllers(part, depth - 1)


def _environment(file: Hdf5File, is_libero: bool) -> dict[str, Any]:
    env = file.json("data", "env_args")
    if not env and is_libero:
        return {"env_kwargs": {"controller_configs": _LIBERO_CONTROLLER}}
    return env


def _kwargs(env: dict[str, Any]) -> dict[str, Any]:
    kwargs = env.get("env_kwargs")
    return kwargs if isinstance(kwargs, dict) else {}


def _rate(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < 1e4 else 0.0


def _is_official(file: Hdf5File) -> bool:
    """Whether LIBERO's own writer made the file, which then names the problem."""
    return any(file.attribute("data", x) is not None for x in ("problem_info", "bddl_file_name"))


def _is_upside_down(file: Hdf5File, is_libero: bool) -> bool:
    # OpenGL's first row is the lowest one. Regenerated files of LIBERO state no convention.
    convention = file.attribute("data", "macros_image_convention")
    return convention == "opengl" or (is_libero and convention is None)


def _text(file: Hdf5File, env: dict[str, Any], options: EpisodeOptions) -> tuple[str, list[str]]:
    """The instruction, and a flag that says where it comes from if it is not stored."""
    stored = file.json("data", "problem_info").get("language_instruction")
    if isinstance(stored, list):  # of sentences, of words or of letters
        stored = ("" if all(len(str(t)) == 1 for t in stored) else " ").join(map(str, stored))
    if isinstance(stored, str) and stored.strip(' "'):
        return stored.strip(' "'), []
    if options.text:
        return options.text, []
    task = TASKS.get(str(env.get("env_name")), "")
    if task:
        return task, ["text_from_task_name"]
    stem = PurePosixPath(file.name).stem
    if not stem.endswith("_demo"):
        return "", []
    # KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5
    words = _SCENE.sub("", stem.removesuffix("_demo")).replace("_", " ").strip()
    return words, ["text_from_file_name"] * bool(words)


def _success(file: Hdf5File, demo: str) -> bool | None:
    """Whether the goal was reached; None if that is not recorded.

    A reward of 1 at the end says so. Other rewards say nothing: shaped ones may end below 1, and
    where all are 0 nobody may have given any, as in recordings of people. robomimic marks any last
    step as done.
    """
    recorded = file.column(f"{demo}/success")
    if recorded is not None:
        return bool(recorded.any())
    verdict = file.attribute(demo, "success")
    if isinstance(verdict, bool | int | float):
        return bool(verdict)
    rewards = file.column(f"{demo}/rewards")
    if rewards is None:
        dones = file.column(f"{demo}/dones") if _is_official(file) else None
        return True if dones is not None and dones[-1] == 1 else None
    return True if rewards[-1] == 1 else None


def _cameras(file: Hdf5File, obs: str) -> dict[str, str]:
    """Paths of the images by camera: that of the scene first, those of the wrists last."""
    names = file.cameras(obs)
    names.sort(key=lambda name: (name not in MAIN, "eye_in_hand" in name, name))
    return {name: f"{obs}/{name}" for name in names}


def _splits(file: Hdf5File) -> dict[str, str]:
    """Split of each demonstration; one in several splits counts as held out."""
    splits: dict[str, str] = {}
    for mask in ("train", "valid", "val", "test"):  # the strictest last: it overwrites the others
        splits |= dict.fromkeys(file.strings(f"mask/{mask}"), SPLITS[mask])
    return splits


def _content_id(recorded: Floats, arms: list[_Arm]) -> str:
    """A hash of actions and measurements: names and numbers of demonstrations are reused."""
    return hash_arrays(recorded, *(arm.stored() for arm in arms)).hex()
