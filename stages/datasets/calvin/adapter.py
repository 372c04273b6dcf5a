"""CALVIN: a simulated Franka Panda at a play table, tele-operated play, 30 Hz.

    task_D_D/{training,validation}/episode_0000000.npz   one file for each frame
                                   ep_start_end_ids.npy   segments of play, both ends inclusive
                                   lang_annotations/auto_lang_ann.npy   windows with a text

An episode is a language window. Windows overlap, and frame ids have holes between segments.

The base frame of states and actions is the simulator's world frame, which does not turn with the
robot. A relative action is (pose reached next - pose now), in units of 20 mm and 0.05 rad, clipped
to 1; for orientations it is a *difference of roll pitch yaw*, not a rotation.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.calvin import files as calvin_files
from handloom.stages.datasets.calvin.files import (
    FramePictures,
    Ids,
    Language,
    Naming,
)
from handloom.stages.datasets.formats import rotations
from handloom.stages.datasets.source import (
    Episode,
    EpisodeOptions,
    Pictures,
    RobotAdapter,
    SourceEpisode,
    inside,
)

HOW_TO_GET = (
    "CALVIN is public: `git clone https://github.com/mees/calvin`, then in calvin/dataset `sh "
    "download_data.sh D` (166 GB), `ABC` (517 GB), `ABCD` (656 GB) or `debug` (1.3 GB)."
)
FIX = (
    "ABC_D and ABCD_D downloaded before 16 September 2022 have wrong annotations: put the "
    "corrected lang_annotations, linked from the README of https://github.com/mees/calvin, in "
    "their place, or run download_data.sh again"
)
HZ = 30.0
METRES, RADIANS = 0.02, 0.05  # a relative action of 1
SPLITS = {"training": "train", "validation": "val"}
VIEWS = {"static": "rgb_static", "gripper": "rgb_gripper"}
MANY_OUTSIDE, MOST_OUTSIDE = 0.02, 0.5  # shares of windows that no segment holds
SAME_M, SAME_RAD = 1e-3, 1e-2  # an action is the next pose, but for rounding

Floats = NDArray[np.float64]


def episodes(root: Path, options: EpisodeOptions) -> Iterator[SourceEpisode]:
    """List the language windows of both splits; no frame is opened.

    Raises:
        UserError: the folder holds no CALVIN, or annotations that belong to another release.
    """
    _chosen_views(options)
    home = _home(root)
    folders = {split: home / name for name, split in SPLITS.items() if (home / name).is_dir()}
    spoken = {
        split: (folder, file)
        for split, folder in folders.items()
        if inside(root, folder.relative_to(root).as_posix())
        and (file := calvin_files.language_file(folder))
    }
    if not spoken:
        raise UserError(
            f"{home} has no lang_annotations/{calvin_files.LANGUAGE} below training/ or "
            f"validation/, which tells what happens when. {HOW_TO_GET}"
        )
    name = home.resolve().name
    version = name if name.startswith(("task_", "calvin")) else "unknown"
    for split, (folder, file) in spoken.items():
        try:
            told, bounds = calvin_files.language(file), calvin_files.segments(folder)
        except MediaError as error:
            raise UserError(f"in {folder}: {error}.") from None
        _refuse_other_release(folder, told, bounds)
        files, ids = calvin_files.frame_ids(folder)
        place = folder.relative_to(root).as_posix()
        for start, end in sorted(told.texts):
            yield SourceEpisode(
                unit=f"{place}#{start}-{end}",
                media_path=f"{place}/{files.name(max(start, 0))}",
                place=(start, end),
                split=split,
                version=version,
                reason=_left_out(start, end, bounds, ids),
            )


def load(root: Path, source: SourceEpisode, options: EpisodeOptions) -> Episode:
    """Read one window without its pictures. Raises MediaError if a frame of it is damaged."""
    first = root / source.media_path
    folder, start, end = first.parent, *source.place
    files = _paths(first, range(start, end + 1))
    told, texts = _texts(folder, start, end)
    relative, absolute, robot = _vectors(files)
    action, idle = actions_from_relative(relative, robot), None
    flags = ["clipped"] * bool((np.abs(relative[:, :6]) > 1 - 1e-6).any())
    flags += ["actions_disagree"] * _disagree(absolute, robot)
    if options.relabel:  # what is clipped is not used then
        action, idle = relabelled(robot, relative[:, 6], _successor(first, end))
        flags = ["relabelled", *(flag for flag in flags if flag != "clipped")]
    outside = _outside(told, calvin_files.segments(folder))
    flags += ["annotations_doubtful"] * (outside > MANY_OUTSIDE * len(told.texts))
    digest = hashlib.blake2b(robot.astype("<f4").tobytes(), digest_size=4).hexdigest()
    facts = {
        "task": texts[0][1],
        "scene": calvin_files.scene(folder, start),
        "auto_lang_ann_sha256": told.sha256,
        "windows_outside_segments": f"{outside} of {len(told.texts)}" if outside else "",
    }
    return Episode(
        # Frame ids begin anew in every download; the hash keeps those of two of them apart.
        episode_id=f"{folder.name}-{start}-{end}-{digest}",
        text=texts[0][0],
        other_texts=tuple(text for text, _ in texts[1:]),
        hz=HZ,
        views=_views(files, options),
        state=states(robot),
        action=action,
        action_kind="ee_delta",
        idle=idle,
        flags=tuple(flags),
        facts={name: fact for name, fact in facts.items() if fact},
    )


def annotations(root: Path) -> list[Path]:
    """The windows and segments of both splits."""
    folders = [_home(root) / name for name in SPLITS]
    files = [calvin_files.language_file(folder) for folder in folders]
    files += [folder / calvin_files.SEGMENTS for folder in folders]
    return [file for file in files if file and file.is_file()]


def actions_from_relative(relative: ArrayLike, robot_obs: ArrayLike) -> NDArray[np.float32]:
    """Relative actions [T, 7] as displacement, rotation vector and gripper, world axes; float32.

    Args:
        relative: three positions in units of 20 mm, three differences of angles in units of 0.05
            rad, gripper -1 (or 0, in old files) closed to 1 open.
        robot_obs: [T, 15] of the same frames; position and roll pitch yaw come first.

    Returns:
        [T, 7]: w of exp(w) R(e) = R(e + d), where e are the angles and d their difference.
    """
    given, angles = np.asarray(relative, np.float64), np.asarray(robot_obs, np.float64)[:, 3:6]
    after = rotations.from_rpy(angles + RADIANS * given[:, 3:6])
    w = (after * rotations.from_rpy(angles).inv()).as_rotvec()
    return np.column_stack([METRES * given[:, :3], w, opening(given[:, 6])]).astype(np.float32)


def relative_from_actions(action: ArrayLike, robot_obs: ArrayLike) -> Floats:
    """The inverse of `actions_from_relative`: float64 [T, 7]; the gripper is -1 to 1."""
    given, angles = np.asarray(action, np.float64), np.asarray(robot_obs, np.float64)[:, 3:6]
    turned = Rotation.from_rotvec(given[:, 3:6]) * rotations.from_rpy(angles)
    differences = rotations.wrap_angles(rotations.to_rpy(turned) - angles)
    gripper = 2 * given[:, 6] - 1
    return np.column_stack([given[:, :3] / METRES, differences / RADIANS, gripper])


def relabelled(
    robot_obs: ArrayLike, gripper: ArrayLike, successor: ArrayLike | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Actions [T, 7] between the poses that were reached, which nothing has clipped.

    Args:
        robot_obs: [T, 15].
        gripper: command of each frame [T], -1 or 0 closed to 1 open.
        successor: robot_obs [15] of the frame after the last one, in the same segment.

    Returns:
        float32 [T, 7] and, without a successor, bool [T]: the last step is idle.
    """
    poses = np.asarray(robot_obs, np.float64)[:, :6]
    after = poses[-1] if successor is None else np.asarray(successor, np.float64)[:6]
    poses = np.vstack([poses, after])
    moved = np.diff(poses[:, :3], axis=0)
    turned = rotations.successive_rotvecs(rotations.from_rpy(poses[:, 3:6]))
    action = np.column_stack([moved, turned, opening(gripper)]).astype(np.float32)
    idle = None if successor is not None else np.arange(len(action)) == len(action) - 1
    return action, idle


