"""CALVIN: a simulated Franka Panda at a play table, tele-operated play, 30 Hz.

    task_D_D/{training,validation}/episode_0000000.npz   one file for each frame
                                   ep_start_end_ids.npy   segments of play, both ends inclusive
                                   lang_annotations/auto_lang_ann.npy   windows with a text

An episode is a language window. Windows overlap, and frame ids have gaps between segments.

The base frame of states and actions is the simulator's world frame, which does not turn with the
robot. A relative action is the next pose minus the present one, in units of 20 mm and 0.05 rad,
clipped to 1; for orientations it is a *difference of roll pitch yaw*, not a rotation.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.calvin import files
from handloom.stages.datasets.calvin.files import FrameImages, FrameNaming, Ids, LanguageWindows
from handloom.stages.datasets.formats import rotations
from handloom.stages.datasets.source import (
    Episode,
    EpisodeOptions,
    Images,
    RobotAdapter,
    SourceEpisode,
    is_inside,
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
METRES, RADIANS = 0.02, 0.05  # units of a relative action
SPLITS = {"training": "train", "validation": "val"}
VIEWS = {"static": "rgb_static", "gripper": "rgb_gripper"}
# Shares of the language windows outside all segments: above the first one annotations are flagged,
# above the second refused.
DOUBTFUL_OUTSIDE, REFUSED_OUTSIDE = 0.02, 0.5
SAME_M, SAME_RAD = 1e-3, 1e-2  # tolerances: an action is the next pose but for rounding

Floats = NDArray[np.float64]


def episodes(root: Path, options: EpisodeOptions) -> Iterator[SourceEpisode]:
    """List the language windows of both splits; no frame is opened.

    Raises:
        UserError: the folder holds no CALVIN, or annotations that belong to another release.
    """
    _choose_views(options)
    home = _find_home(root)
    folders = {split: home / name for name, split in SPLITS.items() if (home / name).is_dir()}
    annotated = {
        split: (folder, file)
        for split, folder in folders.items()
        if is_inside(root, folder.relative_to(root).as_posix())
        and (file := files.find_language_file(folder))
    }
    if not annotated:
        raise UserError(
            f"{home} has no lang_annotations/{files.LANGUAGE} below training/ or "
            f"validation/, which tells what happens when. {HOW_TO_GET}"
        )
    name = home.resolve().name
    version = name if name.startswith(("task_", "calvin")) else "unknown"
    for split, (folder, file) in annotated.items():
        try:
            language, bounds = files.read_language(file), files.read_segments(folder)
        except MediaError as error:
            raise UserError(f"in {folder}: {error}.") from None
        _refuse_other_release(folder, language, bounds)
        naming, ids = files.list_frames(folder)
        place = folder.relative_to(root).as_posix()
        for start, end in sorted(language.texts):
            yield SourceEpisode(
                unit=f"{place}#{start}-{end}",
                media_path=f"{place}/{naming.name(max(start, 0))}",
                place=(start, end),
                split=split,
                version=version,
                reason=_reason(start, end, bounds, ids),
            )


def load(root: Path, source: SourceEpisode, options: EpisodeOptions) -> Episode:
    """Read one window; its images are read later. Raises MediaError if a frame is damaged."""
    first = root / source.media_path
    folder, start, end = first.parent, *source.place
    paths = _frame_paths(first, range(start, end + 1))
    language, texts = _texts(folder, start, end)
    relative, absolute, robot = _vectors(paths)
    action, idle = actions_from_relative(relative, robot), None
    # A component at its limit may have been clipped.
    flags = ["clipped"] * bool((np.abs(relative[:, :6]) > 1 - 1e-6).any())
    flags += ["actions_disagree"] * _actions_disagree(absolute, robot)
    if options.relabel:  # the clipped actions are not used then
        action, idle = relabel(robot, relative[:, 6], _successor(first, end))
        flags = ["relabelled", *(flag for flag in flags if flag != "clipped")]
    outside = _count_outside(language, files.read_segments(folder))
    flags += ["annotations_doubtful"] * (outside > DOUBTFUL_OUTSIDE * len(language.texts))
    digest = hashlib.blake2b(robot.astype("<f4").tobytes(), digest_size=4).hexdigest()
    facts = {
        "task": texts[0][1],
        "scene": files.scene_name(folder, start),
        "auto_lang_ann_sha256": language.sha256,
        "windows_outside_segments": f"{outside} of {len(language.texts)}" if outside else "",
    }
    return Episode(
        # Frame ids restart in every download; the hash distinguishes the episodes of two of them.
        episode_id=f"{folder.name}-{start}-{end}-{digest}",
        text=texts[0][0],
        other_texts=tuple(text for text, _ in texts[1:]),
        hz=HZ,
        views=_views(paths, options),
        state=convert_states(robot),
        action=action,
        action_kind="ee_delta",
        idle=idle,
        flags=tuple(flags),
        facts={name: fact for name, fact in facts.items() if fact},
    )


def annotations(root: Path) -> list[Path]:
    """The windows and segments of both splits."""
    folders = [_find_home(root) / name for name in SPLITS]
    paths = [files.find_language_file(folder) for folder in folders]
    paths += [folder / files.SEGMENTS for folder in folders]
    return [file for file in paths if file and file.is_file()]


def actions_from_relative(relative: ArrayLike, robot_obs: ArrayLike) -> NDArray[np.float32]:
    """Relative actions [T, 7] as displacement, rotation vector and gripper, world axes; float32.

    Args:
        relative: displacement in units of 20 mm, differences of roll pitch yaw in units of 0.05
            rad, gripper -1 (or 0, in old files) closed to 1 open.
        robot_obs: [T, 15] of the same frames; position and roll pitch yaw come first.

    Returns:
        [T, 7]; the rotation vector w solves exp(w) R(e) = R(e + d) for the angles e and their
        difference d.
    """
    values, angles = np.asarray(relative, np.float64), np.asarray(robot_obs, np.float64)[:, 3:6]
    after = rotations.from_rpy(angles + RADIANS * values[:, 3:6])
    # On the left, as for all rotations in base axes: after = exp(w) before.
    w = (after * rotations.from_rpy(angles).inv()).as_rotvec()
    return np.column_stack([METRES * values[:, :3], w, gripper_opening(values[:, 6])]).astype(
        np.float32
    )


def relabel(
    robot_obs: ArrayLike, gripper: ArrayLike, successor: ArrayLike | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Actions between the poses that were reached, which are not clipped.

    Args:
        robot_obs: [T, 15] of consecutive frames.
        gripper: command of each frame [T], -1 or 0 closed to 1 open.
        successor: robot_obs [15] of the next frame in the same segment, if there is one.

    Returns:
        Actions float32 [T, 7], and idle steps bool [T]: the last one, if it has no successor.
    """
    poses = np.asarray(robot_obs, np.float64)[:, :6]
    # Without a successor the last step stands still, and is marked idle.
    after = poses[-1] if successor is None else np.asarray(successor, np.float64)[:6]
    poses = np.vstack([poses, after])
    moved = np.diff(poses[:, :3], axis=0)
    turned = rotations.successive_rotvecs(rotations.from_rpy(poses[:, 3:6]))
    action = np.column_stack([moved, turned, gripper_opening(gripper)]).astype(np.float32)
    idle = None if successor is not None else np.arange(len(action)) == len(action) - 1
    return action, idle


