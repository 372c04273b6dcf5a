"""Recognised speech cut into clips of whole sentences; `cut_speech` is the entry.

A line is a few words with the time it is displayed, not the time it is spoken: lines overlap, may
repeat the line before (rolling captions), and break sentences anywhere. Times are whole
milliseconds in this module, so that no clip exceeds its limit by a rounding error.
"""

import html
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from handloom.stages.datasets.source import CutRule, Span

PAUSE_MS = 1000  # a longer silence is a good place to break
MAX_GAP_MS = 3000  # lines are not merged over a longer silence: nobody speaks of what is shown
REPEAT_MS = 500  # a repeating line starts no later than this after the end of the repeated one
LATEST_MS = 10_000_000_000  # four months; later times are invalid
MAX_REPEATED = 40  # words of the line before that a line may repeat
MAX_LINES = 128  # in one clip
BAD_BREAK_COST = 0.25  # equals that of half the preferred length too much
TOO_SHORT_COST = 10.0  # above all other costs: the clip would be rejected
ENGLISH_LETTERS = 0.8  # share of a to z among the letters, below which a text is not English

_QUOTES = "\"')\u201d\u2019"  # may follow the end of a sentence
_MARKS = re.compile(
    r"\[[^\[\]]{0,80}\]"  # [Music], [Applause], [ __ ] for an oath
    r"|\((?:music|applause|laughter|laughs|silence|noise|inaudible|foreign)\)"
    r"|[♩♪♫♬]"
    r"|>{2,}",  # another speaker
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Line:
    start_ms: int
    end_ms: int
    text: str
    raw: tuple[str, ...]
    is_shortened: bool = False


def cut_speech(
    rows: Iterable[tuple[Any, Any, Any]], rule: CutRule, flags: tuple[str, ...] = ()
) -> tuple[Span, ...]:
    """Merge lines of speech into spans of `rule.min_s` to `rule.max_s` that do not overlap.

    Spans end at sentence ends or at pauses of more than a second where possible, and have about the
    mean length of the two limits. No span contains a silence of more than three seconds, so that
    some are shorter than `rule.min_s`. A line longer than `rule.max_s` is cut and flagged
    `shortened`.

    The text is cleaned; where it differs from the raw lines, these are the `other_texts`. Unusable
    lines are the `other_texts` of spans of no length: one rejected as `no_text` (also if there are
    no lines at all), and one as `no_time`.

    Args:
        rows: (start, end, text) as read; seconds, in any order, of any type.
        rule: the limits.
        flags: flags of all spans.
    """
    lines, no_text, no_time = _sort_lines(rows)
    lines = [
        _shorten(line, round(rule.max_s * 1000))
        for line in _remove_overlaps(_remove_repeats(lines))
    ]
    spans = []
    if no_text or not (lines or no_time):
        spans.append(Span(0.0, 0.0, "", tuple(no_text), reason="no_text"))
    if no_time:  # a millisecond later: spans at the same time would be the same clip
        spans.append(Span(0.001, 0.001, "", tuple(no_time), reason="no_time"))
    spans += (_span(lines[a:b], flags) for a, b in _partition(lines, rule))
    return tuple(spans)


def clean_line(text: str) -> str:
    """A line without HTML entities, marks of sounds and speakers, and extra white space."""
    plain = html.unescape(html.unescape(text))  # `&amp;#39;` occurs
    return " ".join(_MARKS.sub(" ", plain).split())


def _sort_lines(rows: Iterable[tuple[Any, Any, Any]]) -> tuple[list[_Line], list[str], list[str]]:
    """Usable lines in time order, texts without words, and texts without a time."""
    lines, no_text, no_time = [], [], []
    for start, end, value in rows:
        raw = _as_text(value)
        text = clean_line(raw)
        start_ms, end_ms = _milliseconds(start), _milliseconds(end)
        if not any(character.isalnum() for character in text) or text.lower() == "nan":
            no_text.append(raw)
        elif start_ms is None or end_ms is None or end_ms <= max(start_ms, 0):
            no_time.append(raw)
        else:
            lines.append(_Line(max(start_ms, 0), end_ms, text, (raw,)))
    # By the text as well: the result must not depend on the order in the file.
    lines.sort(key=lambda line: (line.start_ms, line.end_ms, line.raw))
    return lines, sorted(no_text), sorted(no_time)


def _as_text(value: Any) -> str:
    """Text of a cell: numbers are words, too; NaN and None are empty."""
    if isinstance(value, str):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number and value == value else ""  # NaN is not itself


def _milliseconds(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        time_ms = float(value) * 1000
    except (TypeError, ValueError, OverflowError):
        return None
    return round(time_ms) if abs(time_ms) < LATEST_MS else None  # False for NaN too


def _remove_repeats(lines: Iterable[_Line]) -> Iterator[_Line]:
    """Lines without the words that repeat the line before; pure repeats extend that line."""
    last: _Line | None = None
    previous: list[str] = []
    for line in lines:
        words = line.text.split()
        repeated = 0
        if last and line.start_ms <= last.end_ms + REPEAT_MS:
            repeated = _count_repeated(previous, words)
        previous = words
        if last and repeated == len(words):
            end_ms = max(last.end_ms, line.end_ms)
            last = replace(last, end_ms=end_ms, raw=last.raw + line.raw)
            continue
        if last:
            yield last
        last = replace(line, text=" ".join(words[repeated:]))
    if last:
        yield last


def _count_repeated(previous: list[str], words: list[str]) -> int:
    """Number of words at the start of a line that repeat the end of the previous one.

    A single common word is chance ("in the", "the pan") unless it is a whole line.
    """
    a, b = ([word.casefold() for word in line] for line in (previous, words))
    if len(b) <= len(a) and a[len(a) - len(b) :] == b:
        return len(b)
    for count in range(min(len(a), len(b), MAX_REPEATED), 0, -1):
        if a[-count:] == b[:count]:
            return count if count > 1 or count == len(a) else 0
    return 0


def _remove_overlaps(lines: Iterable[_Line]) -> Iterator[_Line]:
    """Lines that end where the next one starts; lines of the same start are joined."""
    last: _Line | None = None
    for line in lines:
        if last and line.start_ms == last.start_ms:
            text = f"{last.text} {line.text}"
            last = replace(
                line, end_ms=max(last.end_ms, line.end_ms), text=text, raw=last.raw + line.raw
            )
            continue
        if last:
            yield replace(last, end_ms=min(last.end_ms, line.start_ms))
        last = line
    if last:
        yield last


def _shorten(line: _Line, max_ms: int) -> _Line:
    if line.end_ms - line.start_ms <= max_ms:
        return line
    return replace(line, end_ms=line.start_ms + max_ms, is_shortened=True)


def _partition(lines: list[_Line], rule: CutRule) -> list[tuple[int, int]]:
    """Half-open ranges of the lines of each clip, at the least total cost.

    Dynamic programming: the cheapest partition up to a line follows from those up to the lines
    before it.
    """
    cheapest = [0.0] + [math.inf] * len(lines)
    came_from = [0] * (len(lines) + 1)
    for first, start in enumerate(lines):
        for last in range(first, min(len(lines), first + MAX_LINES)):
            length_s = (lines[last].end_ms - start.start_ms) / 1000
            if last > first and (length_s > rule.max_s or _gap_ms(lines, last) > MAX_GAP_MS):
                break
            cost = cheapest[first] + _cost(length_s, _is_good_break(lines, last), rule)
            if cost < cheapest[last + 1]:
                cheapest[last + 1], came_from[last + 1] = cost, first
    ends = []
    behind = len(lines)
    while behind:
        ends.append((came_from[behind], behind))
        behind = came_from[behind]
    return ends[::-1]


def _cost(length_s: float, is_good_break: bool, rule: CutRule) -> float:
    """Cost of a clip: squared relative deviation from the preferred length, plus penalties."""
    preferred_s = (rule.min_s + rule.max_s) / 2
    cost = (length_s / preferred_s - 1) ** 2
    return cost + BAD_BREAK_COST * (not is_good_break) + TOO_SHORT_COST * (length_s < rule.min_s)


def _is_good_break(lines: list[_Line], last: int) -> bool:
    """Whether a line ends a sentence or is followed by a pause."""
    if last + 1 == len(lines) or _gap_ms(lines, last + 1) > PAUSE_MS:
        return True
    return lines[last].text.rstrip(_QUOTES).endswith((".", "?", "!"))


def _gap_ms(lines: list[_Line], i: int) -> int:
    """Silence between a line and the one before."""
    return lines[i].start_ms - lines[i - 1].end_ms


def _span(lines: list[_Line], flags: tuple[str, ...]) -> Span:
    text = " ".join(line.text for line in lines)
    raw = tuple(part for line in lines for part in line.raw)
    flags += ("shortened",) * any(line.is_shortened for line in lines)
    return Span(
        start_s=lines[0].start_ms / 1000,
        end_s=lines[-1].end_ms / 1000,
        text=text,
        other_texts=() if " ".join(raw) == text else raw,
        flags=flags + _language_flags(text),
    )


def _language_flags(text: str) -> tuple[str, ...]:
    """`no_words` without letters; `not_english` for other scripts, and for much Vietnamese."""
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return ("no_words",)
    share = sum(character.isascii() for character in letters) / len(letters)
    return ("not_english",) if share < ENGLISH_LETTERS else ()
