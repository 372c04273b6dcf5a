"""Tokens: a clip's frames as codes of a VQGAN."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from handloom.stages.base import Stage
from handloom.stages.hands import open_video
from handloom.stages.records import Clip, Row, TokenRow
from handloom.tokenize import vqgan
from handloom.tokenize.frames import center_square


@dataclass(frozen=True)
class Tokens(Stage):
    """Options of `tokens`."""

    name: ClassVar[str] = "tokens"
    row_type: ClassVar[type[Row]] = TokenRow
    gate: ClassVar[str] = "select"

    model: str = "bundled"
    """`bundled`, a folder with a diffusers VQModel, or its hub id."""
    frames: int = 5
    """Frames a clip, at uniform times; 5 of 256 codes are GR-2's 1,316 tokens a clip."""
    resolution: int | None = None
    """Side of the square picture that is encoded, pixels; by default the model's own."""
    input_range: tuple[float, float] | None = None
    """What the model expects for black and white; by default what its folder says, else 0 to 1."""

    def tokenizer(self) -> dict[str, Any]:
        """What the shards record of the VQGAN."""
        return vqgan.describe(self.model, self.input_range, self.resolution)

    def settings(self) -> dict[str, Any]:
        """The options; the model counts by its weights, not by its path."""
        settings = super().settings() | {"models": self.tokenizer()}
        return {
            k: v for k, v in settings.items() if k not in ("model", "resolution", "input_range")
        }

    def setup(self) -> None:
        """Load the VQGAN on this worker."""
        self.vqgan()

    def __call__(self, clip: Clip) -> Iterator[TokenRow]:
        """Encode one clip. Its frames are one batch, so codes do not depend on its neighbours."""
        seconds = clip.end_s - clip.start_s
        times_s = clip.start_s + (np.arange(self.frames) + 0.5) * seconds / self.frames
        frames_thwc = open_video(self.data / clip.media_path).frames_at(times_s)
        model = self.vqgan()
        squares_thwc = np.stack([center_square(f, model.resolution) for f in frames_thwc])
        codes_vtij = model.encode(squares_thwc)[None]
        yield TokenRow(
            clip_id=clip.clip_id,
            codes=codes_vtij.astype("<u2").tobytes(),
            shape=list(codes_vtij.shape),
            times_s=times_s.tolist(),
            width=frames_thwc.shape[2],
            height=frames_thwc.shape[1],
        )

    def failed(self, error: str, clip: Clip) -> Iterator[TokenRow]:
        """A row without codes."""
        yield TokenRow(
            clip_id=clip.clip_id,
            status="failed",
            error=error,
            codes=b"",
            shape=[],
            times_s=[],
            width=0,
            height=0,
        )

    def vqgan(self) -> vqgan.VQGAN:
        """The VQGAN, loaded once in a process."""
        return _loaded(self.model, self.input_range, self.resolution)


@cache
def _loaded(
    model: str, input_range: tuple[float, float] | None, resolution: int | None
) -> vqgan.VQGAN:
    return vqgan.load(model, input_range=input_range, resolution=resolution)
