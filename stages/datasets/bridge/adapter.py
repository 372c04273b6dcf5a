"""BridgeData: a WidowX arm in toy kitchens, 5 Hz, in three layouts with nearly equal names.

(a) `bridge` 0.1.0 of Open X-Embodiment: actions are a dict, one camera, splits train and test.
(b) `bridge_dataset` 1.0.0: actions are 7 numbers, up to four cameras, splits train and val.
(c) the raw recordings, and the .npy and .tfrecord files made of them: see raw.py.

They are recognised by their content, since names differ and the descriptions in (b)'s features.json
are those of another robot. All three hold largely the same trajectories: use one of them. Actions
and states keep Bridge's default pose (flag `bridge_default_pose`, see convention.py).
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError
from handloom.stages.datasets import rlds
from handloom.stages.datasets.bridge import convention, raw
from handloom.stages.datasets.formats.tfds_features import Features, Record, read_features
from handloom.stages.datasets.source import (
    Episode,
    EpisodeOptions,
    Images,
    RobotAdapter,
    SourceEpisode,
    naming,
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

# (a) has only train and test. No benchmark uses its test split, so that it serves as val.
SPLITS = rlds.SPLITS | {"test": "val"}


def episodes(root: Path, options: EpisodeOptions) -> Iterator[SourceEpisode]:
    """List the episodes of any of the layouts. Raises UserError if the folder holds none."""
    if _is_raw(root):
        yield from raw.episodes(root, options)
        return
    dataset = _find_dataset(root)
    rlds.choose_cameras(dataset.features, options)
    yield from rlds.list_episodes(root, dataset, SPLITS)


def load(root: Path, source: SourceEpisode, options: EpisodeOptions) -> Episode:
    """Read one episode. Raises MediaError if it is damaged."""
    description = (root / source.media_path).parent / "features.json"
    if not description.is_file():
        return raw.load(root, source, options)
    with naming(source.unit):
        return _load_record(root, source, options, read_features(description))


def _load_record(
    root: Path, source: SourceEpisode, options: EpisodeOptions, features: Features
) -> Episode:
    cameras = rlds.choose_cameras(features, options)
    wanted = {ACTION, *DICT_ACTION, STATE, *TEXTS, FILE_PATH, NUMBER, *rlds.camera_keys(features)}
    record = rlds.read_record(root, source, wanted.__contains__)
    raw_states = record.numbers(STATE, 7)
    action, idle = _action(_raw_actions(record), raw_states, options.relabel)
    flags = ("bridge_default_pose",) + ("relabelled",) * options.relabel
    return Episode(
        episode_id=_episode_id(record),
        text=next((text for key in TEXTS if (text := record.text(key))), options.text),
        hz=options.hz or HZ,
        views=_views(record, cameras),
        state=convention.convert_states(raw_states),
        action=action,
        action_kind="ee_delta",
        idle=idle,
        flags=flags,
        facts={"recording": path} if (path := recording_path(record.text(FILE_PATH))) else {},
    )


def annotations(root: Path) -> list[Path]:
    """The files that say how the episodes are read."""
    if _is_raw(root):
        return raw.annotations(root)
    return rlds.description_files(_find_dataset(root))


def recording_path(file_path: str) -> str:
    """The part of a file_path that does not depend on the machine on which the set was built.

    `/nfs/x/numpy_256/bridge_data_v1/berkeley/toysink2/put_cup/val/out.npy` becomes
    `bridge_data_v1/berkeley/toysink2/put_cup/val/out.npy`; what lay below `scripted_numpy_256`, the
    scripted grasping, gets `scripted/` in front.
    """
    parts = [part for part in re.split(r"[/\\]", file_path) if part not in ("", ".", "..")]
    for i in range(len(parts) - 1, -1, -1):
        base = re.fullmatch(r"(scripted_)?numpy(_\d+)?", parts[i])
        if base:
            return "/".join(["scripted"] * bool(base[1]) + parts[i + 1 :])
    return "/".join(parts)


def has_images(images: Images) -> bool:
    """Whether a camera was there: absent ones are stored as black images, all of the same bytes.

    The dataset's own has_image_* flags are always 0, by a mistake of its builder.
    """
    first = images.fingerprint(0)
    if any(images.fingerprint(step) != first for step in range(1, len(images))):
        return True
    return bool(images[0].any())


def _is_raw(root: Path) -> bool:
    """Whether the folder holds layout (c); one with a features.json does not."""
    return not rlds.find_datasets(root) and raw.contains_recordings(root)


def _find_dataset(root: Path) -> rlds.RldsDataset:
    def is_bridge(features: Features) -> bool:
        action, state = features.get(ACTION), features.get(STATE)
        seven = action is not None and action.shape == (7,)
        return bool(
            (seven or features.keys() >= DICT_ACTION.keys())
            and (state is not None and state.shape == (7,))
            and rlds.camera_keys(features)
        )

    return rlds.find_dataset(root, is_bridge, "BridgeData in any of its layouts", HOW_TO_GET)


def _raw_actions(record: Record) -> NDArray[np.float32]:
    """Actions [T, 7] as recorded, from either layout."""
    if ACTION in record.features:
        return record.numbers(ACTION, 7)
    parts = [record.numbers(key, width) for key, width in DICT_ACTION.items()]
    return np.concatenate(parts, axis=1)


def _action(
    raw_actions: NDArray[np.float32], raw_states: NDArray[np.float32], relabel: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Actions [T, 7] as commanded, or between the poses reached, and the idle steps [T]."""
    action = convention.convert_actions(raw_actions)
    if not relabel:
        return action, convention.idle_first_step(raw_actions)
    states = convention.convert_states(raw_states)
    idle = np.zeros(len(action), np.bool_)
    idle[-1] = True  # the pose after the last step is unknown
    return convention.relabel(states, action[:, 6]), idle


def _views(record: Record, cameras: list[str]) -> dict[str, Images]:
    """The cameras that were there; their number varies from episode to episode."""
    views = {rlds.view_name(key): record.images(key) for key in cameras}
    filmed = {name: images for name, images in views.items() if has_images(images)}
    if not filmed:
        raise MediaError(f"none of the views {', '.join(views)} shows anything in this episode")
    return filmed


def _episode_id(record: Record) -> str:
    """The original recording and the number in it; a hash of the content for (a), without ids."""
    path, number = recording_path(record.text(FILE_PATH)), record.scalar(NUMBER)
    if path and number is not None:
        return f"{path}#{number:.0f}"
    cameras = rlds.camera_keys(record.features)
    return record.content_id([ACTION, *DICT_ACTION, STATE, *TEXTS, *cameras])


ADAPTER = RobotAdapter(
    episodes=episodes,
    load=load,
    annotations=annotations,
    licence="cc-by-4.0",
    terms="CC BY 4.0: use, change and share it, with attribution.",
    how_to_get=HOW_TO_GET,
)
