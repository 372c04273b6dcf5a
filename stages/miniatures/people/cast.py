"""Who and what is in the videos: those with hands, those without, and the broken ones."""

import uuid
from dataclasses import dataclass, replace

import numpy as np

from handloom.stages.miniatures.people.motion import (
    VERBS,
    Action,
    Verb,
    moved,
)
from handloom.stages.miniatures.people.objects import (
    COLORS,
    COLUMNS,
    KINDS,
    ROWS,
    Thing,
    Things,
)
from handloom.stages.miniatures.people.raster import WIDTH
from handloom.stages.miniatures.people.scene import (
    SKINS,
    SLEEVES,
    TABLES,
    WALLS,
    Look,
)

FPS = 30  # Ego4D's canonical rate
LEAD_S, TAIL_S, ACTION_S = 1.0, 1.2, 2.4


@dataclass(frozen=True)
class Video:
    """What is to be rendered, and what the annotators will say about it."""

    uid: str
    look: Look
    things: Things
    actions: tuple[Action, ...] = ()
    said: tuple[tuple[float, str, str], ...] = ()  # second, and the words of either annotator
    splits: tuple[str | None, str | None, str | None] = (None, None, None)  # em, av, fho
    redacted: tuple[tuple[float, float], ...] = ()  # black, and listed as such
    black: tuple[tuple[float, float], ...] = ()  # black, and listed nowhere
    fault: str = ""  # "stereo", "missing" or "truncated"
    passes: int = 2
    landscape: bool = False

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return self.said[-1][0] + ACTION_S + TAIL_S

    @property
    def width(self) -> int:
        """Frame width in pixels; two pictures side by side when stereo."""
        return WIDTH * (2 if self.fault == "stereo" else 1)


def plan(clips: int, seed: int) -> tuple[Video, ...]:
    """Cast and script of all videos: those with hands, those without, and the broken ones."""
    many = clips >= 20
    count = max(2, round(clips / 4.8))
    hands = [_hand_video(seed, i, 4 + i % 3 if many else 3) for i in range(count)]
    for i in (0, 6):
        if i < count:
            hands[i] = replace(hands[i], redacted=(_inside(hands[i].actions[1]),))
    dark = 2 if count > 2 else 1
    hands[dark] = replace(hands[dark], black=(_inside(hands[dark].actions[2]),))
    hands[-1] = replace(hands[-1], passes=1)
    odd = [
        replace(_hand_video(seed, 900 + i, 3), fault=fault, splits=(None, None, None))
        for i, fault in enumerate(("stereo", "missing", "truncated"))
    ]
    # v2.1 joins existing videos under a new id: here one video comes a second time.
    group = replace(hands[0], uid=f"grp-{stable_uuid(seed, 'group')}")
    return (*hands, *odd, group, *(_empty_video(seed, i) for i in range(max(1, count // 7))))


def stable_uuid(seed: int, name: object) -> str:
    """A UUID that depends on nothing but its arguments."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"handloom/miniature/{seed}/{name}"))


def _inside(action: Action) -> tuple[float, float]:
    """The span of an action: its narrations lie inside, the next action's do not."""
    return action.start_s, round(action.end_s, 1)


def _splits(index: int) -> tuple[str | None, str | None, str | None]:
    """Per benchmark, not per video: nearly 80 % train (or unassigned), the rest val and test."""
    if index % 12 == 7:
        return (None, "test", None) if index % 24 == 7 else ("train", None, "test")
    if index % 8 == 1:
        return ("val", None, "multi") if index % 16 == 1 else (None, None, "val")
    return ((None, None, None), ("train", None, None), ("train", "train", "train"))[index % 3]


def _look(rng: np.random.Generator, index: int) -> Look:
    return Look(
        table=TABLES[index % len(TABLES)],
        wall=WALLS[int(rng.integers(len(WALLS)))],
        skin=SKINS[int(rng.integers(len(SKINS)))],
        sleeve=SLEEVES[int(rng.integers(len(SLEEVES)))],
        second_hand=index % 4 == 2,
        seed=int(rng.integers(1 << 16)),
    )


def _things(rng: np.random.Generator, index: int) -> Things:
    """Two or three objects of different kinds and colours, each in a column of its own."""
    count = 2 + index % 2
    kinds, colors = rng.permutation(list(KINDS)), rng.permutation(list(COLORS))
    columns, rows = rng.permutation(COLUMNS), rng.integers(ROWS, size=count)
    return tuple(
        Thing(str(kinds[i]), str(colors[i]), float(columns[i]), float(rows[i]))
        for i in range(count)
    )


def _hand_video(seed: int, index: int, count: int) -> Video:
    """`count` actions, one after the other; what is picked up is put down next."""
    rng = np.random.default_rng((seed, index))
    look, things = _look(rng, index), _things(rng, index)
    actions: list[Action] = []
    said: list[tuple[float, str, str]] = []
    state, start_s = things, LEAD_S
    for left in range(count, 0, -1):
        verb, at = _choose(rng, state, left)
        actions.append(Action(verb, at, start_s, ACTION_S))
        name = f"{things[at].color} {things[at].kind}"
        words = VERBS[verb]
        said.append((start_s, words.words.format(name), words.other_words.format(name)))
        after = moved(state[at], words, 1.0)
        state = tuple(after if i == at else t for i, t in enumerate(state))
        start_s = round(start_s + ACTION_S + 0.1 * int(rng.integers(3)), 1)
    uid = stable_uuid(seed, index)
    return Video(uid, look, things, tuple(actions), tuple(said), _splits(index))


def _choose(rng: np.random.Generator, things: Things, left: int) -> tuple[str, int]:
    """Any action that has room for it: a free column, a row that exists, time to put it down."""
    for at, thing in enumerate(things):
        if thing.lift:
            return "put", at
    fits = {
        name: [at for at in range(len(things)) if _has_room(things, at, verb)]
        for name, verb in VERBS.items()
        if name != "put" and (name != "pick" or left > 1)
    }
    verb = str(rng.choice([name for name, where in fits.items() if where]))
    return verb, int(rng.choice(fits[verb]))


def _has_room(things: Things, at: int, verb: Verb) -> bool:
    """Whether the thing's next place is on the table and in nobody else's column."""
    column = round(things[at].column) + verb.columns
    others = {round(t.column) for i, t in enumerate(things) if i != at}
    row = round(things[at].row) + verb.rows
    return column in range(COLUMNS) and column not in others and row in range(ROWS)


def _empty_video(seed: int, index: int) -> Video:
    """Nobody's hands: a ball that rolls by itself, or hills; there are narrations all the same."""
    rng = np.random.default_rng((seed, 1000 + index))
    look, (thing, *others) = _look(rng, index), _things(rng, index)
    ball = replace(thing, kind="ball", row=0.0)
    others = [replace(t, kind="bottle" if t.kind == "ball" else t.kind, row=1.0) for t in others]
    hills = index % 2 == 1
    words = (
        (("looks around", "turns the head"), ("walks on", "looks at the hills"))
        if hills
        else (
            (f"looks at the {ball.color} ball", "watches"),
            ("looks ahead", "stares at the table"),
        )
    )
    said = tuple((LEAD_S + ACTION_S * i, *words[i % 2]) for i in range(3))
    uid = stable_uuid(seed, 1000 + index)
    return Video(uid, look, (ball, *others), said=said, landscape=hills)
