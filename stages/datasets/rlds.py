"""RLDS: robot episodes in TFRecords with a features.json, as TFDS and Open X-Embodiment store them.

The folder is `<name>/<version>/` with `features.json`, `dataset_info.json` and any number of shards
`<name>-<split>.tfrecord-00000-of-01024`; missing or renamed shards are normal. The adapters of RT-1
and Bridge use the functions of this module. Its own ADAPTER reads all other datasets, as they are
stored: RLDS states neither what actions mean nor their rate.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.formats import tfrecord
from handloom.stages.datasets.formats.json_stream import load_value
from handloom.stages.datasets.formats.tfds_features import (
    STEPS,
    Features,
    Record,
    parse_record,
    read_features,
)
from handloom.stages.datasets.formats.tfds_keys import number_keys, text_keys
from handloom.stages.datasets.joints import in_radians
from handloom.stages.datasets.source import (
    Episode,
    EpisodeOptions,
    RobotAdapter,
    SourceEpisode,
    is_inside,
    naming,
)

HOW_TO_GET = (
    "Open X-Embodiment sets lie in the public bucket gs://gresearch/robotics: `gsutil -m cp -r "
    "gs://gresearch/robotics/NAME/VERSION DIR/NAME/` (from a few GB to some 400 GB each; a part of "
    "the shards will do, with features.json), or build any RLDS set with `tfds build`."
)

ACTION_NAMES = ("action",)
STATE_NAMES = ("observation/state", "observation/proprio")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# Suffixes of unfinished downloads, and of lists and checksums beside the shards.
UNFINISHED = (".gstmp", ".part", ".crdownload", ".aria2", ".incomplete", ".tmp")
SIDE_FILES = (".json", ".idx", ".index", ".txt", ".md5", ".sha256", ".xml")


@dataclass(frozen=True)
class RldsDataset:
    """A dataset folder.

    Attributes:
        folder: of the shards.
        features: of the records, by key.
        version: the release, from the folder's name or dataset_info.json.
        shard_lengths: episodes of each shard by split, as far as dataset_info.json lists them.
    """

    folder: Path
    features: Features
    version: str
    shard_lengths: dict[str, list[int]]


def find_dataset(
    root: Path, matches: Callable[[Features], bool], what: str, how_to_get: str
) -> RldsDataset:
    """The one matching dataset at or below a folder (`.`, `<version>`, `<name>/<version>`).

    Args:
        root: the data folder.
        matches: whether features are those of the wanted dataset.
        what: name of the wanted dataset, for messages.
        how_to_get: how to obtain it, for messages.

    Raises:
        UserError: there is none, or more than one.
    """
    folders = find_datasets(root)
    matching = [folder for folder in folders if matches(read_features(folder / "features.json"))]
    if len(matching) == 1:
        return _read_dataset(matching[0])
    if matching:
        names = ", ".join(folder.relative_to(root).as_posix() for folder in matching)
        raise UserError(
            f"{root} holds several datasets ({names}), whose episodes may be the same: name the "
            "folder of one of them."
        )
    if folders:
        keys = ", ".join(list(read_features(folders[0] / "features.json"))[:12])
        raise UserError(f"{folders[0]} is not {what}: its records hold {keys}, ... {how_to_get}")
    stray = next((path for folder in _folders(root) for path in _shards(folder)), None)
    beside = "there are no TFRecords"
    if stray:
        below = stray.relative_to(root).as_posix()
        beside = (
            f"{below} lies there without a features.json, which says how its records are read: "
            "copy it from where the shards come from"
        )
    raise UserError(
        f"{root} is not {what}: expected VERSION/features.json and VERSION/*.tfrecord-* below it, "
        f"{beside}. {how_to_get}"
    )


def find_datasets(root: Path) -> list[Path]:
    """Folders with a features.json and shards, in name order."""
    return [f for f in _folders(root) if (f / "features.json").is_file() and any(_shards(f))]


def _folders(root: Path) -> list[Path]:
    folders = [root, *sorted(root.glob("*/")), *sorted(root.glob("*/*/"))]
    return [f for f in folders if not f.name.startswith("incomplete.")]  # of a broken build


def list_episodes(
    root: Path, dataset: RldsDataset, splits: dict[str, str]
) -> Iterator[SourceEpisode]:
    """One SourceEpisode for each record of each shard; only the framing is read.

    A file that cannot be read, or breaks off, ends with one that has an `error`.

    Args:
        root: the data folder.
        dataset: a dataset in it.
        splits: handloom's split for each split of the dataset; a dataset that holds nothing out,
            such as RT-1, which is all train, is split by hash.

    Raises:
        UserError: the shards are in array_record format.
    """
    paths = _shards(dataset.folder)
    names = {split_name(path.name) for path in paths} | dataset.shard_lengths.keys()
    if {splits.get(name, "") for name in names} <= {"train", ""}:
        splits = {}
    for path in paths:
        below = path.relative_to(root).as_posix()
        if not is_inside(root, below):
            continue  # a link that leads out of the data folder
        if ".array_record" in path.name:
            raise UserError(
                f"{path} is in array_record format, expected tfrecord: the bucket's copies are "
                "tfrecord, or convert it with `tfds convert_format`."
            )
        name = split_name(path.name)
        split, number = splits.get(name, ""), -1
        for number, place in enumerate(_places(path)):
            yield SourceEpisode(
                unit=f"{below}#{number}",
                media_path=below,
                place=(place.offset, place.length),
                split=split,
                version=dataset.version,
                error=place.error,
            )
            if place.error:
                break
        else:  # whole to its last byte, but records may be missing
            missing = _missing_records(path, dataset.shard_lengths.get(name, []), number + 1)
            if missing:
                unit = f"{below}#{number + 1}"
                yield SourceEpisode(unit, below, (), split, dataset.version, error=missing)


def read_record(root: Path, source: SourceEpisode, wanted: Callable[[str], bool]) -> Record:
    """The wanted keys of an episode's record. Raises MediaError if it is damaged."""
    if len(source.place) != 2:
        raise MediaError(f"{source.unit} is not a place in a TFRecord of this folder")
    path = root / source.media_path
    features = read_features(path.parent / "features.json")
    try:
        return parse_record(tfrecord.read(path, *source.place), features, wanted)
    except OSError as error:
        raise MediaError(f"{source.media_path} cannot be read ({error.strerror})") from None


