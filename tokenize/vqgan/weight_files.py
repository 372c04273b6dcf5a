"""Which files of a folder hold a model's weights: one file or several, in whichever form.

diffusers and transformers save NAME.safetensors or NAME.bin; a variant, mostly of half precision,
as NAME.fp16.safetensors; and large models in parts, which an index NAME.safetensors.index.json
lists.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from handloom.errors import UserError
from handloom.tokenize.vqgan.json_file import read_json
from handloom.tokenize.vqgan.weights import Stored, open_weights

SUFFIXES = (".safetensors", ".bin")
INDEX = ".index.json"
PART = re.compile(r"-\d+-of-\d+\.")
FOREIGN = (".msgpack", ".h5", ".onnx", ".gguf", ".ot")  # weights that are not read here


def open_model(
    folder: Path, names: Sequence[str], prefix: str = ""
) -> tuple[tuple[Path, ...], dict[str, Stored]]:
    """The files that hold a model's weights, and its tensors.

    Args:
        folder: that holds them.
        names: of the weights before the suffix, such as `diffusion_pytorch_model`.
        prefix: list only tensors whose names begin so, without it; other parts are not opened.

    Raises:
        UserError: there are none; the message says what is there instead and what to do.
    """
    files = find_weights(folder, names, prefix)
    stored: dict[str, Stored] = {}
    for path in files:
        stored |= open_weights(path, prefix)
    return files, stored


def find_weights(folder: Path, names: Sequence[str], prefix: str = "") -> tuple[Path, ...]:
    """The files that hold a model's weights; see `open_model`."""
    for path in _candidates(folder, names):
        if path.is_file():
            return _parts(path, prefix) if path.name.endswith(".json") else (path,)
    raise UserError(f"{folder} has no {names[0]}.safetensors: {_way_out(folder, names[0])}")


def _candidates(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Full precision first: half precision changes some codes."""
    stems = [(name, suffix) for suffix in SUFFIXES for name in names]
    for name, suffix in stems:
        yield folder / f"{name}{suffix}"
        yield folder / f"{name}{suffix}{INDEX}"
    for name, suffix in stems:
        found = [*folder.glob(f"{name}.*{suffix}"), *folder.glob(f"{name}*{suffix}.index.*json")]
        found = [path for path in found if not PART.search(path.name)]
        # Weights of which no average was taken are the last choice.
        yield from sorted(found, key=lambda path: ("non_ema" in path.name, path.name))


def _parts(index: Path, prefix: str) -> tuple[Path, ...]:
    """The files that an index names for the tensors with a prefix."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise UserError(f"{index} has no weight_map, expected the file of each tensor")
    # Of a path only the name is used: the parts lie beside the index.
    names = sorted({Path(str(f)).name for tensor, f in places.items() if tensor.startswith(prefix)})
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing or not names:
        what = missing[0] if missing else f"tensor {prefix}* in {index.name}"
        raise UserError(f"{index.parent} has no {what}: download it")
    return tuple(index.parent / name for name in names)


def _way_out(folder: Path, name: str) -> str:
    """What to do, by what lies there."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    weights = [n for n in files if n.endswith((*SUFFIXES, ".ckpt", ".pt", ".pth", *FOREIGN))]
    parts = [n for n in weights if n.startswith(name) and PART.search(n)]
    if parts:
        index = f"{name}{Path(parts[0]).suffix}{INDEX}"
        return f"it holds {parts[0]}, but no {index}; download that too"
    if not weights:
        return "download it"
    if weights[0].endswith(FOREIGN):
        return (
            f"it holds {', '.join(weights)}, which is not read here; load it with the library that "
            "wrote it, then save_pretrained(DIR, safe_serialization=True)"
        )
    return f"it holds {', '.join(weights)}; give the model's own weights that name"
