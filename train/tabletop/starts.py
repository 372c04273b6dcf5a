"""Starts of chains: the vectors to which an environment is reset for a symbolic state."""

import zlib

import numpy as np

from handloom.train.tabletop import world as w
from handloom.train.tabletop.chains import COLOURS, Chain, State, canonical
from handloom.train.tabletop.env import blocks_in_lanes, initial_state
from handloom.train.tabletop.tasks import scene_of
from handloom.train.tabletop.world import Floats, TableWorld

# CALVIN's arm at the start of every chain: pose, width, seven joints, command.
ROBOT_OBS = (
    0.02586889, -0.2313129, 0.5712808, 3.09045411, -0.02908596, 1.50013585, 0.07999963,
    -1.21779124, 1.03987629, 2.11978254, -2.34205014, -0.87015899, 1.64119093, 0.55344928, 1.0,
)  # fmt: skip
SHELF = {
    "slider_left": (-2.40851662e-01, 9.24044687e-02, 4.60990009e-01),
    "slider_right": (7.03416330e-02, 9.24044687e-02, 4.60990009e-01),
}
ON_TABLE = (
    (5.00000896e-02, -1.20000177e-01, 4.59990009e-01),
    (2.29995412e-01, -1.19995140e-01, 4.59990010e-01),
)
YAWS = (np.pi / 2 - np.pi / 8, np.pi / 2 + np.pi / 8)  # of a block about the vertical


def get_env_state_for_initial_condition(initial: State) -> tuple[Floats, Floats]:
    """CALVIN's robot_obs [15] and scene_obs [24] for a symbolic state; `evaluation/utils.py` there.

    Places on the table and yaws of blocks are drawn from a generator that is seeded with a hash of
    the state's values, so that a state always gives the same vectors.
    """
    generator = np.random.RandomState(_fnv1(str(initial.values())))
    table = [np.array(place) for place in ON_TABLE]
    generator.shuffle(table)  # before the yaws are drawn, as in CALVIN
    scene = np.zeros(24)
    scene[0] = w.SLIDER_MAX * (initial["slider"] == "left")
    scene[1] = w.DRAWER_MAX * (initial["drawer"] == "open")
    scene[3] = w.SWITCH_MAX * (initial["lightbulb"] == 1)
    scene[4:6] = initial["lightbulb"], initial["led"]
    for number, colour in enumerate(COLOURS):
        place = str(initial[f"{colour}_block"])
        # Blue takes the second place where red has the first; pink always takes the second.
        second = number == 2 or (number == 1 and initial["red_block"] == "table")
        at = 6 + 6 * number
        scene[at : at + 3] = SHELF[place] if place in SHELF else table[int(second)]
        scene[at + 5] = generator.uniform(*YAWS)
    return np.array(ROBOT_OBS), scene


def official_start(chain: Chain) -> tuple[Floats, Floats]:
    """Start of a chain in CALVIN's simulator: robot_obs [15] and scene_obs [24]."""
    return get_env_state_for_initial_condition(chain.initial)


def tabletop_start(chain: Chain) -> tuple[Floats, Floats]:
    """Start of a chain on the tabletop: robot_obs [15] and scene_obs [24].

    Each chain has its own places of gripper and blocks, which depend on the chain alone.
    """
    # Not hash(), which differs from process to process.
    rng = np.random.default_rng(zlib.crc32(next(canonical([chain])).encode()))
    scene = scene_of(chain.tasks[0])
    if scene != "play":
        return initial_state(rng, scene)
    world, initial = TableWorld.from_obs(*initial_state(rng)), chain.initial
    world.slider = w.SLIDER_MAX * (initial["slider"] == "left")
    world.drawer = w.DRAWER_MAX * (initial["drawer"] == "open")
    world.lightbulb, world.led = float(initial["lightbulb"]), float(initial["led"])
    world.switch = w.SWITCH_MAX * world.lightbulb
    world.blocks = blocks_in_lanes(rng)
    return world.robot_obs(), world.scene_obs()


def _fnv1(text: str) -> int:
    """32-bit FNV-1 hash as pyhash computes it: it starts at 0 and reads text as UTF-16."""
    value = 0
    for byte in text.encode("utf-16-le"):
        value = value * 0x01000193 % 2**32 ^ byte
    return value
