"""Frames for training an image tokenizer: pairs a short time apart, drawn from sources by weight.

A pool holds as many pairs as memory is meant to, of each source its share. Which pairs these are is
a function of (seed, number of the pool), and which of them a step sees one of (seed, step): a run
that goes on after an interruption draws the same frames.

Shapes: B pairs, P = 2 frames of a pair (1 where only a tokenizer is measured), H x W pixels.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handloom.errors import MediaError, UserError
from handloom.stages.media.video import probe
from handloom.tokenize.frames import center_square
from handloom.train.trainer.options import place_and_weight
from handloom.train.vqgan.config import VQGANConfig
from handloom.train.vqgan.sources import ClipItem, EpisodeItem, ImageItem, Item, Source, find

Frame = NDArray[np.uint8]
EPISODE_HZ = 3.0  # where a row does not say: the slowest of the robots that are known


@dataclass(frozen=True)
class Pool:
    """Squared pairs in memory, by source."""

    names: tuple[str, ...]
    pairs: tuple[NDArray[np.uint8], ...] = field(repr=False)
    """Pairs of each source, [B, P, H, W, 3] RGB."""
    weights: tuple[float, ...]
    """Share of each source; they add up to 1."""
    unreadable: tuple[int, ...]
    """Number of files, spans or episodes of each source that could not be read."""

    def describe(self) -> str:
        """A line for each source."""
        rows = zip(self.names, self.weights, self.pairs, self.unreadable, strict=True)
        return "\n".join(
            f"{name}: {weight:.1%} of the crops, from {len(pairs):,} pairs of frames"
            + (f"; {bad} items could not be read" if bad else "")
            for name, weight, pairs, bad in rows
        )

    def draw(self, seed: int, step: int, batch: int) -> tuple[list[Frame], list[int]]:
        """Frames [H, W, 3] that a step trains on, and the number of each one's source."""
        rng = np.random.default_rng([seed, step])
        sources = rng.choice(len(self.pairs), size=batch, p=self.weights).tolist()
        return [self._one(source, rng) for source in sources], sources

    def some(self, count: int, seed: int) -> NDArray[np.uint8]:
        """Frames [count, H, W, 3] drawn by weight, for what is computed before the first step."""
        rng = np.random.default_rng([seed, 1 << 40])  # no step has this number
        sources = rng.choice(len(self.pairs), size=count, p=self.weights)
        return np.stack([self._one(int(source), rng) for source in sources])

    def _one(self, source: int, rng: np.random.Generator) -> Frame:
        pairs = self.pairs[source]
        frame: Frame = pairs[rng.integers(len(pairs)), rng.integers(2)]
        return frame


