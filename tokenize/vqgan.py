"""The image tokenizer: frames in, uint16 codes out, and back.

Any `diffusers.VQModel` works: the small one bundled with handloom, a local folder, or a hub id.

A VQModel folder says nothing about two things that decide the codes: the range its pixels were
scaled to in training (aMUSEd [0, 1]; taming-transformers and the LDM first stages [-1, 1]) and the
resolution it was trained at. A sidecar `handloom.json` beside `config.json` says both:

    {"name": "vqgan-f16-1024", "input_range": [-1.0, 1.0], "resolution": 256}

Without a sidecar they are [0, 1] and 256; an explicit argument wins over both. Whatever was used
is recorded in the shard manifest.

Speed on CPU: under glibc's default allocator an encoder spends much of its time in page faults.
`MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824`, set before the process
starts, took the bundled encoder from 40 to 32 ms a frame on one core.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.errors import UserError
from handloom.tokenize.frames import RESIZE_RULE
from handloom.tokenize.hub import ask_hub

BUNDLED = Path(__file__).parent / "models" / "vqgan-f16-1024"
CONFIG, WEIGHTS, SIDECAR = "config.json", "diffusion_pytorch_model.safetensors", "handloom.json"
SUBFOLDERS = ("", "vqvae", "vqgan", "movq")  # where pipelines on the hub keep their VQModel
DEFAULT_INPUT_RANGE = (0.0, 1.0)
DEFAULT_RESOLUTION = 256
MAX_CODES = 65_536  # shards hold uint16


@dataclass(frozen=True)
class VQGAN:
    """A frozen VQModel with everything that decides its codes. Make one with `load`.

    Shapes: T frames, H = W = `resolution`, I = J = `resolution` / `downsample` rows and columns.
    """

    name: str
    """For people: the sidecar's name, else the folder's name or the hub id."""
    weights_sha256: str
    """Hash of config.json and the weights file: the identity of the tokenizer."""
    codebook_size: int
    """Codes run from 0 to this, exclusive."""
    downsample: int
    """Pixels per code, along each side."""
    resolution: int
    """Side of the frames in pixels."""
    input_range: tuple[float, float]
    """What black and white become before the network sees them."""
    network: Any = field(repr=False, compare=False)
    """The `diffusers.VQModel`, fp32, in eval mode."""
    device: str = field(default="cpu", compare=False)

    def encode(self, frames_thwc: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Turn the frames of one clip into codes.

        On CPU each frame runs by itself, in fp32, so its codes depend on its pixels alone: not on
        the clip it is part of, and not on what was encoded before. (Convolution kernels are chosen
        by batch shape and differ in the last digits, which flips codes that nearly tie; one
        frame at a time costs nothing on a CPU.) On any other device one clip is one batch,
        so there a frame's codes can depend on the number of frames in its clip.

        Args:
            frames_thwc: uint8 [T, H, W, 3] RGB, prepared with `frames.center_square`.

        Returns:
            uint16 [T, I, J].

        Raises:
            ValueError: another dtype or shape.
        """
        import torch

        side = self.resolution
        if frames_thwc.dtype != np.uint8 or frames_thwc.shape[1:] != (side, side, 3):
            raise ValueError(
                f"{self.name} encodes uint8 [T, {side}, {side}, 3] frames, "
                f"got {frames_thwc.dtype} {list(frames_thwc.shape)}: use frames.center_square"
            )
        grid = side // self.downsample
        codes_tij = np.empty((len(frames_thwc), grid, grid), np.uint16)
        with torch.inference_mode():
            for batch in self._batches(len(frames_thwc)):
                frames = torch.from_numpy(frames_thwc[batch].copy())
                # permuting a THWC array gives exactly torch's channels_last layout: no copy
                x_tchw = self._scale(frames.to(self.device).permute(0, 3, 1, 2))
                latents = self.network.encode(x_tchw).latents  # not yet quantised
                ids = self.network.quantize(latents)[2][2]  # [T * I * J]
                codes_tij[batch] = ids.reshape(-1, grid, grid).cpu().numpy()
        return codes_tij

    def decode(self, codes_tij: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """Paint the frames that codes stand for.

        Args:
            codes_tij: uint16 [T, I, J], each below `codebook_size`.

        Returns:
            uint8 [T, H, W, 3] RGB.

        Raises:
            ValueError: another shape, or a code outside the codebook.
        """
        import torch

        grid = self.resolution // self.downsample
        if codes_tij.shape[1:] != (grid, grid):
            raise ValueError(
                f"{self.name} decodes [T, {grid}, {grid}] codes, got {list(codes_tij.shape)}"
            )
        if codes_tij.size and int(codes_tij.max()) >= self.codebook_size:
            raise ValueError(
                f"code {int(codes_tij.max())} is outside {self.name}'s codebook of "
                f"{self.codebook_size}: these codes come from another tokenizer"
            )
        side = self.resolution
        frames_thwc = np.empty((len(codes_tij), side, side, 3), np.uint8)
        with torch.inference_mode():
            for batch in self._batches(len(codes_tij)):
                ids = torch.from_numpy(codes_tij[batch].astype(np.int64)).to(self.device)
                x_tchw = self._paint(ids)
                frames_thwc[batch] = self._unscale(x_tchw).permute(0, 2, 3, 1).cpu().numpy()
        return frames_thwc

    def _batches(self, count: int) -> list[slice]:
        if self.device == "cpu":
            return [slice(i, i + 1) for i in range(count)]
        return [slice(0, count)] if count else []

    def _paint(self, ids_tij: Any) -> Any:
        # VQModel.decode, but from ids: its own lookup differs with `lookup_from_codebook`
        net = self.network
        z_tijd = net.quantize.embedding(ids_tij)
        z_tdij = z_tijd.permute(0, 3, 1, 2).contiguous()
        spatial = z_tdij if net.config.norm_type == "spatial" else None  # MoVQ
        return net.decoder(net.post_quant_conv(z_tdij), spatial)

    def _scale(self, frames: Any) -> Any:
        low, high = self.input_range
        return frames.float() * ((high - low) / 255.0) + low

    def _unscale(self, x: Any) -> Any:
        import torch

        low, high = self.input_range
        return ((x - low) * (255.0 / (high - low))).round().clamp(0, 255).to(torch.uint8)


def load(
    model: str = "bundled",
    device: str = "cpu",
    threads: int = 1,
    input_range: tuple[float, float] | None = None,
    resolution: int | None = None,
) -> VQGAN:
    """Load a tokenizer, ready to encode and decode.

    Args:
        model: "bundled", a folder with a diffusers VQModel, or a hub id such as
            "amused/amused-256".
        device: a torch device.
        threads: torch's thread count, for the whole process. One per worker: torch otherwise
            takes every core in each of them.
        input_range: what the network expects for black and white; default: sidecar, else [0, 1].
        resolution: side of the frames in pixels; default: sidecar, else 256.

    Raises:
        UserError: no such model, not a VQModel, or a codebook that uint16 cannot hold.
    """
    folder = _locate(model)
    facts = _facts(model, folder, input_range, resolution)
    import torch
    from diffusers import VQModel

    torch.set_num_threads(threads)
    try:
        network = VQModel.from_pretrained(
            str(folder),
            torch_dtype=torch.float32,  # the bundled file is fp16 on disk
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
        )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{folder} does not load as a diffusers VQModel ({_first_line(error)}): "
            f"{CONFIG} and {WEIGHTS} must come from the same model"
        ) from error
    network.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)
    facts.pop("resize_rule")
    facts["input_range"] = tuple(facts["input_range"])
    return VQGAN(**facts, network=network, device=str(device))


