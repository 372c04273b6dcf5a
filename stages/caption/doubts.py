"""Quality: what is wrong with a model's caption, as flags. Pure functions of texts.

Each check looks for one failing that models are known for; CHECKS is their table. A flag says that
the answer is not to be used, and is counted in the report with examples.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from handloom.stages.caption.grammar import lemma
from handloom.stages.caption.source_text import lower_first, normalise
from handloom.stages.caption.words import DANGLING, FOREIGN, FUNCTION_WORDS, GENERIC_WORDS, SYNONYMS

ECHOED_WORDS = 6  # in a row from the prompt's own instructions
REPEATED_SPEECH = 8  # words in a row of what a speaker said: copied, not seen
ENGLISH_LETTERS = 0.8  # share of a to z among the letters

# Texts by people who watched the clip, so that a caption must agree with them. Speech is about
# something else half of the time, a class label names a whole activity, and robots get no captions.
DESCRIBES_THE_CLIP = frozenset({"narration", "template"})

_REFUSALS = re.compile(
    r"\bi(?:'m| am)? (?:sorry|cannot|can't|can not|could not|couldn't|am unable|unable|don't see)\b"
    r"|\bas an ai\b|\bas a language model\b|\bunable to (?:see|determine|identify|describe|tell)\b"
    r"|\b(?:cannot|can't|not possible to) (?:be )?(?:see|determine|determined|identify|tell|assist)"
    r"|\bno (?:visible )?(?:hands?|person|people|action)\b|\bnot (?:visible|clear|enough)\b",
    re.IGNORECASE,
)
_CAMERA_TALK = re.compile(
    r"\b(?:the|this|these|in the) (?:video|image|picture|clip|footage|frames?|photos?|scene)s? "
    r"(?:shows?|depicts?|shown|features?|captures?|begins?|starts?|we|you)\b"
    r"|\bin (?:the|this|these) (?:video|image|picture|clip|footage|frames|photo|scene)\b"
    r"|\bthe camera (?:pans?|moves?|zooms?|shows?|follows?|focuses)\b|\bthe viewer\b"
    r"|\bfirst[- ]person\b|\bwe (?:can )?see\b|\b(?:can be|is|are) seen\b",
    re.IGNORECASE,
)
_LABEL = re.compile(r"^(?:caption|answer|instruction|description|action|output)\s*:\s*", re.I)
_THOUGHT = re.compile(r"^.*?</think>", re.DOTALL)


@dataclass(frozen=True)
class Candidate:
    """An answer and what it is held against.

    Attributes:
        text: the answer after `tidy`.
        is_whole: whether the model came to an end by itself.
        prompt: the prompt without the hint.
        source: the clip's own text, cleaned; empty where there is none.
        kind: of that text, as in `Clip.text_kind`.
        max_words: a longer caption counts as too long.
    """

    text: str
    is_whole: bool
    prompt: str
    source: str
    kind: str
    max_words: int


def doubts(candidate: Candidate) -> tuple[str, ...]:
    """The flags of an answer, in the order of CHECKS; none means that it can be used.

    What is no caption at all contradicts nothing: that is looked for where nothing else is amiss.
    """
    if _is_empty(candidate):
        return ("empty",)
    found = tuple(flag for flag, is_so in CHECKS.items() if is_so(candidate))
    return found or (("contradiction",) if _contradicts(candidate) else ())


def tidy(answer: str) -> str:
    """An answer without what models wrap around it: thoughts, labels, quotes, a full stop."""
    plain = normalise(_THOUGHT.sub("", answer))
    plain = _LABEL.sub("", plain.strip("*_`#>- ")).strip("*_` ")
    if len(plain) > 1 and plain[0] == plain[-1] == '"':
        plain = plain[1:-1]
    return lower_first(plain.strip().rstrip(".").rstrip())


def _is_empty(c: Candidate) -> bool:
    return not any(sign.isalnum() for sign in c.text)


def _is_truncated(c: Candidate) -> bool:
    ends_open = c.text.rstrip()[-1] in ",;:-(" or (
        words(c.text)[-1:] and words(c.text)[-1] in DANGLING
    )
    return not c.is_whole or bool(ends_open)


def _is_repeated(c: Candidate) -> bool:
    """A word three times running, a phrase of three words three times, or all of it twice."""
    said = words(c.text)
    phrases, half = list(_runs(said, 3)), len(said) // 2
    return any(len(set(phrase)) == 1 or phrases.count(phrase) >= 3 for phrase in phrases) or (
        half >= 3 and said[:half] == said[-half:]
    )


def _is_refusal(c: Candidate) -> bool:
    return bool(_REFUSALS.search(c.text))


def _is_foreign(c: Candidate) -> bool:
    letters = [sign for sign in c.text if sign.isalpha()]
    plain = [sign for sign in letters if unicodedata.normalize("NFD", sign)[0].isascii()]
    if len(plain) < ENGLISH_LETTERS * len(letters):
        return True
    said = re.findall(r"[^\W\d_]+", c.text.lower())
    foreign = sum(word in FOREIGN for word in said)
    return foreign >= 2 and foreign > sum(word in FUNCTION_WORDS for word in said)


def _is_too_long(c: Candidate) -> bool:
    return len(c.text.split()) > c.max_words


def _is_too_short(c: Candidate) -> bool:
    return len(c.text.split()) < 2


def _is_several(c: Candidate) -> bool:
    return bool(re.search(r"[.!?;]\s+\w", c.text) or re.search(r"\b1[.)]\s", c.text))


def _is_camera_talk(c: Candidate) -> bool:
    return bool(_CAMERA_TALK.search(c.text))


def _is_echo(c: Candidate) -> bool:
    """It repeats the instructions, or copies the speech that was given as a hint."""
    if _shares_run(c.text, c.prompt, ECHOED_WORDS):
        return True
    return c.kind == "asr" and _shares_run(c.text, c.source, REPEATED_SPEECH)


def _contradicts(c: Candidate) -> bool:
    """Neither its verb nor any of its things is in the clip's own text, nor the other way round.

    Compared are lemmas, words for the same thing taken as one; one in common is agreement.
    """
    if c.kind not in DESCRIBES_THE_CLIP:
        return False
    own, said = content_words(c.source), content_words(c.text)
    return bool(own and said) and own.isdisjoint(said)


CHECKS: dict[str, Callable[[Candidate], bool]] = {
    "truncated": _is_truncated,
    "repeated": _is_repeated,
    "refusal": _is_refusal,
    "not_english": _is_foreign,
    "too_long": _is_too_long,
    "too_short": _is_too_short,
    "several_sentences": _is_several,
    "camera_talk": _is_camera_talk,
    "echo": _is_echo,
}


def content_words(text: str) -> set[str]:
    """The verbs and things that a sentence names, as lemmas, one word for each group of synonyms.

    A compound counts by its parts too: `washing-up` and `cut-off` agree with `wash` and `cut`.
    """
    found = {lemma(word) for word in words(text.replace("-", " "))}
    return {SYNONYMS.get(word, word) for word in found if word not in _UNTELLING}


_UNTELLING = FUNCTION_WORDS | GENERIC_WORDS | {lemma(word) for word in GENERIC_WORDS}


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", text.lower())


def _runs(said: list[str], length: int) -> Iterator[tuple[str, ...]]:
    return zip(*(said[start:] for start in range(length)), strict=False)


def _shares_run(text: str, other: str, length: int) -> bool:
    known = set(_runs(words(other), length))
    return any(run in known for run in _runs(words(text), length))
