"""Checks of a model's caption, as pure functions of texts.

Each check looks for one failing that models are known for; CHECKS is their table. A flag says that
the answer is not to be used, and is counted in the report with examples.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from handloom.stages.caption.grammar import lemma
from handloom.stages.caption.source_text import lower_first, normalise
from handloom.stages.caption.words import DANGLING, FOREIGN, FUNCTION_WORDS, GENERIC_WORDS, SYNONYMS

ECHOED_WORDS = 6  # in a row from the prompt's own instructions
REPEATED_SPEECH = 8  # words in a row of what a speaker said: copied from the hint
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
_NEXT_SENTENCE = re.compile(r"[.!?;]\s+\w|\b1[.)]\s")
_LABEL = re.compile(r"^(?:caption|answer|instruction|description|action|output)\s*:\s*", re.I)
_THOUGHT = re.compile(r"^.*?</think>", re.DOTALL)


@dataclass(frozen=True)
class Candidate:
    """An answer, and the texts that it is compared with.

    Attributes:
        text: the answer after `tidy`.
        is_whole: False where the answer was cut off at the model's token limit.
        prompt: the prompt without the hint.
        source: the clip's own text, cleaned; empty where there is none.
        kind: kind of that text, as in `Clip.text_kind`.
        max_words: longer captions are too long.
    """

    text: str
    is_whole: bool
    prompt: str
    source: str
    kind: str
    max_words: int


def caption_flags(candidate: Candidate) -> tuple[str, ...]:
    """Flags of an answer, in the order of CHECKS; an answer without flags can be used.

    A contradiction only counts for an answer that passes all other checks.
    """
    if not any(character.isalnum() for character in candidate.text):
        return ("empty",)
    flags = tuple(flag for flag, fails in CHECKS.items() if fails(candidate))
    return flags or (("contradiction",) if _contradicts(candidate) else ())


def tidy(answer: str) -> str:
    """An answer without what models wrap around it: thoughts, labels, quotes, a full stop."""
    plain = normalise(_THOUGHT.sub("", answer))
    plain = _LABEL.sub("", plain.strip("*_`#>- ")).strip("*_` ")
    if len(plain) > 1 and plain[0] == plain[-1] == '"':
        plain = plain[1:-1]
    return lower_first(plain.strip().rstrip(".").rstrip())


def _is_truncated(c: Candidate) -> bool:
    last = words(c.text)[-1:]
    ends_open = c.text.rstrip()[-1] in ",;:-(" or bool(last and last[0] in DANGLING)
    return not c.is_whole or ends_open


def _is_repeated(c: Candidate) -> bool:
    """A word three times running, a phrase of three words three times, or all of it twice."""
    spoken = words(c.text)
    phrases, half = Counter(_runs(spoken, 3)), len(spoken) // 2
    return any(len(set(phrase)) == 1 or n >= 3 for phrase, n in phrases.items()) or (
        half >= 3 and spoken[:half] == spoken[-half:]
    )


def _is_foreign(c: Candidate) -> bool:
    """Few letters of a to z, or more function words of other languages than English ones."""
    letters = [character for character in c.text if character.isalpha()]
    # NFD splits an accent from its letter, so that `é` counts as `e`.
    plain = [letter for letter in letters if unicodedata.normalize("NFD", letter)[0].isascii()]
    if len(plain) < ENGLISH_LETTERS * len(letters):
        return True
    spoken = re.findall(r"[^\W\d_]+", c.text.lower())
    foreign = sum(word in FOREIGN for word in spoken)
    return foreign >= 2 and foreign > sum(word in FUNCTION_WORDS for word in spoken)


def _is_echo(c: Candidate) -> bool:
    """It repeats the instructions, or copies the speech that was given as a hint."""
    if _shares_run(c.text, c.prompt, ECHOED_WORDS):
        return True
    return c.kind == "asr" and _shares_run(c.text, c.source, REPEATED_SPEECH)


def _contradicts(c: Candidate) -> bool:
    """The caption and the clip's own text share neither a verb nor a thing, compared as lemmas."""
    if c.kind not in DESCRIBES_THE_CLIP:
        return False
    own, caption = content_words(c.source), content_words(c.text)
    return bool(own and caption) and own.isdisjoint(caption)


CHECKS: dict[str, Callable[[Candidate], bool]] = {
    "truncated": _is_truncated,
    "repeated": _is_repeated,
    "refusal": lambda c: bool(_REFUSALS.search(c.text)),
    "not_english": _is_foreign,
    "too_long": lambda c: len(c.text.split()) > c.max_words,
    "too_short": lambda c: len(c.text.split()) < 2,
    "several_sentences": lambda c: bool(_NEXT_SENTENCE.search(c.text)),
    "camera_talk": lambda c: bool(_CAMERA_TALK.search(c.text)),
    "echo": _is_echo,
}


def content_words(text: str) -> set[str]:
    """Lemmas of the verbs and things in a sentence, one word for each group of synonyms.

    A compound counts by its parts too: `washing-up` and `cut-off` agree with `wash` and `cut`.
    """
    lemmas = {lemma(word) for word in words(text.replace("-", " "))}
    return {SYNONYMS.get(word, word) for word in lemmas - _EMPTY_WORDS}


_EMPTY_WORDS = _UNTELLING = FUNCTION_WORDS | GENERIC_WORDS | {lemma(word) for word in GENERIC_WORDS}


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", text.lower())


def _runs(spoken: list[str], length: int) -> Iterator[tuple[str, ...]]:
    return zip(*(spoken[start:] for start in range(length)), strict=False)


def _shares_run(text: str, other: str, length: int) -> bool:
    return not set(_runs(words(text), length)).isdisjoint(_runs(words(other), length))
