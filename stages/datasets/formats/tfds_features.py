"""Decoding episodes that TFDS wrote, driven by the features.json beside them.

One record is one episode. Nested names are joined by `/`; below `steps/` the values of all T steps
follow each other, T times the inner shape, row-major. Integers and flags are stored as int64 and
floats as float32, whatever they were (so float64 has lost precision), texts and pictures as bytes.
"""

import hashlib
import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.formats import tf_example as example
from handloom.stages.datasets.formats.images import ArrayPictures, EncodedPictures
from handloom.stages.datasets.formats.tf_example import Values
from handloom.stages.datasets.source import Pictures

STEPS = "steps/"
COUNTED = ("is_first", "is_last", "is_terminal", "discount", "reward")  # one number for each step
MAX_JSON = 1 << 24
MAX_TENSOR = 1 << 31  # bytes of an episode's tensors under one key, unpacked
VARIES = -1  # a dimension that differs from step to step


@dataclass(frozen=True)
class Leaf:
    """How one key of the record is to be read.

    Attributes:
        key: as in the record, `steps/observation/state`.
        kind: image, text, number or other.
        shape: of one value (one step's); VARIES where a dimension is not fixed.
        dtype: numpy's name of what it was before it was stored.
        encoding: none, or bytes or zlib for tensors stored as one string each.
    """

    key: str
    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    encoding: str = "none"

    @property
    def is_picture(self) -> bool:
        """Colours for a camera view; depth has one channel or more than 8 bits."""
        colours = not self.shape or (len(self.shape) == 3 and self.shape[-1] in (3, 4, VARIES))
        if self.kind == "number":
            return self.dtype == "uint8" and len(self.shape) == 3 and self.shape[-1] == 3
        return self.kind == "image" and self.dtype in ("", "uint8") and colours


Leaves = dict[str, Leaf]

RAGGED = (
    "may have another shape at every step (a ragged tensor), which handloom does not read; name "
    "another key, or build the dataset with fixed shapes"
)


def read_features(path: Path) -> Leaves:
    """The leaves that a features.json describes, by key, in name order.

    Raises:
        UserError: the file is not there or not a description of features.
    """
    try:
        stat = path.stat()
        return _read_features(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): it says how the records are to be read, "
            "copy it from where the records come from."
        ) from None


@lru_cache(maxsize=8)  # a worker loads thousands of episodes of one dataset
def _read_features(path: Path, mtime_ns: int, size: int) -> Leaves:
    found: Leaves = {}
    try:
        if size > MAX_JSON:
            raise ValueError(f"{size} bytes")
        _walk(orjson.loads(path.read_bytes()), "", (), found)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} does not describe TFDS features ({type(error).__name__}: {error}); copy it "
            "again from where the records come from."
        ) from None
    return dict(sorted(found.items()))


def _walk(feature: dict[str, Any], key: str, outer: tuple[int, ...], found: Leaves) -> None:
    """Collect the leaves below one node; `outer` is the shape that sequences around it add."""
    if "featuresDict" in feature:
        for name, inner in (feature["featuresDict"].get("features") or {}).items():
            _walk(inner, f"{key}/{name}" if key else name, outer, found)
    elif "sequence" in feature:
        # The steps are a sequence themselves. One within it is stored in ragged form, even if its
        # length is fixed.
        around = outer if key == "steps" else (*outer, VARIES)
        _walk(feature["sequence"]["feature"], key, around, found)
    else:
        found[key] = _leaf(feature, key, outer)


def _leaf(feature: dict[str, Any], key: str, outer: tuple[int, ...]) -> Leaf:
    """A leaf, told by its content: class names differ from one TFDS version to the next."""
    if "text" in feature:
        return Leaf(key, "text", outer, "string")
    kind = "image" if "image" in feature else "tensor" if "tensor" in feature else ""
    told = feature.get(kind) or {}
    inner = tuple(int(n) for n in (told.get("shape") or {}).get("dimensions") or ())
    if any(n < VARIES for n in inner):
        raise ValueError(f"{key} has the shape {inner}")
    dtype = str(told.get("dtype") or "")
    if kind == "image":
        return Leaf(key, "other" if outer else "image", inner, dtype)
    if kind == "tensor":
        kind = "text" if dtype in ("string", "object") else "number"
        return Leaf(key, kind, outer + inner, dtype, str(told.get("encoding") or "none").lower())
    if "classLabel" in feature:
        return Leaf(key, "number", outer, "int64")
    return Leaf(key, "other", outer)


