"""Clean-up of a dataset's own text into an instruction, by the kind of text.

`#C C picks up the red cup ` becomes `pick up the red cup`, `Holding [something]` with its objects
filled in `hold potato`, `washing dishes` `wash dishes`. The raw text stays in the clips table.
Profanity stays too and is flagged; nothing is judged here beyond that.
"""

import html
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from handloom.stages.caption.grammar import base_form, from_gerund, is_gerund, is_third_person
from handloom.stages.caption.words import FILLERS, JOINED_ACTIONS, PROFANE, SPOKEN_OPENINGS

_TAGS = re.compile(r"#\s*(?:unsure|summary|c|o)\b", re.IGNORECASE)
# In a sentence `#unsure` stands for what the annotator could not name; elsewhere it is a remark.
_UNNAMED = re.compile(
    r"\b(?:a|an|the|some)\s+#\s*unsure\b"
    r"|(?<=[a-z][a-z]\s)#\s*unsure(?=\s+\w)"
    r"|(?<=\b(?:at|in|of|on|to)\s)#\s*unsure\b"
    r"|(?<=\b(?:from|into|onto|with)\s)#\s*unsure\b",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    r"^(?:(?:c|he|she|the (?:man|woman|person|lady|camera wearer|wearer))\b\s*)+", re.IGNORECASE
)
_INVISIBLE = re.compile(r"[\u200b-\u200f\u2028-\u202f\u2060\ufeff\u00ad]")
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})

