"""How an export is divided: parts that are written whole, one after the other, or not at all."""

from dataclasses import dataclass

import pyarrow as pa

from handloom.export.listing import Listing


@dataclass(frozen=True)
class Part:
    """A run of clips of one split, whose files are written together.

    Attributes:
        number: from 0 on.
        split: of all its clips.
        start: the first clip's number in the listing.
        stop: the number after the last one's.
    """

    number: int
    split: str
    start: int
    stop: int

    def rows(self, listing: Listing) -> pa.Table:
        """Its rows of the listing."""
        return listing.rows.slice(self.start, self.stop - self.start)


@dataclass(frozen=True)
class Limits:
    """Where a part ends; a clip that is larger by itself is a part of its own.

    Attributes:
        pixels: of all frames; by these the sizes of the files are foreseen, whatever is in them.
        seconds: of all clips.
        clips: how many.
    """

    pixels: int
    seconds: float
    clips: int


def cut(listing: Listing, limits: Limits) -> list[Part]:
    """Parts of a listing. They depend on its columns alone, so that a rerun finds the same ones."""
    splits = listing.rows["split"].to_pylist()
    sizes = zip(
        listing.numbers("pixels").tolist(), listing.rows["seconds"].to_pylist(), strict=True
    )
    borders, held, held_s = [0], 0, 0.0
    for i, (pixels, seconds) in enumerate(sizes):
        is_full = held + pixels > limits.pixels or held_s + seconds > limits.seconds
        if i > borders[-1] and (
            is_full or i - borders[-1] == limits.clips or splits[i] != splits[i - 1]
        ):
            borders.append(i)
            held, held_s = 0, 0.0
        held, held_s = held + pixels, held_s + seconds
    ends = [*borders[1:], len(listing)]
    pairs = enumerate(zip(borders, ends, strict=True))
    return [Part(number, splits[start], start, stop) for number, (start, stop) in pairs]
