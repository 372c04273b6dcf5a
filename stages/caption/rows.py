"""Rows of the `caption` table."""

from dataclasses import dataclass, field

from handloom.stages.tables.rows import Row


@dataclass(frozen=True, kw_only=True)
class CaptionRow(Row):
    """A row of the `caption` table."""

    caption: str = ""
    source: str = "source"
    """Origin of the caption: `source` is the dataset's own text, `vlm` and `server` are models;
    with `none` it is empty."""
    flags: list[str] = field(default_factory=list)
    model: str = ""
    """Name of the model that was asked, or the hash of its folder."""
    answers: list[str] = field(default_factory=list)
    """Its answers before any clean-up of words: one, or two where the first was flagged."""
    answer_flags: list[str] = field(default_factory=list)
    """Flags of each answer, with spaces between them; empty where it could be used."""
    prompt_tokens: int = 0
    """Sum over all answers, as are the next two."""
    completion_tokens: int = 0
    seconds: float = 0.0
    """Time from sending to receiving."""
    agreement: float | None = None
    """Cosine of caption and pictures in CLIP's space, -1 to 1, where a CLIP model was given."""