def split_name(file_name: str) -> str:
    """The split in a shard's name: the last word before `.tfrecord` that is one, or empty."""
    words = re.findall("[a-z]+", file_name.lower().split(".tfrecord")[0])
    return next((word for word in reversed(words) if word in SPLITS), "")


def camera_keys(features: Features) -> list[str]:
    """Keys of the colour cameras, those on the wrist last."""
    keys = [k for k, feature in features.items() if feature.is_image and k.startswith(STEPS)]
    return sorted(keys, key=lambda key: (bool(re.search("wrist|hand|gripper", key)), key))


def view_name(key: str) -> str:
    """Name of a camera, such as `image_0` for the key `steps/observation/image_0`."""
    return key.removeprefix(STEPS).removeprefix("observation/")


def choose_cameras(features: Features, options: EpisodeOptions) -> list[str]:
    """Keys of the cameras to keep, in the order of `options.views` if that is given.

    Raises:
        UserError: the dataset has no camera, or none of a name in `options.views`.
    """
    keys = {view_name(key): key for key in camera_keys(features)}
    if not keys:
        raise UserError("the dataset's features.json names no pictures in steps/observation.")
    for name in options.views:
        if name not in keys:
            raise UserError(f"there is no view {name!r}: this dataset has {', '.join(keys)}.")
    return [keys[name] for name in options.views] or list(keys.values())


def refuse_relabel(options: EpisodeOptions) -> None:
    """Raise UserError for --ingest.relabel, which only some datasets support."""
    if options.relabel:
        raise UserError("--ingest.relabel is for bridge and calvin only: leave it out.")


def _read_dataset(folder: Path) -> RldsDataset:
    features = read_features(folder / "features.json")
    info, lengths = {}, {}
    try:  # optional, it only serves a check: older copies lack the file or parts of it
        info = load_value((folder / "dataset_info.json").read_bytes())
        for split in info.get("splits") or []:
            lengths[str(split.get("name"))] = [int(n) for n in split.get("shardLengths") or []]
    except (OSError, AttributeError, TypeError, ValueError):
        info, lengths = {}, {}
    name = folder.resolve().name
    version = name if re.fullmatch(r"\d+\.\d+\.\d+", name) else str(info.get("version") or "")
    return RldsDataset(folder, features, version or "unknown", lengths)


def _shards(folder: Path) -> list[Path]:
    """Files of a folder with a shard's suffix, in name order, whatever their names are."""
    names = [path for path in folder.glob("*") if not path.name.endswith(SIDE_FILES)]
    kinds = (".tfrecord", ".array_record")
    return sorted(p for p in names if any(kind in p.name for kind in kinds) and p.name[0] != ".")


def _places(path: Path) -> Iterator[tfrecord.Place]:
    """Places of a file's records; a file that is not a TFRecord is one Place with an error."""
    if path.name.endswith(UNFINISHED):
        yield tfrecord.Place(0, 0, error=f"{path.name} is left from a download that did not end")
        return
    try:
        yield from tfrecord.scan(path)
    except MediaError as error:
        yield tfrecord.Place(0, 0, error=str(error))
    except OSError as error:
        yield tfrecord.Place(0, 0, error=f"{path.name} cannot be read ({error.strerror})")


