"""Read the tensors of a checkpoint without executing anything that lies in it.

`.safetensors` is a JSON header and bytes. `.ckpt`, `.pt`, `.bin` and `.pth` as torch has written
them since 1.6 are a zip of a pickle and one file for each storage. A pickle names functions to
call, so whoever wrote it decides what runs; and public training checkpoints hold Lightning
callbacks or an argparse Namespace beside the weights, which `torch.load(weights_only=True)` refuses
as a whole. Here tensors and containers are read (by `handloom.unpickle`), and every other class
becomes an inert stand-in.

Neither torch nor safetensors is imported: describing a model takes its shapes alone.
"""

import json
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.errors import UserError
from handloom.unpickle import Unpickler

MAX_HEADER_BYTES = 100_000_000  # as safetensors itself
MAX_PICKLE_BYTES = 256_000_000
BFLOAT16 = "bfloat16"  # numpy has none: the upper half of a float32
SAFETENSORS_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": BFLOAT16, "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
STORAGE_TYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2",
    "BFloat16Storage": BFLOAT16, "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1", "BoolStorage": "|b1",
}  # fmt: skip
STATES = ("ema", "model", "state_dict")  # the average of the weights is what its authors evaluate


@dataclass(frozen=True)
class Stored:
    """One tensor in a file: its shape is known, its values are read when asked for."""

    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.float32]]
    """The values as contiguous float32, whatever their type in the file."""


def open_weights(path: Path, prefix: str = "") -> dict[str, Stored]:
    """List the tensors of a model.

    Args:
        path: a `.safetensors` file, or one that `torch.save` wrote. Of a training checkpoint the
            model's own tensors are listed: `ema` where there is one, else `model` or `state_dict`.
        prefix: list only names that begin so, without it.

    Raises:
        UserError: neither of the two kinds, cut off, or without a model in it.
    """
    try:
        tensors = _safetensors(path) if path.suffix == ".safetensors" else _state(path)
    except (OSError, KeyError, ValueError, TypeError, IndexError, AttributeError, EOFError,
            RecursionError, OverflowError, NotImplementedError, pickle.UnpicklingError,
            zipfile.BadZipFile) as error:  # fmt: skip
        raise UserError(f"{path} is not readable as weights: {error}; download it again") from error
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


def _safetensors(path: Path) -> dict[str, Stored]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise ValueError(f"a header of {length:,} bytes does not fit the file")
        header = json.loads(file.read(length))
    stored = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        kind, shape = SAFETENSORS_TYPES[entry["dtype"]], tuple(map(int, entry["shape"]))
        begin, end = map(int, entry["data_offsets"])
        count = math.prod(shape)
        inside = 0 <= begin <= end <= path.stat().st_size - 8 - length
        if min(shape, default=0) < 0 or not inside or end - begin != count * _width(kind):
            raise ValueError(f'"{name}" does not lie inside the file')
        stored[name] = _from_file(path, 8 + length + begin, count, kind, shape)
    return stored


def _from_file(path: Path, at: int, count: int, kind: str, shape: tuple[int, ...]) -> Stored:
    def read() -> NDArray[np.float32]:
        raw = np.fromfile(path, _raw(kind), count, offset=at)
        if raw.size != count:
            raise UserError(f"{path} ends early: download it again")
        return _float32(raw, kind).reshape(shape)

    return Stored(shape, read)


def _state(path: Path) -> dict[str, Stored]:
    """The named tensors of a torch file."""
    tree = _read_torch(path)
    if not isinstance(tree, dict):
        raise ValueError(f"it holds a {type(tree).__name__}, not a dictionary of tensors")
    for state in [*(tree.get(name) for name in STATES), tree]:
        if isinstance(state, dict) and any(isinstance(t, Stored) for t in state.values()):
            odd = next((k for k, t in state.items() if not isinstance(t, Stored)), None)
            if odd is not None:
                raise ValueError(f'"{odd}" among its tensors is none')
            return {str(name): tensor for name, tensor in state.items()}
    raise ValueError(f"of {', '.join(STATES)} it has none that holds tensors")


