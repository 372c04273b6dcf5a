"""RLDS: robot episodes in TFRecords with a features.json, as TFDS and Open X-Embodiment have them.

The folder is `<name>/<version>/` with `features.json`, `dataset_info.json` and any number of shards
`<name>-<split>.tfrecord-00000-of-01024`; a part of the shards, or renamed ones, is normal. RT-1 and
Bridge have adapters of their own that use what is here; this module's ADAPTER reads all other sets,
as they are stored: RLDS tells neither what actions mean nor how fast they follow each other.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import orjson
from numpy.typing import NDArray

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.formats import tfrecord
from handloom.stages.datasets.formats.tfds_features import (
    RAGGED,
    STEPS,
    VARIES,
    Leaf,
    Leaves,
    Record,
    parse,
    read_features,
)
from handloom.stages.datasets.source import (
    Episode,
    EpisodeOptions,
    RobotAdapter,
    SourceEpisode,
    inside,
)

HOW_TO_GET = (
    "Open X-Embodiment sets lie in the public bucket gs://gresearch/robotics: `gsutil -m cp -r "
    "gs://gresearch/robotics/NAME/VERSION DIR/NAME/` (from a few GB to some 400 GB each; a part of "
    "the shards will do, with features.json), or build any RLDS set with `tfds build`."
)

ACTION_NAMES = ("action",)
STATE_NAMES = ("observation/state", "observation/proprio")
TEXT_NAME = re.compile(r"(natural_)?language_instruction(_\d+)?|instruction|language|task")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LEFTOVERS = (".gstmp", ".part", ".crdownload", ".aria2", ".incomplete", ".tmp")  # of downloads
BESIDES = (".json", ".idx", ".index", ".txt", ".md5", ".sha256", ".xml")  # lists, checksums


@dataclass(frozen=True)
class Home:
    """A dataset folder: what its features.json says, its release and its shards.

    Attributes:
        folder: holds the shards.
        leaves: what the records hold.
        version: release, from dataset_info.json or the folder's name.
        shard_lengths: episodes of each shard by split, as far as dataset_info.json tells.
    """

    folder: Path
    leaves: Leaves
    version: str
    shard_lengths: dict[str, list[int]]


def home(root: Path, fits: Callable[[Leaves], bool], what: str, how_to_get: str) -> Home:
    """The one dataset at or below a folder (`.`, `<version>`, `<name>/<version>`) that fits.

    Raises:
        UserError: there is none, or more than one.
    """
    found = homes(root)
    fitting = [folder for folder in found if fits(read_features(folder / "features.json"))]
    if len(fitting) == 1:
        return _opened(fitting[0])
    if fitting:
        names = ", ".join(folder.relative_to(root).as_posix() for folder in fitting)
        raise UserError(
            f"{root} holds several datasets ({names}), whose episodes may be the same: name the "
            "folder of one of them."
        )
    if found:
        seen = ", ".join(list(read_features(found[0] / "features.json"))[:12])
        raise UserError(f"{found[0]} is not {what}: its records hold {seen}, ... {how_to_get}")
    loose = next((path.name for path in _shards(root) if path.is_file()), "")
    beside = f"{loose} lies there without a features.json" if loose else "there are no TFRecords"
    raise UserError(
        f"{root} is not {what}: expected VERSION/features.json and VERSION/*.tfrecord-* below it, "
        f"{beside}. {how_to_get}"
    )


def homes(root: Path) -> list[Path]:
    """Dataset folders by content, features.json and TFRecords, in name order."""
    folders = [root, *sorted(root.glob("*/")), *sorted(root.glob("*/*/"))]
    folders = [f for f in folders if not f.name.startswith("incomplete.")]  # of a broken build
    return [f for f in folders if (f / "features.json").is_file() and any(_shards(f))]


def listed(root: Path, dataset: Home, splits: dict[str, str]) -> Iterator[SourceEpisode]:
    """One SourceEpisode for each record of each shard, from the framing alone.

    A file that cannot be read, or breaks off, ends with one that has an `error`.

    Args:
        root: the data folder.
        dataset: what `home` found in it.
        splits: what the dataset's names of its splits become.

    Raises:
        UserError: the shards are in array_record format.
    """
    for path in _shards(dataset.folder):
        below = path.relative_to(root).as_posix()
        if not inside(root, below):
            continue
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
                error=place.fault,
            )
            if place.fault:
                break
        else:
            missing = _missing(path, dataset.shard_lengths.get(name, []), number + 1)
            if missing:
                unit = f"{below}#{number + 1}"
                yield SourceEpisode(unit, below, (), split, dataset.version, error=missing)


def opened(root: Path, source: SourceEpisode, wanted: Callable[[str], bool]) -> Record:
    """The record of an episode with its wanted keys. Raises MediaError if it is damaged."""
    if len(source.place) != 2:
        raise MediaError(f"{source.unit} is not a place in a TFRecord of this folder")
    path = root / source.media_path
    leaves = read_features(path.parent / "features.json")
    try:
        return parse(tfrecord.read(path, *source.place), leaves, wanted)
    except OSError as error:
        raise MediaError(f"{source.media_path} cannot be read ({error.strerror})") from None


def split_name(file_name: str) -> str:
    """The split that a shard's name tells: its last word, before `.tfrecord`, that is one."""
    words = re.findall("[a-z]+", file_name.lower().split(".tfrecord")[0])
    return next((word for word in reversed(words) if word in SPLITS), "")