def convert_states(robot_obs: ArrayLike) -> NDArray[np.float32]:
    """Position, roll pitch yaw in (-pi, pi] and gripper from robot_obs [T, 15]; float32 [T, 7].

    The gripper is the last command, 0 or 1: its width in metres depends on what it holds.
    """
    values = np.asarray(robot_obs, np.float64)
    angles = rotations.wrap_angles(values[:, 3:6])
    return np.column_stack([values[:, :3], angles, gripper_opening(values[:, 14])]).astype(
        np.float32
    )


def gripper_opening(gripper: ArrayLike) -> Floats:
    """Gripper 0 closed to 1 open, from -1 closed to 1 open; old files have 0 for closed."""
    values = np.asarray(gripper, np.float64)
    return np.where(values == 0, 0.0, (values + 1) / 2).clip(0.0, 1.0)


def _reason(start: int, end: int, bounds: Ids | None, ids: Ids) -> str:
    if start < 0 or end < start:
        return "bad_window"
    # Without the file of segments, gaps in the ids still show as missing frames.
    if bounds is not None and not files.in_one_segment(bounds, start, end):
        return "across_segments"
    at = np.searchsorted(ids, [start, end + 1])  # ids are sorted and unique: counting is enough
    return "" if at[1] - at[0] == end + 1 - start else "missing_frames"


