"""Episodes as TensorFlow Datasets (TFDS) writes them, decoded as their features.json says.

`read_features` reads features.json, `parse_record` decodes one record, which is one episode. Nested
names are joined by `/`; below `steps/` the values of all T steps follow each other, T times the
inner shape, row-major. Integers and flags are stored as int64 and floats as float32, whatever they
were (so float64 has lost precision), texts and images as bytes.
"""

import hashlib
import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.formats import tf_example
from handloom.stages.datasets.formats.images import ArrayImages, EncodedImages
from handloom.stages.datasets.formats.json_stream import load_value
from handloom.stages.datasets.formats.tf_example import Values
from handloom.stages.datasets.media import cached_by_file
from handloom.stages.datasets.source import Images

STEPS = "steps/"
# Keys with one number a step: the count of their values is T.
STEP_SCALARS = ("is_first", "is_last", "is_terminal", "discount", "reward")
MAX_JSON = 1 << 24  # bytes of a features.json
MAX_TENSOR = 1 << 31  # bytes of an episode's tensors under one key, decoded
VARIES = -1  # length of a dimension that differs from step to step


@dataclass(frozen=True)
class Feature:
    """A key of the record, and the kind, shape and type of its values.

    Attributes:
        key: as in the record, `steps/observation/state`.
        kind: image, text, number or other.
        shape: of the value of one step, with VARIES where a dimension is not fixed.
        dtype: numpy's name of the type before storing.
        encoding: none; or bytes or zlib, where each tensor is stored as one string.
    """

    key: str
    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    encoding: str = "none"

    @property
    def is_image(self) -> bool:
        """Whether it is a camera's colour image; depth has one channel or more than 8 bits."""
        colours = not self.shape or (len(self.shape) == 3 and self.shape[-1] in (3, 4, VARIES))
        if self.kind == "number":
            return self.dtype == "uint8" and len(self.shape) == 3 and self.shape[-1] == 3
        return self.kind == "image" and self.dtype in ("", "uint8") and colours


Features = dict[str, Feature]

RAGGED = (
    "may have another shape at every step (a ragged tensor), which handloom does not read; name "
    "another key, or build the dataset with fixed shapes"
)


def read_features(path: Path) -> Features:
    """The features that a features.json describes, by key, in name order.

    Raises:
        UserError: the file is not there or not a description of features.
    """
    try:
        return _read_features(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): it says how the records are to be read, "
            "copy it from where the records come from."
        ) from None


@cached_by_file(maxsize=8)  # a worker loads thousands of episodes of one dataset
def _read_features(path: Path) -> Features:
    features: Features = {}
    try:
        if (size := path.stat().st_size) > MAX_JSON:
            raise ValueError(f"{size} bytes")
        _collect(load_value(path.read_bytes()), "", (), features)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} does not describe TFDS features ({type(error).__name__}: {error}); copy it "
            "again from where the records come from."
        ) from None
    return dict(sorted(features.items()))


def _collect(node: dict[str, Any], key: str, outer: tuple[int, ...], features: Features) -> None:
    """Collect the features below a node; `outer` is the shape that sequences around it add."""
    if "featuresDict" in node:
        for name, inner in (node["featuresDict"].get("features") or {}).items():
            _collect(inner, f"{key}/{name}" if key else name, outer, features)
    elif "sequence" in node:
        # The steps are a sequence themselves. One within it is stored in ragged form, even if its
        # length is fixed.
        around = outer if key == "steps" else (*outer, VARIES)
        _collect(node["sequence"]["feature"], key, around, features)
    else:
        features[key] = _parse_feature(node, key, outer)


def _parse_feature(node: dict[str, Any], key: str, outer: tuple[int, ...]) -> Feature:
    """The feature of a node, by its content: class names differ between versions of TFDS."""
    if "text" in node:
        return Feature(key, "text", outer, "string")
    kind = "image" if "image" in node else "tensor" if "tensor" in node else ""
    content = node.get(kind) or {}
    inner = tuple(int(n) for n in (content.get("shape") or {}).get("dimensions") or ())
    if any(n < VARIES for n in inner):
        raise ValueError(f"{key} has the shape {inner}")
    dtype = str(content.get("dtype") or "")
    if kind == "image":
        return Feature(key, "other" if outer else "image", inner, dtype)
    if kind == "tensor":
        kind = "text" if dtype in ("string", "object") else "number"
        return Feature(
            key, kind, outer + inner, dtype, str(content.get("encoding") or "none").lower()
        )
    if "classLabel" in node:
        return Feature(key, "number", outer, "int64")
    return Feature(key, "other", outer)


