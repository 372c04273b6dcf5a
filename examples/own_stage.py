"""Bring your own stage: a filter by optical flow, which rejects clips in which nothing moves.

    make curate && .venv/bin/python examples/own_stage.py

A stage is a dataclass: its fields are its options, a clip goes in and a row comes out. The file can
lie anywhere: `curate sample --stages own_stage:Motion --motion.min-speed 0.2` takes it too, where
the file lies in the present folder. More of this in docs/adding-a-stage.md.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from handloom.pipeline.commands import run_job
from handloom.pipeline.job import Job
from handloom.pipeline.recipes import recipe
from handloom.stages.media.clip_frames import Framing, pictures_of, uniform_times
from handloom.stages.stage import Stage
from handloom.stages.tables.rows import Clip, Row


@dataclass(frozen=True, kw_only=True)
class MotionRow(Row):
    """A row of the stage's table, beside clip id, status and reason."""

    speed: float = 0.0
    """How far the fastest twentieth of the pixels moves, in picture sides a second."""


@dataclass(frozen=True)
class Motion(Stage):
    """Options of `motion`."""

    name: ClassVar[str] = "motion"
    row_type: ClassVar[type[Row]] = MotionRow
    reads: ClassVar[dict[str, type[Row]]] = {"hands": Framing}  # the clip's longest shot
    filters: ClassVar[bool] = True

    min_speed: float = 0.1
    """Reject a clip in which less `speed` is measured, the median of three moments."""

    def __call__(self, clip: Clip, shot: Framing) -> Iterator[MotionRow]:
        """Measure the flow from one frame to the next at three moments of the clip."""
        step_s = min(0.1, (shot.shot_end_s - shot.shot_start_s) / 6)
        times_s = np.add.outer(uniform_times(shot, 3), [0, step_s]).ravel()
        frames = [  # RGB uint8 [H, W, 3] of any size
            cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (128, 128))
            for frame in pictures_of(self).frames(clip, shot, times_s)
        ]
        flow = cv2.DISOpticalFlow_create()
        moved = [flow.calc(a, b, None) for a, b in zip(frames[::2], frames[1::2], strict=True)]
        pixels = np.percentile(np.linalg.norm(moved, axis=-1), 95, axis=(1, 2))
        speed = float(np.median(pixels)) / 128 / step_s
        still = {"status": "rejected", "reason": "still"} if speed < self.min_speed else {}
        yield MotionRow(clip_id=clip.clip_id, speed=speed, **still)


def main(data: str = "runs/sample/source", out: str = "runs/own_stage") -> None:
    """Curate the sample's videos with the stage, which comes behind `select`."""
    from own_stage import Motion  # by the name of its module, which the workers import too

    folder = Path(__file__).absolute().parent  # where they find it
    config, own = recipe("sample"), (Motion(),)
    run_job(Job("sample", Path(data), Path(out), config, added=own, folders=(folder,)))


if __name__ == "__main__":
    main(*sys.argv[1:])
