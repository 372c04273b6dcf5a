"""Tokens: frames as codes of a VQGAN, a few of a clip, every step of a robot episode."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from handloom.flags import choice
from handloom.stages.datasets.source import Images
from handloom.stages.episodes.rows import EpisodeSteps
from handloom.stages.hands.rows import Framing
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.media.clip_frames import pictures_of, spaced_times, uniform_times
from handloom.stages.media.frame_transform import clip_shown, transform_facts
from handloom.stages.stage import Stage, sentence
from handloom.stages.tables.rows import EpisodeFootage, Footage, Row
from handloom.tokenize import vqgan
from handloom.tokenize.frames import center_square
from handloom.tokenize.vqgan.stream import encode_stream

Codes = npt.NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class TokenRow(Row):
    """A row of the `tokens` table."""

    codes: bytes = b""
    """uint16 little-endian, C order, of `shape`; empty where the status is not `ok`."""
    shape: list[int] = field(default_factory=list)
    """[views, frames, rows, columns]"""
    times_s: list[float] = field(default_factory=list)
    """Times of the frames, seconds from the start of the video or episode."""
    width: int = 0
    height: int = 0
    """Size of the encoded picture, upright and without bars, before it was cropped to a square."""


@dataclass(frozen=True)
class Encoding(Stage):
    """The part of `tokens` that clips and robot episodes share."""

    name: ClassVar[str] = "tokens"
    row_type: ClassVar[type[Row]] = TokenRow
    code_version: ClassVar[int] = 2
    wants_gpu: ClassVar[bool] = True

    model: str = "bundled"
    """`bundled`, `bundled-128` (a quarter of the codes), a folder, a `.ckpt` or `.pt` file, or a
    hub id; see docs/tokenizers.md."""
    resolution: int | None = None
    """Side of the square picture that is encoded, pixels; by default the model's own."""
    input_range: tuple[float, float] | None = None
    """The model's values of black and white; by default those its folder names, else 0 and 1."""
    precision: str = "float32"
    """Of the encoder: `float32`, or `tf32`, `bfloat16` or `float16`, which are faster on GPUs and
    change some codes; the manifest says how many."""

    def __post_init__(self) -> None:
        choice(self.precision, vqgan.DTYPES, "precision")

    def tokenizer(self) -> dict[str, Any]:
        """Record of the VQGAN for the shards' manifest."""
        told = vqgan.describe(self.model, self.input_range, self.resolution)
        return told if self.is_exact else told | {"precision": self.precision}

    @property
    def is_exact(self) -> bool:
        """Whether codes are those of float32."""
        return self.precision == "float32"

    def settings(self) -> dict[str, Any]:
        """The options; the model counts by its weights, not by its path."""
        settings = super().settings() | {"models": self.tokenizer()} | transform_facts(self)
        counted = settings.keys() - {"model", "resolution", "input_range", "precision"}
        return {name: value for name, value in settings.items() if name in counted}

    def input_type(self) -> type[Footage]:
        """The footage alone; all of a clip where frames pass a function of the user's."""
        return clip_shown(self)

    def setup(self) -> None:
        """Load the VQGAN on this worker.

        Raises:
            RunError: the worker was given a GPU that torch cannot use.
        """
        self.check_device()
        self.vqgan()

    def vqgan(self, in_float32: bool = False) -> vqgan.VQGAN:
        """The VQGAN, loaded once in a process; in float32 whatever the precision of the codes."""
        precision = "float32" if in_float32 else self.precision
        return _loaded(self.model, self.input_range, self.resolution, self.device, precision)


