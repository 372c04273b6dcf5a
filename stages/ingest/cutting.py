"""Where an unannotated video is cut into clips: pure functions on times.

All of them tile: the pieces of a stretch begin where it begins, end where it ends, and leave
nothing out; a piece that is no clip carries a reason.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from handloom.stages.media.transitions import Transition

LEAST_S = 2.0  # shorter clips show no action
USUAL_S = 5.0  # length that cuts at the speed's minima aim at; narrated actions last about so long
AROUND_S = 1.0  # hands are missed where they come in and go, half out of the picture
BRIDGE_S = 3.0  # hands are missed in single samples: shorter gaps between hands count as hands
NO_HANDS, SHOT_CHANGE = "no_hands", "shot_change"


@dataclass(frozen=True)
class Piece:
    """A part of a video: a clip, or what is left out and why.

    Attributes:
        start_s: seconds from the start of the file.
        end_s: likewise.
        reason: why it is no clip, one word in snake case, or empty.
        error: why it cannot be read, or empty.
    """

    start_s: float
    end_s: float
    reason: str = ""
    error: str = ""


def strides(start_s: float, end_s: float, stride_s: float) -> list[Piece]:
    """Pieces of equal length; a rest of less than half of it belongs to the last one."""
    count = max(1, math.floor((end_s - start_s) / stride_s + 0.5))
    edges_s = [start_s + number * stride_s for number in range(count)] + [end_s]
    return _pieces(edges_s)


def even(start_s: float, end_s: float, max_s: float) -> list[Piece]:
    """The fewest pieces of equal length that are not longer than `max_s`."""
    count = max(1, math.ceil((end_s - start_s) / max_s - 1e-9))
    step_s = (end_s - start_s) / count
    return _pieces([start_s + number * step_s for number in range(count)] + [end_s])


def by_hands(
    start_s: float,
    end_s: float,
    times_s: Sequence[float],
    shows_hand: Sequence[bool],
    speeds: Sequence[float],
    max_s: float,
) -> list[Piece]:
    """Pieces of a shot: stretches with hands, cut where the hands are slow, and those without.

    Args:
        start_s: start of the shot.
        end_s: its end.
        times_s: [T], ascending, when it was sampled.
        shows_hand: [T], whether a sample shows a hand.
        speeds: [T - 1], of the hands from one sample to the next.
        max_s: pieces are not longer.
    """
    middles_s = [(a + b) / 2 for a, b in pairwise(times_s)]
    slow = list(zip(middles_s, speeds, strict=True))
    pieces: list[Piece] = []
    at_s = start_s
    for first_s, last_s in hand_stretches(start_s, end_s, times_s, shows_hand):
        pieces += without_hands(at_s, first_s)
        pieces += at_slowest(first_s, last_s, slow, max_s)
        at_s = last_s
    return pieces + without_hands(at_s, end_s)


def without_hands(start_s: float, end_s: float) -> list[Piece]:
    """The piece without hands from one time to another; none if there is no time between them."""
    return [Piece(start_s, end_s, NO_HANDS)] if end_s > start_s else []


def hand_stretches(
    start_s: float, end_s: float, times_s: Sequence[float], shows_hand: Sequence[bool]
) -> list[tuple[float, float]]:
    """Stretches with hands: `AROUND_S` more on both sides than half-way to the samples beside.

    Those that lie closer to each other than `BRIDGE_S` are joined, and one that lies so close to
    an end of the shot reaches to it.
    """
    edges_s = [start_s, *((a + b) / 2 for a, b in pairwise(times_s)), end_s]
    found: list[tuple[float, float]] = []
    for number, shown in enumerate(shows_hand):
        if not shown:
            continue
        first_s = max(edges_s[number] - AROUND_S, start_s)
        last_s = min(max(edges_s[number + 1] + AROUND_S, first_s + LEAST_S), end_s)
        first_s = max(min(first_s, last_s - LEAST_S), start_s)
        first_s = start_s if first_s - start_s < BRIDGE_S else first_s
        last_s = end_s if end_s - last_s < BRIDGE_S else last_s
        if found and first_s - found[-1][1] < BRIDGE_S:
            first_s = found.pop()[0]
        found.append((first_s, last_s))
    return found


def at_slowest(
    start_s: float, end_s: float, slow: Sequence[tuple[float, float]], max_s: float
) -> list[Piece]:
    """Pieces of a stretch with hands: the cuts of the least cost in all.

    A cut costs the hands' speed there, a piece the square of its distance from `USUAL_S`, in units
    of the distance that is allowed; pieces are from `LEAST_S` to `max_s` long.

    Args:
        start_s: start of the stretch.
        end_s: its end.
        slow: ascending, (time, speed of the hands) of the places where it may be cut.
        max_s: pieces are not longer.
    """
    if end_s - start_s <= max_s:
        return [Piece(start_s, end_s)]
    places = [(start_s, 0.0), *((t, v) for t, v in slow if start_s < t < end_s), (end_s, 0.0)]
    spread_s = max(max_s - LEAST_S, 1.0) / 2
    usual_s = min(USUAL_S, (max_s + LEAST_S) / 2)
    costs, before, oldest = [0.0], [0], 0
    for number in range(1, len(places)):
        time_s, speed = places[number]
        while time_s - places[oldest][0] > max_s + 1e-6:
            oldest += 1
        options = [
            (costs[i] + ((time_s - places[i][0] - usual_s) / spread_s) ** 2 + speed, i)
            for i in range(oldest, number)
            if time_s - places[i][0] >= LEAST_S
        ]
        best = min(options, default=(math.inf, oldest))
        costs.append(best[0])
        before.append(best[1])
    if costs[-1] == math.inf:  # too few places
        return even(start_s, end_s, max_s)
    cuts = [len(places) - 1]
    while cuts[-1]:
        cuts.append(before[cuts[-1]])
    return _pieces([places[cut][0] for cut in reversed(cuts)])


def _pieces(edges_s: Sequence[float]) -> list[Piece]:
    return [Piece(a, b) for a, b in pairwise(edges_s)]


def runs(
    start_s: float, end_s: float, changes: Sequence[Transition]
) -> list[tuple[float, float, str]]:
    """The shots of a stretch, and the dissolves and fades between them with their reason."""
    found: list[tuple[float, float, str]] = []
    at_s = start_s
    for change in sorted(changes, key=lambda one: one.start_s):
        first_s, last_s = (min(max(t, at_s), end_s) for t in (change.start_s, change.end_s))
        if first_s > at_s:
            found.append((at_s, first_s, ""))
        if last_s > first_s:
            found.append((first_s, last_s, SHOT_CHANGE))
        at_s = last_s
    return [*found, (at_s, end_s, "")] if end_s > at_s else found
