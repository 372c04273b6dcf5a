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

IRREGULAR_GERUNDS = {
    "adhering": "adhere", "arranging": "arrange", "bandaging": "bandage", "bathing": "bathe",
    "bowling": "bowl", "breathing": "breathe", "bruising": "bruise", "bulldozing": "bulldoze",
    "busing": "bus", "cancelling": "cancel", "capturing": "capture", "challenging": "challenge",
    "changing": "change", "charging": "charge", "chiselling": "chisel", "choosing": "choose",
    "cleansing": "cleanse", "collapsing": "collapse", "colliding": "collide",
    "combining": "combine", "competing": "compete", "compiling": "compile",
    "completing": "complete", "composing": "compose", "condensing": "condense",
    "contributing": "contribute", "crawling": "crawl", "creating": "create", "cruising": "cruise",
    "curling": "curl", "damaging": "damage", "deciding": "decide", "deleting": "delete",
    "describing": "describe", "determining": "determine", "dispensing": "dispense",
    "disposing": "dispose", "distributing": "distribute", "dividing": "divide",
    "drawling": "drawl", "dying": "die", "easing": "ease", "escaping": "escape",
    "examining": "examine", "exchanging": "exchange", "exciting": "excite",
    "executing": "execute", "exhaling": "exhale", "exploring": "explore", "foraging": "forage",
    "forging": "forge", "freezing": "freeze", "geocaching": "geocache", "greasing": "grease",
    "growling": "growl", "guiding": "guide", "howling": "howl", "hurling": "hurl",
    "igniting": "ignite", "ignoring": "ignore", "including": "include", "increasing": "increase",
    "inhaling": "inhale", "inviting": "invite", "labelling": "label", "levelling": "level",
    "loosing": "loose", "lunging": "lunge", "lying": "lie", "machining": "machine",
    "managing": "manage", "manicuring": "manicure", "massaging": "massage",
    "measuring": "measure", "merging": "merge", "modelling": "model", "nursing": "nurse",
    "outlining": "outline", "overtaking": "overtake", "packaging": "package",
    "parachuting": "parachute", "paragliding": "paraglide", "pasting": "paste",
    "pedalling": "pedal", "pirouetting": "pirouette", "pleasing": "please", "plunging": "plunge",
    "promoting": "promote", "providing": "provide", "prowling": "prowl", "purging": "purge",
    "raising": "raise", "refining": "refine", "releasing": "release", "remaking": "remake",
    "reshaping": "reshape", "restoring": "restore", "retaking": "retake", "reversing": "reverse",
    "rinsing": "rinse", "rousing": "rouse", "rummaging": "rummage", "saluting": "salute",
    "salvaging": "salvage", "scrawling": "scrawl", "securing": "secure", "shovelling": "shovel",
    "signalling": "signal", "slacklining": "slackline", "snarling": "snarl", "sneezing": "sneeze",
    "snoozing": "snooze", "snowkiting": "snowkite", "snowmobiling": "snowmobile",
    "spiralling": "spiral", "sponging": "sponge", "squeezing": "squeeze", "swirling": "swirl",
    "swivelling": "swivel", "tasting": "taste", "teasing": "tease", "texturing": "texture",
    "trapezing": "trapeze", "travelling": "travel", "twirling": "twirl", "tying": "tie",
    "unfurling": "unfurl", "untying": "untie", "wasting": "waste", "welcoming": "welcome",
    "whirling": "whirl",
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
