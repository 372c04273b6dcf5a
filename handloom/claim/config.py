"""Options of `handloom claim`, and the sizes of its quick run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from handloom.errors import UserError

# Values that --quick puts in the place of the defaults: every part runs, nothing is learned.
QUICK: dict[str, Any] = {
    "hand_videos": 45, "people_clips": 24, "demonstrations": (2, 4), "seeds": 1,
    "tokenizer_steps": 10, "stage1_steps": 4, "head_steps": 4, "full_steps": 4, "tries": 6,
}  # fmt: skip


@dataclass(frozen=True)
class ClaimConfig:
    """Show what videos of hands are worth to a robot, in about an hour on two cores: pre-train on
    nothing, on unrelated people, on hands that do the robot's tasks, and on these and the robot's
    videos; fine-tune each on few and on many demonstrations; let every policy act, and write
    OUT/report.html. Run it again to go on where it stopped."""

    out: Path = Path("runs/claim")
    """Folder for everything that is written."""
    hand_videos: int = 600
    """Videos of hands to draw."""
    people_clips: int = 150
    """Actions of unrelated people to draw."""
    demonstrations: tuple[int, ...] = (5, 15, 50, 400)
    """Demonstrations of each task to fine-tune on, ascending; so many as the last are recorded."""
    seeds: int = 3
    """Fine-tunings of each kind, from other random numbers and on other demonstrations."""
    full_seeds: int = 1
    """Of these, seeds for which everything is fine-tuned too, which takes most of the time; 0 for
    none."""
    tokenizer_steps: int = 300
    """Optimiser steps of the image tokenizer's decoder."""
    stage1_steps: int = 1600
    """Optimiser steps of each pre-training."""
    head_steps: int = 600
    """Optimiser steps of a fine-tuning that leaves the GPT as it is."""
    full_steps: int = 150
    """Optimiser steps of a fine-tuning of everything."""
    tries: int = 120
    """Attempts of each policy, over all tasks; the same ones for all."""
    workers: int = 2
    """Trainings and evaluations that run side by side, each on a core of its own."""
    quick: bool = False
    """Run through all parts with sizes too small to learn anything, in a minute or two."""

    def sized(self) -> "ClaimConfig":
        """The configuration as it runs.

        Raises:
            UserError: a number that cannot be.
        """
        config = replace(self, **QUICK) if self.quick else self
        counts = {name: getattr(config, name) for name in (*QUICK, "workers", "full_seeds")}
        for name, value in counts.items():
            least = 0 if name == "full_seeds" else 1
            if min(value if isinstance(value, tuple) else (value,), default=0) < least:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} {value} cannot be: give numbers of {least} or more.")
        if list(config.demonstrations) != sorted(set(config.demonstrations)):
            numbers = " ".join(map(str, config.demonstrations))
            raise UserError(f"--demonstrations {numbers}: give ascending numbers, each once.")
        return config
