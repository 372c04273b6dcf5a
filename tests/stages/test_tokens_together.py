"""Clips that are encoded together get the codes that each gets alone."""

from dataclasses import replace
from pathlib import Path

from handloom.stages.tokens import TokenRow, Tokens
from tests.helpers.numbered_clips import clip, write_videos
from tests.helpers.whole_clip import whole

CLIPS = 12
TOGETHER = "cpu:0"  # torch's other name of the CPU takes the way of other devices


def test_codes_do_not_depend_on_the_batch_and_an_error_costs_its_clip_alone(tmp_path: Path) -> None:
    write_videos(tmp_path, CLIPS)
    inputs = [whole(clip(number)) for number in range(CLIPS)]
    missing = replace(inputs[5][0], media_path="videos/none.mp4")
    inputs[5] = whole(missing)
    alone = Tokens(model="bundled-128", frames=2).at(tmp_path)
    together = alone.on(TOGETHER, threads=3)
    assert together.takes_batches
    assert not alone.takes_batches
    assert together.settings() == alone.settings()
    rows = together.batch(inputs)
    assert [row.clip_id for row in rows] == [of.clip_id for of, _ in inputs]
    assert [n for n, row in enumerate(rows) if row.status == "failed"] == [5]
    # Direct convolutions on one side, checked Winograd on the other.
    assert rows == alone.batch(inputs)


def test_rows_of_a_batch_without_any_readable_clip(tmp_path: Path) -> None:
    stage = Tokens(model="bundled-128").at(tmp_path).on(TOGETHER, threads=2)
    rows = stage.batch([whole(clip(number)) for number in range(3)])
    assert all(isinstance(row, TokenRow) and row.status == "failed" for row in rows)
