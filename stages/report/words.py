"""The verb and the noun of an instruction, good enough for counts."""

import re

_PARTICLES = "up|down|off|out|away|back|aside|over|around|on|in|together|apart"
_BEFORE_NOUNS = (
    "the|a|an|his|her|their|its|some|another|both|one|two|three|more|other|this|that|these|those"
)
_ENDS_OBJECT = (
    "from|to|into|onto|on|in|with|at|under|over|behind|beside|near|by|of|for|through|across|"
    "against|between|inside|and|or|then|while|using|around|off|out|up|down|away|back"
)
SKIPPED = frozenset(f"{_PARTICLES}|{_BEFORE_NOUNS}".split("|"))
_WORD = re.compile(r"[^\W\d_]+(?:[-'][^\W\d_]+)*")
ENDS_OBJECT = frozenset(_ENDS_OBJECT.split("|"))


def verb_and_noun(instruction: str) -> tuple[str, str]:
    """The first word, and the last word of the object that follows it; "" where there is none.

    `pick up the red cup from the table` gives `pick` and `cup`.
    """
    words = instruction.lower().split()
    if not all(map(str.isalpha, words)):
        words = _WORD.findall(instruction.lower())
    if not words:
        return "", ""
    rest = words[1:]
    while rest and rest[0] in SKIPPED:
        rest = rest[1:]
    noun = ""
    for word in rest:
        if word in ENDS_OBJECT:
            break
        noun = word
    return words[0], noun
