"""The report's section on captions: texts beside their captions, flags, and the model's effort."""

import html
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeVar

from handloom import svg
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.tables import funnel
from handloom.stages.tables.parts import Tables, effort
from handloom.stages.tables.rows import Clip, Row

T = TypeVar("T")

PAIRS_SHOWN = 24
EXAMPLES_SHOWN = 3  # for each flag
FLAGS = {
    "unsure": "the annotator was not sure",
    "no_tag": "the narration has no #C",
    "no_verb": "the text names an activity or a thing, and tells nobody what to do",
    "speech": "somebody talked; what is said need not be seen",
    "profanity": "an oath, left where it is",
    "empty": "no words",
    "truncated": "cut off, or ends in the middle",
    "repeated": "says the same again and again",
    "refusal": "declines, or sees no hands",
    "not_english": "another language",
    "too_long": "more words than --caption.max-words",
    "too_short": "a single word",
    "several_sentences": "more than one sentence",
    "camera_talk": "speaks of the video or the camera",
    "echo": "repeats the prompt, or copies the speech",
    "contradiction": "has neither the verb nor a thing of the clip's own text",
}


@dataclass(frozen=True, kw_only=True)
class _Asked(Row):
    """The columns that are counted."""

    source: str
    flags: list[str]
    answer_flags: list[str]
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    agreement: float | None


@dataclass
class Tally:
    """Sums over the rows of a caption table.

    The clips shown are those with the smallest ids: ids are hashes, so that is a fair sample.
    """

    sources: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    """Flags of the captions in the table."""
    answer_flags: Counter[str] = field(default_factory=Counter)
    """Flags of all answers of models, used or not."""
    asked: int = 0
    """Clips with a request to a model."""
    fell_back: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    answer_s: float = 0.0
    """Sum over requests, many of which run at a time."""
    agreements: list[float] = field(default_factory=list)
    shown: dict[str, str] = field(default_factory=dict)
    """Buckets by clip id."""
    examples: dict[str, dict[str, str]] = field(default_factory=dict)
    """Buckets by clip id, for each flag."""

    def add(self, row: _Asked, bucket: str) -> None:
        """Count one row."""
        if row.status != "ok":
            self.reasons[row.reason or row.status] += 1
        else:
            self.sources[row.source] += 1
            keep_smallest(self.shown, row.clip_id, bucket, PAIRS_SHOWN)
        answered = [flag for flags in row.answer_flags for flag in flags.split()]
        self.flags.update(row.flags)
        self.answer_flags.update(answered)
        for flag in {*row.flags, *answered}:
            keep_smallest(self.examples.setdefault(flag, {}), row.clip_id, bucket, EXAMPLES_SHOWN)
        self.asked += bool(row.answer_flags)
        self.fell_back += bool(row.answer_flags) and row.source == "source"
        self.requests += len(row.answer_flags)
        self.prompt_tokens += row.prompt_tokens
        self.completion_tokens += row.completion_tokens
        self.answer_s += row.seconds
        if row.agreement is not None:
            self.agreements.append(row.agreement)


def tally(tables: Tables) -> Tally:
    """Count the captions of the clips that came to the stage."""
    counted = Tally()
    for bucket in tables["ingest"].buckets():
        reached = funnel.reached(tables, bucket)["caption"]
        for row in tables["caption"].read(_Asked, bucket):
            if row.clip_id in reached:
                counted.add(row, bucket)
    return counted


def effort_line(tally: Tally, seconds: float) -> str:
    """Requests, tokens and rates of a model, as a sentence; empty without requests.

    The seconds are those of the stage, of all its runs, decoding and waiting included.
    """
    if not tally.requests:
        return ""
    tokens = tally.prompt_tokens + tally.completion_tokens
    rates = ""
    if seconds:
        rates = f", {tally.requests / seconds:.1f} requests/s and {tokens / seconds:,.0f} tokens/s"
    return (
        f"{tally.requests:,} requests for {tally.asked:,} clips{rates}; "
        f"{tally.prompt_tokens:,} prompt + {tally.completion_tokens:,} completion tokens, "
        f"{tally.answer_s / tally.requests:.2f} s an answer"
    )


def section(tables: Tables) -> str:
    """The report's section on captions, as HTML."""
    counted = tally(tables)
    _, seconds, _ = effort(tables["caption"].folder)
    sources = ", ".join(f"{count:,} from {name}" for name, count in counted.sources.most_common())
    lines = [f"Captions: {sources or 'none'}."]
    if counted.reasons:
        reasons = ", ".join(f"{count:,} {why}" for why, count in counted.reasons.most_common())
        lines.append(f"Without a caption: {reasons}.")
    if line := effort_line(counted, seconds):
        lines.append(f"{line}. {counted.fell_back:,} clips fell back to their own text.")
    if counted.agreements:
        lines.append(_agreement_line(counted.agreements))
    paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return (
        f"<h2>Captions</h2>{paragraphs}{_flag_table(tables, counted)}{_pair_table(tables, counted)}"
    )


def _agreement_line(scores: list[float]) -> str:
    ordered = sorted(scores)
    low, middle = ordered[len(ordered) // 20], ordered[len(ordered) // 2]
    return f"CLIP agreement with the pictures: median {middle:.3f}, a twentieth below {low:.3f}."


def _flag_table(tables: Tables, counted: Tally) -> str:
    rows = []
    for flag in sorted({*counted.flags, *counted.answer_flags}):
        examples = "<br>".join(
            _example(tables, flag, clip_id, bucket)
            for clip_id, bucket in sorted(counted.examples[flag].items())
        )
        counts = (counted.answer_flags[flag] or "", counted.flags[flag] or "")
        meaning = f"{html.escape(flag)}<br><small>{html.escape(FLAGS.get(flag, ''))}</small>"
        rows.append((svg.Markup(meaning), *counts, svg.Markup(examples)))
    heads = ("flag", "answers", "captions", "examples")
    return svg.table(heads, rows, words=(3,)) if rows else "<p>No flags.</p>"


def _example(tables: Tables, flag: str, clip_id: str, bucket: str) -> str:
    """The flagged answer, or the text where that is flagged, with the caption."""
    row = tables["caption"].get(CaptionRow, bucket, clip_id)
    pairs = zip(row.answers, row.answer_flags, strict=True)
    flagged = next((answer for answer, flags in pairs if flag in flags.split()), None)
    if flagged is None:
        flagged = tables["ingest"].get(Clip, bucket, clip_id).text
    result = html.escape(row.caption or row.reason)
    return f"{html.escape(_short(flagged))} <small>→ {result} ({row.source})</small>"


def _pair_table(tables: Tables, counted: Tally) -> str:
    rows = []
    for clip_id, bucket in sorted(counted.shown.items()):
        text = tables["ingest"].get(Clip, bucket, clip_id).text
        row = tables["caption"].get(CaptionRow, bucket, clip_id)
        rows.append((_short(text), row.source, row.caption))
    return svg.table(("the clip's own text", "from", "caption"), rows, words=(2,)) if rows else ""


def _short(text: str, most: int = 160) -> str:
    plain = " ".join(text.split()) or "(nothing)"
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"


def keep_smallest(shown: dict[str, T], clip_id: str, value: T, most: int) -> None:
    """Add a clip to those shown; beyond `most` the one with the largest id is dropped."""
    shown[clip_id] = value
    if len(shown) > most:
        del shown[max(shown)]
