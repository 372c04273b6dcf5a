"""Frames of hands and of the robot that touch blocks, as files, for a tokenizer to learn from."""

from pathlib import Path

import numpy as np
from PIL import Image

from handloom.stages.miniatures import folder
from handloom.stages.miniatures.people import reach
from handloom.stages.miniatures.people.raster import Frame
from handloom.train.tabletop import touching
from handloom.train.tabletop.render import static_view
from handloom.train.tabletop.world import TableWorld

FOLDERS = ("hands", "robot")


@folder.miniature_writer("touch-pictures", *FOLDERS, version=1)
def write(out: Path, clips: int = 300, seed: int = 0) -> None:
    """Write `clips` frames of each, of as many scenes."""
    for number, (name, draw) in enumerate(zip(FOLDERS, (_hands, _robot), strict=True)):
        (out / name).mkdir(parents=True)
        for index in range(clips):
            frame = draw(np.random.default_rng((seed, number, index)))
            Image.fromarray(frame).save(out / name / f"{index:05d}.png")


def _hands(rng: np.random.Generator) -> Frame:
    shown = reach.random_reach(rng, int(rng.integers(3)))
    frames = list(reach.render(shown, 4))
    return frames[int(rng.integers(len(frames)))]


def _robot(rng: np.random.Generator) -> Frame:
    """A start with the gripper anywhere on the way to a block."""
    world = TableWorld.from_obs(*touching.start(rng))
    block, share = world.blocks[int(rng.integers(3)), :3], float(rng.uniform())
    goal = np.array([block[0], block[1], touching.TOP_Z + 0.5 * touching.ABOVE_M])
    world.tip[:3] += share * (goal - world.tip[:3])
    return static_view(world, near=True)
