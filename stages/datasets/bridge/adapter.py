"""BridgeData: a WidowX arm in toy kitchens, 5 Hz, in three layouts with nearly equal names.

(a) `bridge` 0.1.0 of Open X-Embodiment: actions are a dict, one camera, splits train and test.
(b) `bridge_dataset` 1.0.0: actions are 7 numbers, up to four cameras, splits train and val.
(c) the raw recordings, and the .npy and .tfrecord files made of them: `bridge_raw`.

They are told apart by what they hold, for names differ and the descriptions in (b)'s features.json
are those of another robot. All three hold largely the same trajectories: take one of them. Actions
and states keep Bridge's default pose (flag `bridge_default_pose`, see `bridge_convention`).
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.stages.datasets import rlds
from handloom.stages.datasets.bridge import convention as bridge_convention
from handloom.stages.datasets.formats.tfds_features import Leaves, Record, read_features
from handloom.stages.datasets.source import (
    Episode,
    EpisodeOptions,
    Pictures,
    RobotAdapter,
    SourceEpisode,
)

HOW_TO_GET = (
    "BridgeData is public. As TFRecords: `gsutil -m cp -r gs://gresearch/robotics/bridge/0.1.0 "
    "DIR/bridge/` (387 GiB), or bridge_dataset/1.0.0 from https://rail.eecs.berkeley.edu/datasets/"
    "bridge_release/data/tfds/; raw: demos_8_17.zip (411 GB) from the folder above. A part of the "
    "shards will do, with features.json."
)
HZ = 5.0

STATE = "steps/observation/state"
ACTION = "steps/action"
DICT_ACTION = {
    "steps/action/world_vector": 3,
    "steps/action/rotation_delta": 3,
    "steps/action/open_gripper": 1,
}
TEXTS = ("steps/language_instruction", "steps/observation/natural_language_instruction")
FILE_PATH, NUMBER = "episode_metadata/file_path", "episode_metadata/episode_id"

# (a) has only train and test. Nobody's benchmark is on its test split, which serves as val.
SPLITS = rlds.SPLITS | {"test": "val"}


def episodes(root: Path, options: EpisodeOptions) -> Iterator[SourceEpisode]:
    """List the episodes of any of the layouts. Raises UserError if the folder holds none."""
    if _is_raw(root):
        from handloom.stages.datasets.bridge import raw as bridge_raw

        yield from bridge_raw.episodes(root, options)
        return
    dataset = _home(root)
    rlds.chosen_cameras(dataset.leaves, options)
    yield from rlds.listed(root, dataset, SPLITS)


def load(root: Path, source: SourceEpisode, options: EpisodeOptions) -> Episode:
    """Read one episode. Raises MediaError if it is damaged."""
    features = (root / source.media_path).parent / "features.json"
    if not features.is_file():
        from handloom.stages.datasets.bridge import raw as bridge_raw

        return bridge_raw.load(root, source, options)
    leaves = read_features(features)
    cameras = rlds.chosen_cameras(leaves, options)
    wanted = {ACTION, *DICT_ACTION, STATE, *TEXTS, FILE_PATH, NUMBER, *rlds.camera_keys(leaves)}
    record = rlds.opened(root, source, wanted.__contains__)
    raw_states = record.numbers(STATE, 7)
    action, idle = _action(_raw_actions(record), raw_states, options.relabel)
    flags = ("bridge_default_pose",) + ("relabelled",) * options.relabel
    return Episode(
        episode_id=_episode_id(record),
        text=next((text for key in TEXTS if (text := record.text(key))), options.text),
        hz=options.hz or HZ,
        views=_views(record, cameras),
        state=bridge_convention.states(raw_states),
        action=action,
        action_kind="ee_delta",
        idle=idle,
        flags=flags,
        facts={"recording": original} if (original := recording(record.text(FILE_PATH))) else {},
    )


def annotations(root: Path) -> list[Path]:
    """The files that say how the episodes are read."""
    if _is_raw(root):
        from handloom.stages.datasets.bridge import raw as bridge_raw

        return bridge_raw.annotations(root)
    return rlds.described(_home(root))


def recording(file_path: str) -> str:
    """The part of a file_path that does not depend on whose machine the set was built.

    `/nfs/x/numpy_256/bridge_data_v1/berkeley/toysink2/put_cup/val/out.npy` becomes
    `bridge_data_v1/berkeley/toysink2/put_cup/val/out.npy`; what lay below `scripted_numpy_256`, the
    scripted grasping, gets `scripted/` in front.
    """
    parts = [part for part in re.split(r"[/\\]", file_path) if part not in ("", ".", "..")]
    for i in range(len(parts) - 1, -1, -1):
        home = re.fullmatch(r"(scripted_)?numpy(_\d+)?", parts[i])
        if home:
            return "/".join(["scripted"] * bool(home[1]) + parts[i + 1 :])
    return "/".join(parts)


def has_pictures(pictures: Pictures) -> bool:
    """Whether a camera was there: absent ones are stored as black pictures, all the same bytes.

    The dataset's own has_image_* flags are always 0, by a mistake of its builder.
    """
    first = pictures.fingerprint(0)
    if any(pictures.fingerprint(step) != first for step in range(1, len(pictures))):
        return True
    return bool(pictures[0].any())


def _is_raw(root: Path) -> bool:
    """Whether the folder holds layout (c); a folder with features.json never does."""
    if rlds.homes(root):
        return False
    from handloom.stages.datasets.bridge import raw as bridge_raw

    return bridge_raw.holds(root)


def _home(root: Path) -> rlds.Home:
    def is_bridge(leaves: Leaves) -> bool:
        action, state = leaves.get(ACTION), leaves.get(STATE)
        seven = action is not None and action.shape == (7,)
        return bool(
            (seven or leaves.keys() >= DICT_ACTION.keys())
            and (state is not None and state.shape == (7,))
            and rlds.camera_keys(leaves)
        )

    return rlds.home(root, is_bridge, "BridgeData in any of its layouts", HOW_TO_GET)


def _raw_actions(record: Record) -> NDArray[np.float32]:
    """Actions [T, 7] as recorded, of either layout."""
    if ACTION in record.leaves:
        return record.numbers(ACTION, 7)
    parts = [record.numbers(key, width) for key, width in DICT_ACTION.items()]
    return np.concatenate(parts, axis=1)


def _action(
    raw_actions: NDArray[np.float32], raw_states: NDArray[np.float32], relabel: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Actions [T, 7] as recorded or between the poses reached, and the steps without a command."""
    action = bridge_convention.actions(raw_actions)
    if not relabel:
        return action, bridge_convention.idle_start(raw_actions)
    states = bridge_convention.states(raw_states)
    idle = np.zeros(len(action), np.bool_)
    idle[-1] = True  # nothing tells where the last step led to
    return bridge_convention.relabelled(states, action[:, 6]), idle


def _views(record: Record, cameras: list[str]) -> dict[str, Pictures]:
    """The cameras that were there; the number of them varies from episode to episode."""
    views = {rlds.view_name(key): record.pictures(key) for key in cameras}
    found = {name: pictures for name, pictures in views.items() if has_pictures(pictures)}
    if not found:
        raise MediaError(f"none of the views {', '.join(views)} shows anything in this episode")
    return found


def _episode_id(record: Record) -> str:
    """(b): the original recording and the number in it; (a) has no ids: a hash of the content."""
    path, number = recording(record.text(FILE_PATH)), record.single(NUMBER)
    if path and number is not None:
        return f"{path}#{number:.0f}"
    cameras = rlds.camera_keys(record.leaves)
    return record.content_id([ACTION, *DICT_ACTION, STATE, *TEXTS, *cameras])


ADAPTER = RobotAdapter(
    episodes=episodes,
    load=load,
    annotations=annotations,
    licence="cc-by-4.0",
    terms="CC BY 4.0: use, change and share it, with attribution.",
    how_to_get=HOW_TO_GET,
)
