"""The videos of the miniature Ego4D before rendering: scenes, actions, narrations, faults."""

import uuid
from dataclasses import dataclass, replace

import numpy as np

from handloom.stages.miniatures.people.motion import VERBS, Action, Verb, move
from handloom.stages.miniatures.people.objects import COLORS, COLUMNS, KINDS, ROWS, Thing, Things
from handloom.stages.miniatures.people.raster import WIDTH
from handloom.stages.miniatures.people.scene import SKINS, SLEEVES, TABLES, WALLS, Appearance

FPS = 30  # Ego4D's canonical rate
LEAD_S, TAIL_S, ACTION_S = 1.0, 1.2, 2.4


@dataclass(frozen=True)
class NarratedVideo:
    """A video before rendering, with its narrations."""

    uid: str
    appearance: Appearance
    things: Things
    actions: tuple[Action, ...] = ()
    narrations: tuple[tuple[float, str, str], ...] = ()  # second, words of either annotator
    splits: tuple[str | None, str | None, str | None] = (None, None, None)  # em, av, fho
    redacted: tuple[tuple[float, float], ...] = ()  # black intervals that are listed
    black: tuple[tuple[float, float], ...] = ()  # black intervals that are not
    fault: str = ""  # "stereo", "missing" or "truncated"
    passes: int = 2
    landscape: bool = False

    @property
    def seconds(self) -> float:
        """Length of the video in seconds."""
        return self.narrations[-1][0] + ACTION_S + TAIL_S

    @property
    def width(self) -> int:
        """Frame width in pixels; stereo has two images side by side."""
        return WIDTH * (2 if self.fault == "stereo" else 1)


def plan(clips: int, seed: int) -> tuple[NarratedVideo, ...]:
    """All videos: those with hands, the faulty ones, one that occurs twice, those without hands."""
    many = clips >= 20
    count = max(2, round(clips / 4.8))
    hands = [_hand_video(seed, i, 4 + i % 3 if many else 3) for i in range(count)]
    for i in (0, 6):
        if i < count:
            hands[i] = replace(hands[i], redacted=(_action_span(hands[i].actions[1]),))
    dark = 2 if count > 2 else 1
    hands[dark] = replace(hands[dark], black=(_action_span(hands[dark].actions[2]),))
    hands[-1] = replace(hands[-1], passes=1)
    odd = [
        replace(_hand_video(seed, 900 + i, 3), fault=fault, splits=(None, None, None))
        for i, fault in enumerate(("stereo", "missing", "truncated"))
    ]
    # Ego4D v2.1 joins existing videos under a new id: here one video occurs a second time.
    group = replace(hands[0], uid=f"grp-{stable_uuid(seed, 'group')}")
    return (*hands, *odd, group, *(_empty_video(seed, i) for i in range(max(1, count // 7))))


def stable_uuid(seed: int, name: object) -> str:
    """A UUID that depends on nothing but its arguments."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"handloom/miniature/{seed}/{name}"))


def _action_span(action: Action) -> tuple[float, float]:
    """The interval of an action: it contains its narrations, but not those of the next one."""
    return action.start_s, round(action.end_s, 1)


def _splits(index: int) -> tuple[str | None, str | None, str | None]:
    """Split of a video in each benchmark: nearly 80 % train or none, the rest val and test."""
    if index % 12 == 7:
        return (None, "test", None) if index % 24 == 7 else ("train", None, "test")
    if index % 8 == 1:
        return ("val", None, "multi") if index % 16 == 1 else (None, None, "val")
    return ((None, None, None), ("train", None, None), ("train", "train", "train"))[index % 3]


def _random_appearance(rng: np.random.Generator, index: int) -> Appearance:
    return Appearance(
        table=TABLES[index % len(TABLES)],
        wall=WALLS[int(rng.integers(len(WALLS)))],
        skin=SKINS[int(rng.integers(len(SKINS)))],
        sleeve=SLEEVES[int(rng.integers(len(SLEEVES)))],
        second_hand=index % 4 == 2,
        seed=int(rng.integers(1 << 16)),
    )


def _random_things(rng: np.random.Generator, index: int) -> Things:
    """Two or three objects of different kinds and colours, each in a column of its own."""
    count = 2 + index % 2
    kinds, colors = rng.permutation(list(KINDS)), rng.permutation(list(COLORS))
    columns, rows = rng.permutation(COLUMNS), rng.integers(ROWS, size=count)
    return tuple(
        Thing(str(kinds[i]), str(colors[i]), float(columns[i]), float(rows[i]))
        for i in range(count)
    )


def _hand_video(seed: int, index: int, count: int) -> NarratedVideo:
    """A video of `count` actions; an object that is picked up is put down next."""
    rng = np.random.default_rng((seed, index))
    appearance, things = _random_appearance(rng, index), _random_things(rng, index)
    actions: list[Action] = []
    narrations: list[tuple[float, str, str]] = []
    state, start_s = things, LEAD_S
    for left in range(count, 0, -1):
        verb, at = _choose_action(rng, state, left)
        actions.append(Action(verb, at, start_s, ACTION_S))
        name = f"{things[at].color} {things[at].kind}"
        words = VERBS[verb]
        narrations.append((start_s, words.words.format(name), words.other_words.format(name)))
        after = move(state[at], words, 1.0)
        state = tuple(after if i == at else t for i, t in enumerate(state))
        start_s = round(start_s + ACTION_S + 0.1 * int(rng.integers(3)), 1)
    uid = stable_uuid(seed, index)
    return NarratedVideo(uid, appearance, things, tuple(actions), tuple(narrations), _splits(index))


def _choose_action(rng: np.random.Generator, things: Things, left: int) -> tuple[str, int]:
    """A random action and its object, with a free column, an existing row, and time to put down."""
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
    """Whether the next place of an object is on the table and in a free column."""
    column = round(things[at].column) + verb.columns
    others = {round(t.column) for i, t in enumerate(things) if i != at}
    row = round(things[at].row) + verb.rows
    return column in range(COLUMNS) and column not in others and row in range(ROWS)


def _empty_video(seed: int, index: int) -> NarratedVideo:
    """A narrated video without hands: a ball that rolls by itself, or hills."""
    rng = np.random.default_rng((seed, 1000 + index))
    appearance, (thing, *others) = _random_appearance(rng, index), _random_things(rng, index)
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
    narrations = tuple((LEAD_S + ACTION_S * i, *words[i % 2]) for i in range(3))
    uid = stable_uuid(seed, 1000 + index)
    return NarratedVideo(uid, appearance, (ball, *others), narrations=narrations, landscape=hills)
