"""The tabletop's tasks: their names, their instructions, and when they are done.

Names and thresholds are CALVIN's, for the 18 of its 34 tasks that are possible here: there is no
cabinet to reach into, no rotation of blocks, no stacking. `go_round` and `touch_*_block` are not
CALVIN's.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from handloom.errors import UserError
from handloom.train.tabletop.world import COLOURS

Info = Mapping[str, Any]
Scene = Literal["play", "go_round", "touch"]

PUSHED_M, LIFTED_M, SLID_M, PULLED_M = 0.1, 0.05, 0.15, 0.12
DOORS = {
    "move_slider_left": ("slider", SLID_M),
    "move_slider_right": ("slider", -SLID_M),
    "open_drawer": ("drawer", PULLED_M),
    "close_drawer": ("drawer", -PULLED_M),
}
LIGHTS = {
    "turn_on_lightbulb": ("lightbulb", 1),
    "turn_off_lightbulb": ("lightbulb", 0),
    "turn_on_led": ("led", 1),
    "turn_off_led": ("led", 0),
}
PUSHES = {
    f"push_{colour}_block_{side}": (colour, sign * PUSHED_M)
    for colour in COLOURS
    for side, sign in (("right", 1), ("left", -1))
}
LIFTS = {f"lift_{colour}_block_table": colour for colour in COLOURS}
GO_ROUND = "go_round"
TOUCHES = {f"touch_{colour}_block": colour for colour in COLOURS}
TASKS = (*PUSHES, *DOORS, *LIFTS, "place_in_drawer", *LIGHTS)

TRAINING: dict[str, tuple[str, ...]] = {
    "move_slider_left": ("move the door to the left", "slide the door left", "door to the left"),
    "move_slider_right": (
        "move the door to the right",
        "slide the door right",
        "door to the right",
    ),
    "open_drawer": ("open the drawer", "pull the drawer", "take the handle and open the drawer"),
    "close_drawer": ("close the drawer", "push the drawer", "take the handle and close the drawer"),
    "place_in_drawer": (
        "put the block into the drawer",
        "drop the block in the drawer",
        "lay what you hold in the drawer",
    ),
    "turn_on_lightbulb": ("turn on the yellow lamp", "move up the switch", "light the bulb"),
    "turn_off_lightbulb": ("turn off the yellow lamp", "move down the switch", "put the bulb out"),
    "turn_on_led": ("turn on the green light", "turn on the led", "press to light the led"),
    "turn_off_led": ("turn off the green light", "turn off the led", "press to put the led out"),
    GO_ROUND: ("go round the pillar to the goal", "reach the goal behind the pillar"),
}
# One for each task, none of them among those above but for the touches: they are about seeing.
VALIDATION: dict[str, str] = {
    "move_slider_left": "push the sliding door to the left side",
    "move_slider_right": "push the sliding door to the right side",
    "open_drawer": "pull the handle to open the drawer",
    "close_drawer": "push the handle to close the drawer",
    "place_in_drawer": "store the grasped block in the drawer",
    "turn_on_lightbulb": "use the switch to turn on the light bulb",
    "turn_off_lightbulb": "use the switch to turn off the light bulb",
    "turn_on_led": "press the button to turn on the led light",
    "turn_off_led": "press the button to turn off the led light",
    GO_ROUND: "move to the goal without touching the pillar",
}
for _colour in COLOURS:
    for _side in ("right", "left"):
        TRAINING[f"push_{_colour}_block_{_side}"] = (
            f"push the {_colour} block to the {_side}",
            f"slide the {_colour} block {_side}",
            f"sweep the {_colour} block to the {_side}",
        )
        VALIDATION[f"push_{_colour}_block_{_side}"] = f"go push the {_colour} block {_side}"
    TRAINING[f"lift_{_colour}_block_table"] = (
        f"lift the {_colour} block",
        f"pick up the {_colour} block",
        f"take the {_colour} block off the table",
    )
    VALIDATION[f"lift_{_colour}_block_table"] = f"grasp and lift the {_colour} block"
    TRAINING[f"touch_{_colour}_block"] = (
        f"touch the {_colour} block",
        f"reach for the {_colour} block",
    )
    VALIDATION[f"touch_{_colour}_block"] = TRAINING[f"touch_{_colour}_block"][0]

TASK_BY_INSTRUCTION = {
    text: task for task, texts in TRAINING.items() for text in (*texts, VALIDATION[task])
}


def task_of(instruction: str) -> str:
    """The task of an instruction, or of a task's own name.

    Raises:
        UserError: the instruction is unknown.
    """
    if instruction in VALIDATION:
        return instruction
    if instruction not in TASK_BY_INSTRUCTION:
        raise UserError(
            f"the tabletop knows no instruction {instruction!r}, expected one such as "
            f"{VALIDATION['open_drawer']!r}: see train/tabletop/tasks.py."
        )
    return TASK_BY_INSTRUCTION[instruction]


def scene_of(task: str) -> Scene:
    """The scene in which a task can be done."""
    return "go_round" if task == GO_ROUND else "touch" if task in TOUCHES else "play"


class TaskOracle:
    """Decides which tasks were done between two infos of TabletopEnv, like CALVIN's `Tasks`."""

    def get_task_info_for_set(
        self, start_info: Info, end_info: Info, task_filter: Iterable[str]
    ) -> set[str]:
        """The tasks of a set that were done between two infos."""
        return {task for task in task_filter if is_done(task, start_info, end_info)}


def is_done(task: str, start_info: Info, end_info: Info) -> bool:
    """Whether a task was done between two infos. Raises UserError for unknown names."""
    start, end = start_info["scene_info"], end_info["scene_info"]
    if task in DOORS:
        name, threshold = DOORS[task]
        moved = end["doors"][name] - start["doors"][name]
        return bool(0 < threshold < moved or 0 > threshold > moved)
    if task in LIGHTS:
        name, wanted = LIGHTS[task]
        return bool(start["lights"][name] != wanted and end["lights"][name] == wanted)
    if task in PUSHES:
        colour, threshold = PUSHES[task]
        return _pushed(start["blocks"][colour], end["blocks"][colour], threshold)
    if task in LIFTS:
        before, after = start["blocks"][LIFTS[task]], end["blocks"][LIFTS[task]]
        return bool(before["on_table"] and after["held"] and _moved(before, after, 2) > LIFTED_M)
    if task == "place_in_drawer":
        return any(start["blocks"][c]["held"] and end["blocks"][c]["in_drawer"] for c in COLOURS)
    if task in TOUCHES:
        return bool(end["touched_first"] == TOUCHES[task])
    if task == GO_ROUND:
        return bool(end["at_goal"] and not end["collided"])
    raise UserError(f"the tabletop has no task {task!r}, expected one of {', '.join(VALIDATION)}.")


def _pushed(before: Info, after: Info, threshold: float) -> bool:
    moved = _moved(before, after, 0)
    far = moved > threshold if threshold > 0 else moved < threshold
    return bool(before["on_table"] and after["on_table"] and far)


def _moved(before: Info, after: Info, axis: int) -> float:
    return float(after["position"][axis] - before["position"][axis])
