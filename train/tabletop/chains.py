"""CALVIN's chains of five tasks: the official list, and lists for the tabletop.

The rules are those of CALVIN's `evaluation/multistep_sequences.py` (github.com/mees/calvin): a
symbolic state, tasks with conditions and effects on it, and for every possible initial state a
share of the chains, each drawn until one is possible. Draws in the same order from the same
generators give the list of published results; `digest` proves it.
"""

import functools
import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from handloom.train.tabletop.tasks import TASKS, scene_of

LENGTH = 5  # tasks in a chain
COUNT = 1000  # chains in the official evaluation
SHA256 = "b6660887e85172e1c6bff35e6b0458c4ee8704a64dda4fb4caf97094906f400e"  # of the 1,000

Value = str | int
State = dict[str, Value]
Condition = dict[str, Value | list[str]]
Transition = tuple[Condition, State]  # what the state must be before, what it becomes

COLOURS = ("red", "blue", "pink")
SHELF = ("slider_right", "slider_left")
PLACES = ("table", *SHELF)
INITIAL: dict[str, tuple[Value, ...]] = {
    "led": (0, 1),
    "lightbulb": (0, 1),
    "slider": ("right", "left"),
    "drawer": ("closed", "open"),
    "red_block": PLACES,
    "blue_block": PLACES,
    "pink_block": PLACES,
    "grasped": (0,),
}


@dataclass(frozen=True)
class Chain:
    """A chain of tasks, and the symbolic state in which it begins."""

    initial: State
    tasks: tuple[str, ...]


def _empty_handed(condition: Condition, effect: State) -> Transition:
    """A transition that needs an empty gripper."""
    return {**condition, "grasped": 0}, effect


def _make_transitions() -> dict[str, list[Transition]]:
    """Transitions of each of the 34 tasks, in CALVIN's order, on which the draws depend."""
    transitions: dict[str, list[Transition]] = {}
    for verb in ("rotate", "push"):
        for colour in COLOURS:
            for side in ("right", "left"):
                on_table: State = {f"{colour}_block": "table"}
                transitions[f"{verb}_{colour}_block_{side}"] = [
                    _empty_handed({**on_table}, on_table)
                ]
    transitions["move_slider_left"] = [_empty_handed({"slider": "right"}, {"slider": "left"})]
    transitions["move_slider_right"] = [_empty_handed({"slider": "left"}, {"slider": "right"})]
    transitions["open_drawer"] = [_empty_handed({"drawer": "closed"}, {"drawer": "open"})]
    transitions["close_drawer"] = [_empty_handed({"drawer": "open"}, {"drawer": "closed"})]
    for colour in COLOURS:
        transitions |= _lift_transitions(f"{colour}_block", colour)
    transitions["place_in_slider"] = [
        _place_block(colour, {"slider": side}, f"slider_{side}")
        for colour in COLOURS
        for side in ("right", "left")
    ]
    transitions["place_in_drawer"] = [
        _place_block(c, {"drawer": "open"}, "drawer") for c in COLOURS
    ]
    pairs = [(one, other) for one in COLOURS for other in COLOURS if one != other]
    transitions["stack_block"] = [
        (
            {f"{one}_block": "grasped", f"{other}_block": "table", "grasped": 1},
            {f"{one}_block": "stacked_top", f"{other}_block": "stacked_bottom", "grasped": 0},
        )
        for one, other in pairs
    ]
    transitions["unstack_block"] = [
        _empty_handed(
            {f"{one}_block": "stacked_top", f"{other}_block": "stacked_bottom"},
            {f"{one}_block": "table", f"{other}_block": "table"},
        )
        for one, other in pairs
    ]
    for light in ("lightbulb", "led"):
        transitions[f"turn_on_{light}"] = [_empty_handed({light: 0}, {light: 1})]
        transitions[f"turn_off_{light}"] = [_empty_handed({light: 1}, {light: 0})]
    transitions["push_into_drawer"] = [_push_into_drawer(colour) for colour in COLOURS]
    return transitions


def _lift_transitions(block: str, colour: str) -> dict[str, list[Transition]]:
    """Lifts from the table, from the side of the shelf that the door leaves open, or the drawer."""
    held: State = {block: "grasped", "grasped": 1}
    return {
        f"lift_{colour}_block_table": [_empty_handed({block: "table"}, held)],
        f"lift_{colour}_block_slider": [
            _empty_handed({block: "slider_left", "slider": "right"}, held),
            _empty_handed({block: "slider_right", "slider": "left"}, held),
        ],
        f"lift_{colour}_block_drawer": [_empty_handed({block: "drawer", "drawer": "open"}, held)],
    }


def _place_block(colour: str, door: State, place: str) -> Transition:
    block = f"{colour}_block"
    return {block: "grasped", **door, "grasped": 1}, {block: place, "grasped": 0}


def _push_into_drawer(colour: str) -> Transition:
    others: Condition = {f"{other}_block": list(SHELF) for other in COLOURS if other != colour}
    block = f"{colour}_block"
    return _empty_handed(
        {block: "table", "drawer": "open", **others}, {block: "drawer", "grasped": 0}
    )


def _make_categories() -> dict[str, int]:
    """Category of each task; a chain has no two tasks of one category."""
    by_task = {"place_in_slider": 7, "place_in_drawer": 7, "push_into_drawer": 9}
    by_task |= {"stack_block": 10, "unstack_block": 11}
    by_word = {"rotate": 1, "push": 1, "move": 2, "open": 3, "close": 3, "turn": 8}
    by_place = {"table": 4, "slider": 5, "drawer": 6}
    for task in TRANSITIONS:
        first, last = task.split("_")[0], task.split("_")[-1]
        number = by_place[last] if first == "lift" else by_word.get(first, 0)
        by_task.setdefault(task, number)
    return by_task


