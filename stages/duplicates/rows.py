"""Rows of the `duplicates` table."""

from dataclasses import dataclass
from typing import TypedDict

from handloom.stages.tables.rows import Row


class Match(TypedDict):
    """A clip that shows nearly the same."""

    clip_id: str
    dataset: str
    split: str
    similarity: float
    better: bool
    """Whether it is the one to keep of the two."""


@dataclass(frozen=True, kw_only=True)
class DuplicateRow(Row):
    """A row of the `duplicates` table."""

    similarity: float
    """To the most similar clip that is the one to keep of the two, 0 to 1; 0 if there is none."""
    leak_similarity: float
    """Of a clip of train, to the most similar one held out."""
    matches: list[Match]
    """The most similar first."""