def _read_torch(path: Path) -> Any:
    """The object that was saved, with `Stored` for tensors and stand-ins for classes."""
    if not zipfile.is_zipfile(path):
        raise ValueError(
            "it is no zip, as torch has written since 1.6 (a torch that trusts the file "
            "converts it: torch.save(torch.load(OLD), NEW))"
        )
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        roots = [name[: -len("data.pkl")] for name in infos if name.endswith("data.pkl")]
        if len(roots) != 1 or f"{roots[0]}constants.pkl" in infos:
            raise ValueError("it is a zip, but not of one torch.save")
        order = f"{roots[0]}byteorder"
        if order in infos and archive.read(order) != b"little":
            raise ValueError("it was written on a big-endian machine")
        pickled = infos[f"{roots[0]}data.pkl"]
        if pickled.file_size > MAX_PICKLE_BYTES or pickled.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"its pickle of {pickled.file_size:,} bytes is not one of torch's")
        return _Reader(archive.read(pickled), path, infos, f"{roots[0]}data/").load()


@dataclass(frozen=True)
class _Storage:
    """A flat run of numbers, one member of the zip."""

    path: Path
    member: str
    kind: str
    count: int

    def read(self) -> NDArray[Any]:
        with zipfile.ZipFile(self.path) as archive:
            return np.frombuffer(archive.read(self.member), _raw(self.kind), self.count)


class _Reader(Unpickler):
    """Loads tensors, containers and plain values; calls nothing that the pickle names."""

    def __init__(
        self, pickled: bytes, path: Path, infos: dict[str, zipfile.ZipInfo], folder: str
    ) -> None:
        super().__init__(pickled, _NAMES)
        self._path, self._infos, self._folder = path, infos, folder

    def unknown(self, name: str) -> Any:
        return _StandIn

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise ValueError("a reference in its pickle is not to a storage")
        kind, member, count = STORAGE_TYPES.get(pid[1]), f"{self._folder}{pid[2]}", int(pid[4])
        if kind is None:
            return None  # of a type that no weights have; whoever refers to it is left out
        info = self._infos[member]
        if not 0 <= count * _width(kind) <= info.file_size:
            raise ValueError(f"{member} is smaller than its pickle says")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{member} is compressed, which torch does not do")
        return _Storage(self._path, member, kind, count)


class _StandIn:
    """Takes the place of any class or function: accepts everything, does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "_StandIn":
        return object.__new__(cls)

    def __call__(self, *_: Any, **__: Any) -> "_StandIn":
        return self

    def _ignore(self, *_: Any, **__: Any) -> None:
        pass

    __init__ = __setitem__ = __setstate__ = append = extend = add = _ignore


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Any:
    """Do what `torch._utils._rebuild_tensor_v2` does; the view must lie inside its storage."""
    if not isinstance(storage, _Storage):
        return _StandIn()
    shape, stride, offset = tuple(map(int, shape)), tuple(map(int, stride)), int(offset)
    if len(shape) != len(stride) or min((*shape, *stride, offset), default=0) < 0:
        raise ValueError(f"a tensor has shape {shape} and strides {stride}")
    count = math.prod(shape)
    reach = sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) + 1 if count else 0
    # more elements than the storage would be an expanded view: weights are none, bombs are
    if offset + reach > storage.count or count > storage.count:
        raise ValueError(f"a tensor of shape {shape} does not lie inside its storage")

    def read() -> NDArray[np.float32]:
        flat = storage.read()[offset:]
        steps = tuple(step * flat.itemsize for step in stride)
        view = np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)
        return _float32(np.ascontiguousarray(view).reshape(shape), storage.kind)

    return Stored(shape, read)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


_NAMES: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    **{f"torch.{name}": name for name in STORAGE_TYPES},
}


def _raw(kind: str) -> np.dtype[Any]:
    return np.dtype("<u2" if kind == BFLOAT16 else kind)


def _width(kind: str) -> int:
    return _raw(kind).itemsize


def _float32(raw: NDArray[Any], kind: str) -> NDArray[np.float32]:
    if kind == BFLOAT16:
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)
