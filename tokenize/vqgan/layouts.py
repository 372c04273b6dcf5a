"""Tensor names of the published VQGANs, and the one naming that `network.py` uses.

    encoder.conv_in  encoder.levels.0.blocks.1.norm1  …conv2  …shortcut
    encoder.levels.3.attentions.0.norm  …q …k …v …out  encoder.levels.0.resample
    encoder.middle.blocks.0  encoder.middle.attentions.0  encoder.norm_out  encoder.conv_out
    decoder.(the same)  quant_conv  post_quant_conv  codebook

Levels are numbered in the order in which they run. taming-transformers numbers the decoder's by
resolution, so there level 0 runs last; the others count as here.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.errors import UserError
from handloom.tokenize.vqgan.weights import Stored

Rules = tuple[tuple[str, str], ...]
HALF = r"(encoder|decoder)"

# what taming-transformers began and LlamaGen and Janus kept
_TAMING_PARTS: Rules = (
    (r"\.nin_shortcut\.", ".shortcut."),
    (r"\.proj_out\.", ".out."),
    (r"\.(downsample|upsample)\.conv\.", ".resample."),
    (r"^quantize\.embedding\.weight$", "codebook"),
)
_TAMING: Rules = (
    (rf"^{HALF}\.(?:down|up)\.(\d+)\.block\.", r"\1.levels.\2.blocks."),
    (rf"^{HALF}\.(?:down|up)\.(\d+)\.attn\.", r"\1.levels.\2.attentions."),
    (rf"^{HALF}\.(?:down|up)\.(\d+)\.", r"\1.levels.\2."),
    (rf"^{HALF}\.mid\.block_1\.", r"\1.middle.blocks.0."),
    (rf"^{HALF}\.mid\.attn_1\.", r"\1.middle.attentions.0."),
    (rf"^{HALF}\.mid\.block_2\.", r"\1.middle.blocks.1."),
    *_TAMING_PARTS,
)
_LLAMAGEN: Rules = (
    (rf"^{HALF}\.conv_blocks\.(\d+)\.res\.", r"\1.levels.\2.blocks."),
    (rf"^{HALF}\.conv_blocks\.(\d+)\.attn\.", r"\1.levels.\2.attentions."),
    (rf"^{HALF}\.conv_blocks\.(\d+)\.", r"\1.levels.\2."),
    (rf"^{HALF}\.mid\.0\.", r"\1.middle.blocks.0."),
    (rf"^{HALF}\.mid\.1\.", r"\1.middle.attentions.0."),
    (rf"^{HALF}\.mid\.2\.", r"\1.middle.blocks.1."),
    *_TAMING_PARTS,
)
_DIFFUSERS: Rules = (
    (rf"^{HALF}\.(?:down|up)_blocks\.(\d+)\.resnets\.", r"\1.levels.\2.blocks."),
    (rf"^{HALF}\.(?:down|up)_blocks\.(\d+)\.attentions\.", r"\1.levels.\2.attentions."),
    (rf"^{HALF}\.(?:down|up)_blocks\.(\d+)\.", r"\1.levels.\2."),
    (r"\.(?:down|up)samplers\.0\.conv\.", ".resample."),
    (rf"^{HALF}\.mid_block\.resnets\.", r"\1.middle.blocks."),
    (rf"^{HALF}\.mid_block\.attentions\.", r"\1.middle.attentions."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"\.(?:group_norm|spatial_norm)\.", ".norm."),
    (r"\.norm_layer\.", "."),
    (r"\.conv_y\.", ".scale."),
    (r"\.conv_b\.", ".shift."),
    # the second of each pair is how diffusers before 0.15 called them
    (r"\.(?:to_q|query)\.", ".q."),
    (r"\.(?:to_k|key)\.", ".k."),
    (r"\.(?:to_v|value)\.", ".v."),
    (r"\.(?:to_out\.0|proj_attn)\.", ".out."),
    (r"^quantize\.embedding\.weight$", "codebook"),
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """One family of checkpoints: its names, and what it fixes for all its members."""

    name: str
    rules: Rules
    ignored: tuple[str, ...] = ()
    """Prefixes of names that training leaves and inference has no use for."""
    unit_codes: bool = False
    """Latents and codes are compared as directions."""
    input_range: tuple[float, float] | None = None
    """Values of black and white in training; None where members differ."""
    decoder_counts_back: bool = False
    """The decoder's levels are numbered by resolution, against the order in which they run."""


DIFFUSERS = Layout("diffusers VQModel", _DIFFUSERS)
TAMING = Layout(
    "taming-transformers", _TAMING, ("loss.",), input_range=(-1.0, 1.0), decoder_counts_back=True
)
LLAMAGEN = Layout(
    "LlamaGen", _LLAMAGEN, ("quantize.codebook_used",), unit_codes=True, input_range=(-1.0, 1.0)
)
JANUS = Layout("Janus", _TAMING, unit_codes=True, input_range=(-1.0, 1.0))


