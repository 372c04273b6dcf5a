"""Pieces tile what is cut, are as long as they may be, and are cut where hands are slow."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.stages.ingest import cutting
from handloom.stages.ingest.cutting import LEAST_S, Piece
from handloom.stages.media.transitions import Transition

seconds = st.floats(0.5, 400.0)
starts = st.floats(0.0, 50.0)


def tiles(pieces: Sequence[Piece], start_s: float, end_s: float) -> bool:
    """Whether the pieces lie one behind the other from the start to the end."""
    edges = [start_s, *(piece.end_s for piece in pieces)]
    begins = [piece.start_s for piece in pieces]
    return begins == edges[:-1] and edges[-1] == end_s and all(a < b for a, b in pairwise(edges))


@given(starts, seconds, st.floats(0.5, 20.0))
def test_strides_are_equal_and_tile(start_s: float, length_s: float, stride_s: float) -> None:
    end_s = start_s + length_s
    pieces = cutting.strides(start_s, end_s, stride_s)
    assert tiles(pieces, start_s, end_s)
    lengths = [piece.end_s - piece.start_s for piece in pieces]
    assert lengths[:-1] == pytest.approx([stride_s] * (len(pieces) - 1))
    assert len(pieces) == 1 or stride_s / 2 - 1e-6 <= lengths[-1] <= 1.5 * stride_s + 1e-6


@given(starts, seconds, st.floats(4.0, 20.0))
def test_even_pieces_are_as_few_as_may_be(start_s: float, length_s: float, max_s: float) -> None:
    end_s = start_s + length_s
    pieces = cutting.even(start_s, end_s, max_s)
    assert tiles(pieces, start_s, end_s)
    assert max(piece.end_s - piece.start_s for piece in pieces) <= max_s + 1e-6
    assert len(pieces) == 1 or length_s / (len(pieces) - 1) > max_s - 1e-6


@st.composite
def sampled_shots(draw: st.DrawFn) -> tuple[float, float, list[float], list[bool], list[float]]:
    start_s, step_s = draw(starts), draw(st.floats(0.3, 1.5))
    count = draw(st.integers(1, 60))
    shifts = draw(st.lists(st.floats(0.01, 0.99), min_size=count, max_size=count))
    times_s = [start_s + (n + shift) * step_s for n, shift in enumerate(shifts)]
    shown = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    speeds = draw(st.lists(st.floats(0.0, 4.0), min_size=count - 1, max_size=count - 1))
    return start_s, start_s + count * step_s, times_s, shown, speeds


@given(sampled_shots())
def test_a_shot_is_tiled_and_every_hand_is_in_a_clip(
    shot: tuple[float, float, list[float], list[bool], list[float]],
) -> None:
    start_s, end_s, times_s, shown, _ = shot
    pieces = cutting.by_hands(*shot, 8.0)
    assert tiles(pieces, start_s, end_s)
    for time_s, is_shown in zip(times_s, shown, strict=True):
        (piece,) = [one for one in pieces if one.start_s <= time_s < one.end_s]
        assert not (is_shown and piece.reason)
    for piece in pieces:
        length_s = piece.end_s - piece.start_s
        assert piece.reason in ("", "no_hands")
        if not piece.reason:
            assert min(LEAST_S, end_s - start_s) - 1e-6 <= length_s <= 8.0 + 1e-6
    assert any(shown) == any(not piece.reason for piece in pieces)
    assert not any(a.reason and b.reason for a, b in pairwise(pieces))


def test_clips_are_cut_where_hands_rest() -> None:
    times_s = [0.5 + n for n in range(20)]
    speeds = [2.0] * 19
    speeds[4] = speeds[9] = speeds[14] = 0.1  # between 4.5 and 5.5 s, and so on
    pieces = cutting.by_hands(0.0, 20.0, times_s, [True] * 20, speeds, 8.0)
    assert [piece.end_s for piece in pieces] == [5.0, 10.0, 15.0, 20.0]
    speeds[9], speeds[7] = 2.0, 0.0
    pieces = cutting.by_hands(0.0, 20.0, times_s, [True] * 20, speeds, 8.0)
    assert [piece.end_s for piece in pieces] == [5.0, 8.0, 15.0, 20.0]


def test_the_seconds_without_hands_are_a_piece_with_its_reason() -> None:
    times_s = [0.5 + n for n in range(30)]
    shown = [n < 6 or n > 20 for n in range(30)]
    pieces = cutting.by_hands(0.0, 30.0, times_s, shown, [1.0] * 29, 8.0)
    (without,) = [piece for piece in pieces if piece.reason]
    assert 6.0 < without.start_s < without.end_s < 21.0
    assert without.end_s - without.start_s > 10.0


SECONDS = (st.integers(-2_000, 22_000), st.integers(0, 3_000))  # in milliseconds


@given(st.lists(st.tuples(*(ms.map(lambda n: n / 1000) for ms in SECONDS)), max_size=6))
def test_shots_and_the_blends_between_them_tile(changes: list[tuple[float, float]]) -> None:
    given_changes = [Transition(at_s, at_s + length_s) for at_s, length_s in changes]
    found = cutting.runs(0.0, 20.0, given_changes)
    assert tiles([Piece(a, b) for a, b, _ in found], 0.0, 20.0)
    for first_s, last_s, reason in found:
        middle_s = (first_s + last_s) / 2
        inside = any(one.start_s < middle_s < one.end_s for one in given_changes)
        assert inside == (reason == "shot_change")
