"""Paths of a command line as they hold on another machine: absolute ones, and URLs as they are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

Rule = Callable[[str], str]

FOLDERS = frozenset({"shards", "frames", "held_out"})  # options that are PLACE or PLACE=WEIGHT
MODELS = frozenset({"model", "tokenizer", "text_encoder"})  # a path here, or a name elsewhere


def absolute(place: str) -> str:
    """A path relative to this folder, `PLACE=WEIGHT` too, as an absolute one; URLs stay."""
    return place if "://" in place else str(Path(place).expanduser().absolute())


def with_absolute_places(words: Sequence[str], kind: type) -> list[str]:
    """A command's words with absolute paths.

    Args:
        words: options, `--flag value …` or `--flag=value`.
        kind: the dataclass of these options.
    """
    rules = dict(_rules(kind, ""))
    rule: Rule = _unchanged
    placed = []
    for word in words:
        flag, equals, value = word.partition("=")
        if word.startswith("--"):
            rule = rules.get(flag.removeprefix("--").replace("-", "_"), _unchanged)
            word = f"{flag}={rule(value)}" if equals else word
        else:
            word = rule(word)
        placed.append(word)
    return placed


def _rules(kind: Any, prefix: str) -> Iterator[tuple[str, Rule]]:
    """What becomes of the values of each option, by its name such as `tokens.model`."""
    hints = get_type_hints(kind)
    for option in fields(kind):
        hint, name = hints[option.name], prefix + option.name
        parts = (hint, *get_args(hint))
        if is_dataclass(hint):
            yield from _rules(hint, f"{name}.")
        elif Path in parts or (option.name in FOLDERS and str in parts):
            yield name, absolute
        elif option.name in MODELS and str in parts:
            yield name, _if_there


def _if_there(place: str) -> str:
    """An absolute path, if something lies there; else the name of a model that is none."""
    return absolute(place) if Path(place).expanduser().exists() else place


def _unchanged(word: str) -> str:
    return word
