"""The network of every supported VQGAN: one encoder, one decoder, widths taken from the weights.

taming-transformers, LlamaGen, Janus and diffusers' VQModel name their tensors differently and
compute the same: residual blocks in levels, a middle with attention, a codebook. Here it is written
once, for inference alone: activations are changed in place, and on a CPU the 3x3 convolutions run
through NNPACK's Winograd kernels, which need 2.6 times less time than oneDNN's direct ones.

B batch, C channels, H x W pixels, I x J codes, D width of a code, K codes, N = B * I * J.
"""

import contextlib
import ctypes
from collections.abc import Mapping
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handloom.tokenize.vqgan.search import ExactSearch, must_be_direct
from handloom.tokenize.vqgan.weights import Stored

Shapes = Mapping[str, Stored]

# with fewer channels, or for smaller pictures, transforming costs what multiplying less saves;
# and an error in a small picture is averaged over less on its way to the latents
WINOGRAD_CHANNELS, WINOGRAD_SIDE = 128, 64


def keep_freed_memory(threads: int) -> None:
    """Tell glibc, where there is one, to keep big blocks instead of returning them to the kernel.

    Otherwise every activation is faulted in anew, page by page. It is what MALLOC_MMAP_THRESHOLD_,
    MALLOC_TRIM_THRESHOLD_ and MALLOC_ARENA_MAX do, for a process that has started already.
    """
    m_trim_threshold, m_mmap_threshold, m_arena_max, gigabyte = -1, -3, -8, 1 << 30
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(m_mmap_threshold, gigabyte)
        mallopt(m_trim_threshold, gigabyte)
        if threads > 1:  # an arena of a thread's own holds 64 MB: two activations
            mallopt(m_arena_max, 1)


class Network(nn.Module):
    """A VQGAN in eval mode; its submodules carry the names of `layouts.py`."""

    def __init__(self, shapes: Shapes, groups: int, unit_codes: bool) -> None:
        """Lay out modules for weights of these shapes.

        Args:
            shapes: tensors by canonical name.
            groups: of every group norm.
            unit_codes: latents and codes are scaled to length 1 before they are compared.
        """
        super().__init__()
        self.unit_codes = unit_codes
        self.encoder = Encoder(shapes, "encoder", groups, stride=2)
        self.quant_conv = _conv(shapes, "quant_conv")
        self.codebook = nn.Parameter(torch.empty(shapes["codebook"].shape))  # [K, D]
        self.post_quant_conv = _conv(shapes, "post_quant_conv")
        self.decoder = Decoder(shapes, "decoder", groups, stride=1)
        convolutions = [m for m in self.encoder.modules() if isinstance(m, Conv)]
        self.search = ExactSearch()
        self.approximate = any(convolution.winograd for convolution in convolutions)

    def latents(self, x_bchw: Tensor) -> Tensor:
        """Latents before quantisation, float32 [B, D, I, J]; `quant_conv` is never autocast."""
        h = self.encoder(x_bchw)
        with torch.autocast(x_bchw.device.type, enabled=False):
            latents: Tensor = self.quant_conv(h.float())
            return latents

    def decode(self, ids_bij: Tensor) -> Tensor:
        """Pixels in the network's range, [B, 3, H, W]."""
        z = self.codes()[ids_bij].permute(0, 3, 1, 2).contiguous()
        decoded: Tensor = self.decoder(self.post_quant_conv(z), z)
        return decoded

    def codes(self) -> Tensor:
        """The codebook as latents are compared with it, float32 [K, D]."""
        return F.normalize(self.codebook, dim=-1) if self.unit_codes else self.codebook


class Conv(nn.Conv2d):
    """3x3 or 1x1, same size, or 3x3 of stride 2."""

    @property
    def winograd(self) -> bool:
        """True where NNPACK is faster for pictures that are large enough, on a CPU."""
        plain = self.kernel_size == (3, 3) and self.stride == (1, 1)
        return plain and min(self.in_channels, self.out_channels) >= WINOGRAD_CHANNELS

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        if x.device.type == "cpu" and self.winograd and not must_be_direct() and _suits_nnpack(x):
            out: Tensor = torch._nnpack_spatial_convolution(
                x.contiguous(), self.weight, self.bias, [1, 1], [1, 1]
            )
            return out
        return super().forward(x)


def _suits_nnpack(x: Tensor) -> bool:
    # asking is also what initialises the library: without it every call fails
    available = bool(torch._nnpack_available())
    wanted = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return available and wanted and min(x.shape[2:]) >= WINOGRAD_SIDE


