"""Rows of the `caption` table."""

from dataclasses import dataclass, field

from handloom.stages.tables.rows import Row


@dataclass(frozen=True, kw_only=True)
class CaptionRow(Row):
    """A row of the `caption` table."""

    caption: str
    source: str
    """Where the caption comes from: `source` is the dataset's own text, `vlm` and `server` are
    models."""
    flags: list[str] = field(default_factory=list)
    model: str = ""
    """Which model was asked: a name, or the hash of a folder."""
    answers: list[str] = field(default_factory=list)
    """What it said, as it came: one answer, or two where the first was flagged."""
    answer_flags: list[str] = field(default_factory=list)
    """Of each answer its flags, with spaces between them; empty for one that could be used."""
    prompt_tokens: int = 0
    """Of all answers together, as are the next two."""
    completion_tokens: int = 0
    seconds: float = 0.0
    """From sending to receiving."""
    agreement: float | None = None
    """Cosine of caption and pictures in CLIP's space, -1 to 1, where a CLIP model was given."""