def states(robot_obs: ArrayLike) -> NDArray[np.float32]:
    """Position, roll pitch yaw in (-pi, pi] and gripper from robot_obs [T, 15]; float32 [T, 7].

    The gripper is the last command, 0 or 1, as the width in metres differs with what is held.
    """
    given = np.asarray(robot_obs, np.float64)
    angles = rotations.wrap_angles(given[:, 3:6])
    return np.column_stack([given[:, :3], angles, opening(given[:, 14])]).astype(np.float32)


def opening(gripper: ArrayLike) -> Floats:
    """0 closed to 1 open, from -1 closed to 1 open; old files have 0 where it closes."""
    given = np.asarray(gripper, np.float64)
    return np.where(given == 0, 0.0, (given + 1) / 2).clip(0.0, 1.0)


def _left_out(start: int, end: int, bounds: Ids | None, ids: Ids) -> str:
    if start < 0 or end < start:
        return "bad_window"
    # Without the file of segments, these are what holes in the ids leave.
    if bounds is not None and not calvin_files.inside_segment(bounds, start, end):
        return "across_segments"
    at = np.searchsorted(ids, [start, end + 1])
    return "" if at[1] - at[0] == end + 1 - start else "missing_frames"


def _outside(told: Language, bounds: Ids | None) -> int:
    """How many windows no segment holds."""
    if bounds is None or not len(bounds):
        return 0
    places = np.array(list(told.texts), np.int64).reshape(-1, 2)
    at = np.searchsorted(bounds[:, 0], places[:, 0], side="right") - 1
    inside_one = (at >= 0) & (places[:, 1] <= bounds[at, 1])
    return int(np.count_nonzero(~inside_one))


