"""CALVIN's chains of five tasks: which there are, and where each begins.

The rules are those of CALVIN's `evaluation/multistep_sequences.py` (github.com/mees/calvin): a
symbolic state, tasks with conditions and effects on it, and for every possible initial state as
many chains as it takes, drawn until one is possible. Drawn in the same order from the same
generator, the list is the one that published results are about; `digest` tells.
"""

import functools
import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from handloom.train.tabletop.tasks import GO_ROUND, TASKS

LENGTH = 5  # tasks in a chain
COUNT = 1000  # chains in the evaluation
SHA256 = "b6660887e85172e1c6bff35e6b0458c4ee8704a64dda4fb4caf97094906f400e"  # of the 1,000

Value = str | int
State = dict[str, Value]
Condition = dict[str, Value | list[str]]
Change = tuple[Condition, State]

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


def _free(condition: Condition, effect: State) -> Change:
    """A change that needs an empty gripper."""
    return {**condition, "grasped": 0}, effect


def _changes() -> dict[str, list[Change]]:
    """What each of the 34 tasks needs and does, in the order in which they are drawn."""
    found: dict[str, list[Change]] = {}
    for verb in ("rotate", "push"):
        for colour in COLOURS:
            for side in ("right", "left"):
                on_table: State = {f"{colour}_block": "table"}
                found[f"{verb}_{colour}_block_{side}"] = [_free({**on_table}, on_table)]
    found["move_slider_left"] = [_free({"slider": "right"}, {"slider": "left"})]
    found["move_slider_right"] = [_free({"slider": "left"}, {"slider": "right"})]
    found["open_drawer"] = [_free({"drawer": "closed"}, {"drawer": "open"})]
    found["close_drawer"] = [_free({"drawer": "open"}, {"drawer": "closed"})]
    for colour in COLOURS:
        found |= _lifts(f"{colour}_block", colour)
    found["place_in_slider"] = [
        _placed(colour, {"slider": side}, f"slider_{side}")
        for colour in COLOURS
        for side in ("right", "left")
    ]
    found["place_in_drawer"] = [_placed(c, {"drawer": "open"}, "drawer") for c in COLOURS]
    pairs = [(one, other) for one in COLOURS for other in COLOURS if one != other]
    found["stack_block"] = [
        (
            {f"{one}_block": "grasped", f"{other}_block": "table", "grasped": 1},
            {f"{one}_block": "stacked_top", f"{other}_block": "stacked_bottom", "grasped": 0},
        )
        for one, other in pairs
    ]
    found["unstack_block"] = [
        _free(
            {f"{one}_block": "stacked_top", f"{other}_block": "stacked_bottom"},
            {f"{one}_block": "table", f"{other}_block": "table"},
        )
        for one, other in pairs
    ]
    for light in ("lightbulb", "led"):
        found[f"turn_on_{light}"] = [_free({light: 0}, {light: 1})]
        found[f"turn_off_{light}"] = [_free({light: 1}, {light: 0})]
    found["push_into_drawer"] = [_into_drawer(colour) for colour in COLOURS]
    return found


def _lifts(block: str, colour: str) -> dict[str, list[Change]]:
    """A block is taken from the table, from where the door leaves the shelf open, or the drawer."""
    held: State = {block: "grasped", "grasped": 1}
    return {
        f"lift_{colour}_block_table": [_free({block: "table"}, held)],
        f"lift_{colour}_block_slider": [
            _free({block: "slider_left", "slider": "right"}, held),
            _free({block: "slider_right", "slider": "left"}, held),
        ],
        f"lift_{colour}_block_drawer": [_free({block: "drawer", "drawer": "open"}, held)],
    }


def _placed(colour: str, door: State, place: str) -> Change:
    block = f"{colour}_block"
    return {block: "grasped", **door, "grasped": 1}, {block: place, "grasped": 0}


def _into_drawer(colour: str) -> Change:
    others: Condition = {f"{other}_block": list(SHELF) for other in COLOURS if other != colour}
    block = f"{colour}_block"
    return _free({block: "table", "drawer": "open", **others}, {block: "drawer", "grasped": 0})


def _categories() -> dict[str, int]:
    """A chain has no two tasks of one category."""
    by_task = {"place_in_slider": 7, "place_in_drawer": 7, "push_into_drawer": 9}
    by_task |= {"stack_block": 10, "unstack_block": 11}
    by_word = {"rotate": 1, "push": 1, "move": 2, "open": 3, "close": 3, "turn": 8}
    by_place = {"table": 4, "slider": 5, "drawer": 6}
    for task in CHANGES:
        first, last = task.split("_")[0], task.split("_")[-1]
        number = by_place[last] if first == "lift" else by_word.get(first, 0)
        by_task.setdefault(task, number)
    return by_task


