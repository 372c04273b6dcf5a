"""Floating point operations of a training step, and what devices could do at best: their quotient
is the model FLOPs utilisation, MFU.

Counted are the products of matrices, as `torch.utils.flop_counter` counts them: 2*m*n*k for [m, k]
times [k, n]. Attention is counted over the whole T x T square although half of it is masked: two
products there, four back, as in PaLM (arXiv 2204.02311, appendix B). What is computed a second time
to save memory is no useful work and not counted: neither activation checkpointing, nor the scores
that fused attention computes again on its way back (torch's counter adds 2*T*T*D a layer for them).

Shapes: L text length, E text feature width, N codes a clip, T = L + N - 1 positions, D width,
K codebook size, Y layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from handloom.train.model.shape import Shape

FORMULA = (
    "MFU = clips/s * FLOPs of a clip / peak; FLOPs = Y layers * (72*T*D*D + 12*T*T*D) "
    "+ 6*N*D*K logits + 6*L*D*D + 4*L*E*D text + 6*(N - codes a frame)*D copy gate"
)


def flops_per_clip(shape: Shape) -> int:
    """FLOPs of one clip, forwards and backwards.

    A layer's weights are 12*D*D (queries, keys, values, output: 4, MLP: 8): each costs 2 a position
    there and 4 back. The text features are frozen, so the first text layer has no way further back.
    Embeddings are looked up, which multiplies nothing.
    """
    t, d, n, text = shape.length, shape.width, shape.codes, shape.text_length
    layers = shape.layers * (72 * t * d * d + 12 * t * t * d)
    logits = 6 * n * d * shape.codebook_size
    caption = 6 * text * d * d + 4 * text * shape.text_width * d
    copying = 6 * (n - shape.codes_per_frame) * d
    return layers + logits + caption + copying


# Dense (no sparsity) bfloat16 on tensor cores with float32 sums, in 1e12 operations a second, from
# NVIDIA's data sheets; where a sheet gives the rate with sparsity only, half of it. The first name
# that a device's name contains decides, so longer names stand before shorter ones.
PEAK_TFLOPS = {
    "B200": 2250.0,  # HGX B200: 36 PFLOPS with sparsity for 8
    "GH200": 989.4,  # the same die as H100 SXM
    "H200 NVL": 835.5,
    "H200": 989.4,
    "H100 NVL": 835.5,
    "H100 PCIe": 756.5,
    "H100": 989.4,  # SXM: "NVIDIA H100 80GB HBM3"
    "A100": 312.0,
    "A800": 312.0,
    "A40": 149.7,
    "RTX A6000": 154.8,
    "A10G": None,  # made for one cloud, no data sheet
    "A10": 125.0,
    "A30": 165.0,
    "L40S": 362.05,
    "L40": 181.05,
    "L4": 121.0,
    "RTX 6000 Ada": 364.2,
    "RTX 4090": 165.2,  # Ada whitepaper, with float32 sums
    "RTX 3090 Ti": 80.0,
    "RTX 3090": 71.0,  # Ampere GA102 whitepaper, with float32 sums
}
# Tensor cores that know float16 alone.
PEAK_FLOAT16_TFLOPS = {"V100": 125.0, "T4": 65.0}


def peak_flops(device_name: str, dtype: torch.dtype) -> float | None:
    """The most operations a second that a device can do in a type of number.

    Args:
        device_name: as `torch.cuda.get_device_name` gives it.
        dtype: torch.bfloat16 or torch.float16; others have no one peak (float32 may be TF32).

    Returns:
        Operations a second, or None for a device or type that is not in the table: no MFU is
        better than a wrong one.
    """
    kind = str(dtype).removeprefix("torch.")
    if kind not in ("bfloat16", "float16"):
        return None
    peaks = PEAK_TFLOPS if kind == "bfloat16" else {**PEAK_TFLOPS, **PEAK_FLOAT16_TFLOPS}
    words = f" {device_name.replace('-', ' ')} "
    for name, tera in peaks.items():
        if f" {name} " in words:
            return None if tera is None else tera * 1e12
    return None


def trainable_parameters(shape: Shape) -> int:
    """Parameters of the model of a shape, counted without building it."""
    import torch

    from handloom.train.model.gpt import GPT

    with torch.device("meta"):
        return sum(p.numel() for p in GPT(shape).parameters())