class Frames:
    """All the frames of a run: its sources, its pools and what is held out.

    Args:
        config: of the run.

    Raises:
        UserError: a source is not there or empty, or nothing is left to validate on.
    """

    def __init__(self, config: VQGANConfig) -> None:
        self.config = config
        if not config.frames:
            raise UserError("--frames names no source: give it one folder at least.")
        sources = [find(text, False) for text in config.frames]
        apart = [find(text, True) for text in config.held_out]
        if apart:  # what only a hash kept back can be learned from; official splits are kept
            sources = [s if s.official else _undivided(s) for s in sources]
        self.sources = _named_apart(sources)
        self.validation = _named_apart(apart or [s for s in sources if s.held_out])
        self._check()

    def _check(self) -> None:
        empty = next((source.name for source in self.sources if not source.train), None)
        if empty is not None or not self.validation:
            where = empty or ", ".join(source.name for source in self.sources)
            raise UserError(
                f"{where} holds too few videos or images: training needs one at least and "
                "validation another; add some, or name a folder with --held-out."
            )

    def digest(self) -> str:
        """A hash of which items there are, and how much their sources weigh. Reads none of them."""
        listing = [(s.weight, [item.identity() for item in s.train]) for s in self.sources]
        return hashlib.sha256(repr(listing).encode()).hexdigest()[:12]

    def pool_number(self, step: int) -> int:
        """Number of the pool that a step draws from."""
        return step // self.config.refresh if self.config.refresh else 0

    def pool(self, number: int) -> Pool:
        """Read the pairs of a pool.

        Raises:
            UserError: a source of which nothing can be read.
        """
        total = sum(source.weight for source in self.sources)
        weights = [source.weight / total for source in self.sources]
        wanted = [max(1, round(weight * self.config.max_pairs)) for weight in weights]
        return self._read([source.train for source in self.sources], wanted, weights, number)

    def held_out(self) -> Pool:
        """Read the pairs to validate on, as many of each source."""
        each = max(1, self.config.eval_pairs // len(self.validation))
        count = len(self.validation)
        items = [source.held_out for source in self.validation]
        return self._read(items, [each] * count, [1 / count] * count, None)

    def _read(
        self,
        items: list[tuple[Item, ...]],
        wanted: list[int],
        weights: list[float],
        number: int | None,
    ) -> Pool:
        sources = self.sources if number is not None else self.validation
        pairs, unreadable = [], []
        for place, source in enumerate(sources):
            seed = None if number is None else [self.config.seed, number, place]
            found, bad = _read_some(source.name, items[place], wanted[place], seed, self.config)
            pairs.append(found)
            unreadable.append(bad)
        names = tuple(source.name for source in sources)
        return Pool(names, tuple(pairs), tuple(weights), tuple(unreadable))


def held_out_frames(config: VQGANConfig, wanted: int) -> dict[str, NDArray[np.uint8]]:
    """Up to `wanted` frames [T, H, W, 3] of each source, by its name: what it holds out, else all.

    Raises:
        UserError: a source that is not there, is empty or cannot be read.
    """
    found = {}
    for source in _named_apart([find(text, False) for text in config.frames]):
        items = source.held_out or source.train
        if not items:
            raise UserError(f"{source.name} holds no videos or images: name another folder.")
        firsts, _ = _read_some(source.name, items, wanted, None, config, together=1)
        found[source.name] = firsts[:, 0]
    return found


def _undivided(source: Source) -> Source:
    return replace(source, train=source.train + source.held_out, held_out=())


def _named_apart(sources: list[Source]) -> list[Source]:
    """The same sources, those after the first of a name with a number behind it."""
    seen: Counter[str] = Counter()
    named = []
    for source in sources:
        seen[source.name] += 1
        number = f"-{seen[source.name]}" if seen[source.name] > 1 else ""
        named.append(replace(source, name=source.name + number))
    return named


def _read_some(
    name: str,
    items: Sequence[Item],
    wanted: int,
    seed: list[int] | None,
    config: VQGANConfig,
    together: int = 2,
) -> tuple[NDArray[np.uint8], int]:
    """Up to `wanted` pairs, as many of each item; and how many items could not be read.

    Without a seed they are the same ones each time, evenly spaced. With `together` 1 the second
    frame of each pair is left out, and not decoded either: the result is [B, P, H, W, 3].
    """
    rng = np.random.default_rng(seed) if seed else None
    order = rng.permutation(len(items)) if rng else np.arange(len(items))
    if wanted < len(items):  # evenly over the items where nothing is drawn
        order = order[np.linspace(0, len(items) - 1, wanted).astype(int)]
    each = math.ceil(wanted / len(order))
    pairs: list[NDArray[np.uint8]] = []
    unreadable = 0
    for index in order:
        shift = float(rng.random()) if rng else 0.5
        try:
            shares = (np.arange(each) + shift) / each
            squares = list(_of_item(items[index], shares, config, together))
        except (OSError, MediaError, Image.DecompressionBombError):
            unreadable += 1
            continue
        pairs.extend(squares)
        unreadable += not squares
    if not pairs:
        raise UserError(
            f"{name}: none of {len(order)} files could be read, the first being {items[0].key}."
        )
    kept = np.linspace(0, len(pairs) - 1, min(wanted, len(pairs))).astype(int)
    return np.stack([pairs[index] for index in kept]), unreadable


def _of_item(
    item: Item, shares: NDArray[np.float64], config: VQGANConfig, together: int
) -> Iterator[NDArray[np.uint8]]:
    """Squared pairs [P, H, W, 3] of an item, at shares of its length; P is `together`."""
    if isinstance(item, ImageItem):
        with Image.open(item.path) as image:
            frame = center_square(np.asarray(image.convert("RGB")), config.resolution)
        yield np.stack([frame] * together)
    elif isinstance(item, ClipItem):
        yield from _of_clip(item, shares, config, together)
    else:
        yield from _of_episode(item, shares, config, together)


def _of_clip(
    item: ClipItem, shares: NDArray[np.float64], config: VQGANConfig, together: int
) -> Iterator[NDArray[np.uint8]]:
    """Pairs from one pass over the clip's shot; squared at once, for files may be large."""
    start_s, end_s, fps = _span(item)
    gap_s = config.gap_s
    room_s = max(0.0, end_s - start_s - gap_s - 0.1)
    count = min(len(shares), max(1, int((end_s - start_s) / gap_s)))
    some = shares[np.linspace(0, len(shares) - 1, count).astype(int)]
    firsts = [round(start_s + float(share) * room_s, 3) for share in some]
    pairs = [(first, round(first + gap_s, 3))[:together] for first in firsts]
    wanted = sorted({time_s for pair in pairs for time_s in pair})
    times_s = np.array([_next_frame_s(time_s, fps) for time_s in wanted])
    shown = item.pictures.frames(item.clip, item.framing, times_s)
    frames: dict[float, Frame] = {}
    with suppress(MediaError):  # a file that breaks off gives the pairs before
        for time_s, frame_hwc in zip(wanted, shown, strict=True):
            frames[time_s] = center_square(frame_hwc, config.resolution)
    for pair in pairs:
        if frames.keys() >= set(pair):
            yield np.stack([frames[time_s] for time_s in pair])


def _span(item: ClipItem) -> tuple[float, float, float]:
    """Start and end of a clip's shot in seconds, and its frames a second."""
    framing, clip = item.framing, item.clip
    facts = clip if clip.fps else probe(item.pictures.data / clip.media_path)
    return framing.shot_start_s, min(framing.shot_end_s, facts.duration_s), facts.fps


def _next_frame_s(time_s: float, fps: float) -> float:
    """The middle of the first frame that begins at a time or after it.

    In its middle a frame is surely on screen, however a container rounds the times of frames.
    """
    return (math.ceil((time_s - 1e-3) * fps) + 0.5) / fps if fps else time_s


def _of_episode(
    item: EpisodeItem, shares: NDArray[np.float64], config: VQGANConfig, together: int
) -> Iterator[NDArray[np.uint8]]:
    """Pairs of an episode's cameras in turn."""
    views = list(item.pictures.views(item.place).values())
    gap = max(1, round(config.gap_s * (item.place.fps or EPISODE_HZ)))
    for number, share in enumerate(shares):
        view = views[number % len(views)]
        first = int(share * max(1, len(view) - gap))
        steps = (first, min(first + gap, len(view) - 1))[:together]
        yield np.stack([center_square(view[step], config.resolution) for step in steps])


def folder_name(text: str) -> str:
    """The last part of a source's path, with its weight."""
    path, _ = place_and_weight(str(text))
    return Path(path).name + str(text)[len(path) :]
