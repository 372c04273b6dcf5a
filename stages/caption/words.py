"""Word lists that the clean-up of texts and the checks of captions share."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Left in place and flagged: what was said is a fact about the clip, whoever trains decides.
PROFANE = _set(
    "arse arsehole ass asshole bastard bitch bollocks bullshit cock cunt damn dick dickhead fuck "
    "fucked fucker fucking goddamn motherfucker piss pissed prick pussy shit shitty slut twat "
    "wanker whore"
)

# Too frequent to say anything: they neither confirm nor contradict a description.
FUNCTION_WORDS = _set(
    "a about above across after again against all along also an and another any apart are "
    "around as aside at away back be because before behind being below beside between both "
    "but by can do does down each either end few for from front has have he her here hers him "
    "his i if in inside into is it its itself just left let like lot many more most my near "
    "next no not of off on one onto or other out outside over own part piece right same "
    "several she side slightly slowly so some still such than that the their them then there "
    "these they this those three through to together toward towards two under until up upon "
    "upright using very was we were what when where which while who with without you your"
)

# Anybody and anything: in a description of hands at work they say as little.
GENERIC_WORDS = _set(
    "action camera fingers finger hand hands item man object objects people person place something "
    "somebody someone stuff surface thing things wearer woman"
)

# Endings of a sentence that was cut off.
DANGLING = _set(
    "a an and as at because but by for from her his in into its my of onto or our so than the "
    "their then to toward towards using while with without your"
)

# Words of other languages in Latin script that English lacks, a dozen of the most frequent each.
FOREIGN = _set(
    "el los las una del con para por que como esta este pero muy mano manos "  # Spanish
    "le les des une du avec pour dans qui est sur sont mais et "  # French
    "der das und mit ein eine einen dem den ist auf nicht sich von "  # German
    "il lo gli della nel sono di che mani "  # Italian
    "uma os da na nas com seu sua "  # Portuguese
    "het een van op niet met zijn "  # Dutch
    "och att det som til av på med "  # Swedish, Danish, Norwegian
    "untuk dengan yang dan di ke "  # Indonesian
    "bir ve bu ile için"  # Turkish
)

# Words that annotators and models use for the same action or thing, the first for all of them.
# The groups of verbs follow the verb classes of EPIC-KITCHENS-100.
SYNONYMS = {
    word: group.split()[0]
    for group in (
        "take pick grab get fetch collect gather lift raise pull remove detach retrieve withdraw",
        "put place set lay position drop insert rest stack pile",
        "wash clean rinse scrub wipe dry sponge",
        "cut chop slice dice trim saw carve snip",
        "stir mix whisk beat blend",
        "move push slide shift carry drag",
        "hold grip grasp keep",
        "throw toss discard",
        "open unscrew uncover unwrap",
        "close shut cover seal",
        "turn rotate twist spin flip",
        "look check inspect examine watch read",
        "pour add fill sprinkle",
        "press squeeze tap touch",
        "attach fix fasten tie connect screw",
        "tap faucet",
        "cupboard cabinet",
        "fridge refrigerator",
        "bin trash garbage rubbish",
        "cloth towel rag tablecloth napkin",
        "pan pot skillet saucepan",
        "plate dish bowl",
        "cup mug glass",
        "cooker stove hob oven",
        "phone cellphone smartphone",
        "container box tub package packet",
        "counter worktop countertop table",
    )
    for word in group.split()
}

# What speakers say before they say what they do.
SPOKEN_OPENINGS = (
    "so", "ok", "okay", "alright", "all right", "now", "and", "then", "well", "but", "right",
    "guys", "hey guys", "hi guys", "you guys", "first", "next", "first of all", "basically",
    "actually", "again", "after that", "at this point", "once again", "also", "here", "just",
    "what we're going to do is", "what i'm going to do is", "what you want to do is",
    "what you're going to do is", "we are going to", "we're going to", "we're gonna",
    "i am going to", "i'm going to", "i'm gonna", "you are going to", "you're going to",
    "you're gonna", "we want to", "you want to", "you wanna", "i want to", "we need to",
    "you need to", "i need to", "you have to", "we have to", "you can", "we can", "i can",
    "we will", "we'll", "i will", "i'll", "you will", "you'll", "you should", "let us", "let's",
    "go ahead and", "going to", "gonna", "be sure to", "make sure to", "make sure you",
)  # fmt: skip
FILLERS = _set("um umm uh uhh uhm erm hmm hm mm mhm")

# Actions that join another in a label; after `and` a word in -ing may be a thing (`an earring`).
JOINED_ACTIONS = _set(
    "catching closing dropping failing folding kayaking letting lifting missing moving opening "
    "pretending pulling pushing putting receiving releasing removing revealing taking throwing "
    "trying turning walking"
)
