"""Pictures of predictions have a row for all that is known, and none for what is not."""

from pathlib import Path

import numpy as np
from PIL import Image

from handloom.train.generate.pictures import SIDE, Comparison, draw

RED, GREEN, BLUE, GREY = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)


def frames(colour: tuple[int, int, int], count: int = 3) -> np.ndarray:
    return np.full((count, 8, 8, 3), colour, np.uint8)


def test_rows_are_those_that_are_known_cut_to_the_predicted_frames() -> None:
    one = Comparison("a", 1, frames(BLUE), frames(GREEN, 5), frames(GREY), frames(RED, 4))
    labels, shown = zip(*one.rows(), strict=True)
    assert [label.split(",")[0] for label in labels] == ["frames", "true", "given 1", "copied"]
    assert [len(row) for row in shown] == [3, 3, 3, 3]
    assert [label for label, _ in Comparison("a", 0, frames(BLUE), None).rows()] == [
        "given 0,\nthen\npredicted"
    ]


def test_each_row_shows_its_frames_one_below_the_other(tmp_path: Path) -> None:
    two = [
        Comparison("a", 1, frames(BLUE), frames(GREEN), frames(GREY), frames(RED)),
        Comparison("b", 1, frames(BLUE), None),
    ]
    draw(two, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        column = [sheet.getpixel((sheet.width - SIDE // 2, y)) for y in range(sheet.height)]
    colours = [c for c, before in zip(column[1:], column, strict=False) if c != before]
    seen = [c for c in colours if c in (RED, GREEN, BLUE, GREY)]
    assert seen == [RED, GREEN, BLUE, GREY, BLUE]
