"""A dataset's own text becomes an instruction, by the kind of text it is."""

from typing import Any

import pytest

from handloom.stages.caption.grammar import base_form, from_gerund, is_gerund, lemma
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.caption.source_text import clean
from handloom.stages.caption.stage import Caption, EpisodeCaption, instruction
from handloom.stages.tables.rows import Clip
from tests.helpers.recorded_runs import clip_row
from tests.helpers.whole_clip import whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#C C picks up the red cup ", "pick up the red cup"),
        ("#C C opens the door", "open the door"),
        ("# c c  Washes a plate\n", "wash a plate"),
        ("#unsure #C C carries a box.", "carry a box"),
        ("#C C moves #unsure to the table", "move something to the table"),
        ("#C C holds a #unsure in his hand", "hold something in his hand"),
        ("#C C looks at #unsure", "look at something"),
        ("#C C wipes the table #unsure", "wipe the table"),
        ("#C C picks a cup and washes it", "pick a cup and wash it"),
        ("#C C picks plates and cups on a table", "pick plates and cups on a table"),
        ("#C C pours coffee and puts down the kettle", "pour coffee and put down the kettle"),
        ("#C C has a knife", "have a knife"),
        ("#C C is cooking", "the person is cooking"),
        ("#C C and X carry a table", "the person and X carry a table"),
        ("#C C moves a nylon by a kitchen rack with his hands ",
         "move a nylon by a kitchen rack with his hands"),
        ("#C C picks a bag of clothes from the floor", "pick a bag of clothes from the floor"),
        ("#C #C C C opens a tap", "open a tap"),
        ("#C C OPENS THE DOOR", "open the door"),
        ("#C C picks the TV remote", "pick the TV remote"),
        ("TV remote is held", "TV remote is held"),
        ("The woman stirs the soup!", "stir the soup"),
        ("Pick up the cup", "pick up the cup"),
        ("#C C ", ""),
        ("#C", ""),
        ("#unsure ...", ""),
        # EPIC-KITCHENS
        ("put down spatula and pizza cutter", "put down spatula and pizza cutter"),
        ("wash knife.", "wash knife"),
        ("still grinding spices", "grind spices"),
        ("still stirring vegetables and tofu", "stir vegetables and tofu"),
        ("waiting for rice to be cooked", "wait for rice to be cooked"),
        ("pouring onion", "pour onion"),
    ],
)  # fmt: skip
def test_narrations(text: str, expected: str) -> None:
    assert instruction(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("holding potato next to vicks vaporub bottle", "hold potato next to vicks vaporub bottle"),
        ("spreading margarine onto bread", "spread margarine onto bread"),
        ("pretending to put vessel onto poori maker", "pretend to put vessel onto poori maker"),
        ("spinning cube that quickly stops spinning", "spin cube that quickly stops spinning"),
        ("Holding [something] next to [something]", "hold something next to something"),
        ("Pretending or failing to wipe something off of something",
         "pretend or fail to wipe something off of something"),
        ("Pretending or trying and failing to twist cap", "pretend or try and fail to twist cap"),
        ("Pretending to be tearing paper that is not tearable",
         "pretend to tear paper that is not tearable"),
        ("Throwing pen in the air and catching it", "throw pen in the air and catch it"),
        ("Lifting book up completely, then letting it drop down",
         "lift book up completely, then let it drop down"),
        ("Trying but failing to attach tape to wall because it doesn't stick",
         "try but fail to attach tape to wall because it doesn't stick"),
        ("Twisting (wringing) towel wet until water comes out",
         "twist towel wet until water comes out"),
        ("Touching (without moving) part of lamp", "touch (without moving) part of lamp"),
        ("moving pen and earring closer", "move pen and earring closer"),
        ("Pulling two ends of band so that it gets stretched",
         "pull two ends of band so that it gets stretched"),
    ],
)  # fmt: skip
def test_templates(text: str, expected: str) -> None:
    assert clean(text, "template").text == expected
    assert clean(text, "template").flags == ()


def test_a_template_about_a_thing_is_no_instruction() -> None:
    found = clean("plastic falling like a feather or paper", "template")
    assert (found.text, found.flags) == ("plastic falling like a feather or paper", ("no_verb",))


