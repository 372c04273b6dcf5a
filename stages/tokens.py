"""Tokens: frames as codes of a VQGAN; of a clip a few, of a robot episode every step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from handloom.stages.datasets.source import Images
from handloom.stages.episodes.rows import EpisodeSteps
from handloom.stages.hands.rows import Framing
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.media.clip_frames import pictures_of, uniform_times
from handloom.stages.media.frame_transform import transform_facts
from handloom.stages.media.video import FrameHWC
from handloom.stages.stage import Stage
from handloom.stages.tables.rows import Clip, EpisodePlace, Row
from handloom.tokenize import vqgan
from handloom.tokenize.frames import center_square
from handloom.tokenize.vqgan.stream import encode_stream


@dataclass(frozen=True, kw_only=True)
class TokenRow(Row):
    """A row of the `tokens` table."""

    codes: bytes
    """uint16 little-endian, C order, of `shape`."""
    shape: list[int]
    """[views, frames, rows, columns]"""
    times_s: list[float]
    """Of each frame, from the start of the video."""
    width: int
    height: int
    """Size of the encoded picture, upright and without bars, before it was cropped to a square."""


@dataclass(frozen=True)
class Encoding(Stage):
    """What `tokens` does for clips and for robot episodes alike."""

    name: ClassVar[str] = "tokens"
    row_type: ClassVar[type[Row]] = TokenRow
    code_version: ClassVar[int] = 2

    model: str = "bundled"
    """`bundled`, `bundled-128` (a quarter of the codes), a folder, a `.ckpt` or `.pt` file, or a
    hub id; see docs/tokenizers.md."""
    resolution: int | None = None
    """Side of the square picture that is encoded, pixels; by default the model's own."""
    input_range: tuple[float, float] | None = None
    """What the model expects for black and white; by default what its folder says, else 0 to 1."""

    def tokenizer(self) -> dict[str, Any]:
        """What the shards record of the VQGAN."""
        return vqgan.describe(self.model, self.input_range, self.resolution)

    def settings(self) -> dict[str, Any]:
        """The options; the model counts by its weights, not by its path."""
        settings = super().settings() | {"models": self.tokenizer()} | transform_facts(self)
        return {
            k: v for k, v in settings.items() if k not in ("model", "resolution", "input_range")
        }

    def setup(self) -> None:
        """Load the VQGAN on this worker."""
        self.vqgan()

    def failed(self, error: str, clip: Clip, *_: Row) -> Iterator[TokenRow]:
        """A row without codes."""
        yield self._without_codes(clip, status="failed", error=error)

    def vqgan(self) -> vqgan.VQGAN:
        """The VQGAN, loaded once in a process."""
        return _loaded(self.model, self.input_range, self.resolution)

    def _encode(self, frames_hwc: Sequence[FrameHWC]) -> npt.NDArray[np.uint16]:
        """Codes [T, I, J] of frames of any size."""
        model = self.vqgan()
        return model.encode(np.stack([center_square(f, model.resolution) for f in frames_hwc]))

    def _without_codes(self, clip: Clip, **values: Any) -> TokenRow:
        row: dict[str, Any] = {"codes": b"", "shape": [], "times_s": [], "width": 0, "height": 0}
        return TokenRow(clip_id=clip.clip_id, **(row | values))


@dataclass(frozen=True)
class Tokens(Encoding):
    """Options of `tokens`."""

    reads: ClassVar[dict[str, type[Row]]] = {"hands": Framing}
    code_version: ClassVar[int] = 3

    frames: int = 5
    """Frames a clip, at uniform times; 5 of 256 codes are GR-2's 1,316 tokens a clip."""

    def __call__(self, clip: Clip, framing: Framing) -> Iterator[TokenRow]:
        """Encode one clip. Its frames are one batch, so codes do not depend on its neighbours."""
        times_s = uniform_times(framing, self.frames)
        frames = list(pictures_of(self).frames(clip, framing, times_s))
        codes_vtij = self._encode(frames)[None]
        height, width, _ = frames[0].shape
        yield TokenRow(
            clip_id=clip.clip_id,
            codes=codes_vtij.astype("<u2").tobytes(),
            shape=list(codes_vtij.shape),
            times_s=times_s.tolist(),
            width=width,
            height=height,
        )


@dataclass(frozen=True)
class EpisodeTokens(Encoding):
    """Options of `tokens` for robot episodes."""

    clip_type: ClassVar[type[Clip]] = EpisodePlace
    reads: ClassVar[dict[str, type[Row]]] = {"episodes": EpisodeSteps}

    max_frozen_share: float = 0.8
    """Reject an episode when a camera shows the very same picture for more than this of it."""

    def __call__(self, clip: EpisodePlace, steps: EpisodeSteps) -> Iterator[TokenRow]:
        """Encode one episode. A picture that several steps show is encoded once."""
        assert isinstance(self.source, EpisodeIngest)
        views = self.source.pictures.views(clip)
        shown = np.unique(steps.steps_taken)
        if any(frozen_share(view, shown) > self.max_frozen_share for view in views.values()):
            yield self._without_codes(clip, status="rejected", reason="frozen_camera")
            return
        where = np.searchsorted(shown, steps.steps_taken)
        codes_vtij = np.stack([self._codes(view, shown)[where] for view in views.values()])
        yield TokenRow(
            clip_id=clip.clip_id,
            codes=codes_vtij.astype("<u2").tobytes(),
            shape=list(codes_vtij.shape),
            times_s=(np.arange(len(where)) / steps.hz).tolist(),
            width=clip.width,
            height=clip.height,
        )

    def _codes(self, view: Images, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.uint16]:
        """Codes [N, I, J]; one picture at a time is in memory, however long the episode."""
        side = self.vqgan().resolution
        squares = (center_square(view[int(step)], side)[None] for step in steps)
        return np.concatenate(list(encode_stream(self.vqgan(), squares)))


def frozen_share(view: Images, steps: npt.NDArray[np.int64]) -> float:
    """Share of the steps that lie in the longest run of equal pictures; 0 for fewer than five."""
    if len(steps) < 5:
        return 0.0
    prints = [view.fingerprint(int(step)) for step in steps]
    longest = max(len(list(run)) for _, run in groupby(prints))
    return longest / len(steps) if longest > 1 else 0.0


@cache
def _loaded(
    model: str, input_range: tuple[float, float] | None, resolution: int | None
) -> vqgan.VQGAN:
    return vqgan.load(model, input_range=input_range, resolution=resolution)