# A second verb is only taken for one where one of these follows: `picks plates and cups` has none.
_OBJECT_WORDS = "the|a|an|it|them|his|her|their|another|some"
_PARTICLES = "up|down|off|out|away|back|aside|over"
_SECOND_VERB = re.compile(
    rf"\b(and|then|,)(\s+)([a-z]+s)(?=\s+(?:(?:{_PARTICLES})\s+)?(?:{_OBJECT_WORDS})\b)"
)
_SECOND_ACTION = re.compile(rf"\b(and|or|but|then)(\s+)({'|'.join(sorted(JOINED_ACTIONS))})\b")
_OPENING = re.compile(
    rf"^(?:{'|'.join(sorted(map(re.escape, SPOKEN_OPENINGS), key=len, reverse=True))})\b[\s,.]*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Cleaned:
    """A text as an instruction, lower case without a full stop, and remarks on it.

    Flags: `profanity`; `no_verb`, it names an activity or a thing and is no instruction; `speech`,
    somebody talked.
    """

    text: str
    flags: tuple[str, ...] = ()


def clean(text: str, kind: str) -> Cleaned:
    """Turn a dataset's text into an instruction; empty where there are no words in it.

    Args:
        text: as the dataset has it.
        kind: narration, template, asr, label or instruction, as the adapter says.
    """
    cleaned = _without_flag(text, kind)
    words = re.findall(r"[a-z]+", cleaned.text.lower())
    profane = ("profanity",) if PROFANE.intersection(words) else ()
    return Cleaned(cleaned.text, cleaned.flags + profane)


def clean_text(text: str, kind: str) -> str:
    """The instruction alone, as `clean` makes it: of millions of texts, whose words are counted."""
    return _without_flag(text, kind).text


def _without_flag(text: str, kind: str) -> Cleaned:
    """As `clean`; profanity is not looked for."""
    plain = normalise(text)
    if not any(map(str.isalnum, _TAGS.sub("", plain) if "#" in plain else plain)):
        return Cleaned("")
    return _BY_KIND[kind](plain)


def normalise(text: str) -> str:
    """Unicode NFC, plain quotes, single spaces; no entities, controls or invisible characters."""
    plain = html.unescape(text)
    if plain.isascii() and plain.isprintable():  # nearly all; a million texts are counted
        return " ".join(plain.split())
    plain = _INVISIBLE.sub("", unicodedata.normalize("NFC", plain).translate(_QUOTES))
    return " ".join("".join(c if c.isprintable() else " " for c in plain).split())


def narration(text: str) -> str:
    """An imperative from a narration in the third person, lower case, without a full stop.

    Empty where nothing but tags is left. A narration whose verb is not where it is expected becomes
    a sentence instead: `the person and X carry a table`.
    """
    # Most texts have nothing that these expressions look for, and are told so in no time.
    may_be_unnamed = "#" in text and not (text.isascii() and "unsure" not in text.lower())
    named = _UNNAMED.sub("something", text) if may_be_unnamed else text
    plain = _calm(" ".join(_TAGS.sub(" ", named).split()).rstrip(".!, "))
    predicate = _SUBJECT.sub("", plain)
    if not predicate:
        return ""
    verb, _, rest = predicate.partition(" ")
    if predicate == plain:
        return _imperative(plain)[0]
    if not is_third_person(verb):
        return f"the person {predicate}"
    imperative = f"{base_form(verb)} {rest}".strip()
    if "and" not in imperative and "then" not in imperative and "," not in imperative:
        return imperative
    return _SECOND_VERB.sub(lambda m: m[1] + m[2] + base_form(m[3]), imperative)


def _template(text: str) -> Cleaned:
    """Something-Something: the brackets go, what they hold stays; `(wringing)` explains a verb."""
    plain = re.sub(r"\((?:\w+ing)\)\s*", "", text.replace("[", "").replace("]", ""))
    return _action(plain)


def _label(text: str) -> Cleaned:
    """Kinetics: what stands in brackets tells classes apart, and folders have underscores."""
    return _action(re.sub(r"\s*\([^)]*\)", "", text.replace("_", " ")))


def _speech(text: str) -> Cleaned:
    """HowTo100M: openings, fillers and stutters go; the rest stays speech, not a description."""
    words: list[str] = []
    for word in _calm(text).split():
        bare = word.strip(".,!?").lower()
        if bare not in FILLERS and not (words and words[-1].strip(".,!?").lower() == bare):
            words.append(word)
    speech = " ".join(words)
    while (shorter := _OPENING.sub("", speech)) != speech and shorter:
        speech = shorter
    return Cleaned(lower_first(speech.strip(" ,.!?")), ("speech",))


_BY_KIND: dict[str, Callable[[str], Cleaned]] = {
    "narration": lambda text: Cleaned(narration(text)),
    "template": _template,
    "label": _label,
    "asr": _speech,
    "instruction": Cleaned,  # the input of a robot's policy: only white space is touched
}


def _action(text: str) -> Cleaned:
    imperative, has_verb = _imperative(_calm(text.rstrip(".!, ")))
    return Cleaned(imperative, () if has_verb else ("no_verb",))


def _imperative(text: str) -> tuple[str, bool]:
    """`still grinding spices` -> `grind spices`, and whether there was a verb in -ing."""
    first, _, rest = text.removeprefix("still ").partition(" ")
    second, _, others = rest.partition(" ")
    if compound := _COMPOUNDS.get(f"{first} {second}".lower()):
        return f"{compound} {others}".strip(), True
    if not is_gerund(first):
        return lower_first(text), False
    action = f"{from_gerund(first)} {rest}".strip()
    action = re.sub(r"\bto be (\w+ing)\b", lambda m: f"to {from_gerund(m[1])}", action)
    action = re.sub(r"^(\w+ or )(\w+ing)\b", lambda m: m[1] + from_gerund(m[2]), action)
    return _SECOND_ACTION.sub(lambda m: m[1] + m[2] + from_gerund(m[3]), action), True


# Two words that are one action; as `spray paint` is.
_COMPOUNDS = {
    "hand washing": "hand wash", "spray painting": "spray paint", "brush painting": "brush paint",
    "tap dancing": "tap dance",
}  # fmt: skip


def lower_first(sentence: str) -> str:
    """The sentence without a capital at its start, unless that belongs to `TV` or `I'm`."""
    first = sentence.partition(" ")[0]
    if first[1:2].isupper() or first.partition("'")[0] == "I":
        return sentence
    return sentence[:1].lower() + sentence[1:]


def _calm(text: str) -> str:
    """Shouted texts in lower case; a single capital letter names a person."""
    shouted = 0
    for word in text.split():
        if sum(map(str.isalpha, word)) > 1:
            if not word.isupper():
                return text
            shouted += 1
    return text.lower() if shouted > 1 else text
