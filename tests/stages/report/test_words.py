"""What an instruction is about."""

import pytest

from handloom.stages.report.words import verb_and_noun


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("pick up the red cup from the table", ("pick", "cup")),
        ("open the door", ("open", "door")),
        ("put down the kettle and wash hands", ("put", "kettle")),
        ("pouring something into something", ("pouring", "something")),
        ("wash", ("wash", "")),
        ("move to the table", ("move", "")),
        ("stir the food in the pan with a spoon", ("stir", "food")),
        ("  Cut the T-shirt.", ("cut", "t-shirt")),
        ("", ("", "")),
    ],
)
def test_verb_and_noun(instruction: str, expected: tuple[str, str]) -> None:
    assert verb_and_noun(instruction) == expected
