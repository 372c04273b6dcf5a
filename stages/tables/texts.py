"""Texts from outside, made so that a table can hold them and a terminal can show them.

A dataset or a model may send anything as text: lone surrogates, which UTF-8 and so Arrow cannot
encode, control characters, megabytes. Ordinary texts come back as they are.
"""

import hashlib
import re
from typing import Any

LONGEST_TEXT = 10_000  # characters; speech of a whole clip has a few hundred
LONGEST_NAME = 4096  # characters; the longest path of Linux

# Newline, tab and carriage return (CSV files have it) are ordinary.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def storable_text(text: str, longest: int = LONGEST_TEXT) -> str:
    """A text without what cannot be stored or read, cut to its first `longest` characters.

    A lone surrogate becomes U+FFFD, a control character a space, so that words stay apart.
    """
    return _SURROGATE.sub("\ufffd", _CONTROL.sub(" ", text[:longest]))


def storable_name(name: str) -> str:
    """A name, id or path that can be stored and hashed; different names stay different.

    Lone surrogates are written out, `\\ud800`. Control characters stay: a file may be called so.
    The end of a name longer than `LONGEST_NAME` becomes a hash of the whole.
    """
    plain = name.encode("utf-8", "backslashreplace").decode()
    if len(plain) <= LONGEST_NAME:
        return plain
    digest = hashlib.blake2b(plain.encode(), digest_size=10).hexdigest()
    return f"{plain[: LONGEST_NAME - len(digest) - 1]}~{digest}"


def encodable(value: Any) -> Any:
    """A text with U+FFFD for lone surrogates; so in lists and dicts, other values as they are."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [encodable(one) for one in value]
    if isinstance(value, dict):
        return {key: encodable(one) for key, one in value.items()}
    return value


def shown(text: str, longest: int = LONGEST_TEXT) -> str:
    """A text for the screen: what a terminal would obey, or not show, as an escape such as `\\x1b`.

    The bytes of a file name that are not UTF-8, which Python holds as surrogates, show as `\\xff`.
    A text over `longest` characters ends in `...`.
    """
    cut = text if len(text) <= longest else text[:longest] + "..."
    return cut if cut.isprintable() else "".join(map(_shown, cut))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
