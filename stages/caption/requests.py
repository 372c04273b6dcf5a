"""Requests to a caption model, and its answers.

A request's key covers everything that the answer depends on, so that the journal has the answer
after a kill, and when only the rules for using answers have changed.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from handloom.stages.tables.texts import storable_text

FrameHWC = npt.NDArray[np.uint8]

# At temperature 0 another seed gives the same answer, so the second try leaves it.
SECOND_TRY_TEMPERATURE = 0.7

LONGEST_ANSWER = 100_000  # characters; the thoughts of a model can be long
MOST_TOKENS = 10**9  # of a request: sums over all clips of any run stay below 2^63


@dataclass(frozen=True)
class Request:
    """A request for the caption of one clip.

    Attributes:
        clip_id: id of the clip.
        bucket: bucket of the clip's rows.
        model: name, or for a folder the hash of its files.
        prompt: the text, hint included.
        frames_hwc: pictures in time order, RGB uint8, of one size.
        max_tokens: limit of the answer's tokens.
        temperature: 0 takes the likeliest token each time.
        seed: seed of the sampling of tokens.
    """

    clip_id: str
    bucket: str
    model: str
    prompt: str
    frames_hwc: tuple[FrameHWC, ...] = field(repr=False)
    max_tokens: int
    temperature: float
    seed: int

    @cached_property
    def pictures(self) -> str:
        """SHA-256 of the pictures and their sizes."""
        digest = hashlib.sha256()
        for frame_hwc in self.frames_hwc:
            digest.update(f"{frame_hwc.shape}".encode())
            digest.update(np.ascontiguousarray(frame_hwc).data)
        return digest.hexdigest()

    @cached_property
    def key(self) -> str:
        """Identity of the request: a hash of all of it."""
        facts = [self.clip_id, self.model, self.prompt, self.pictures]
        sampling = [self.max_tokens, self.temperature, self.seed]
        return hashlib.sha256(json.dumps([*facts, *sampling]).encode()).hexdigest()[:40]

    def again(self) -> "Request":
        """The request for a second try, sampled with another seed."""
        warm = max(self.temperature, SECOND_TRY_TEMPERATURE)
        second = replace(self, seed=self.seed + 1, temperature=warm)
        second.__dict__["pictures"] = self.pictures  # hashed once
        return second


@dataclass(frozen=True)
class Answer:
    """A model's answer, and its cost: always one that can be stored, whatever a server sends.

    Attributes:
        text: the answer, with U+FFFD for lone surrogates and spaces for control characters.
        is_whole: False where the answer was cut off, at `max_tokens` or at `LONGEST_ANSWER`.
        prompt_tokens: tokens of text and pictures, 0 to `MOST_TOKENS`.
        completion_tokens: tokens of the answer, 0 to `MOST_TOKENS`.
        seconds: time from sending to receiving; in a batch, its share.

    Raises:
        ValueError: a value of another type, or out of its range.
    """

    text: str
    is_whole: bool
    prompt_tokens: int
    completion_tokens: int
    seconds: float

    def __post_init__(self) -> None:
        counts = (self.prompt_tokens, self.completion_tokens)
        is_typed = isinstance(self.text, str) and isinstance(self.is_whole, bool)
        if not (is_typed and all(map(is_count, counts)) and _is_time(self.seconds)):
            raise ValueError("not the values of an answer")
        stored = storable_text(self.text, LONGEST_ANSWER)
        object.__setattr__(self, "is_whole", self.is_whole and len(self.text) <= LONGEST_ANSWER)
        object.__setattr__(self, "text", stored)


def is_count(value: object) -> bool:
    """Whether a value can be a number of tokens."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


Compose = Callable[[], Request]
Judge = Callable[[Request, Answer], bool]
Outcome = list[Answer] | Exception


class Asker(Protocol):
    """A model, wherever it runs."""

    def ask_all(self, composers: Sequence[Compose], is_fine: Judge) -> list[Outcome]:
        """Caption several clips; an error of one clip is its own outcome.

        Args:
            composers: a function per clip that makes its request; it decodes frames and may raise.
            is_fine: tells whether an answer can be used; if not there is a second request.

        Returns:
            For each clip its one or two answers in order, or the error.

        Raises:
            RunError, UserError: no request can be made at all.
        """
