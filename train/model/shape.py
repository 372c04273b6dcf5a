"""Shapes of the GPT, and the named sizes. Imports no torch."""

from dataclasses import dataclass
from typing import NamedTuple

from handloom.errors import UserError


class Size(NamedTuple):
    """Depth and width of one named model size."""

    layers: int
    width: int
    heads: int


# Trainable parameters with an 8,192 codebook: 30, 92, 312 and 721 M against 30, 95, 312 and 719 M
# in the GR-2 paper (arXiv 2410.06158), which does not publish the shapes. `tiny` is for CPUs, the
# smaller ones are for tests and for the scaling study on a miniature.
SIZES = {
    "nano": Size(1, 16, 1),
    "micro": Size(1, 32, 2),
    "mini": Size(2, 64, 2),
    "little": Size(4, 128, 4),
    "tiny": Size(4, 192, 4),
    "s": Size(8, 512, 8),
    "b": Size(12, 768, 12),
    "l": Size(24, 1024, 16),
    "xl": Size(36, 1280, 20),
}


@dataclass(frozen=True)
class Shape:
    """All that fixes the shapes of the parameters; a checkpoint loads only into an equal one."""

    layers: int
    width: int
    heads: int
    codebook_size: int
    views: int
    frames: int
    rows: int
    cols: int
    text_length: int
    text_width: int

    @property
    def codes(self) -> int:
        """N: codes in a clip."""
        return self.frames * self.codes_per_frame

    @property
    def codes_per_frame(self) -> int:
        """Codes of all views at one time."""
        return self.views * self.rows * self.cols

    @property
    def length(self) -> int:
        """T: positions in training; the last code is predicted and never read."""
        return self.text_length + self.codes - 1


def named_shape(size: str, **sizes: int) -> Shape:
    """The shape of a named size; raises UserError for an unknown name."""
    if size not in SIZES:
        raise UserError(f"unknown size {size!r}: choose one of {', '.join(SIZES)}.")
    return Shape(**SIZES[size]._asdict(), **sizes)