class Norm(nn.GroupNorm):
    """Group norm; it ignores the codes, which `SpatialNorm` takes."""

    def forward(self, x: Tensor, _: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return super().forward(x)


class SpatialNorm(Norm):
    """MoVQ's norm, scaled and shifted by the codes at each place (arXiv 2209.09002, eq. 3).

    It has 32 groups whatever the other norms have, as in diffusers.
    """

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__(32, shapes[f"{name}.weight"].shape[0], eps=1e-6)
        self.scale, self.shift = _conv(shapes, f"{name}.scale"), _conv(shapes, f"{name}.shift")

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """[B, C, H, W] and codes [B, D, I, J] -> [B, C, H, W]."""
        assert z is not None
        near = F.interpolate(z, size=x.shape[2:], mode="nearest")
        out: Tensor = super().forward(x) * self.scale(near) + self.shift(near)
        return out


class Block(nn.Module):
    """Residual block: twice norm, SiLU, convolution."""

    def __init__(self, shapes: Shapes, name: str, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(shapes, f"{name}.norm1", groups)
        self.conv1 = _conv(shapes, f"{name}.conv1")
        self.norm2 = _norm(shapes, f"{name}.norm2", groups)
        self.conv2 = _conv(shapes, f"{name}.conv2")
        shortcut = f"{name}.shortcut.weight" in shapes
        self.shortcut = _conv(shapes, f"{name}.shortcut") if shortcut else nn.Identity()

    def forward(self, h: Tensor, z: Tensor | None) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]."""
        x = self.conv1(F.silu(self.norm1(h, z), inplace=True))
        x = self.conv2(F.silu(self.norm2(x, z), inplace=True))
        return x.add_(self.shortcut(h))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention of one head over all places."""

    def __init__(self, shapes: Shapes, name: str, groups: int) -> None:
        super().__init__()
        self.norm = _norm(shapes, f"{name}.norm", groups)
        width = self.norm.num_channels
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, h: Tensor, z: Tensor | None) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        x = self.norm(h, z).flatten(2).transpose(1, 2)  # [B, H * W, C]
        # as B sequences of one head: [B, 1, H * W, C]
        q, k, v = (part(x)[:, None] for part in (self.q, self.k, self.v))
        x = self.out(F.scaled_dot_product_attention(q, k, v)[:, 0])
        return h + x.transpose(1, 2).reshape(h.shape)  # type: ignore[no-any-return]


class Level(nn.Module):
    """The blocks of one resolution, and the step to the next one where there is one."""

    def __init__(self, shapes: Shapes, name: str, groups: int, stride: int) -> None:
        super().__init__()
        self.blocks = _numbered(Block, shapes, f"{name}.blocks", groups)
        self.attentions = _numbered(Attention, shapes, f"{name}.attentions", groups)
        last = f"{name}.resample.weight" not in shapes
        self.resample = None if last else _conv(shapes, f"{name}.resample", stride)

    def forward(self, h: Tensor, z: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, C', H / 2, W / 2] in the encoder, twice the size in the decoder."""
        for i, block in enumerate(self.blocks):
            h = block(h, z)
            if len(self.attentions):
                h = self.attentions[i](h, z)
        if self.resample is None:
            return h
        if self.resample.stride == (2, 2):  # padded at the right and at the bottom only
            return self.resample(F.pad(h, (0, 1, 0, 1)))  # type: ignore[no-any-return]
        return self.resample(F.interpolate(h, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


class _Half(nn.Module):
    """Base of encoder and decoder: levels of blocks, and a middle with attention."""

    def __init__(self, shapes: Shapes, name: str, groups: int, stride: int) -> None:
        super().__init__()
        self.conv_in = _conv(shapes, f"{name}.conv_in")
        self.levels = _numbered(Level, shapes, f"{name}.levels", groups, stride)
        self.middle = Level(shapes, f"{name}.middle", groups, 1)
        self.norm_out = _norm(shapes, f"{name}.norm_out", groups)
        self.conv_out = _conv(shapes, f"{name}.conv_out")

    def _middle(self, h: Tensor, z: Tensor | None) -> Tensor:
        first, second = self.middle.blocks
        h = first(h, z)
        for attention in self.middle.attentions:  # one or none
            h = attention(h, z)
        return second(h, z)  # type: ignore[no-any-return]


class Encoder(_Half):
    """Pixels to the latents before `quant_conv`."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, C, I, J]."""
        h = self.conv_in(x)
        for level in self.levels:
            h = level(h)
        h = self._middle(h, None)
        return self.conv_out(F.silu(self.norm_out(h), inplace=True))  # type: ignore[no-any-return]


class Decoder(_Half):
    """Latents after `post_quant_conv` to pixels."""

    def forward(self, h: Tensor, z: Tensor | None) -> Tensor:
        """[B, C, I, J] and the codes [B, D, I, J] -> [B, 3, H, W]."""
        h = self._middle(self.conv_in(h), z)
        for level in self.levels:
            h = level(h, z)
        return self.conv_out(F.silu(self.norm_out(h, z), inplace=True))  # type: ignore[no-any-return]


def _numbered(kind: type[nn.Module], shapes: Shapes, name: str, *options: int) -> nn.ModuleList:
    """One module for each of the weights' `name.0`, `name.1`, …"""
    modules = nn.ModuleList()
    for i in count():
        if not any(key.startswith(f"{name}.{i}.") for key in shapes):
            return modules
        modules.append(kind(shapes, f"{name}.{i}", *options))
    raise AssertionError


def _conv(shapes: Shapes, name: str, stride: int = 1) -> Conv:
    out, inside, side, _ = shapes[f"{name}.weight"].shape
    return Conv(inside, out, side, stride, padding=side // 2 if stride == 1 else 0)


def _norm(shapes: Shapes, name: str, groups: int) -> Norm:
    if f"{name}.scale.weight" in shapes:
        return SpatialNorm(shapes, name)
    return Norm(groups, shapes[f"{name}.weight"].shape[0], eps=1e-6)
