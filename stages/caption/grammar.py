"""The little English that captions need: base forms of verbs, and words reduced for comparison.

Rules with a short list of exceptions, checked by the tests on every label of Kinetics-700 and every
template of Something-Something V2. A dictionary would be megabytes for the same few hundred verbs.
"""

import re

# Third person singular to base form where the endings below do not apply.
IRREGULAR = {
    "has": "have", "does": "do", "goes": "go", "undoes": "undo", "ties": "tie", "unties": "untie",
    "lies": "lie", "dies": "die", "focuses": "focus", "buses": "bus",
}  # fmt: skip
NOT_VERBS = {"is", "was", "his", "as", "this", "its", "always", "perhaps", "towards", "besides"}

# Verbs whose gerund the rules of `from_gerund` would take back to another word.
_WITH_E = (
    "adhere arrange bandage bathe breathe bruise bulldoze capture challenge change charge choose "
    "cleanse collapse collide combine compete compile complete compose condense contribute create "
    "cruise damage decide delete describe determine dispense dispose distribute divide ease "
    "escape examine exchange excite execute exhale explore forage forge freeze geocache grease "
    "guide ignite ignore include increase inhale invite loose lunge machine manage manicure "
    "massage measure merge nurse outline overtake package parachute paraglide paste pirouette "
    "please plunge promote provide purge raise refine release remake reshape restore retake "
    "reverse rinse rouse rummage salute salvage secure slackline sneeze snooze snowkite "
    "snowmobile sponge squeeze taste tease texture trapeze waste welcome"
)
_WITHOUT_E = "bowl bus crawl curl drawl growl howl hurl prowl scrawl snarl swirl twirl unfurl whirl"
_DOUBLED = "cancel chisel label level model pedal shovel signal spiral swivel travel"
IRREGULAR_GERUNDS = {
    **{verb[:-1] + "ing": verb for verb in _WITH_E.split()},
    **{verb + "ing": verb for verb in _WITHOUT_E.split()},
    **{verb + verb[-1] + "ing": verb for verb in _DOUBLED.split()},
    "dying": "die", "lying": "lie", "tying": "tie", "untying": "untie",
}  # fmt: skip

IRREGULAR_NOUNS = {
    "knives": "knife", "shelves": "shelf", "loaves": "loaf", "leaves": "leaf", "halves": "half",
    "scissors": "scissors", "tomatoes": "tomato", "potatoes": "potato", "shoes": "shoe",
}  # fmt: skip

# Words in -ing that begin a label without being an action: `ring toss`, `morning coffee`.
NOT_GERUNDS = {
    "ring", "king", "string", "spring", "wing", "thing", "something", "nothing", "anything",
    "everything", "earring", "ceiling", "evening", "morning", "during", "sling", "swing", "sing",
    "bring", "fling", "cling", "sting", "ping", "pudding", "stocking", "wedding", "building",
    "dumpling", "railing", "icing",
}  # fmt: skip
VERBS_AFTER_ALL = {"building", "icing"}  # as the first word these are actions

_VOWELS = "aeiou"
_SILENT_E = re.compile(r"[^aeiou]*(?:[aeiou]|qua|qui)[bdgklmnprstz]|[^aeiou]+y[bdklmnprst]")


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


def is_third_person(word: str) -> bool:
    """Whether a word can be a verb in the third person: `picks`, not `press`."""
    word = word.lower()
    ends = word.endswith("s") and not word.endswith("ss")
    return word.isalpha() and ends and word not in NOT_VERBS


def is_gerund(word: str) -> bool:
    """Whether the first word of a label is an action in -ing."""
    word = word.lower()
    long_enough = len(word) > 4 and any(letter in _VOWELS + "y" for letter in word[:-3])
    is_action = word not in NOT_GERUNDS or word in VERBS_AFTER_ALL
    return word.isalpha() and word.endswith("ing") and long_enough and is_action


def from_gerund(word: str) -> str:
    """`putting` -> `put`, `baking` -> `bake`, `opening` -> `open`, `sprinkling` -> `sprinkle`."""
    word = word.lower()
    if word in IRREGULAR_GERUNDS:
        return IRREGULAR_GERUNDS[word]
    stem = word[:-3]
    # `putt`, `spinn`; but `roll`, `press`, `buzz` and `stuff` end so by themselves.
    if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] in "bdgkmnprt":
        return stem[:-1]
    return stem + "e" if _lost_an_e(stem) else stem


def _lost_an_e(stem: str) -> bool:
    """Whether the base form ends in a silent e: `bak`, `sprinkl`, `slic`, `decorat`, `driv`."""
    if stem.endswith(("v", "c", "u", "dg", "iz", "yz")):
        return True
    if stem.endswith("l") and len(stem) > 2 and stem[-2] not in _VOWELS + "l":
        return True
    if re.search(r"[^aeiou](?:at|is|iz|ar)$", stem):
        return True  # decorat, exercis, prepar
    # A verb of one syllable that ends like `bak` would have doubled its consonant (`putting`).
    return _SILENT_E.fullmatch(stem) is not None


def lemma(word: str) -> str:
    """A word reduced so that `cups` and `cup`, `picking` and `picks` compare equal."""
    word = word.lower()
    if len(word) <= 3 or word in IRREGULAR_NOUNS:
        return IRREGULAR_NOUNS.get(word, word)
    if is_gerund(word):
        return from_gerund(word)
    if word.endswith("ied"):
        return word[:-3] + "y"
    if word.endswith("ed") and len(word) > 4:
        return from_gerund(word[:-2] + "ing")
    if is_third_person(word) and not word.endswith(("us", "is")):
        return base_form(word)
    return word