@dataclass(frozen=True)
class Tokens(Encoding):
    """Options of `tokens`."""

    reads: ClassVar[dict[str, type[Row]]] = {"hands": Framing}
    clip_type: ClassVar[type[Footage]] = Footage
    code_version: ClassVar[int] = 4

    frames: int = 5
    """Frames per clip, at uniform times; 5 of 256 codes are GR-2's 1,316 tokens a clip."""
    spacing_s: float | None = None
    """Seconds from one frame to the next, instead of a number of frames: longer clips then have
    more of them, of which pre-training takes windows."""

    def settings(self) -> dict[str, Any]:
        """As of `Encoding`; runs from before `spacing_s` was an option keep their fingerprint."""
        settings = super().settings()
        if self.spacing_s is None:
            del settings["spacing_s"]
        return settings

    def times_s(self, framing: Framing) -> npt.NDArray[np.float64]:
        """Times of the frames that are encoded, seconds."""
        if self.spacing_s is None:
            return uniform_times(framing, self.frames)
        return spaced_times(framing, self.spacing_s)

    @property
    def takes_batches(self) -> bool:
        """Whether frames of several clips are encoded together, as a GPU wants it."""
        return self.device != "cpu"

    def __call__(self, clip: Footage, framing: Framing) -> Iterator[TokenRow]:
        """Encode one clip. Its frames are one batch, so codes do not depend on its neighbours."""
        read = self._read(clip, framing)
        yield read.row(clip, self.vqgan().encode(read.squares_thwc))

    def batch(self, inputs: Sequence[tuple[Any, ...]]) -> list[Row]:
        """Rows of several clips. On a GPU their frames share batches, while this worker's other
        cores read those of the next clips; each frame's codes are the same alone."""
        if self.device == "cpu":
            return super().batch(inputs)
        read: list[_Read | Exception] = []

        def squares() -> Iterator[npt.NDArray[np.uint8]]:
            for one in readers.map(self._read_or_fail, *zip(*inputs, strict=True)):
                read.append(one)
                yield self._nothing() if isinstance(one, Exception) else one.squares_thwc

        with ThreadPoolExecutor(self.threads) as readers:
            encoded = list(encode_stream(self.vqgan(), squares()))
        return [
            next(self.failed(sentence(one), *of))
            if isinstance(one, Exception)
            else one.row(of[0], codes)
            for of, one, codes in zip(inputs, read, encoded, strict=True)
        ]

    def _read(self, clip: Footage, framing: Framing) -> "_Read":
        """The frames of a clip as the model wants them."""
        times_s, side = self.times_s(framing), self.vqgan().resolution
        squares, height, width = [], 0, 0
        for frame in pictures_of(self).frames(clip, framing, times_s):
            height, width, _ = frame.shape
            squares.append(center_square(frame, side))
            del frame  # the next one may take 200 MB as well
        return _Read(np.stack(squares), times_s, width, height)

    def _read_or_fail(self, clip: Footage, framing: Framing) -> "_Read | Exception":
        try:
            return self._read(clip, framing)
        except Exception as error:  # costs its clip alone, as `run_isolated` has it
            return error

    def _nothing(self) -> npt.NDArray[np.uint8]:
        side = self.vqgan().resolution
        return np.empty((0, side, side, 3), np.uint8)


@dataclass(frozen=True)
class _Read:
    """The frames of a clip, ready to be encoded."""

    squares_thwc: npt.NDArray[np.uint8]
    times_s: npt.NDArray[np.float64]
    width: int
    height: int

    def row(self, clip: Footage, codes_tij: Codes) -> TokenRow:
        """The clip's row."""
        return _token_row(clip, codes_tij[None], self.times_s, self.width, self.height)


@dataclass(frozen=True)
class EpisodeTokens(Encoding):
    """Options of `tokens` for robot episodes."""

    clip_type: ClassVar[type[Footage]] = EpisodeFootage
    reads: ClassVar[dict[str, type[Row]]] = {"episodes": EpisodeSteps}

    max_frozen_share: float = 0.8
    """Reject an episode when a camera shows one frozen picture for a larger share of it, 0 to 1."""

    def __call__(self, clip: EpisodeFootage, steps: EpisodeSteps) -> Iterator[TokenRow]:
        """Encode one episode. A picture that several steps show is encoded once."""
        assert isinstance(self.source, EpisodeIngest)
        views = self.source.pictures.views(clip)
        shown = np.unique(steps.steps_taken)
        if any(frozen_share(view, shown) > self.max_frozen_share for view in views.values()):
            yield TokenRow(clip_id=clip.clip_id, status="rejected", reason="frozen_camera")
            return
        where = np.searchsorted(shown, steps.steps_taken)
        codes_vtij = np.stack([self._codes(view, shown)[where] for view in views.values()])
        times_s = np.arange(len(where)) / steps.hz
        yield _token_row(clip, codes_vtij, times_s, clip.width, clip.height)

    def _codes(self, view: Images, steps: npt.NDArray[np.int64]) -> Codes:
        """Codes [N, I, J]; one picture at a time is in memory, however long the episode."""
        side = self.vqgan().resolution
        squares = (center_square(view[int(step)], side)[None] for step in steps)
        return np.concatenate(list(encode_stream(self.vqgan(), squares)))


def _token_row(
    clip: Footage, codes_vtij: Codes, times_s: npt.NDArray[np.float64], width: int, height: int
) -> TokenRow:
    return TokenRow(
        clip_id=clip.clip_id,
        codes=codes_vtij.astype("<u2").tobytes(),
        shape=list(codes_vtij.shape),
        times_s=times_s.tolist(),
        width=width,
        height=height,
    )


def frozen_share(view: Images, steps: npt.NDArray[np.int64]) -> float:
    """Share of the steps that lie in the longest run of equal pictures; 0 for fewer than five."""
    if len(steps) < 5:
        return 0.0
    prints = [view.fingerprint(int(step)) for step in steps]
    longest = max(len(list(run)) for _, run in groupby(prints))
    return longest / len(steps) if longest > 1 else 0.0


@cache
def _loaded(
    model: str,
    input_range: tuple[float, float] | None,
    resolution: int | None,
    device: str,
    precision: str,
) -> vqgan.VQGAN:
    return vqgan.load(
        model, device=device, input_range=input_range, resolution=resolution, dtype=precision
    )
