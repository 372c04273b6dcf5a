"""What is stored of a dataset's own names and texts, of videos and robot episodes alike."""

from dataclasses import fields, replace
from typing import Any, TypeVar

from handloom.stages.datasets.source import SourceEpisode, SourceVideo
from handloom.stages.tables.texts import LONGEST_NAME, LONGEST_TEXT, storable_name, storable_text

FURTHER_TEXTS = 1_000_000  # characters of all further texts of a clip

Source = TypeVar("Source", SourceVideo, SourceEpisode)

_SOURCE_NAMES = {"video_id", "part", "unit", "media_path"}
_NAMES_OF = {  # by kind: asked for each of a million sources
    kind: [field.name for field in fields(kind) if field.name in _SOURCE_NAMES]
    for kind in (SourceVideo, SourceEpisode)
}
_NAMES = ("unit", "video_id", "annotation_id", "media_path")


def storable_source(source: Source) -> Source:
    """A video or the place of an episode under names that can be stored, hashed and found again."""
    own: dict[str, Any] = {name: getattr(source, name) for name in _NAMES_OF[type(source)]}
    together = "".join(own.values())
    if together.isascii() and len(together) <= LONGEST_NAME:
        return source
    stored: dict[str, Any] = {name: storable_name(value) for name, value in own.items()}
    return source if own == stored else replace(source, **stored)


def storable_row(row: dict[str, Any]) -> dict[str, Any]:
    """The values of a clip's or an episode's row; a text that was cut is flagged `cut`."""
    names = {name: storable_name(row[name]) for name in _NAMES if name in row}
    cut = ["cut"] if len(row["text"]) > LONGEST_TEXT else []
    return row | names | {
        "text": storable_text(row["text"]),
        "other_texts": _first(row.get("other_texts", [])),
        "text_flags": [*row.get("text_flags", []), *cut],
        "error": storable_text(row.get("error", "")),
        **({"facts": [storable_text(fact) for fact in row["facts"]]} if "facts" in row else {}),
    }  # fmt: skip


def _first(texts: list[str]) -> list[str]:
    """The first of the texts, `FURTHER_TEXTS` characters at most, each as it can be stored."""
    kept, room = [], FURTHER_TEXTS
    for text in map(storable_text, texts):
        room -= len(text) + 1
        if room < 0:
            break
        kept.append(text)
    return kept
