"""Find a VQGAN's files, and check that they say the same of its codebook, range and resolution.

Nothing here imports torch.
"""

import hashlib
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from handloom.errors import UserError
from handloom.tokenize.frames import RESIZE_RULE
from handloom.tokenize.hub import HUB_ID, from_hub
from handloom.tokenize.vqgan.checkpoints import (
    CONFIG,
    SIDECAR,
    WEIGHTS,
    Checkpoint,
    diffusers,
    janus,
    torch_file,
)
from handloom.tokenize.vqgan.json_file import read_json
from handloom.tokenize.vqgan.layouts import DIFFUSERS, levels

BUNDLED = Path(__file__).parent / "models" / "vqgan-f16-1024"
# Convolutions take any side. 128 pixels are a quarter of the codes: coarse, but what a CPU can
# train a policy on in minutes.
SMALL, SMALL_SIDE = "bundled-128", 128
SUBFOLDERS = ("", "vqvae", "vqgan", "movq")  # where pipelines on the hub keep their VQModel
TORCH_FILES = (".ckpt", ".pt", ".pth")
DEFAULT_INPUT_RANGE = (0.0, 1.0)
DEFAULT_RESOLUTION = 256
MAX_CODES = 65_536  # shards hold uint16


def find(model: str) -> Checkpoint:
    """Find a checkpoint and open it, without reading weights.

    Args:
        model: "bundled", "bundled-128", a folder, a `.ckpt` or `.pt`, or a hub id.

    Raises:
        UserError: nothing there, not a VQGAN known here, or files that contradict each other.
    """
    path = Path(model).expanduser()
    if model == "bundled":
        checkpoint = _in_folder(BUNDLED, BUNDLED.name)
    elif model == SMALL:
        checkpoint = replace(_in_folder(BUNDLED, BUNDLED.name), resolution=SMALL_SIDE)
    elif path.is_dir():
        checkpoint = _in_folder(path, path.resolve().name)
    elif path.suffix in TORCH_FILES and path.is_file():
        checkpoint = torch_file(path)
    elif re.fullmatch(HUB_ID, model) and path.suffix not in TORCH_FILES:
        checkpoint = _from_hub(model)
    else:
        raise UserError(
            f'no VQGAN at "{model}": name a folder with {CONFIG} and {WEIGHTS}, a .ckpt of '
            'taming-transformers, a .pt of LlamaGen, a hub id such as "amused/amused-256", '
            'or "bundled" or "bundled-128"'
        )
    _check(checkpoint)
    return checkpoint


def describe(
    checkpoint: Checkpoint, input_range: tuple[float, float] | None, resolution: int | None
) -> dict[str, Any]:
    """Describe a checkpoint for manifests; see `vqgan.describe`.

    Raises:
        UserError: the arguments contradict the files, or do not fit the network.
    """
    codes, _ = checkpoint.tensors["codebook"].shape
    if codes > MAX_CODES:
        raise UserError(
            f"{checkpoint.name} has {codes:,} codes and shards hold uint16, {MAX_CODES:,} at most: "
            "choose a VQGAN with a smaller codebook"
        )
    agreed = _agreed("input range", input_range, checkpoint.input_range, checkpoint)
    low, high = agreed or DEFAULT_INPUT_RANGE
    if not low < high:
        name = checkpoint.name
        raise UserError(f"input range [{low}, {high}] of {name}: the first must be smaller")
    stated = None if checkpoint.resolution is None else (checkpoint.resolution,)
    agreed = _agreed("resolution", resolution and (resolution,), stated, checkpoint)
    side = int((agreed or (0,))[0] or DEFAULT_RESOLUTION)
    downsample = 2 ** (levels(checkpoint.tensors) - 1)
    if side % downsample or side < downsample:
        raise UserError(
            f"resolution {side} is not a multiple of {checkpoint.name}'s {downsample} pixels"
        )
    return {
        "name": checkpoint.name,
        "weights_sha256": _sha256(checkpoint.files),
        "codebook_size": codes,
        "downsample": downsample,
        "resolution": side,
        "input_range": [float(low), float(high)],
        "resize_rule": RESIZE_RULE,
    }