@dataclass(frozen=True)
class Record:
    """The values of one episode.

    Attributes:
        features: how values are read, by key.
        values: as stored, by key.
        steps: T, the number of steps.
    """

    features: Features
    values: dict[str, Values]
    steps: int

    def numbers(self, key: str, width: int = 0) -> NDArray[np.float32]:
        """Numbers of each step, float32 [T, width], inner shapes flattened.

        Raises:
            MediaError: there are none, or not T times the shape, or another width than expected,
                or some are not finite.
        """
        values = self.array(key)
        # Not -1 for the width: numpy cannot infer it where T is 0.
        numbers = values.reshape(len(values), math.prod(values.shape[1:])).astype(np.float32)
        if width and numbers.shape[1] != width:
            raise MediaError(f"{key} has {numbers.shape[1]} numbers a step, expected {width}")
        if not np.isfinite(numbers).all():
            raise MediaError(f"{key} holds values that are not finite; download the file again")
        return numbers

    def array(self, key: str) -> NDArray[Any]:
        """Values of each step in their own shape and type, [T, ...]. Raises MediaError."""
        feature = self._feature(key)
        stored = self.values[key]
        if feature.encoding != "none" and isinstance(stored, list):
            return _decode_tensors(feature, stored, self._count_steps(feature, len(stored), 1))
        if isinstance(stored, list) and stored:
            raise MediaError(f"{key} holds bytes, features.json says {feature.dtype}")
        steps = self._count_steps(feature, len(stored), math.prod(feature.shape))
        return np.asarray(stored).astype(_dtype(feature)).reshape(steps, *feature.shape)

    def texts(self, key: str) -> list[str]:
        """Texts under a key, one for each step or one for the episode; none if it is absent."""
        stored = self.values.get(key, [])
        if not isinstance(stored, list):
            raise MediaError(f"{key} holds numbers, features.json says text")
        return [bytes(text).decode(errors="replace") for text in stored]

    def text(self, key: str) -> str:
        """The first text under a key that is not blank, or an empty one."""
        return next((text for text in self.texts(key) if text.strip()), "")

    def scalar(self, key: str) -> float | None:
        """The number under a key outside the steps, or None if it is absent."""
        stored = self.values.get(key)
        return float(stored[0]) if isinstance(stored, np.ndarray) and len(stored) else None

    def images(self, key: str) -> Images:
        """The images of a camera, one a step. Raises MediaError if there are not T."""
        feature, name = self._feature(key), key.removeprefix(STEPS + "observation/")
        stored = self.values[key]
        if feature.kind == "number":
            return ArrayImages(self.array(key), name)
        if not isinstance(stored, list):
            raise MediaError(f"{key} holds numbers, features.json says pictures")
        self._count_steps(feature, len(stored), 1)
        return EncodedImages(stored, name)

    def content_id(self, keys: Iterable[str]) -> str:
        """A hash, 32 hex digits, of the values of some keys; of images the first and last count.

        The record's own bytes would not do: TFDS writes the map of keys in another order in every
        process, so that two builds of the same data differ. Absent keys count as empty.
        """
        digest = hashlib.blake2b(str(self.steps).encode(), digest_size=16)
        for key in sorted(keys):
            feature, stored = self.features.get(key), self.values.get(key, [])
            if isinstance(stored, np.ndarray):  # in one byte order: ids are equal on all machines
                parts = [stored.astype(stored.dtype.newbyteorder("<")).tobytes()]
            else:
                ends = feature is not None and feature.kind == "image" and len(stored) > 2
                parts = [bytes(part) for part in ([stored[0], stored[-1]] if ends else stored)]
            for part in (key.encode(), *parts):
                # With its length, as else "ab" "c" and "a" "bc" would have one hash.
                digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    def _feature(self, key: str) -> Feature:
        """The feature of a key that must be there, in a shape that can be read."""
        feature = self.features.get(key)
        if feature is not None and feature.kind != "image" and VARIES in feature.shape:
            raise MediaError(f"{key} {RAGGED}")
        if key not in self.features or key not in self.values:
            where = "the record" if key in self.features else "features.json"
            raise MediaError(f"{key} is not in {where}, whose keys handloom reads by name")
        return self.features[key]

    def _count_steps(self, feature: Feature, count: int, each: int) -> int:
        """The number of steps, 1 outside of them, after a check that each has `each` values."""
        steps = self.steps if feature.key.startswith(STEPS) else 1
        if count != steps * each:
            raise MediaError(
                f"{feature.key} has {count} values, expected {steps * each} for {steps} steps; "
                "download the file again"
            )
        return steps


def parse_record(payload: bytes, features: Features, wanted: Callable[[str], bool]) -> Record:
    """Decode the wanted keys of an episode.

    Raises:
        MediaError: the record is damaged, or has no key that gives the number of steps.
    """
    step_scalars = [STEPS + name for name in STEP_SCALARS]
    values = tf_example.parse(payload, lambda key: wanted(key) or key in step_scalars)
    steps = next((len(values[key]) for key in step_scalars if key in values), 0)
    if not steps:
        raise MediaError("the record has no steps/is_first: not one step, or not an RLDS episode")
    return Record(features, values, steps)


def _dtype(feature: Feature) -> np.dtype[Any]:
    """numpy's type of a tensor; bfloat16, which numpy lacks, is stored as float32."""
    try:
        return np.dtype("float32" if feature.dtype == "bfloat16" else feature.dtype)
    except TypeError:
        raise MediaError(f"{feature.key} has the unknown type {feature.dtype}") from None


def _decode_tensors(feature: Feature, stored: list[memoryview], steps: int) -> NDArray[Any]:
    """Tensors [T, ...] that are stored as one string a step, raw or deflated."""
    dtype = _dtype(feature)
    size = math.prod(feature.shape) * dtype.itemsize
    if steps * size > MAX_TENSOR:
        raise MediaError(f"{feature.key} would take {steps * size} bytes, at most {MAX_TENSOR} are")
    tensors = np.empty((steps, *feature.shape), dtype)
    for step, data in enumerate(stored):
        raw = bytes(data)
        if feature.encoding == "zlib":
            try:  # a few bytes can claim to be gigabytes: no more is unpacked than is expected
                raw = zlib.decompressobj().decompress(raw, size + 1)
            except zlib.error as error:
                raise MediaError(f"{feature.key} is damaged at step {step} ({error})") from None
        if len(raw) != size:
            raise MediaError(f"{feature.key} has {len(raw)} bytes at step {step}, expected {size}")
        tensors[step] = np.frombuffer(raw, dtype.newbyteorder("<")).reshape(feature.shape)
    return tensors
