"""The image tokenizer: frames in, uint16 codes out, and back.

Published checkpoints are loaded as they are: a diffusers VQModel (the small one bundled with
handloom, aMUSEd's, a hub id), taming-transformers' `.ckpt` and yaml, LlamaGen's `.pt`,
transformers' JanusVQVAE. `docs/tokenizers.md` says where each kind is looked for.

A VQModel folder says nothing about two things that decide the codes: the range its pixels were
scaled to in training (aMUSEd [0, 1]; taming-transformers and the LDM first stages [-1, 1]) and the
resolution it was trained at. A sidecar `handloom.json` beside `config.json` says both:

    {"name": "vqgan-f16-1024", "input_range": [-1.0, 1.0], "resolution": 256}

Without a sidecar they are [0, 1] and 256. An argument that contradicts it is an error, and so is a
range in which the network reconstructs worse than in the other. Whatever was used is recorded in
the shard manifest.
"""

from typing import Any

from handloom.tokenize.vqgan import find as vqgan_checkpoint
from handloom.tokenize.vqgan.checkpoints import CONFIG, SIDECAR, WEIGHTS
from handloom.tokenize.vqgan.codec import DTYPES, VQGAN
from handloom.tokenize.vqgan.find import BUNDLED, MAX_CODES

__all__ = [
    "BUNDLED",
    "CONFIG",
    "DTYPES",
    "MAX_CODES",
    "SIDECAR",
    "VQGAN",
    "WEIGHTS",
    "describe",
    "load",
]


def load(
    model: str = "bundled",
    device: str = "cpu",
    threads: int = 1,
    input_range: tuple[float, float] | None = None,
    resolution: int | None = None,
    dtype: str = "float32",
    exact: bool = True,
) -> VQGAN:
    """Load a tokenizer, ready to encode and decode.

    Args:
        model: "bundled", or "bundled-128" for frames of 128 pixels; a folder with a diffusers
            VQModel or a JanusVQVAE; a `.ckpt` of taming-transformers or a `.pt` of LlamaGen; or a
            hub id such as "amused/amused-256".
        device: a torch device.
        threads: torch's thread count, for the whole process, and how many frames a CPU computes
            at the same time. One per worker: torch otherwise takes every core in each of them.
        input_range: what the network expects for black and white; default: what the checkpoint
            says, else [0, 1].
        resolution: side of the frames in pixels; default: what the checkpoint says, else 256.
        dtype: "float32"; "tf32", or "float16" or "bfloat16" under autocast, which change codes:
            see docs/tokenizers.md for how many.
        exact: a frame's codes depend on its pixels alone; shards want that.

    Raises:
        UserError: no such model, not a VQGAN known here, an input range, resolution or codebook
            that is not the model's, or a codebook that uint16 cannot hold.
    """
    checkpoint = vqgan_checkpoint.find(model)
    facts = vqgan_checkpoint.describe(checkpoint, input_range, resolution)
    facts.pop("resize_rule")
    facts["input_range"] = tuple(facts["input_range"])
    import torch

    from handloom.tokenize.vqgan.build import build
    from handloom.tokenize.vqgan.input_range import check_input_range
    from handloom.tokenize.vqgan.network import keep_freed_memory

    torch.set_num_threads(threads)
    if str(device) == "cpu":
        keep_freed_memory(threads)
    network = build(checkpoint).to(device)
    if str(device).startswith("cuda"):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.encoder.compile(dynamic=False)  # one shape, and norm and SiLU fused
    loaded = VQGAN(
        **facts, network=network, device=str(device), dtype=dtype, exact=exact, threads=threads
    )
    if checkpoint.layout.input_range is None:
        check_input_range(loaded, checkpoint)
    return loaded


def describe(
    model: str = "bundled",
    input_range: tuple[float, float] | None = None,
    resolution: int | None = None,
) -> dict[str, Any]:
    """Describe a tokenizer, as shard manifests and stages' fingerprints record it.

    Reads names and shapes and hashes the files; imports neither torch nor diffusers.

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
    return vqgan_checkpoint.describe(vqgan_checkpoint.find(model), input_range, resolution)
