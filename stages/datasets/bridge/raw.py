"""BridgeData outside of TFDS: raw recordings, and the out.npy and out.tfrecord made of them.

    bridgedata_raw/<institution>/<environment>/<task>/<00>/<2022-01-01_00-00-00>/
        raw/traj_group0/traj0/{obs_dict.pkl,policy_out.pkl,lang.txt,images0/im_0.jpg,...}
    <environment>/<task>/{train,val}/out.npy        or out.tfrecord

The folders above the date differ in number, so trajectories are looked for. The three forms hold
the same trajectories: one of them is read. All pickles go through `pickles`, which runs nothing.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.bridge import convention as bridge_convention
from handloom.stages.datasets.bridge import recordings as bridge_recordings
from handloom.stages.datasets.bridge.recordings import Recording
from handloom.stages.datasets.formats import tfrecord
from handloom.stages.datasets.source import Episode, EpisodeOptions, SourceEpisode, inside

HZ = 5.0
MAX_DEPTH = 12  # folders below the root
LOOKED_INTO = 3000  # folders that `holds` opens
RAW, NUMPY, TENSORS = "raw", "numpy", "tfrecord"
FILES = {"out.npy": NUMPY, "out.tfrecord": TENSORS}
SPLITS = ("train", "val")

_TRAJECTORY = re.compile(r"traj\d+")
_VIEW = re.compile(r"images?_?(\d{1,3})")

Found = tuple[str, str]  # kind and path below the root


def holds(root: Path) -> bool:
    """Whether a folder holds any of the three forms; looks at some thousand folders at most."""
    return root.is_dir() and next(_found(root, LOOKED_INTO), None) is not None


def episodes(root: Path, options: EpisodeOptions) -> Iterator[SourceEpisode]:
    """List the trajectories. Of an out.npy the pickle is walked, but no picture is read.

    Raises:
        UserError: there are none, or raw and converted ones side by side.
    """
    _wanted_views(options)
    first = ""
    for kind, path in _found(root):
        first = first or kind
        if (kind == RAW) != (first == RAW):
            raise UserError(
                f"{root} holds raw trajectories and converted ones ({path}), which are largely "
                "the same: name the folder of one kind with --data."
            )
        yield from _LISTERS[kind](root, path)
    if not first:
        raise UserError(
            f"{root} holds no BridgeData: expected folders traj_group0/traj0 with obs_dict.pkl, or "
            "files out.npy or out.tfrecord, anywhere below it."
        )


def load(root: Path, source: SourceEpisode, options: EpisodeOptions) -> Episode:
    """Read one trajectory without its pictures. Raises MediaError if it is damaged."""
    try:
        held = _recording(root, source)
        states = bridge_convention.states(held.states)
        action, idle = _action(held, states, options.relabel)
    except MediaError as error:
        raise MediaError(f"{source.unit}: {error}") from None
    texts = held.texts or ((options.text,) if options.text else ("",))
    wanted = _wanted_views(options) or list(held.views)
    return Episode(
        episode_id=_content_id(held),
        text=texts[0],
        other_texts=texts[1:],
        hz=options.hz or HZ,
        views={name: held.views[name] for name in wanted if name in held.views},
        state=states[:-1],
        action=action,
        action_kind="ee_delta",
        idle=idle,
        flags=("bridge_default_pose", *("relabelled",) * options.relabel, *held.flags),
        facts={"recording": source.media_path},
    )


def annotations(_root: Path) -> list[Path]:
    """None: every trajectory tells for itself."""
    return []


def _recording(root: Path, source: SourceEpisode) -> Recording:
    path = root / source.media_path
    if FILES.get(path.name) == NUMPY:
        return bridge_recordings.from_npy(path, *source.place)
    if FILES.get(path.name) == TENSORS:
        return bridge_recordings.from_record(path, *source.place)
    return bridge_recordings.from_raw(root, source.media_path)


def _action(
    held: Recording, states: NDArray[np.float32], relabel: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Actions [N, 7] and idle steps; where the last action led to is known, so it is not idle."""
    action = bridge_convention.actions(held.actions)
    if not relabel:
        return action, bridge_convention.idle_start(held.actions)
    gripper = np.append(action[:, 6], action[-1, 6])
    return bridge_convention.relabelled(states, gripper)[:-1], None