@pytest.mark.parametrize(
    ("text", "expected", "is_action"),
    [
        ("washing dishes", "wash dishes", True),
        ("tying_knot_(not_on_a_tie)", "tie knot", True),
        ("passing American football (in game)", "pass American football", True),
        ("catching or throwing baseball", "catch or throw baseball", True),
        ("massaging person's head", "massage person's head", True),
        ("hand washing clothes", "hand wash clothes", True),
        ("putting on lipstick", "put on lipstick", True),
        ("making the bed", "make the bed", True),
        ("archery", "archery", False),
        ("card stacking", "card stacking", False),
        ("baby waking up", "baby waking up", False),
    ],
)
def test_labels(text: str, expected: str, is_action: bool) -> None:
    found = clean(text, "label")
    assert (found.text, found.flags) == (expected, () if is_action else ("no_verb",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("um so okay now we are going to go ahead and add the onions to the the pan",
         "add the onions to the pan"),
        ("And then I'm gonna take my knife &amp; cut it.", "take my knife & cut it"),
        ("add extra virgin olive oil and garlic", "add extra virgin olive oil and garlic"),
        ("LAY THE TOMATOES ON THE TRAY", "lay the tomatoes on the tray"),
        ("so", "so"),
    ],
)  # fmt: skip
def test_speech(text: str, expected: str) -> None:
    found = clean(text, "asr")
    assert (found.text, found.flags) == (expected, ("speech",))


def test_odd_characters_of_texts_are_cleaned_up() -> None:
    text = "#C C holds the cafe\u0301\u200b \u201cmug\u201d\u00a0with\tboth\u2019s  hands\ufeff"
    assert instruction(text) == 'hold the caf\u00e9 "mug" with both\'s hands'


def test_oaths_stay_and_are_flagged() -> None:
    found = clean("#C C throws the shit away", "narration")
    assert (found.text, found.flags) == ("throw the shit away", ("profanity",))
    assert clean("#C C washes the cocktail glass", "narration").flags == ()


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        ("closes", "close"), ("presses", "press"), ("touches", "touch"), ("mixes", "mix"),
        ("squeezes", "squeeze"), ("dries", "dry"), ("goes", "go"), ("ties", "tie"),
        ("uses", "use"), ("pushes", "push"), ("slides", "slide"),
    ],
)  # fmt: skip
def test_base_form(verb: str, expected: str) -> None:
    assert base_form(verb) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("putting", "put"), ("spinning", "spin"), ("rolling", "roll"), ("pressing", "press"),
        ("making", "make"), ("opening", "open"), ("folding", "fold"), ("tearing", "tear"),
        ("squeezing", "squeeze"), ("slicing", "slice"), ("sprinkling", "sprinkle"),
        ("tying", "tie"), ("dyeing", "dye"), ("shaving", "shave"), ("mixing", "mix"),
        ("sewing", "sew"), ("playing", "play"), ("preparing", "prepare"), ("stuffing", "stuff"),
        ("decorating", "decorate"), ("juggling", "juggle"), ("curling", "curl"), ("using", "use"),
        ("washing", "wash"), ("adding", "add"), ("pouring", "pour"), ("arranging", "arrange"),
        ("bringing", "bring"), ("driving", "drive"), ("exercising", "exercise"),
        ("writing", "write"), ("eating", "eat"), ("answering", "answer"), ("typing", "type"),
    ],
)  # fmt: skip
def test_from_gerund(word: str, expected: str) -> None:
    assert is_gerund(word)
    assert from_gerund(word) == expected


def test_words_for_the_same_compare_equal() -> None:
    for words in (("cup", "cups"), ("cut", "cutting"), ("wash", "washes", "washed", "washing"),
                  ("knife", "knives"), ("dish", "dishes"), ("dry", "dried", "dries")):  # fmt: skip
        assert len({lemma(word) for word in words}) == 1, words


def clip(text: str, kind: str, **values: Any) -> Clip:
    return clip_row("c", 0.0, 2.0, text=text, text_kind=kind, **values)


def only(rows: object) -> CaptionRow:
    (row,) = rows  # type: ignore[misc]
    assert isinstance(row, CaptionRow)
    return row


def test_a_caption_is_never_empty_without_a_reason() -> None:
    row = only(Caption()(*whole(clip(" #C C ", "narration"))))
    assert (row.status, row.reason, row.caption) == ("rejected", "no_text", "")


def test_remarks_on_the_text_go_with_the_caption() -> None:
    row = only(Caption()(*whole(clip("archery", "label", text_flags=["relabelled"]))))
    assert (row.status, row.source, row.flags) == ("ok", "source", ["relabelled", "no_verb"])


def test_a_robots_instruction_is_left_alone() -> None:
    row = only(EpisodeCaption()(clip("  Pick up\nthe RED cup. ", "instruction")))
    assert (row.caption, row.flags) == ("Pick up the RED cup.", [])


def test_texts_that_say_little_bring_advice_until_a_model_is_given() -> None:
    assert "--caption.model" in Caption(route="auto").advice("asr")
    assert Caption(route="auto", model="m").advice("asr") == ""
    assert Caption().advice("narration") == ""


def test_auto_takes_the_model_that_is_given() -> None:
    assert Caption(route="auto").chosen == "source"
    assert Caption(route="auto", model="m").chosen == "vlm"
    assert Caption(route="auto", model="m", url="http://a/v1").chosen == "server"
    assert Caption().light
    assert not Caption(route="auto", model="m").light
