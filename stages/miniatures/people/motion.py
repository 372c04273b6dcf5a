"""Motion of hands and objects: `state_at` gives the scene at any time of a video.

Motion is a function of the action's words and the scene's state, so that a small model can learn to
continue a video from its first frame and its narration. Lengths in pixels, x to the right, y down,
times in seconds, angles in radians clockwise.
"""

import math
from dataclasses import dataclass, replace

from handloom.stages.miniatures.people.objects import COLUMN_PX, Thing, Things
from handloom.stages.miniatures.people.raster import Point

# Shares of an action: the hand arrives, closes; the object moves; the hand opens, goes back.
REACH, CLOSE, CARRY = (0.04, 0.28), (0.24, 0.36), (0.36, 0.82)
OPEN, LEAVE = (0.82, 0.90), (0.86, 1.0)
REST = (206.0, 184.0)  # where the hand's grasp waits, pixels


@dataclass(frozen=True)
class Verb:
    """An action of a hand: two annotators' words for it, and how the object moves."""

    words: str  # "{}" is the object
    other_words: str
    columns: int = 0  # steps to the right
    rows: int = 0  # steps away from the person
    lift: Point = (0.0, 0.0)  # pixels above the table before and after
    hop: float = 0.0  # pixels above the table half-way
    swing: float = 0.0  # pixels to either side
    tilt: float = 0.0  # radians half-way


LIFT_PX = 44.0
VERBS: dict[str, Verb] = {
    "pick": Verb("picks up the {}", "lifts the {} off the table", lift=(0, LIFT_PX)),
    "put": Verb("puts down the {}", "places the {} on the table", lift=(LIFT_PX, 0)),
    "left": Verb("moves the {} to the left", "shifts the {} leftwards", columns=-1, hop=14),
    "right": Verb("moves the {} to the right", "shifts the {} rightwards", columns=1, hop=14),
    "push": Verb("pushes the {} forward", "shoves the {} away", rows=1),
    "pull": Verb("pulls the {} closer", "drags the {} towards himself", rows=-1),
    "shake": Verb("shakes the {}", "wiggles the {} from side to side", swing=16, hop=12),
    "tilt": Verb("tilts the {}", "tips the {} to the right", tilt=0.95, hop=10),
}


@dataclass(frozen=True)
class Action:
    """One narrated action on one object, from `start_s` for `seconds`."""

    verb: str
    thing: int
    start_s: float
    seconds: float

    @property
    def end_s(self) -> float:
        """Time at which the hand is back at rest, or holds the object still."""
        return self.start_s + self.seconds


def state_at(
    things: Things, actions: tuple[Action, ...], at_s: float, seconds: float
) -> tuple[Things, Point | None, float]:
    """The scene at a time: objects, the hand's grasp (None without a hand), its grip 0 to 1."""
    if not actions:
        rolling = replace(things[0], column=-1.4 + 5.8 * ((at_s * 0.22) % 1.0))
        return (rolling, *things[1:]), None, 0.0
    away = max((actions[0].start_s - at_s) / 0.7, (at_s - seconds + 0.7) / 0.7, 0.0)
    rest = (REST[0] + 8 * away, REST[1] + 95 * away)
    hand, grip = rest, 0.0
    for action in actions:
        if action.start_s <= at_s:
            share = min(1.0, (at_s - action.start_s) / action.seconds)
            things, hand, grip = _act(things, action, share)
            hand = hand if share < 1 or things[action.thing].lift else rest
    return things, hand, grip


def _act(things: Things, action: Action, share: float) -> tuple[Things, Point, float]:
    """Objects, grasp and grip after a share of an action: reach, close, carry, open, retreat."""
    verb, before = VERBS[action.verb], things[action.thing]
    now = move(before, verb, _progress(share, CARRY))
    things = tuple(now if i == action.thing else t for i, t in enumerate(things))
    (x, y), held_before, held_after = now.base, before.lift > 0, verb.lift[1] > 0
    near = min(
        1.0 if held_before else _progress(share, REACH),
        1.0 if held_after else 1 - _progress(share, LEAVE),
    )
    grip = min(
        1.0 if held_before else _progress(share, CLOSE),
        1.0 if held_after else 1 - _progress(share, OPEN),
    )
    x, y = x + 5, y - now.lift - 22 * now.scale
    return things, (REST[0] + (x - REST[0]) * near, REST[1] + (y - REST[1]) * near), grip


def move(thing: Thing, verb: Verb, share: float) -> Thing:
    """An object after a share, 0 to 1, of its motion in an action."""
    # Rounded, so that a finished hop leaves the object on the table and not 1e-16 above it.
    arc = round(math.sin(math.pi * share), 6)
    swing = verb.swing / COLUMN_PX * round(math.sin(3 * math.pi * share), 6)
    return replace(
        thing,
        column=thing.column + verb.columns * share + swing,
        row=thing.row + verb.rows * share,
        lift=verb.lift[0] + (verb.lift[1] - verb.lift[0]) * share + verb.hop * min(1.0, 2 * arc),
        tilt=verb.tilt * arc,
    )


def _progress(share: float, span: Point) -> float:
    """Progress within `span` at `share`, 0 to 1: constant speed, eased in and out."""
    u = min(1.0, max(0.0, (share - span[0]) / (span[1] - span[0])))
    return u - 0.1 / (2 * math.pi) * math.sin(2 * math.pi * u)