def _content_id(held: Recording) -> str:
    """A hash of the recorded numbers: the same for all three forms, wherever the folder lies."""
    digest = hashlib.blake2b(digest_size=16)
    for values in (held.states, held.actions):
        digest.update(np.ascontiguousarray(values, "<f4").tobytes())
    return digest.hexdigest()


def _list_raw(root: Path, path: str) -> Iterator[SourceEpisode]:
    folder = root / path
    needed = ("obs_dict.pkl", "policy_out.pkl")
    whole = all((folder / name).is_file() for name in needed)
    reason = "" if whole else "missing_file"
    yield SourceEpisode(f"{path}#0", path, (0,), "", RAW, reason)


def _list_numpy(root: Path, path: str) -> Iterator[SourceEpisode]:
    try:
        count = bridge_recordings.count_npy(root / path)
    except MediaError as error:
        yield SourceEpisode(f"{path}#0", path, (0,), _split(path), NUMPY, error=str(error))
        return
    for number in range(count):
        yield SourceEpisode(f"{path}#{number}", path, (number,), _split(path), NUMPY)


def _list_records(root: Path, path: str) -> Iterator[SourceEpisode]:
    try:
        for number, place in enumerate(tfrecord.scan(root / path)):
            where = (place.offset, place.length)
            yield SourceEpisode(
                f"{path}#{number}", path, where, _split(path), TENSORS, error=place.fault
            )
    except MediaError as error:
        yield SourceEpisode(f"{path}#0", path, (0, 0), _split(path), TENSORS, error=str(error))


_LISTERS = {RAW: _list_raw, NUMPY: _list_numpy, TENSORS: _list_records}


def _split(path: str) -> str:
    """Of converted files, by their folder; it was drawn at random when they were made."""
    folder = path.split("/")[-2] if "/" in path else ""
    return folder if folder in SPLITS else ""


def _found(root: Path, most: int = 0) -> Iterator[Found]:
    """Trajectories and files below a folder, in the order of their names.

    Args:
        root: the data folder.
        most: give up after so many folders; 0 looks into all.
    """
    waiting, opened = [""], 0
    while waiting and not (most and opened >= most):
        path = waiting.pop()
        opened += 1
        entries = _entries(root, path)
        names = {entry.name for entry in entries}
        if _is_trajectory(path, names):
            yield RAW, path
            continue
        files = sorted(names & FILES.keys(), reverse=True)
        if files:  # both hold the same; records are read one at a time
            yield FILES[files[0]], _below(path, files[0])
        if path.count("/") < MAX_DEPTH:
            folders = sorted(
                (entry.name for entry in entries if entry.is_dir() and entry.name != "lmdb"),
                key=_by_number,
                reverse=True,
            )
            waiting += [_below(path, name) for name in folders]


def _entries(root: Path, path: str) -> list[os.DirEntry[str]]:
    """What is in a folder; links only where they lead to below the root, and not in a circle."""
    here = os.path.realpath(root / path)
    with os.scandir(here) as entries:
        return [
            entry
            for entry in entries
            if not entry.name.startswith(".")
            and (not entry.is_symlink() or _leads_on(root, here, _below(path, entry.name)))
        ]


def _leads_on(root: Path, here: str, link: str) -> bool:
    target = os.path.realpath(root / link)
    return inside(root, link) and os.path.commonpath([here, target]) != target


def _is_trajectory(path: str, names: set[str]) -> bool:
    parts = path.split("/")
    named = (
        len(parts) > 1 and parts[-2].startswith("traj_group") and _TRAJECTORY.fullmatch(parts[-1])
    )
    return bool(named) or "obs_dict.pkl" in names


def _below(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _by_number(name: str) -> list[tuple[str, int]]:
    """A key that puts traj10 behind traj9."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d{0,15})", name)]


def _wanted_views(options: EpisodeOptions) -> list[str]:
    names = []
    for name in options.views:
        match = _VIEW.fullmatch(name)
        if not match:
            raise UserError(f"there is no view {name!r}: BridgeData has images0, images1, ...")
        names.append(f"image_{match[1]}")
    return names
