"""Command line to dataclass: fields are flags, their docstrings the help.

A YAML file of options becomes flags too, so that there is one way in which an option is checked.
"""

import argparse
import difflib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tyro
import yaml

from handloom.errors import UserError
from handloom.mirror import on_this_disk
from handloom.places import place

T = TypeVar("T")

_PATHS = tyro.constructors.ConstructorRegistry()


@_PATHS.primitive_rule
def _path_or_url(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Path] | None:
    """Every option that is a path may also be a URL: `Path("s3://b")` would be a folder `s3:`."""
    if info.type is not Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: place(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def choice(name: str, known: Collection[str], what: str) -> str:
    """The name, if it is known; else a UserError that suggests what may have been meant."""
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(f"unknown {what} {name!r}: {hint}handloom knows {', '.join(known)}.")


def parse(kind: type[T], args: Sequence[str], command: str, **more: Any) -> T:
    """Parse flags into a dataclass; unknown ones become a UserError with a suggestion.

    Args:
        kind: a dataclass with documented fields.
        args: the words behind the command.
        command: its name, for the help and for errors.
        more: what `tyro.cli` takes beside, such as `default` and `description`.
    """
    parsed: T
    with _PATHS:
        parsed, unknown = tyro.cli(
            kind, args=args, prog=f"handloom {command}", return_unknown_args=True, **more
        )
    if unknown:
        asked = unknown[0].split("=")[0].replace("_", "-")
        close = difflib.get_close_matches(asked, list(_flags(kind)), n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(
            f"unknown option {unknown[0]!r}: {hint}`handloom {command} --help` lists them all."
        )
    return parsed


def call(
    target: str, args: Sequence[str], command: str, options: str = "", stores: bool = False
) -> None:
    """Import a function and call it with the parsed arguments.

    Args:
        target: `module:function`. The function takes a dataclass, which `args` are parsed into, or
            the words themselves, where its options depend on them.
        args: the words behind the command.
        command: its name, for the help and for errors.
        options: `module:Class` of the dataclass; by default as the function is annotated.
        stores: whether the function works on folders in an object store as they are; for others
            these are brought to this disk, and what they write is uploaded (`mirror.py`).
    """
    # Threads that spin while they wait make a step five times slower where cores are shared; OpenMP
    # reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    kind = options_class(target, options)
    if kind is None:
        _named(target)(args)
        return
    parsed = parse(kind, args, command)
    with nullcontext(parsed) if stores else on_this_disk(parsed) as here:
        _named(target)(here)


def options_class(target: str, options: str = "") -> type[Any] | None:
    """The dataclass of a command's options; arguments as of `call`."""
    return _named(options) if options else options_of(_named(target))


def _named(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def options_of(function: Callable[..., Any]) -> type[Any] | None:
    """The dataclass that a command's function takes, None if it reads the words itself."""
    first = next(iter(signature(function).parameters))
    kind = get_type_hints(function)[first]
    return kind if is_dataclass(kind) else None  # type: ignore[return-value]


def value_of(flag: str, args: Sequence[str]) -> list[str]:
    """The words behind a flag, before the others can be parsed; [] without it."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument(flag, nargs="*", default=[], dest="found")
    found: list[str] = finder.parse_known_args(list(args))[0].found
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """The options in a --config file; `yaml_flags` checks that they are by stage."""
    try:
        options = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"--config {path} cannot be read as YAML ({why}).") from None
    if not isinstance(options, dict):
        raise UserError(_not_by_stage(path))
    return options


def yaml_flags(path: Path, options: dict[str, Any], args: Sequence[str]) -> list[str]:
    """Options by stage as flags, less those that the command line sets itself.

    Raises:
        UserError: the options are not a mapping of stages to options.
    """
    if not all(isinstance(values, dict) for values in options.values()):
        raise UserError(_not_by_stage(path))
    given = {arg.split("=")[0].replace("_", "-") for arg in args if arg.startswith("--")}
    given |= {flag.replace(".no-", ".") for flag in given}
    return [
        word
        for stage, values in options.items()
        for flag, words in _flags_of(f"--{stage.replace('_', '-')}.", values)
        if flag.replace(".no-", ".") not in given
        for word in (flag, *words)
    ]


def _not_by_stage(path: Path) -> str:
    return f"--config {path} must map stages to options, such as `tokens: {{frames: 3}}`."


def _flags_of(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for key, value in values.items():
        name = key.replace("_", "-")
        if isinstance(value, dict):
            yield from _flags_of(f"{prefix}{name}.", value)
        elif isinstance(value, bool):
            yield f"{prefix}{'' if value else 'no-'}{name}", []
        else:
            words = value if isinstance(value, list) else [value]
            yield f"{prefix}{name}", [str(word) for word in words]


def _flags(kind: Any, prefix: str = "--") -> Iterator[str]:
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from _flags(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name.replace("_", "-")