TRANSITIONS = _make_transitions()
CATEGORIES = _make_categories()


def is_possible(state: State, tasks: Sequence[str]) -> bool:
    """Whether tasks can be done in this order from a state, and no two are of one category."""
    if len({CATEGORIES[task] for task in tasks}) < len(tasks):
        return False
    for task in tasks:
        following = [effect for needs, effect in TRANSITIONS[task] if _holds(state, needs)]
        if len(following) != 1:
            return False
        state = {**state, **following[0]}
    return True


def _holds(state: State, condition: Condition) -> bool:
    return all(
        state[name] in wanted if isinstance(wanted, list) else state[name] == wanted
        for name, wanted in condition.items()
    )


def initial_states() -> list[State]:
    """The 192 initial states: one or two blocks on the table, at most one on each shelf side."""
    states = [dict(zip(INITIAL, values, strict=True)) for values in product(*INITIAL.values())]
    return [state for state in states if _is_initial([*state.values()])]


def _is_initial(values: list[Value]) -> bool:
    on_shelf = max(values.count(place) for place in SHELF)
    return values.count("table") in (1, 2) and on_shelf < 2


def _draw_chain(
    state: State, tasks: Sequence[str], generator: np.random.RandomState
) -> tuple[str, ...]:
    """Draw five different tasks in order, until they are possible.

    The draws are those of `generator.choice(tasks, 5, replace=False)`, which shuffles all of them.
    Nine million of them take seconds, as numbers stand for names and the first task is checked
    before the others.
    """
    can_begin = [any(_holds(state, needs) for needs, _ in TRANSITIONS[task]) for task in tasks]
    numbers, drawn = np.arange(len(tasks)), np.arange(len(tasks))
    while True:
        drawn[:] = numbers
        generator.shuffle(drawn)
        if can_begin[drawn[0]]:
            chain = tuple(tasks[number] for number in drawn[:LENGTH])
            if is_possible(state, chain):
                return chain


def _draw_chains(
    states: Sequence[State], tasks: Sequence[str], count: int, seed: int
) -> list[Chain]:
    """`count` chains: an equal share for each state, from a generator of its own, then shuffled."""
    chains = []
    for index, share in enumerate(np.array_split(range(count), len(states))):
        generator = np.random.RandomState(seed + index)  # CALVIN's; others draw other chains
        chains += [
            Chain(states[index], _draw_chain(states[index], tasks, generator)) for _ in share
        ]
    order = np.arange(count)
    np.random.RandomState(seed).shuffle(order)
    return [chains[i] for i in order]


@functools.cache
def calvin_chains(count: int = COUNT) -> tuple[Chain, ...]:
    """CALVIN's list of chains; another count than 1,000 gives other chains, as in the original."""
    return tuple(_draw_chains(initial_states(), tuple(TRANSITIONS), count, 0))


def tabletop_chains(count: int, seed: int = 0, only: Collection[str] = TASKS) -> list[Chain]:
    """Chains of the tabletop's tasks by the same procedure; all blocks begin on the table.

    Raises:
        ValueError: `only` has too few categories for a chain of five.
    """
    tasks = [task for task in TRANSITIONS if task in only]
    if len({CATEGORIES[task] for task in tasks}) < LENGTH:
        raise ValueError(
            f"{', '.join(tasks) or 'no task'}: a chain needs {LENGTH} tasks of different "
            "categories, such as a push, a slider, a drawer, a light and a lift"
        )
    return _draw_chains(_tabletop_states(), tasks, count, seed)


def single_tasks(count: int, seed: int = 0, only: Sequence[str] = TASKS) -> list[Chain]:
    """Chains of one task each, those of `only` in turn, from random starts in which it can be done.

    `go_round` and touches need an environment with their scene. `place_in_drawer` is left out: it
    begins with a block in the gripper, which no start has.
    """
    rng = np.random.default_rng(seed)
    states = {task: _states_before(task) for task in only}
    names = [task for task in only if states[task]]
    chains = []
    for number in range(count):
        task = names[number % len(names)]
        state = states[task][rng.integers(len(states[task]))]
        chains.append(Chain({**state, "seed": seed, "number": number}, (task,)))
    return chains


def _states_before(task: str) -> list[State]:
    states = _tabletop_states()
    return states if scene_of(task) != "play" else [s for s in states if is_possible(s, [task])]


def _tabletop_states() -> list[State]:
    everywhere = {name: values for name, values in INITIAL.items() if "block" not in name}
    blocks: State = {f"{colour}_block": "table" for colour in COLOURS}
    return [
        {**dict(zip(everywhere, values, strict=True)), **blocks}
        for values in product(*everywhere.values())
    ]


def canonical(chains: Sequence[Chain]) -> Iterator[str]:
    """A line of JSON for each chain: [initial state, tasks], keys sorted, no spaces, ASCII."""
    for chain in chains:
        yield json.dumps([chain.initial, chain.tasks], sort_keys=True, separators=(",", ":"))


def digest(chains: Sequence[Chain]) -> str:
    """SHA-256 of the canonical lines, each with a newline, in hexadecimal."""
    return hashlib.sha256("".join(f"{line}\n" for line in canonical(chains)).encode()).hexdigest()
