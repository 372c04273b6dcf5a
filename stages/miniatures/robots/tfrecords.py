"""TFRecords of tf.train.Examples as TensorFlow Datasets writes them, without TensorFlow.

A record is length (uint64), masked CRC-32C of the length, payload, masked CRC-32C of the payload,
all little endian. The features of an episode's steps lie one after the other in one list per key.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from handloom.stages.datasets.formats.tfrecord import masked_crc
from handloom.stages.miniatures.folder import write_bytes, write_json

Values = list[bytes] | NDArray[Any]
Tree = dict[str, Union["FeatureSpec", "Tree"]]

CLASS = "tensorflow_datasets.core.features."


@dataclass(frozen=True)
class FeatureSpec:
    """A feature: `kind` is tensor, scalar, text or image; `encoding` is an image's, or empty."""

    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    kind: str = "tensor"
    encoding: str = ""

    def json(self) -> dict[str, Any]:
        """The feature's node in features.json."""
        dimensions = {"dimensions": [str(n) for n in self.shape]} if self.shape else {}
        if self.kind == "text":
            return {"pythonClassName": CLASS + "text_feature.Text", "text": {}}
        if self.kind == "image":
            body: dict[str, Any] = {"shape": dimensions, "dtype": "uint8"}
            if self.encoding:
                body["encodingFormat"] = self.encoding
            return {"pythonClassName": CLASS + "image_feature.Image", "image": body}
        name = "scalar.Scalar" if self.kind == "scalar" else "tensor_feature.Tensor"
        body = {"shape": dimensions, "dtype": self.dtype, "encoding": "none"}
        return {"pythonClassName": CLASS + name, "tensor": body}


def features_json(steps: Tree, episode: Tree) -> dict[str, Any]:
    """Content of features.json for episodes of steps."""
    sequence = {"feature": _dictionary(steps), "length": "-1"}
    dataset = {"pythonClassName": CLASS + "dataset_feature.Dataset", "sequence": sequence}
    root = _dictionary(episode)
    root["featuresDict"]["features"] = {"steps": dataset, **root["featuresDict"]["features"]}
    return root


def _dictionary(tree: Tree) -> dict[str, Any]:
    features = {
        k: v.json() if isinstance(v, FeatureSpec) else _dictionary(v) for k, v in tree.items()
    }
    name = CLASS + "features_dict.FeaturesDict"
    return {"pythonClassName": name, "featuresDict": {"features": features}}


def frame_record(payload: bytes) -> bytes:
    """A payload framed by lengths and checksums."""
    length = struct.pack("<Q", len(payload))
    crcs = struct.pack("<I", masked_crc(length)), struct.pack("<I", masked_crc(payload))
    return length + crcs[0] + payload + crcs[1]


def encode_example(features: Mapping[str, Values], rng: np.random.Generator) -> bytes:
    """A serialised tf.train.Example, its map in random order, as TensorFlow writes it.

    Args:
        features: bytes, floats (stored as float32) or integers and bools (as int64) by key.
        rng: for the order.
    """
    keys = list(features)
    entries = b"".join(_entry(keys[i], features[keys[i]]) for i in rng.permutation(len(keys)))
    return _field(1, entries)


def _entry(key: str, values: Values) -> bytes:
    if isinstance(values, list):
        feature = _field(1, b"".join(_field(1, value) for value in values))
    elif values.dtype.kind == "f":
        feature = _field(2, _field(1, np.asarray(values, "<f4").tobytes()))
    else:
        numbers = np.asarray(values, np.int64).ravel().view(np.uint64)
        feature = _field(3, _field(1, b"".join(_varint(int(n)) for n in numbers)))
    return _field(1, _field(1, key.encode()) + _field(2, feature))


def _field(number: int, content: bytes) -> bytes:
    """A field of a message that holds bytes or another message."""
    # Wire type 2: a length and as many bytes.
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Values]:
    """Nested features as one map, the names joined by slashes."""
    flat: dict[str, Values] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = value
    return flat


def step_flags(count: int) -> dict[str, Values]:
    """is_first, is_last and is_terminal of an episode that ends where its recording ends."""
    last = np.arange(count) == count - 1
    return {"is_first": np.arange(count) == 0, "is_last": last, "is_terminal": last}


@dataclass(frozen=True)
class Shards:
    """A split: payloads by shard number; the others of `count` shards were not downloaded."""

    name: str
    count: int
    payloads: dict[int, list[bytes]]
    truncated: tuple[int, ...] = ()  # shards whose last record is cut off


def write_dataset(
    folder: Path, name: str, about: Mapping[str, Any], features: Mapping[str, Any],
    splits: Iterable[Shards],
) -> None:  # fmt: skip
    """Write `<folder>/<shards and the two JSON files>` of a dataset.

    Args:
        folder: named by the version; a shard is `<name>-<split>.tfrecord-00000-of-01024`.
        name: of the dataset.
        about: version and description.
        features: content of features.json.
        splits: the shards of each; one without a record is left out.
    """
    split_infos = []
    for split in (split for split in splits if any(split.payloads.values())):
        for number, payloads in split.payloads.items():
            content = b"".join(frame_record(payload) for payload in payloads)
            if number in split.truncated:
                # Inside the last record.
                content = content[: len(content) - len(payloads[-1]) // 3]
            file = f"{name}-{split.name}.tfrecord-{number:05d}-of-{split.count:05d}"
            write_bytes(folder / file, content)
        split_infos.append(_split_info(split))
    write_json(folder / "features.json", features)
    info: dict[str, Any] = {
        "fileFormat": "tfrecord",
        "moduleName": f"{name}.{name}_dataset_builder",
    }
    info |= {"name": name, "releaseNotes": {about["version"]: "Initial release."}}
    write_json(folder / "dataset_info.json", {**about, **info, "splits": split_infos})


def _split_info(split: Shards) -> dict[str, Any]:
    """The entry of a split in dataset_info.json, which lists absent shards as well."""
    # Absent shards claim 60 to 99 episodes.
    lengths = [len(split.payloads.get(i, range(60 + i * 37 % 40))) for i in range(split.count)]
    sizes = [len(p) for payloads in split.payloads.values() for p in payloads]
    absent = sum(n for i, n in enumerate(lengths) if i not in split.payloads)
    return {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": split.name,
        "numBytes": str(sum(sizes) + absent * (sum(sizes) // len(sizes))),
        "shardLengths": [str(n) for n in lengths],
    }
