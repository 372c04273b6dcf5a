"""ALOHA and ACT: one teleoperated episode for each HDF5 file.

    /action  [T, 14]    /observations/qpos  [T, 14]    /observations/images/<camera>
    /base_action  [T, 2] (mobile form)

A row is the left arm's six joints (rad) and gripper (0 closed to 1 open), then the right arm's.
`action` is what the leader arms commanded; both are absolute. There is no end-effector pose, no
instruction, no time stamp: 50 steps a second by convention, and the folder usually names the task.

Pictures are [T, height, width, 3], or [T, bytes]: a JPEG for each step, padded with zeros. The
lengths in `/compress_len` are not needed, since a JPEG tells where it ends. Which of the two it is
shows in the number of axes; the attribute `compress` is not always there.

Steps at the end during which the robot stands still are padding to the task's length. They are
kept: nothing tells them from a robot that waits.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from handloom.errors import MediaError
from handloom.stages.datasets.formats.hdf5 import Recording
from handloom.stages.datasets.source import ActionKind, Episode, EpisodeOptions, SourceEpisode
from handloom.tokenize.shards.format import ARM

HZ = 50.0
IMAGES = "observations/images"
MAIN = ("cam_high", "top")


def fits(file: Recording) -> bool:
    """Whether the file is laid out like this."""
    return file.shape("action") is not None and file.shape("observations/qpos") is not None


def episodes(file: Recording) -> Iterator[SourceEpisode]:
    """The file's one episode."""
    reason = "" if _cameras(file) else "no_pictures"
    yield SourceEpisode(f"{file.name}#0", file.name, (0,), "", "unknown", reason=reason)


def load(file: Recording, source: SourceEpisode, options: EpisodeOptions) -> Episode:
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
    facts = {"file": file.name}
    if file.shape("base_action") is not None:
        flags.append("base_action_left_out")  # the driving base is no part of the arms' action
    digest = hashlib.blake2b(digest_size=16)
    for values in (action, state):
        digest.update(repr(values.shape).encode() + values.tobytes())
    return Episode(
        episode_id=digest.hexdigest(),
        text=text,
        hz=options.hz or HZ,
        views=file.views(_cameras(file), len(action), options),
        state=state.astype("float32"),
        action=action.astype("float32"),
        action_kind=_kind(file, action.shape[1], state.shape[1], options),
        flags=tuple(flags),
        facts=facts,
    )


def _kind(file: Recording, actions: int, states: int, options: EpisodeOptions) -> ActionKind:
    """Joints, where the numbers are those of whole arms; else nobody knows what they are."""
    whole = actions % ARM == 0 and states % ARM == 0
    if options.action_kind == "auto":
        return "joints" if whole else "as_stored"
    if options.action_kind == "ee_delta" and not whole:
        raise MediaError(
            f"{file.name} has {actions} values an action and {states} a state, expected {ARM} for "
            "each arm; set --ingest.action-kind as_stored"
        )
    return options.action_kind


def _cameras(file: Recording) -> dict[str, str]:
    """Where each camera's pictures are: the one that sees the scene first, the wrists last."""
    names = file.cameras(IMAGES, axes=(2, 4))
    names.sort(key=lambda name: (name not in MAIN, "wrist" in name, name))
    return {name: f"{IMAGES}/{name}" for name in names}


def _task(file: Recording) -> str:
    """Words of the folder's name, where it has several: `data` says nothing of the task."""
    folder = PurePosixPath(file.name).parent.name or file.path.parent.resolve().name
    words = [word for word in re.split(r"[\s_-]+", folder) if word]
    return " ".join(words) if len(words) > 1 else ""
