"""Prompts: one readable file per style, with a section for each kind of text that may be a hint."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from handloom.errors import UserError

FOLDER = Path(__file__).parent / "prompts"
KINDS = ("narration", "template", "label", "asr")


@dataclass(frozen=True)
class Prompt:
    """Instructions of a caption model.

    Attributes:
        text: the instructions, the same for every clip.
        hints: by kind of text, the sentence that quotes it; `{text}` stands for it.
        digest: SHA-256 of the file, part of the stage's fingerprint.
    """

    text: str
    hints: dict[str, str]
    digest: str

    def about(self, text: str, kind: str) -> str:
        """The prompt for a clip; without its text where that is empty or has no section."""
        if not text or kind not in self.hints:
            return self.text
        return f"{self.text}\n\n{self.hints[kind].replace('{text}', text)}"


@cache
def read_prompt(style: str) -> Prompt:
    """Read a prompt.

    Args:
        style: `imperative`, `third_person`, or the path of a file of one's own.

    Raises:
        UserError: no such file, an unknown section, or a section that does not hold `{text}`.
    """
    bundled = FOLDER / f"{style}.txt"
    path = bundled if bundled.is_file() else Path(style)
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        styles = ", ".join(sorted(p.stem for p in FOLDER.glob("*.txt")))
        raise UserError(
            f"--caption.prompt {style} cannot be read ({error}); expected {styles}, or the path of "
            "a text file like those (docs/captions.md)."
        ) from None
    sent = "\n".join(line for line in content.splitlines() if not line.startswith("#"))
    text, *sections = re.split(r"^\[(\w+)\]$", sent, flags=re.MULTILINE)
    hints = {kind: body.strip() for kind, body in zip(sections[::2], sections[1::2], strict=True)}
    _check(path, text, hints)
    return Prompt(text.strip(), hints, hashlib.sha256(content.encode()).hexdigest())


def _check(path: Path, text: str, hints: dict[str, str]) -> None:
    if not text.strip():
        raise UserError(
            f"{path} says nothing before its first [section]; put the instructions there."
        )
    for kind, hint in hints.items():
        if kind not in KINDS or "{text}" not in hint:
            raise UserError(
                f"{path} has a section [{kind}] that cannot be used: sections are called "
                f"{', '.join(KINDS)} and quote the clip's text as {{text}}."
            )