@dataclass(frozen=True)
class Record:
    """An episode's values with what features.json says of them.

    Attributes:
        leaves: by key.
        values: by key, as stored.
        steps: T.
    """

    leaves: Leaves
    values: dict[str, Values]
    steps: int

    def numbers(self, key: str, width: int = 0) -> NDArray[np.float32]:
        """Numbers of each step as float32 [T, width], inner shapes made flat.

        Raises:
            MediaError: there are none, not T times as many, another width, or not all are finite.
        """
        values = self.array(key)
        found = values.reshape(len(values), math.prod(values.shape[1:])).astype(np.float32)
        if width and found.shape[1] != width:
            raise MediaError(f"{key} has {found.shape[1]} numbers a step, expected {width}")
        if not np.isfinite(found).all():
            raise MediaError(f"{key} holds values that are not finite; download the file again")
        return found

    def array(self, key: str) -> NDArray[Any]:
        """Numbers of each step in their own shape and type [T, ...]. Raises MediaError."""
        leaf = self._leaf(key)
        stored = self.values[key]
        if leaf.encoding != "none" and isinstance(stored, list):
            return _unpacked(leaf, stored, self._count(leaf, len(stored), 1))
        if isinstance(stored, list) and stored:
            raise MediaError(f"{key} holds bytes, features.json says {leaf.dtype}")
        steps = self._count(leaf, len(stored), math.prod(leaf.shape))
        return np.asarray(stored).astype(_dtype(leaf)).reshape(steps, *leaf.shape)

    def texts(self, key: str) -> list[str]:
        """Texts under a key, as stored, of a step each or of the episode; none if it is absent."""
        stored = self.values.get(key, [])
        if not isinstance(stored, list):
            raise MediaError(f"{key} holds numbers, features.json says text")
        return [bytes(text).decode(errors="replace") for text in stored]

    def text(self, key: str) -> str:
        """The first text under a key that is not blank, as stored, or nothing."""
        return next((text for text in self.texts(key) if text.strip()), "")

    def single(self, key: str) -> float | None:
        """The number of a key outside the steps, or None if it is not there."""
        stored = self.values.get(key)
        return float(stored[0]) if isinstance(stored, np.ndarray) and len(stored) else None

    def pictures(self, key: str) -> Pictures:
        """The pictures of a camera, one for each step. Raises MediaError if there are not T."""
        leaf, name = self._leaf(key), key.removeprefix(STEPS + "observation/")
        stored = self.values[key]
        if leaf.kind == "number":
            return ArrayPictures(self.array(key), name)
        if not isinstance(stored, list):
            raise MediaError(f"{key} holds numbers, features.json says pictures")
        self._count(leaf, len(stored), 1)
        return EncodedPictures(stored, name)

    def content_id(self, keys: Iterable[str]) -> str:
        """A hash of what these keys hold; of pictures, the first and the last.

        Not of the record's bytes: TFDS writes the map of keys in another order in every process, so
        that two builds of the same data differ. Keys that are not there count as empty.
        """
        digest = hashlib.blake2b(str(self.steps).encode(), digest_size=16)
        for key in sorted(keys):
            leaf, stored = self.leaves.get(key), self.values.get(key, [])
            if isinstance(stored, np.ndarray):
                parts = [stored.astype(stored.dtype.newbyteorder("<")).tobytes()]
            else:
                ends = leaf is not None and leaf.kind == "image" and len(stored) > 2
                parts = [bytes(part) for part in ([stored[0], stored[-1]] if ends else stored)]
            for part in (key.encode(), *parts):
                digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    def _leaf(self, key: str) -> Leaf:
        """What is known of a key that must be there, in a shape that can be read."""
        leaf = self.leaves.get(key)
        if leaf is not None and leaf.kind != "image" and VARIES in leaf.shape:
            raise MediaError(f"{key} {RAGGED}")
        if key not in self.leaves or key not in self.values:
            where = "the record" if key in self.leaves else "features.json"
            raise MediaError(f"{key} is not in {where}, whose keys handloom reads by name")
        return self.leaves[key]

    def _count(self, leaf: Leaf, count: int, each: int) -> int:
        """How many values of a shape there are, which must be T below the steps."""
        steps = self.steps if leaf.key.startswith(STEPS) else 1
        if count != steps * each:
            raise MediaError(
                f"{leaf.key} has {count} values, expected {steps * each} for {steps} steps; "
                "download the file again"
            )
        return steps


def parse(payload: bytes, leaves: Leaves, wanted: Callable[[str], bool]) -> Record:
    """Decode the wanted keys of an episode, and find out its number of steps.

    Raises:
        MediaError: the record is damaged, or its number of steps cannot be told.
    """
    counted = [STEPS + name for name in COUNTED]
    values = example.parse(payload, lambda key: wanted(key) or key in counted)
    steps = next((len(values[key]) for key in counted if key in values), 0)
    if not steps:
        raise MediaError("the record has no steps/is_first: not one step, or not an RLDS episode")
    return Record(leaves, values, steps)


def _dtype(leaf: Leaf) -> np.dtype[Any]:
    """The type of a tensor; bfloat16, which numpy does not know, was stored as float32."""
    try:
        return np.dtype("float32" if leaf.dtype == "bfloat16" else leaf.dtype)
    except TypeError:
        raise MediaError(f"{leaf.key} has the unknown type {leaf.dtype}") from None


def _unpacked(leaf: Leaf, stored: list[memoryview], steps: int) -> NDArray[Any]:
    """Tensors that are stored as one string for each step, plain or deflated."""
    dtype = _dtype(leaf)
    size = math.prod(leaf.shape) * dtype.itemsize
    if steps * size > MAX_TENSOR:
        raise MediaError(f"{leaf.key} would take {steps * size} bytes, at most {MAX_TENSOR} are")
    found = np.empty((steps, *leaf.shape), dtype)
    for step, data in enumerate(stored):
        plain = bytes(data)
        if leaf.encoding == "zlib":
            try:  # a few bytes can claim to be gigabytes: no more is unpacked than is expected
                plain = zlib.decompressobj().decompress(plain, size + 1)
            except zlib.error as error:
                raise MediaError(f"{leaf.key} is damaged at step {step} ({error})") from None
        if len(plain) != size:
            raise MediaError(f"{leaf.key} has {len(plain)} bytes at step {step}, expected {size}")
        found[step] = np.frombuffer(plain, dtype.newbyteorder("<")).reshape(leaf.shape)
    return found
