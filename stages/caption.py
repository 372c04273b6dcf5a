"""Caption: the dataset's own text as an instruction.

`#C C picks up the red cup ` becomes `pick up the red cup`. A narration whose verb is not where it
is expected becomes a sentence instead: `the person and X carry a table`. The raw text stays in the
clips table.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from handloom.stages.base import Stage
from handloom.stages.records import CaptionRow, Clip, Row

_TAGS = re.compile(r"#\s*(?:unsure|summary|c|o)\b", re.IGNORECASE)
_SUBJECT = re.compile(r"^(?:c|the (?:man|woman|person|camera wearer))\b\s*", re.IGNORECASE)

# Third person singular to base form where the endings below do not apply.
IRREGULAR = {
    "has": "have", "does": "do", "goes": "go", "undoes": "undo", "ties": "tie", "unties": "untie",
    "lies": "lie", "dies": "die", "focuses": "focus", "buses": "bus",
}  # fmt: skip
NOT_VERBS = {"is", "was", "his", "as", "this", "its", "always", "perhaps", "towards", "besides"}

# A second verb is only taken for one where one of these follows: `picks plates and cups` has none.
_OBJECT_WORDS = "the|a|an|it|them|his|her|their|another|some"
_PARTICLES = "up|down|off|out|away|back|aside|over"
_SECOND_VERB = re.compile(
    rf"\b(and|then|,)(\s+)([a-z]+s)(?=\s+(?:(?:{_PARTICLES})\s+)?(?:{_OBJECT_WORDS})\b)"
)


@dataclass(frozen=True)
class Caption(Stage):
    """Options of `caption`."""

    name: ClassVar[str] = "caption"
    row_type: ClassVar[type[Row]] = CaptionRow
    gate: ClassVar[str] = "select"
    light: ClassVar[bool] = True

    def __call__(self, clip: Clip) -> Iterator[CaptionRow]:
        """Turn the clip's text into its caption."""
        caption = instruction(clip.text)
        yield CaptionRow(
            clip_id=clip.clip_id,
            status="ok" if caption else "rejected",
            reason="" if caption else "no_text",
            caption=caption,
            source="source",
            flags=clip.text_flags,
        )

    def failed(self, error: str, clip: Clip) -> Iterator[CaptionRow]:
        """A row without a caption."""
        yield CaptionRow(
            clip_id=clip.clip_id, status="failed", error=error, caption="", source="source"
        )


@dataclass(frozen=True)
class EpisodeCaption(Caption):
    """Options of `caption` for robot episodes, whose instructions are their captions."""

    gate: ClassVar[str] = "episodes"


def instruction(text: str) -> str:
    """An imperative from a narration in the third person, lower case, without a full stop.

    Empty where nothing but tags is left.
    """
    plain = " ".join(_TAGS.sub(" ", text).split()).rstrip(".!, ")
    said = _SUBJECT.sub("", plain)
    if not said:
        return ""
    verb, _, rest = said.partition(" ")
    if said == plain or not _is_third_person(verb):
        return _lower_first(plain) if said == plain else f"the person {said}"
    imperative = f"{base_form(verb)} {rest}".strip()
    return _SECOND_VERB.sub(lambda m: m[1] + m[2] + base_form(m[3]), imperative)


def base_form(verb: str) -> str:
    """`carries` -> `carry`, `washes` -> `wash`, `closes` -> `close`, `picks` -> `pick`."""
    verb = verb.lower()
    if verb in IRREGULAR:
        return IRREGULAR[verb]
    if verb.endswith("ies"):
        return verb[:-3] + "y"
    if verb.endswith(("sses", "shes", "ches", "xes", "zzes", "oes")):
        return verb[:-2]
    return verb[:-1]


def _is_third_person(word: str) -> bool:
    word = word.lower()
    return (
        word.isalpha()
        and word.endswith("s")
        and not word.endswith("ss")
        and (word not in NOT_VERBS)
    )


def _lower_first(sentence: str) -> str:
    second = sentence[1:2]
    return sentence if second.isupper() else sentence[0].lower() + sentence[1:]