def describe(
    model: str = "bundled",
    input_range: tuple[float, float] | None = None,
    resolution: int | None = None,
) -> dict[str, Any]:
    """Say what a shard manifest and a stage's fingerprint record of a tokenizer.

    Reads two small files and hashes one; imports neither torch nor diffusers.

    Args:
        model: as for `load`.
        input_range: as for `load`.
        resolution: as for `load`.

    Returns:
        JSON-ready: name, weights_sha256, codebook_size, downsample, resolution, input_range,
        resize_rule.

    Raises:
        UserError: as `load`.
    """
    return _facts(model, _locate(model), input_range, resolution)


def _facts(
    model: str, folder: Path, input_range: tuple[float, float] | None, resolution: int | None
) -> dict[str, Any]:
    config = _read_json(folder / CONFIG)
    sidecar = _read_json(folder / SIDECAR) if (folder / SIDECAR).is_file() else {}
    low, high = input_range or sidecar.get("input_range") or DEFAULT_INPUT_RANGE
    if not low < high:
        raise UserError(f"input range [{low}, {high}] of {model}: the first must be the smaller")
    side = int(resolution or sidecar.get("resolution") or DEFAULT_RESOLUTION)
    downsample = 2 ** (len(config.get("block_out_channels", [64])) - 1)
    if side % downsample:
        raise UserError(f"resolution {side} is not a multiple of {model}'s {downsample} pixels")
    codes = int(config.get("num_vq_embeddings", 256))
    if codes > MAX_CODES:
        raise UserError(
            f"{model} has {codes:,} codes and shards hold uint16, {MAX_CODES:,} at most: "
            "choose a VQGAN with a smaller codebook"
        )
    return {
        "name": sidecar.get("name") or (Path(model).name if Path(model).is_dir() else model),
        "weights_sha256": _sha256([folder / CONFIG, folder / WEIGHTS]),
        "codebook_size": codes,
        "downsample": downsample,
        "resolution": side,
        "input_range": [float(low), float(high)],
        "resize_rule": RESIZE_RULE,
    }


