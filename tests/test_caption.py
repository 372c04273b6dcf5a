"""Narrations become instructions."""

import pytest

from handloom.stages.caption import base_form, instruction


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#C C picks up the red cup ", "pick up the red cup"),
        ("#C C opens the door", "open the door"),
        ("# c c  Washes a plate\n", "wash a plate"),
        ("#unsure #C C carries a box.", "carry a box"),
        ("#C C moves #unsure to the table", "move to the table"),
        ("#C C picks a cup and washes it", "pick a cup and wash it"),
        ("#C C picks plates and cups on a table", "pick plates and cups on a table"),
        ("#C C pours coffee and puts down the kettle", "pour coffee and put down the kettle"),
        ("#C C has a knife", "have a knife"),
        ("#C C is cooking", "the person is cooking"),
        ("#C C and X carry a table", "the person and X carry a table"),
        ("#C C moves a nylon by a kitchen rack with his hands ",
         "move a nylon by a kitchen rack with his hands"),
        ("Pick up the cup", "pick up the cup"),
        ("#C C ", ""),
        ("#C", ""),
    ],
)  # fmt: skip
def test_instruction(text: str, expected: str) -> None:
    assert instruction(text) == expected


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