def _count_outside(language: LanguageWindows, bounds: Ids | None) -> int:
    """Number of language windows that do not lie within one segment."""
    if bounds is None or not len(bounds):
        return 0
    places = np.array(list(language.texts), np.int64).reshape(-1, 2)
    at = np.searchsorted(bounds[:, 0], places[:, 0], side="right") - 1
    inside_one = (at >= 0) & (places[:, 1] <= bounds[at, 1])
    return int(np.count_nonzero(~inside_one))


def _refuse_other_release(folder: Path, language: LanguageWindows, bounds: Ids | None) -> None:
    outside = _count_outside(language, bounds)
    if outside > REFUSED_OUTSIDE * len(language.texts):
        raise UserError(
            f"{folder}: {outside} of {len(language.texts)} language windows lie outside the "
            f"segments of {files.SEGMENTS}, so they are those of another release. {FIX}."
        )


def _texts(
    folder: Path, start: int, end: int
) -> tuple[LanguageWindows, tuple[tuple[str, str], ...]]:
    """The language windows of a split, and the texts of one, each with its task."""
    file = files.find_language_file(folder)
    language = files.read_language(file) if file else None
    if language is None or (start, end) not in language.texts:
        raise MediaError(
            f"{files.LANGUAGE} no longer has the window {start} to {end}: it was replaced "
            "after the episodes were listed; run again"
        )
    return language, language.texts[start, end]


def _vectors(paths: list[Path]) -> tuple[Floats, Floats, Floats]:
    """rel_actions [T, 7], actions [T, 7] and robot_obs [T, 15]; stored as float64 or float32."""
    keys = {"rel_actions": 7, "actions": 7, "robot_obs": 15}
    columns: list[list[Floats]] = [[] for _ in keys]
    for file in paths:
        arrays = files.read_arrays(file, tuple(keys))
        for column, values, (key, size) in zip(columns, arrays, keys.items(), strict=True):
            if values.shape != (size,) or values.dtype.kind != "f" or not np.isfinite(values).all():
                raise MediaError(
                    f"{file.name}: {key} is {values.dtype} {list(values.shape)}, expected {size} "
                    "finite floats; unzip the download again"
                )
            column.append(values.astype(np.float64))
    relative, absolute, robot = (np.stack(column) for column in columns)
    return relative, absolute, robot


def _actions_disagree(absolute: Floats, robot: Floats) -> bool:
    """Whether most actions differ from the pose of the next frame, which they should equal."""
    if len(robot) < 2:
        return False
    apart = np.abs(absolute[:-1, :6] - robot[1:, :6])
    # Wrapped: -pi and pi are the same angle.
    apart[:, 3:] = np.abs(rotations.wrap_angles(absolute[:-1, 3:6] - robot[1:, 3:6]))
    wrong = (apart > np.array([SAME_M] * 3 + [SAME_RAD] * 3)).any(axis=1)
    return bool(wrong.mean() > 0.5)


def _successor(first: Path, end: int) -> Floats | None:
    """robot_obs of the frame after a window, or None if it is missing or in another segment."""
    (path,) = _frame_paths(first, range(end + 1, end + 2))
    bounds = files.read_segments(first.parent)
    if bounds is not None and not files.in_one_segment(bounds, end, end + 1):
        return None
    return _vectors([path])[2][0] if path.is_file() else None


def _frame_paths(first: Path, frames: range) -> list[Path]:
    """Files of frames, named like the first one of the window."""
    names = files.parse_frame_name(first.name) or FrameNaming("episode_", 7)
    return [first.parent / names.name(frame) for frame in frames]


def _views(paths: list[Path], options: EpisodeOptions) -> dict[str, Images]:
    keys = {name: VIEWS[name] for name in _choose_views(options)}
    views: dict[str, Images] = {
        name: FrameImages(paths, key)
        for name, key in keys.items()
        if files.has_array(paths[0], key)
    }
    if not views:
        raise MediaError(f"{paths[0].name} holds none of {', '.join(keys.values())}")
    return views


def _choose_views(options: EpisodeOptions) -> list[str]:
    names = [name.removeprefix("rgb_") for name in options.views]
    for name in names:
        if name not in VIEWS:
            raise UserError(f"there is no view {name!r}: CALVIN has {', '.join(VIEWS.values())}.")
    return names or list(VIEWS)


def _find_home(root: Path) -> Path:
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