def _locate(model: str) -> Path:
    """Find the folder that holds the config and the weights, downloading a hub id if need be."""
    if model == "bundled":
        return _vqmodel_in(BUNDLED)
    if Path(model).expanduser().is_dir():
        return _vqmodel_in(Path(model).expanduser())
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        return _from_hub(model)
    raise UserError(
        f'no VQGAN at "{model}": name a folder with {CONFIG} and {WEIGHTS}, '
        'a hub id such as "amused/amused-256", or "bundled"'
    )


def _vqmodel_in(root: Path) -> Path:
    for folder in (root / name for name in SUBFOLDERS):
        if (folder / CONFIG).is_file() and _is_vqmodel(_read_json(folder / CONFIG)):
            if not (folder / WEIGHTS).is_file():
                raise UserError(f"{folder} has a VQModel's {CONFIG} but no {WEIGHTS}: download it")
            return folder
    raise UserError(
        f"{root} is not a diffusers VQModel: expected {CONFIG} (class VQModel) and {WEIGHTS} in it "
        "or in its vqvae/ or vqgan/ subfolder"
    )


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download

    # never the whole repository: beside a 0.3 GB VQModel lie transformers of several GB
    wanted = [str(Path(name) / file) for name in SUBFOLDERS for file in (CONFIG, WEIGHTS)]
    try:
        cached = snapshot_download(model, allow_patterns=wanted, local_files_only=True)
        return _vqmodel_in(Path(cached))
    except (OSError, ValueError, UserError):  # not in the cache, or only other files of it
        pass
    try:
        ask_hub()
        return _vqmodel_in(Path(snapshot_download(model, allow_patterns=wanted)))
    except (OSError, ValueError) as error:
        raise UserError(
            f'"{model}" is neither a folder here nor a model that the Hugging Face hub gave '
            f"({_first_line(error)}): where the hub can be reached run `hf download {model} "
            f"--local-dir DIR` (needed are {CONFIG} and {WEIGHTS} of its root or of its vqvae/ "
            "folder), bring DIR here and pass `--tokens.model DIR`"
        ) from error


def _is_vqmodel(config: dict[str, Any]) -> bool:
    return config.get("_class_name") == "VQModel"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable as JSON: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object, found a {type(content).__name__}")
    return content


def _sha256(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