CHANGES = _changes()
CATEGORIES = _categories()


def is_possible(state: State, tasks: Sequence[str]) -> bool:
    """Whether tasks can be done one after the other, and no two are of one category."""
    if len({CATEGORIES[task] for task in tasks}) < len(tasks):
        return False
    for task in tasks:
        following = [effect for needs, effect in CHANGES[task] if _holds(state, needs)]
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
    """The 192 states that a chain can begin in: one or two blocks on the table, none shared."""
    states = [dict(zip(INITIAL, values, strict=True)) for values in product(*INITIAL.values())]
    return [state for state in states if _is_initial([*state.values()])]


def _is_initial(values: list[Value]) -> bool:
    on_shelf = max(values.count(place) for place in SHELF)
    return values.count("table") in (1, 2) and on_shelf < 2


def _draw(state: State, tasks: Sequence[str], generator: np.random.RandomState) -> tuple[str, ...]:
    """Draw five different tasks, in their order, until they are possible.

    The draws are those of `generator.choice(tasks, 5, replace=False)`, which shuffles all of them;
    with numbers in place of names and a glance at the first, nine million take seconds.
    """
    begins = [any(_holds(state, needs) for needs, _ in CHANGES[task]) for task in tasks]
    numbers, drawn = np.arange(len(tasks)), np.arange(len(tasks))
    while True:
        drawn[:] = numbers
        generator.shuffle(drawn)
        if begins[drawn[0]]:
            chain = tuple(tasks[number] for number in drawn[:LENGTH])
            if is_possible(state, chain):
                return chain


def _generate(states: Sequence[State], tasks: Sequence[str], count: int, seed: int) -> list[Chain]:
    """Shares of `count` for each state, each from a generator of its own, then shuffled."""
    chains = []
    for index, share in enumerate(np.array_split(range(count), len(states))):
        generator = np.random.RandomState(seed + index)
        chains += [Chain(states[index], _draw(states[index], tasks, generator)) for _ in share]
    order = np.arange(count)
    np.random.RandomState(seed).shuffle(order)
    return [chains[i] for i in order]


@functools.cache
def calvin_chains(count: int = COUNT) -> tuple[Chain, ...]:
    """CALVIN's list of chains; other counts than 1,000 give other chains, as in the original."""
    return tuple(_generate(initial_states(), tuple(CHANGES), count, 0))


def tabletop_chains(count: int, seed: int = 0, only: Collection[str] = TASKS) -> list[Chain]:
    """Chains of the tabletop's tasks, by the same procedure; there all blocks are on the table.

    Raises:
        ValueError: no chain of five can be made of `only`.
    """
    tasks = [task for task in CHANGES if task in only]
    if len({CATEGORIES[task] for task in tasks}) < LENGTH:
        raise ValueError(
            f"{', '.join(tasks) or 'no task'}: a chain needs {LENGTH} tasks of different "
            "categories, such as a push, a slider, a drawer, a light and a lift"
        )
    return _generate(_tabletop_states(), tasks, count, seed)


def single_tasks(count: int, seed: int = 0, only: Sequence[str] = TASKS) -> list[Chain]:
    """Chains of one task, those of `only` in turn, each from another start in which it can be done.

    `go_round` may be among them: it is for an environment with that scene. `place_in_drawer` is
    left out, as it begins with a block in the gripper, and no start has that.
    """
    rng = np.random.default_rng(seed)
    states = {task: _states_before(task) for task in only}
    names = [task for task in only if states[task]]
    found = []
    for number in range(count):
        task = names[number % len(names)]
        state = states[task][rng.integers(len(states[task]))]
        found.append(Chain({**state, "seed": seed, "number": number}, (task,)))
    return found


def _states_before(task: str) -> list[State]:
    states = _tabletop_states()
    return states if task == GO_ROUND else [s for s in states if is_possible(s, [task])]


def _tabletop_states() -> list[State]:
    everywhere = {name: values for name, values in INITIAL.items() if "block" not in name}
    blocks: State = {f"{colour}_block": "table" for colour in COLOURS}
    return [
        {**dict(zip(everywhere, values, strict=True)), **blocks}
        for values in product(*everywhere.values())
    ]


def canonical(chains: Sequence[Chain]) -> Iterator[str]:
    """A line of JSON for each chain: [initial state, tasks], keys sorted, no blanks, ASCII."""
    for chain in chains:
        yield json.dumps([chain.initial, chain.tasks], sort_keys=True, separators=(",", ":"))


def digest(chains: Sequence[Chain]) -> str:
    """SHA-256 of the canonical lines, each ended by a newline; hexadecimal."""
    return hashlib.sha256("".join(f"{line}\n" for line in canonical(chains)).encode()).hexdigest()