def _agreed(what: str, asked: Any, stated: Any, checkpoint: Checkpoint) -> tuple[Any, ...]:
    """The value that is asked for or stated, else (); raises UserError where the two differ."""
    if asked and stated and tuple(map(float, asked)) != tuple(map(float, stated)):
        raise UserError(
            f"{what} {_brackets(asked)} was asked for, but {checkpoint.where} was trained with "
            f"{_brackets(stated)}: leave the option out"
            + (f", or correct {SIDECAR} in that folder" if checkpoint.layout is DIFFUSERS else "")
        )
    return tuple(asked or stated or ())


def _brackets(values: Any) -> str:
    return f"{values[0]}" if len(values) == 1 else f"[{', '.join(f'{v:g}' for v in values)}]"


def _check(checkpoint: Checkpoint) -> None:
    """Compare what the configuration claims with the shapes of the weights."""
    tensors = checkpoint.tensors
    shape, pixels = tensors["codebook"].shape, tensors["encoder.conv_in.weight"].shape[1]
    if len(shape) != 2 or pixels != 3 or tensors["decoder.conv_out.weight"].shape[0] != 3:
        raise UserError(f"{checkpoint.where} does not turn RGB pictures into codes and back")
    actual = {"codebook_size": shape[0], "code_width": shape[1], "levels": levels(tensors)}
    for key, claim in checkpoint.claims.items():
        if claim != actual[key]:
            raise UserError(
                f"{checkpoint.where}: its configuration says {key} {claim:,}, its weights "
                f"{actual[key]:,}: the two come from different models"
            )
    for name, tensor in tensors.items():
        if ".norm" in name and tensor.shape[0] % checkpoint.groups and len(tensor.shape) == 1:
            raise UserError(
                f"{checkpoint.where}: {checkpoint.groups} groups do not divide the "
                f"{tensor.shape[0]} channels of {name}"
            )


def _in_folder(root: Path, name: str) -> Checkpoint:
    for folder in (root / sub for sub in SUBFOLDERS):
        if (folder / CONFIG).is_file():
            config = read_json(folder / CONFIG)
            if config.get("_class_name") == "VQModel":
                return diffusers(folder, name, config)
            if config.get("model_type") in ("janus_vqgan", "janus"):
                return janus(folder, name, config)
    files = [p for d in (root, root / "checkpoints") for p in _torch_files(d)]
    if len(files) > 1:
        raise UserError(f"{root} holds {len(files)} checkpoints: name one, such as {files[0]}")
    if files:
        return torch_file(files[0])
    raise UserError(
        f"{root} is not a diffusers VQModel: expected {CONFIG} (class VQModel) and {WEIGHTS} in it "
        "or in its vqvae/ or vqgan/ subfolder; nor does it hold a JanusVQVAE, a .ckpt or a .pt"
    )


def _torch_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix in TORCH_FILES and p.is_file())


def _from_hub(model: str) -> Checkpoint:
    # never the whole repository: beside a 0.3 GB VQModel lie transformers of several GB
    wanted = [str(Path(name) / file) for name in SUBFOLDERS for file in (CONFIG, WEIGHTS)]
    try:
        return _loaded_from_hub(model, wanted)
    except UserError as error:
        if " has no " not in str(error):
            raise
    # Some have half precision, .bin or parts alone.
    stem = WEIGHTS.removesuffix(".safetensors")
    others = [str(Path(name) / f"{stem}*") for name in SUBFOLDERS]
    return _loaded_from_hub(model, [*wanted, *others])


def _loaded_from_hub(model: str, wanted: list[str]) -> Checkpoint:
    return from_hub(
        model,
        wanted,
        lambda folder: _in_folder(folder, model),
        f" (needed are {CONFIG} and {WEIGHTS} of its root or of its vqvae/ folder), bring DIR here "
        "and pass `--tokens.model DIR`",
    )


def _sha256(paths: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        digest.update(_file_digest(path, stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _file_digest(path: Path, _size: int, _mtime_ns: int) -> bytes:
    # a checkpoint of a gigabyte is described several times in a run
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
