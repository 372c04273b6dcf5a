"""Checks flag the failings of a model's captions, and let good captions through."""

import pytest

from handloom.errors import UserError
from handloom.stages.caption.checks import Candidate, caption_flags, tidy
from handloom.stages.caption.prompt import KINDS, read_prompt
from handloom.stages.caption.requests import Answer
from handloom.stages.caption.stage import Caption
from handloom.stages.tables.rows import Clip
from tests.helpers.recorded_runs import clip_row

PROMPT = read_prompt("imperative")


def flags(answer: str, source: str = "", kind: str = "narration", whole: bool = True) -> set[str]:
    return set(caption_flags(Candidate(tidy(answer), whole, PROMPT.text, source, kind, 30)))


@pytest.mark.parametrize(
    "answer",
    [
        "Pick up the red cup.",
        "Put the picture frame on the wall",
        "Hold the camera up and turn its lens",
        "Show the photo to the child",
        "Cut the onion and put the pieces into the pan",
        "The person stirs the soup with a wooden spoon",
        "Put down the cup and pick up the cup beside it",
        "Fold the blue towel twice, then lay it on the other towels",
        "Peel the jalape\u00f1o over the caf\u00e9 table",
    ],
)
def test_good_captions_have_no_flags(answer: str) -> None:
    assert flags(answer) == set()


@pytest.mark.parametrize(
    ("answer", "flag"),
    [
        ("", "empty"),
        (" ... ", "empty"),
        ("<think>The cup is red.</think>", "empty"),
        ("Put the cup on the", "truncated"),
        ("Pick up the cup,", "truncated"),
        ("stir stir stir the soup", "repeated"),
        ("cut the onion and cut the onion and cut the onion", "repeated"),
        ("pick up the cup pick up the cup", "repeated"),
        ("I'm sorry, I cannot describe people.", "refusal"),
        ("I can't help with that", "refusal"),
        ("As an AI model I have no eyes", "refusal"),
        ("No hands are visible", "refusal"),
        ("no action", "refusal"),
        ("Tome la taza roja con la mano", "not_english"),
        ("Nehmen Sie die Tasse mit der Hand", "not_english"),
        ("\u62ff\u8d77\u7ea2\u8272\u7684\u676f\u5b50", "not_english"),
        ("\u0432\u043e\u0437\u044c\u043c\u0438 \u0447\u0430\u0448\u043a\u0443", "not_english"),
        ("pick up the cup " + "and then the other one " * 2 + "from " + "a b c d e f " * 4 + "x",
         "too_long"),
        ("Folding", "too_short"),
        ("Pick up the cup. The table is brown", "several_sentences"),
        ("1. Pick up the cup", "several_sentences"),
        ("The video shows a man cutting bread", "camera_talk"),
        ("In this image, hands fold a towel", "camera_talk"),
        ("A hand can be seen holding a cup", "camera_talk"),
        ("The camera pans to a table", "camera_talk"),
        ("write what the hands do as one sentence", "echo"),
    ],
)  # fmt: skip
def test_failings_are_flagged(answer: str, flag: str) -> None:
    assert flag in flags(answer)


def test_an_answer_that_hit_the_limit_is_truncated() -> None:
    assert flags("Pick up the cup", whole=False) == {"truncated"}


@pytest.mark.parametrize(
    ("source", "answer", "contradicts"),
    [
        ("pick up the cup", "open the door", True),
        ("pick up the cup", "grab a mug", False),  # other words for both
        ("pick up the cup", "wash the red cup", False),  # the thing is the same
        ("pick up the cup", "pick up a sponge", False),  # the verb is the same
        ("take plate", "rinse the dishes in the sink", False),
        ("wash courgette", "clean a zucchini under the tap", False),
        ("put knife into rack", "tie the laces of a shoe", True),
        ("hold something", "fold the towel", True),
        ("the person is here", "fold the towel", False),  # the source names nothing
        ("", "fold the towel", False),
    ],
)
def test_contradictions(source: str, answer: str, contradicts: bool) -> None:
    expected = {"contradiction"} if contradicts else set()
    assert flags(answer, source, "narration") == expected
    assert flags(answer, source, "template") == expected
    assert flags(answer, source, "label") == set()
    assert flags(answer, source, "asr") == set()


def test_speech_that_is_copied_is_an_echo() -> None:
    said = "put the bread in there and leave it until tomorrow morning if you can"
    assert flags(said, said, "asr") == {"echo"}
    assert flags("put the bread into the oven", said, "asr") == set()
    assert flags(said, said, "narration") == set()  # a narration that is repeated is right


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('Caption: "Pick up the cup."', "pick up the cup"),
        ("**Fold the towel**", "fold the towel"),
        ("<think>\nhm\n</think>\n\nOpen the TV cabinet.\n", "open the TV cabinet"),
        ("TV remote", "TV remote"),
        ("- cut the \u201cbread\u201d", 'cut the "bread"'),
    ],
)
def test_what_models_wrap_around_an_answer_goes(answer: str, expected: str) -> None:
    assert tidy(answer) == expected


def clip(text: str, kind: str) -> Clip:
    return clip_row("c", 0.0, 2.0, text=text, text_kind=kind, text_flags=["unsure"])


@pytest.mark.parametrize(
    ("text", "kind", "status", "caption"),
    [
        ("#C C folds a towel", "narration", "ok", "fold a towel"),
        ("washing dishes", "label", "ok", "wash dishes"),
        ("so today we talk about towels", "asr", "rejected", ""),
        ("", "label", "rejected", ""),
    ],
)
def test_two_bad_answers_fall_back_to_the_text_where_it_serves(
    text: str, kind: str, status: str, caption: str
) -> None:
    stage = Caption(route="server", model="m", url="http://a/v1")
    bad = Answer("I cannot see that", True, 100, 5, 0.5)
    row = stage._row(clip(text, kind), [bad, bad])
    assert (row.status, row.caption, row.source) == (status, caption, "source")
    assert row.reason == ("" if caption else "no_caption")
    assert {"unsure", "refusal"} <= set(row.flags)
    assert row.answers == [bad.text, bad.text]
    assert (row.prompt_tokens, row.completion_tokens, row.seconds) == (200, 10, 1.0)


def test_a_good_second_answer_is_taken_and_the_first_is_kept() -> None:
    stage = Caption(route="server", model="m", url="http://a/v1")
    answers = [Answer("", True, 100, 0, 0.5), Answer("Fold the damn towel.", True, 100, 5, 0.5)]
    row = stage._row(clip("#C C folds a towel", "narration"), answers)
    assert (row.caption, row.source, row.flags) == ("fold the damn towel", "server", ["profanity"])
    assert row.answer_flags == ["empty", ""]


@pytest.mark.parametrize("style", ["imperative", "third_person"])
def test_prompts_quote_every_kind_of_text(style: str) -> None:
    prompt = read_prompt(style)
    assert not prompt.text.startswith("#")
    for kind in KINDS:
        sent = prompt.about("wash {text} dishes", kind)
        assert sent.startswith(prompt.text)
        assert '"wash {text} dishes"' in sent
    assert prompt.about("", "asr") == prompt.about("pick up", "instruction") == prompt.text


def test_a_prompt_that_cannot_be_used_is_refused(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "own.txt"
    for content, sentence in (("[asr]\n{text}", "says nothing"), ("Say.\n[asr]\nx", "quote the")):
        path.write_text(content)
        read_prompt.cache_clear()
        with pytest.raises(UserError, match=sentence):
            read_prompt(str(path))
    with pytest.raises(UserError, match="expected imperative, third_person"):
        read_prompt("poetic")