def _missing_records(path: Path, shard_lengths: Sequence[int], count: int) -> str:
    """The error of a file that was cut between two records, or empty if none is missing."""
    expected = 0 if count else 1  # without lengths, only an empty shard is known to be cut
    place = re.search(r"-(\d+)-of-(\d+)$", path.name)
    if place and int(place[1]) < len(shard_lengths) == int(place[2]):
        expected = shard_lengths[int(place[1])]
    if count >= expected:
        return ""
    return f"{path.name} ends after {count} records, expected {expected}: download it again"


# --- the generic adapter ------------------------------------------------------------------------


def episodes(root: Path, options: EpisodeOptions) -> Iterator[SourceEpisode]:
    """List the episodes of the one dataset below a folder.

    Raises:
        UserError: there is none, or an option is missing or names what is not there.
    """
    refuse_relabel(options)
    if not options.hz:
        raise UserError(
            "RLDS does not tell how many steps a second has: pass --ingest.hz with the control "
            "frequency from the dataset's paper (3 for RT-1, 5 for Bridge, 10 to 20 for most)."
        )
    dataset = _find_dataset(root)
    choose_cameras(dataset.features, options)
    number_keys(dataset.features, options.action_key, ACTION_NAMES, "action")
    number_keys(dataset.features, options.state_key, STATE_NAMES, "state")
    text_keys(dataset.features, options)
    yield from list_episodes(root, dataset, SPLITS)


def load(root: Path, source: SourceEpisode, options: EpisodeOptions) -> Episode:
    """Read one episode, as it is stored. Raises MediaError if it is damaged."""
    with naming(source.unit):
        return _load(root, source, options)


def _load(root: Path, source: SourceEpisode, options: EpisodeOptions) -> Episode:
    features = read_features((root / source.media_path).parent / "features.json")
    cameras = choose_cameras(features, options)
    actions = number_keys(features, options.action_key, ACTION_NAMES, "action")
    states = number_keys(features, options.state_key, STATE_NAMES, "state")
    instructions = text_keys(features, options)
    # What the episode id hashes. Embeddings of the instruction follow from its text.
    content = [k for k in features if k.startswith((STEPS + "action", STEPS + "observation"))]
    content = [key for key in content if "embedding" not in key] + text_keys(features, None)
    needed = {*cameras, *actions, *states, *instructions, *content}
    record = read_record(root, source, needed.__contains__)
    texts = list(dict.fromkeys(text for key in instructions if (text := record.text(key))))
    action, state = _join(record, actions), _join(record, states)
    flags = ["joined_action"] * (len(actions) > 1) + ["joined_state"] * (len(states) > 1)
    kind = "as_stored" if options.action_kind == "auto" else options.action_kind
    # RLDS does not state what the numbers mean: the user does, who may err about their count.
    if kind == "ee_delta" and (action.shape[1] % 7 or state.shape != action.shape):
        raise MediaError(
            f"actions of {action.shape[1]} and states of {state.shape[1]} numbers are not "
            "ee_delta, which has 7 of each for every arm; leave --ingest.action-kind out"
        )
    joints = in_radians(state, action, options.joint_unit) if kind == "joints" else None
    return Episode(
        episode_id=record.content_id(content),
        text=next(iter(texts), options.text),
        hz=options.hz,
        views={view_name(key): record.images(key) for key in cameras},
        state=joints.state if joints else state,
        action=joints.action if joints else action,
        action_kind=kind,
        grippers=joints.grippers if joints else (),
        other_texts=tuple(texts[1:]),
        flags=tuple(flags + ["no_state"] * (not states)),
        facts={"action_keys": " ".join(actions), "state_keys": " ".join(states)}
        | (joints.facts if joints else {}),
    )


def annotations(root: Path) -> list[Path]:
    """The files that say how the records are read."""
    return description_files(_find_dataset(root))


def description_files(dataset: RldsDataset) -> list[Path]:
    """features.json, and dataset_info.json if it is there."""
    paths = [dataset.folder / "features.json", dataset.folder / "dataset_info.json"]
    return [path for path in paths if path.is_file()]


def _find_dataset(root: Path) -> RldsDataset:
    def is_rlds(features: Features) -> bool:
        return any(key.startswith(STEPS) for key in features)

    return find_dataset(root, is_rlds, "an RLDS dataset", HOW_TO_GET)


def _join(record: Record, keys: Sequence[str]) -> NDArray[np.float32]:
    """Numbers of several keys side by side, float32 [T, sum of widths]."""
    parts = [record.numbers(key) for key in keys]
    return np.concatenate([np.empty((record.steps, 0), np.float32), *parts], axis=1)


ADAPTER = RobotAdapter(
    episodes=episodes,
    load=load,
    annotations=annotations,
    licence="unknown",
    terms="Each RLDS dataset has a licence of its own: look it up and pass --ingest.licence.",
    how_to_get=HOW_TO_GET,
)