def camera_keys(leaves: Leaves) -> list[str]:
    """Keys of the colour pictures; cameras on the wrist come last."""
    keys = [k for k, leaf in leaves.items() if leaf.is_picture and k.startswith(STEPS)]
    return sorted(keys, key=lambda key: (bool(re.search("wrist|hand|gripper", key)), key))


def view_name(key: str) -> str:
    """The camera of a key: `image_0` of `steps/observation/image_0`."""
    return key.removeprefix(STEPS).removeprefix("observation/")


def chosen_cameras(leaves: Leaves, options: EpisodeOptions) -> list[str]:
    """Keys of the cameras to keep, in the order of `options.views` if that is given.

    Raises:
        UserError: the dataset has no camera, or none of a name in `options.views`.
    """
    keys = {view_name(key): key for key in camera_keys(leaves)}
    if not keys:
        raise UserError("the dataset's features.json names no pictures in steps/observation.")
    for name in options.views:
        if name not in keys:
            raise UserError(f"there is no view {name!r}: this dataset has {', '.join(keys)}.")
    return [keys[name] for name in options.views] or list(keys.values())


def refuse_relabel(options: EpisodeOptions) -> None:
    """Raise UserError for an option that means nothing to a dataset, instead of ignoring it."""
    if options.relabel:
        raise UserError("--ingest.relabel is for bridge and calvin only: leave it out.")


def _opened(folder: Path) -> Home:
    leaves = read_features(folder / "features.json")
    told, lengths = {}, {}
    try:  # only a check hangs on this file: older copies lack it or parts of it
        told = orjson.loads((folder / "dataset_info.json").read_bytes())
        for split in told.get("splits") or []:
            lengths[str(split.get("name"))] = [int(n) for n in split.get("shardLengths") or []]
    except (OSError, AttributeError, TypeError, ValueError):
        told, lengths = {}, {}
    here = folder.resolve().name
    version = here if re.fullmatch(r"\d+\.\d+\.\d+", here) else str(told.get("version") or "")
    return Home(folder, leaves, version or "unknown", lengths)


def _shards(folder: Path) -> list[Path]:
    """Shards in name order, whatever the files are called otherwise."""
    names = [path for path in folder.glob("*") if not path.name.endswith(BESIDES)]
    kinds = (".tfrecord", ".array_record")
    return sorted(p for p in names if any(kind in p.name for kind in kinds) and p.name[0] != ".")


def _places(path: Path) -> Iterator[tfrecord.Place]:
    """The records of a file; one that is no TFRecord at all is one Place with a fault."""
    if path.name.endswith(LEFTOVERS):
        yield tfrecord.Place(0, 0, fault=f"{path.name} is left from a download that did not end")
        return
    try:
        yield from tfrecord.scan(path)
    except MediaError as error:
        yield tfrecord.Place(0, 0, fault=str(error))
    except OSError as error:
        yield tfrecord.Place(0, 0, fault=f"{path.name} cannot be read ({error.strerror})")


def _missing(path: Path, shard_lengths: Sequence[int], found: int) -> str:
    """What to say of a whole file with fewer records than promised: it was cut between two."""
    promised = 0 if found else 1
    place = re.search(r"-(\d+)-of-(\d+)$", path.name)
    if place and int(place[1]) < len(shard_lengths) == int(place[2]):
        promised = shard_lengths[int(place[1])]
    if found >= promised:
        return ""
    return f"{path.name} ends after {found} records, expected {promised}: download it again"


# The generic adapter.


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
    dataset = _home(root)
    chosen_cameras(dataset.leaves, options)
    _keys(dataset.leaves, options.action_key, ACTION_NAMES, "action")
    _keys(dataset.leaves, options.state_key, STATE_NAMES, "state")
    _text_keys(dataset.leaves, options)
    yield from listed(root, dataset, SPLITS)


