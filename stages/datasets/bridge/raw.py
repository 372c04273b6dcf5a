"""BridgeData outside of TFDS: raw recordings, and the out.npy and out.tfrecord made of them.

    bridgedata_raw/<institution>/<environment>/<task>/<00>/<2022-01-01_00-00-00>/
        raw/traj_group0/traj0/{obs_dict.pkl,policy_out.pkl,lang.txt,images0/im_0.jpg,...}
    <environment>/<task>/{train,val}/out.npy        or out.tfrecord

The folders above the date differ in number, so that trajectories are searched for. The three forms
hold the same trajectories: only one of them is read. Pickles are read by formats/pickles.py, which
runs no code.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError, UserError
from handloom.places import Entry, is_remote, scandir
from handloom.stages.datasets.bridge import convention, recordings
from handloom.stages.datasets.bridge.recordings import BridgeRecording
from handloom.stages.datasets.formats import tfrecord
from handloom.stages.datasets.source import (
    Episode,
    EpisodeOptions,
    SourceEpisode,
    is_inside,
    naming,
)

HZ = 5.0
MAX_DEPTH = 12  # folders below the root
MAX_FOLDERS = 3000  # that `contains_recordings` opens
RAW, NUMPY, TENSORS = "raw", "numpy", "tfrecord"
FILES = {"out.npy": NUMPY, "out.tfrecord": TENSORS}
SPLITS = ("train", "val")

_TRAJECTORY = re.compile(r"traj\d+")
_VIEW = re.compile(r"images?_?(\d{1,3})")

Item = tuple[str, str]  # kind and path below the root


def contains_recordings(root: Path) -> bool:
    """Whether a folder holds any of the three forms, after MAX_FOLDERS folders at most."""
    return root.is_dir() and next(_find_recordings(root, MAX_FOLDERS), None) is not None


def episodes(root: Path, options: EpisodeOptions) -> Iterator[SourceEpisode]:
    """List the trajectories. The pickle of an out.npy is parsed, but no image is read.

    Raises:
        UserError: there are none, or raw and converted ones side by side.
    """
    _choose_views(options)
    first = ""
    for kind, path in _find_recordings(root):
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
    """Read one trajectory; its images are read later. Raises MediaError if it is damaged."""
    with naming(source.unit):
        recording = _recording(root, source)
        states = convention.convert_states(recording.states)
        action, idle = _action(recording, states, options.relabel)
    texts = recording.texts or ((options.text,) if options.text else ("",))
    names = _choose_views(options) or list(recording.views)
    return Episode(
        episode_id=_content_id(recording),
        text=texts[0],
        other_texts=texts[1:],
        hz=options.hz or HZ,
        views={name: recording.views[name] for name in names if name in recording.views},
        state=states[:-1],
        action=action,
        action_kind="ee_delta",
        idle=idle,
        flags=("bridge_default_pose", *("relabelled",) * options.relabel, *recording.flags),
        facts={"recording": source.media_path},
    )


def annotations(_root: Path) -> list[Path]:
    """No files: trajectories need no description."""
    return []


def _recording(root: Path, source: SourceEpisode) -> BridgeRecording:
    path = root / source.media_path
    if FILES.get(path.name) == NUMPY:
        return recordings.read_npy(path, *source.place)
    if FILES.get(path.name) == TENSORS:
        return recordings.read_tfrecord(path, *source.place)
    return recordings.read_raw(root, source.media_path)


def _action(
    recording: BridgeRecording, states: NDArray[np.float32], relabel: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Actions [N, 7] and idle steps. The pose after the last action is known: it is not idle."""
    action = convention.convert_actions(recording.actions)
    if not relabel:
        return action, convention.idle_first_step(recording.actions)
    gripper = np.append(action[:, 6], action[-1, 6])
    return convention.relabel(states, gripper)[:-1], None


def _content_id(recording: BridgeRecording) -> str:
    """A hash of the recorded numbers: the same for all three forms and in any folder."""
    digest = hashlib.blake2b(digest_size=16)
    # As float32: the forms may hold the same numbers in different precision.
    for values in (recording.states, recording.actions):
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
        count = recordings.count_recordings(root / path)
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
                f"{path}#{number}", path, where, _split(path), TENSORS, error=place.error
            )
    except MediaError as error:
        yield SourceEpisode(f"{path}#0", path, (0, 0), _split(path), TENSORS, error=str(error))


_LISTERS = {RAW: _list_raw, NUMPY: _list_numpy, TENSORS: _list_records}


def _split(path: str) -> str:
    """The split of a converted file, by its folder; the conversion drew it at random."""
    folder = path.split("/")[-2] if "/" in path else ""
    return folder if folder in SPLITS else ""


def _find_recordings(root: Path, max_folders: int = 0) -> Iterator[Item]:
    """Trajectories and converted files below a folder, in the order of their names.

    Args:
        root: the data folder.
        max_folders: give up after this many folders; 0 visits all.
    """
    waiting, visited = [""], 0
    while waiting and not (max_folders and visited >= max_folders):
        path = waiting.pop()
        visited += 1
        entries = _list_folder(root, path)
        names = {entry.name for entry in entries}
        if _is_trajectory(path, names):
            yield RAW, path
            continue
        files = sorted(names & FILES.keys(), reverse=True)
        if files:  # out.tfrecord wins: it holds the same, and is read record by record
            yield FILES[files[0]], _below(path, files[0])
        if path.count("/") < MAX_DEPTH:
            folders = sorted(
                (entry.name for entry in entries if entry.is_dir() and entry.name != "lmdb"),
                key=_by_number,
                reverse=True,
            )
            # In reverse, as the last one waiting is visited first: the order is that of names.
            waiting += [_below(path, name) for name in folders]


def _list_folder(root: Path, path: str) -> list[Entry | os.DirEntry[str]]:
    """Entries of a folder; links only if they stay below the root and lead in no circle."""
    here = root / path if is_remote(root) else Path(os.path.realpath(root / path))
    with scandir(here) as entries:
        return [
            entry
            for entry in entries
            if not entry.name.startswith(".")
            and (not entry.is_symlink() or _leads_inside(root, here, _below(path, entry.name)))
        ]


def _leads_inside(root: Path, here: Path, link: str) -> bool:
    target = os.path.realpath(root / link)
    return is_inside(root, link) and os.path.commonpath([str(here), target]) != target


def _is_trajectory(path: str, names: set[str]) -> bool:
    parts = path.split("/")
    named = (
        len(parts) > 1 and parts[-2].startswith("traj_group") and _TRAJECTORY.fullmatch(parts[-1])
    )
    return bool(named) or "obs_dict.pkl" in names


def _below(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _by_number(name: str) -> list[tuple[str, int]]:
    """Sort key that puts traj10 after traj9."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d{0,15})", name)]


def _choose_views(options: EpisodeOptions) -> list[str]:
    names = []
    for name in options.views:
        match = _VIEW.fullmatch(name)
        if not match:
            raise UserError(f"there is no view {name!r}: BridgeData has images0, images1, ...")
        names.append(f"image_{match[1]}")
    return names
