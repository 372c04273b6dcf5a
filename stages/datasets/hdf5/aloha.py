"""ALOHA and ACT: one teleoperated episode for each HDF5 file.

    /action  [T, 14]    /observations/qpos  [T, 14]    /observations/images/<camera>
    /base_action  [T, 2] (mobile form)

A row is the left arm's six joints (rad) and gripper (0 closed to 1 open), then the right arm's.
`action` is the command of the leader arms; both are absolute. There is no end-effector pose, no
instruction and no timestamp: the rate is 50 Hz by convention, and the folder usually names the
task.

Images are [T, height, width, 3], or [T, bytes]: a JPEG a step, padded with zeros. The number of
axes shows which; the attribute `compress` is not always there, and the lengths in `/compress_len`
are not needed, since a JPEG marks its own end.

Steps at the end at which the robot stands still pad the episode to the task's length. They are
kept, since they look the same as those of a robot that waits.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from handloom.errors import MediaError
from handloom.stages.datasets.formats.hdf5 import Hdf5File
from handloom.stages.datasets.formats.images import hash_arrays
from handloom.stages.datasets.joints import in_radians
from handloom.stages.datasets.source import ActionKind, Episode, EpisodeOptions, SourceEpisode
from handloom.tokenize.shards.format import ARM

HZ = 50.0
IMAGES = "observations/images"
MAIN = ("cam_high", "top")  # cameras that show the whole scene


def matches_layout(file: Hdf5File) -> bool:
    """Whether the file has ALOHA's layout."""
    return file.shape("action") is not None and file.shape("observations/qpos") is not None


def episodes(file: Hdf5File) -> Iterator[SourceEpisode]:
    """The one episode of the file."""
    reason = "" if _cameras(file) else "no_pictures"
    yield SourceEpisode(f"{file.name}#0", file.name, (0,), "", "unknown", reason=reason)


def load(file: Hdf5File, options: EpisodeOptions) -> Episode:
    """Read the episode. Raises MediaError if it is damaged or its parts differ in length."""
    action = file.array("action")
    state = file.array("observations/qpos")
    if len(state) != len(action):
        raise MediaError(
            f"{file.name} has {len(state)} states for {len(action)} actions; the recording was "
            "interrupted"
        )
    text, flags = options.text, []
    if not text:
        text = _task(file)
        flags += ["text_from_folder"] * bool(text)
    if file.shape("base_action") is not None:
        flags.append("base_action_left_out")  # actions are those of the arms, not of the base
    kind = _action_kind(file, action.shape[1], state.shape[1], options)
    stored = state.astype("float32"), action.astype("float32")
    joints = in_radians(*stored, options.joint_unit) if kind == "joints" else None
    return Episode(
        episode_id=hash_arrays(action, state).hex(),
        text=text,
        hz=options.hz or HZ,
        views=file.views(_cameras(file), len(action), options),
        state=joints.state if joints else stored[0],
        action=joints.action if joints else stored[1],
        action_kind=kind,
        grippers=joints.grippers if joints else (),
        flags=tuple(flags),
        facts={"file": file.name} | (joints.facts if joints else {}),
    )


def _action_kind(file: Hdf5File, actions: int, states: int, options: EpisodeOptions) -> ActionKind:
    """Joints, if the numbers are those of whole arms, else as stored, unless an option says it."""
    whole = actions % ARM == 0 and states % ARM == 0
    if options.action_kind == "auto":
        return "joints" if whole else "as_stored"
    if options.action_kind == "ee_delta" and not whole:
        raise MediaError(
            f"{file.name} has {actions} values an action and {states} a state, expected {ARM} for "
            "each arm; set --ingest.action-kind as_stored"
        )
    return options.action_kind


def _cameras(file: Hdf5File) -> dict[str, str]:
    """Paths of the images by camera: that of the scene first, those of the wrists last."""
    names = file.cameras(IMAGES, axes=(2, 4))
    # False sorts before True.
    names.sort(key=lambda name: (name not in MAIN, "wrist" in name, name))
    return {name: f"{IMAGES}/{name}" for name in names}


def _task(file: Hdf5File) -> str:
    """The task by the folder's name, if that has several words: `data` is not a task."""
    folder = PurePosixPath(file.name).parent.name or file.path.parent.resolve().name
    words = [word for word in re.split(r"[\s_-]+", folder) if word]
    return " ".join(words) if len(words) > 1 else ""