def _refuse_other_release(folder: Path, told: Language, bounds: Ids | None) -> None:
    outside = _outside(told, bounds)
    if outside > MOST_OUTSIDE * len(told.texts):
        raise UserError(
            f"{folder}: {outside} of {len(told.texts)} language windows lie outside the segments "
            f"of {calvin_files.SEGMENTS}, so they are those of another release. {FIX}."
        )


def _texts(folder: Path, start: int, end: int) -> tuple[Language, tuple[tuple[str, str], ...]]:
    """The split's windows, and texts and tasks of one of them."""
    file = calvin_files.language_file(folder)
    told = calvin_files.language(file) if file else None
    if told is None or (start, end) not in told.texts:
        raise MediaError(
            f"{calvin_files.LANGUAGE} no longer has the window {start} to {end}: it was replaced "
            "after the episodes were listed; run again"
        )
    return told, told.texts[start, end]


def _vectors(files: list[Path]) -> tuple[Floats, Floats, Floats]:
    """rel_actions [T, 7], actions [T, 7] and robot_obs [T, 15]; stored as float64 or float32."""
    keys = {"rel_actions": 7, "actions": 7, "robot_obs": 15}
    columns: list[list[Floats]] = [[] for _ in keys]
    for file in files:
        arrays = calvin_files.members(file, tuple(keys))
        for column, values, (key, size) in zip(columns, arrays, keys.items(), strict=True):
            if values.shape != (size,) or values.dtype.kind != "f" or not np.isfinite(values).all():
                raise MediaError(
                    f"{file.name}: {key} is {values.dtype} {list(values.shape)}, expected {size} "
                    "finite floats; unzip the download again"
                )
            column.append(values.astype(np.float64))
    relative, absolute, robot = (np.stack(column) for column in columns)
    return relative, absolute, robot


def _disagree(absolute: Floats, robot: Floats) -> bool:
    """Whether most actions are not the next frame's pose, which they are by construction."""
    if len(robot) < 2:
        return False
    apart = np.abs(absolute[:-1, :6] - robot[1:, :6])
    apart[:, 3:] = np.abs(rotations.wrap_angles(absolute[:-1, 3:6] - robot[1:, 3:6]))
    wrong = (apart > np.array([SAME_M] * 3 + [SAME_RAD] * 3)).any(axis=1)
    return bool(wrong.mean() > 0.5)


def _successor(first: Path, end: int) -> Floats | None:
    """robot_obs of the frame after a window, if that is in the same segment and there."""
    (path,) = _paths(first, range(end + 1, end + 2))
    bounds = calvin_files.segments(first.parent)
    if bounds is not None and not calvin_files.inside_segment(bounds, end, end + 1):
        return None
    return _vectors([path])[2][0] if path.is_file() else None


def _paths(first: Path, frames: range) -> list[Path]:
    """Files of frames, called as the window's first one is."""
    names = calvin_files.naming(first.name) or Naming("episode_", 7)
    return [first.parent / names.name(frame) for frame in frames]


def _views(files: list[Path], options: EpisodeOptions) -> dict[str, Pictures]:
    keys = {name: VIEWS[name] for name in _chosen_views(options)}
    found: dict[str, Pictures] = {
        name: FramePictures(files, key)
        for name, key in keys.items()
        if calvin_files.has_member(files[0], key)
    }
    if not found:
        raise MediaError(f"{files[0].name} holds none of {', '.join(keys.values())}")
    return found


def _chosen_views(options: EpisodeOptions) -> list[str]:
    names = [name.removeprefix("rgb_") for name in options.views]
    for name in names:
        if name not in VIEWS:
            raise UserError(f"there is no view {name!r}: CALVIN has {', '.join(VIEWS.values())}.")
    return names or list(VIEWS)


def _home(root: Path) -> Path:
    """The folder that holds training/ and validation/: the root, or one below it."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder. {HOW_TO_GET}")
    homes = (
        [root] if _is_home(root) else [path for path in sorted(root.iterdir()) if _is_home(path)]
    )
    if not homes:
        raise UserError(
            f"{root} is no CALVIN download: expected training/ and validation/ in it, or in a "
            f"folder such as task_D_D below it. {HOW_TO_GET}"
        )
    if len(homes) > 1:
        raise UserError(
            f"{root} holds {', '.join(path.name for path in homes)}, which share frames: name one "
            "of them."
        )
    return homes[0]


def _is_home(path: Path) -> bool:
    return any((path / name).is_dir() for name in SPLITS)


ADAPTER = RobotAdapter(
    episodes=episodes,
    load=load,
    annotations=annotations,
    licence="mit",
    terms="MIT licence, data and code: keep the copyright notice.",
    how_to_get=HOW_TO_GET,
)