def recognise(names: set[str], where: Path) -> Layout:
    """Recognise the family of a `.ckpt` or `.pt` by its tensor names.

    Raises:
        UserError: to none, or to one whose codes are made in another way.
    """
    if "quantize.proj.weight" in names or "quantize.embed.weight" in names:
        raise UserError(
            f"{where} is a Gumbel VQGAN, whose codes are no nearest neighbours: use a VQModel one"
        )
    if "quantize.used" in names:
        raise UserError(f"{where} renumbers its codes (remap): use a checkpoint without")
    for start, layout in (("encoder.conv_blocks.", LLAMAGEN), ("encoder.down.", TAMING)):
        if any(name.startswith(start) for name in names):
            return layout
    raise UserError(
        f"{where} holds no VQGAN that is known here: expected the tensors of taming-transformers "
        f"(encoder.down.…) or of LlamaGen (encoder.conv_blocks.…), found {_some(names)}"
    )


def translate(stored: dict[str, Stored], layout: Layout, where: Path) -> dict[str, Stored]:
    """Rename a checkpoint's tensors to the canonical names, and check that nothing else is there.

    Raises:
        UserError: a tensor too many or too few, or of an unexpected shape.
    """
    kept = {n: t for n, t in stored.items() if not n.startswith(layout.ignored or ("\0",))}
    renamed: dict[str, Stored] = {}
    for name, tensor in kept.items():
        new = name
        for pattern, replacement in layout.rules:
            new = re.sub(pattern, replacement, new)
        renamed[new] = _linear(tensor) if _is_attention(new) else tensor
    if layout.decoder_counts_back:
        renamed = _turn_decoder(renamed)
    _check_names(renamed, where)
    return renamed


def _turn_decoder(stored: dict[str, Stored]) -> dict[str, Stored]:
    last = levels(stored, "decoder") - 1

    def turn(match: re.Match[str]) -> str:
        return f"decoder.levels.{last - int(match[1])}."

    return {re.sub(r"^decoder\.levels\.(\d+)\.", turn, n): t for n, t in stored.items()}


def _check_names(stored: dict[str, Stored], where: Path) -> None:
    """Compare the names with those that a network of as many levels and blocks has."""
    expected = {"codebook"} | _weight_and_bias("quant_conv") | _weight_and_bias("post_quant_conv")
    for half in ("encoder", "decoder"):
        count = levels(stored, half)
        expected |= _weight_and_bias(f"{half}.conv_in") | _weight_and_bias(f"{half}.conv_out")
        expected |= _norm(stored, f"{half}.norm_out")
        for i in range(count):
            expected |= _level(stored, f"{half}.levels.{i}")
            expected |= _weight_and_bias(f"{half}.levels.{i}.resample") if i < count - 1 else set()
        expected |= _level(stored, f"{half}.middle", blocks=2)
    missing, odd = expected - set(stored), set(stored) - expected
    if missing or odd:
        raise UserError(
            f"{where} is not a VQGAN as known here: "
            + "; ".join(
                f"{len(names)} tensors {what} ({_some(names)})"
                for what, names in (("are missing", missing), ("were not expected", odd))
                if names
            )
        )
    if levels(stored, "encoder") != levels(stored, "decoder"):
        raise UserError(f"{where} has an encoder and a decoder of different depth")


def _level(stored: dict[str, Stored], name: str, blocks: int | None = None) -> set[str]:
    blocks = _count(stored, f"{name}.blocks") if blocks is None else blocks
    names: set[str] = set()
    for i in range(blocks):
        block = f"{name}.blocks.{i}"
        names |= _weight_and_bias(f"{block}.conv1") | _weight_and_bias(f"{block}.conv2")
        names |= _norm(stored, f"{block}.norm1") | _norm(stored, f"{block}.norm2")
        first, second = stored.get(f"{block}.conv1.weight"), stored.get(f"{block}.conv2.weight")
        if first and second and first.shape[1] != second.shape[0]:
            names |= _weight_and_bias(f"{block}.shortcut")
    attentions = _count(stored, f"{name}.attentions")
    if attentions:  # one after each block, in the middle one between the two
        for i in range(1 if name.endswith(".middle") else blocks):
            names |= _norm(stored, f"{name}.attentions.{i}.norm")
            for part in ("q", "k", "v", "out"):
                names |= _weight_and_bias(f"{name}.attentions.{i}.{part}")
    return names


def _norm(stored: dict[str, Stored], name: str) -> set[str]:
    if f"{name}.scale.weight" not in stored:
        return _weight_and_bias(name)
    return (
        _weight_and_bias(name)
        | _weight_and_bias(f"{name}.scale")
        | _weight_and_bias(f"{name}.shift")
    )


def _weight_and_bias(name: str) -> set[str]:
    return {f"{name}.weight", f"{name}.bias"}


def levels(stored: dict[str, Stored], half: str = "encoder") -> int:
    """The number of resolutions of an encoder or decoder."""
    return _count(stored, f"{half}.levels")


def _count(stored: dict[str, Stored], name: str) -> int:
    """One more than the highest number: a gap then shows as missing tensors."""
    numbers = [n[len(name) + 1 :].split(".")[0] for n in stored if n.startswith(f"{name}.")]
    return 1 + max((int(n) for n in numbers if n.isdecimal() and int(n) < 64), default=-1)


def _is_attention(name: str) -> bool:
    return re.search(r"\.attentions\.\d+\.(q|k|v|out)\.weight$", name) is not None


def _linear(tensor: Stored) -> Stored:
    """A 1x1 convolution [C, C', 1, 1] as the matrix that it is."""
    if len(tensor.shape) != 4 or tensor.shape[2:] != (1, 1):
        return tensor

    def read() -> NDArray[np.float32]:
        return tensor.read()[:, :, 0, 0]

    return Stored(tensor.shape[:2], read)


def _some(names: Any) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")