def load(root: Path, source: SourceEpisode, options: EpisodeOptions) -> Episode:
    """Read one episode, as it is stored. Raises MediaError if it is damaged."""
    leaves = read_features((root / source.media_path).parent / "features.json")
    cameras = chosen_cameras(leaves, options)
    actions = _keys(leaves, options.action_key, ACTION_NAMES, "action")
    states = _keys(leaves, options.state_key, STATE_NAMES, "state")
    text_keys = _text_keys(leaves, options)
    content = [k for k in leaves if k.startswith((STEPS + "action", STEPS + "observation"))]
    content = [key for key in content if "embedding" not in key] + _text_keys(leaves, None)
    needed = {*cameras, *actions, *states, *text_keys, *content}
    record = opened(root, source, needed.__contains__)
    texts = list(dict.fromkeys(text for key in text_keys if (text := record.text(key))))
    action, state = _joined(record, actions), _joined(record, states)
    flags = ["joined_action"] * (len(actions) > 1) + ["joined_state"] * (len(states) > 1)
    kind = "as_stored" if options.action_kind == "auto" else options.action_kind
    if kind == "ee_delta" and (action.shape[1] % 7 or state.shape != action.shape):
        raise MediaError(
            f"actions of {action.shape[1]} and states of {state.shape[1]} numbers are not "
            "ee_delta, which has 7 of each for every arm; leave --ingest.action-kind out"
        )
    return Episode(
        episode_id=record.content_id(content),
        text=next(iter(texts), options.text),
        hz=options.hz,
        views={view_name(key): record.pictures(key) for key in cameras},
        state=state,
        action=action,
        action_kind=kind,
        other_texts=tuple(texts[1:]),
        flags=tuple(flags + ["no_state"] * (not states)),
        facts={"action_keys": " ".join(actions), "state_keys": " ".join(states)},
    )


def annotations(root: Path) -> list[Path]:
    """The files that say how the records are read."""
    return described(_home(root))


def described(dataset: Home) -> list[Path]:
    """features.json, and dataset_info.json if it is there."""
    paths = [dataset.folder / "features.json", dataset.folder / "dataset_info.json"]
    return [path for path in paths if path.is_file()]


def _home(root: Path) -> Home:
    def is_rlds(leaves: Leaves) -> bool:
        return any(key.startswith(STEPS) for key in leaves)

    return home(root, is_rlds, "an RLDS dataset", HOW_TO_GET)


def _keys(leaves: Leaves, told: str, names: Sequence[str], what: str) -> list[str]:
    """Keys of the numbers under a name, several in name order where it is a dict.

    Raises:
        UserError: the name that was told is not there, or there is no action under a usual name.
    """
    for name in (told,) if told else names:
        path = STEPS + name.removeprefix(STEPS).strip("/")
        found = [key for key in leaves if key == path or key.startswith(path + "/")]
        found = [key for key in found if _is_plain(leaves[key])]
        ragged = next((key for key in found if VARIES in leaves[key].shape), "")
        if ragged:
            raise UserError(f"{ragged} {RAGGED} (--ingest.{what}-key).")
        if found:
            return found
    if told or what == "action":
        there = [k for k in leaves if k.startswith(STEPS) and _is_plain(leaves[k])]
        looked = told or " or ".join(names)
        raise UserError(
            f"features.json has no numbers at {looked!r} below steps: name the {what} with "
            f"--ingest.{what}-key, one of {', '.join(key.removeprefix(STEPS) for key in there)}."
        )
    return []


def _is_plain(leaf: Leaf) -> bool:
    """Numbers that may be an action or a state: no pictures, no embeddings of the language."""
    return leaf.kind == "number" and not leaf.is_picture and "embedding" not in leaf.key


def _text_keys(leaves: Leaves, options: EpisodeOptions | None) -> list[str]:
    """Keys of the instruction, by option or under a usual name anywhere."""
    texts = [key for key, leaf in leaves.items() if leaf.kind == "text"]
    if options is None or not options.text_key:
        return [key for key in texts if TEXT_NAME.fullmatch(PurePosixPath(key).name)]
    told = options.text_key.strip("/")
    for key in (told, STEPS + told, STEPS + "observation/" + told):
        if key in texts:
            return [key]
    raise UserError(
        f"features.json has no text at {options.text_key!r}: --ingest.text-key can be "
        f"{', '.join(texts) or 'left out, it has none, and --ingest.text given'}."
    )


def _joined(record: Record, keys: Sequence[str]) -> NDArray[np.float32]:
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
