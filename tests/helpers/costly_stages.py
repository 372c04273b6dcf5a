"""Stages that cost a stated time for each clip, to see which work at the same time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from handloom.pipeline.job import Job
from handloom.pipeline.recipes import Run, sample
from handloom.stages.hands.rows import Framing, HandRow
from handloom.stages.hands.stage import Hands
from handloom.stages.tables.rows import Clip
from handloom.stages.tokens import TokenRow, Tokens


@dataclass(frozen=True)
class CostlyHands(Hands):
    """`hands` that sleeps as well, and writes down when it did."""

    seconds: float = 0.0
    log: str = ""

    def __call__(self, clip: Clip) -> Iterator[HandRow]:
        """Sleep and work."""
        with spent(self.seconds, self.log, "hands"):
            yield from super().__call__(clip)


@dataclass(frozen=True)
class CostlyTokens(Tokens):
    """`tokens` likewise; on the CPU also where it is given a GPU, which may be a logical one."""

    seconds: float = 0.0
    log: str = ""

    def on(self, device: str, threads: int) -> Self:
        """On a core, whatever it is given."""
        return super().on("cpu", threads)

    def __call__(self, clip: Clip, framing: Framing) -> Iterator[TokenRow]:
        """Sleep and work."""
        with spent(self.seconds, self.log, "tokens"):
            yield from super().__call__(clip, framing)


@contextmanager
def spent(seconds: float, log: str, stage: str) -> Iterator[None]:
    """Sleep before the work inside, and note the stage, when it began and when it was done."""
    began = time.time()
    time.sleep(seconds)
    yield
    with Path(log).open("a") as file:
        file.write(f"{stage} {began} {time.time()}\n")


def noted(log: Path) -> dict[str, list[tuple[float, float]]]:
    """By stage, when each clip began and was done, seconds since 1970."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in log.read_text().splitlines():
        stage, began, done = line.split()
        found.setdefault(stage, []).append((float(began), float(done)))
    return found


def costly_job(data: Path, out: Path, tokens: CostlyTokens, hands_s: float, **run: float) -> Job:
    """A run of a miniature Ego4D in which a clip costs so many seconds; noted in OUT.log."""
    log = str(out.with_suffix(".log"))
    config = replace(
        sample(),
        hands=CostlyHands(seconds=hands_s, log=log),
        tokens=replace(tokens, log=log),
        run=Run(batch_clips=2, **run),  # type: ignore[arg-type]
    )
    return Job("sample", data, out, config)
