"""The report's section on captions: texts beside their captions, flags, and the model's effort."""

import html
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handloom import svg
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.tables.columns import Floats, Total, frequencies
from handloom.stages.tables.outcomes import Outcomes, all_outcomes
from handloom.stages.tables.parts import Tables, effort
from handloom.stages.tables.rows import Clip

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


COLUMNS = [
    "reason", "source", "flags", "answer_flags", "prompt_tokens", "completion_tokens", "seconds",
    "agreement",
]  # fmt: skip


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
    answer_s: Total = field(default_factory=Total)
    """Sum over requests, many of which run at a time."""
    agreements: list[Floats] = field(default_factory=list)
    """Bucket by bucket."""
    shown: dict[str, str] = field(default_factory=dict)
    """Buckets by clip id."""
    examples: dict[str, dict[str, str]] = field(default_factory=dict)
    """Buckets by clip id, for each flag."""

    def add(self, outcomes: Outcomes) -> None:
        """Count a bucket's captions, of the clips that came to the stage."""
        outcome, bucket = outcomes.stages["caption"], outcomes.bucket
        rows = outcome.table.filter(pa.array(outcome.came[outcome.clip]))
        if not rows.num_rows:
            return
        is_ok = pc.equal(rows["status"], "ok")
        self.sources.update(frequencies(rows["source"].filter(is_ok)))
        others = rows.filter(pc.invert(is_ok))
        why = pc.if_else(pc.equal(others["reason"], ""), others["status"], others["reason"])
        self.reasons.update(frequencies(why))
        _show(self.shown, rows["clip_id"].filter(is_ok), bucket, PAIRS_SHOWN)
        self._add_flags(rows, bucket)
        self._add_effort(rows)

    def merge(self, other: "Tally") -> None:
        """Add the sums over the rows of further buckets."""
        for name in ("sources", "reasons", "flags", "answer_flags"):
            getattr(self, name).update(getattr(other, name))
        for name in ("asked", "fell_back", "requests", "prompt_tokens", "completion_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.answer_s.merge(other.answer_s)
        self.agreements += other.agreements
        _smallest(self.shown, other.shown, PAIRS_SHOWN)
        for flag, examples in other.examples.items():
            _smallest(self.examples.setdefault(flag, {}), examples, EXAMPLES_SHOWN)

    def _add_flags(self, rows: pa.Table, bucket: str) -> None:
        """Count flags, of captions and of answers; those of one answer have spaces between."""
        for counts, name in ((self.flags, "flags"), (self.answer_flags, "answer_flags")):
            column = rows[name].combine_chunks()
            parents, flat = pc.list_parent_indices(column), pc.list_flatten(column)
            for told in pc.unique(flat).to_pylist():
                if flags := told.split() if name == "answer_flags" else [told]:
                    at = parents.filter(pc.equal(flat, told))
                    for flag in flags:
                        counts[flag] += len(at)
                        examples = self.examples.setdefault(flag, {})
                        _show(examples, rows["clip_id"].take(at), bucket, EXAMPLES_SHOWN)

    def _add_effort(self, rows: pa.Table) -> None:
        answers = pc.list_value_length(rows["answer_flags"]).to_numpy()
        of_source = pc.equal(rows["source"], "source").to_numpy()
        self.asked += int((answers > 0).sum())
        self.fell_back += int(((answers > 0) & of_source).sum())
        self.requests += int(answers.sum())
        self.prompt_tokens += int(rows["prompt_tokens"].to_numpy().sum())
        self.completion_tokens += int(rows["completion_tokens"].to_numpy().sum())
        self.answer_s.add(rows["seconds"].to_numpy())
        agreement = rows["agreement"].drop_null().to_numpy()
        self.agreements += [agreement] if len(agreement) else []


def tally(tables: Tables) -> Tally:
    """Count the captions of the clips that came to the stage."""
    counted_so_far, names = Tally(), list(tables)
    gates = {name: tables[name] for name in names[: names.index("caption") + 1]}
    for outcomes in all_outcomes(gates, {"caption": COLUMNS}):
        counted_so_far.add(outcomes)
    return counted_so_far


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
        f"{float(tally.answer_s) / tally.requests:.2f} s an answer"
    )


def section(tables: Tables, counted: Tally) -> str:
    """The report's section on captions, as HTML."""
    _, seconds, _ = effort(tables["caption"].folder)
    sources = ", ".join(
        f"{count:,} from {name}" if name != "none" else f"{count:,} left empty (route none)"
        for name, count in counted.sources.most_common()
    )
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


def _agreement_line(of_buckets: list[Floats]) -> str:
    scores = np.concatenate(of_buckets)
    places = [len(scores) // 20, len(scores) // 2]
    low, middle = np.partition(scores, places)[places]
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


def _show(shown: dict[str, str], clip_ids: pa.ChunkedArray, bucket: str, most: int) -> None:
    """Add clips to those shown; beyond `most` those with the smallest ids stay."""
    if len(shown) == most:
        clip_ids = clip_ids.filter(pc.less(clip_ids, max(shown)))
    _smallest(shown, dict.fromkeys(sorted(clip_ids.to_pylist())[:most], bucket), most)


def _smallest(shown: dict[str, str], others: dict[str, str], most: int) -> None:
    """Add clips; those with the smallest ids stay."""
    shown |= others
    for clip_id in sorted(shown)[most:]:
        del shown[clip_id]
