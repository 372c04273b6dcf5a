"""The funnel: counts of kept, rejected and failed clips, stage by stage.

Tables come in the order of the data flow, each with its gate, as a job and `open_tables` have them.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from handloom.errors import RunError
from handloom.stages.tables.columns import frequencies
from handloom.stages.tables.outcomes import Outcome, Outcomes, all_outcomes
from handloom.stages.tables.parts import Tables


@dataclass
class Count:
    """Clips that reached one stage, by outcome."""

    entered: int = 0
    kept: int = 0
    failed: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Count a bucket's clips."""
        self.entered += int(outcome.came.sum())
        self.kept += int(outcome.ok.sum())
        self.failed += int(outcome.failed.sum())
        if outcome.rejected.any():
            rows = outcome.rows_of(outcome.rejected)
            self.rejected.update(frequencies(outcome.table["reason"].take(pa.array(rows))))

    def merge(self, other: "Count") -> None:
        """Add the counts of further clips."""
        self.entered += other.entered
        self.kept += other.kept
        self.failed += other.failed
        self.rejected.update(other.rejected)


@dataclass
class Funnel:
    """Counts of each stage, and of all ingested clips by their end."""

    stages: dict[str, Count]
    ingested: int = 0
    kept: int = 0
    rejected: int = 0
    failed: int = 0

    def add(self, outcomes: Outcomes) -> None:
        """Count a bucket's clips; `reason` must have been read of all tables."""
        stages = outcomes.stages
        for name, outcome in stages.items():
            self.stages[name].add(outcome)
        # A clip can end in both branches behind `select`: failed counts before rejected.
        failed = np.logical_or.reduce([one.failed for one in stages.values()])
        rejected = np.logical_or.reduce([one.rejected for one in stages.values()])
        self.ingested += int(stages["ingest"].came.sum())
        self.failed += int(failed.sum())
        self.rejected += int((rejected & ~failed).sum())
        self.kept += int(outcomes.kept.sum())

    def merge(self, other: "Funnel") -> None:
        """Add the counts of further clips of the same run."""
        for name, count in other.stages.items():
            self.stages[name].merge(count)
        self.ingested += other.ingested
        self.kept += other.kept
        self.rejected += other.rejected
        self.failed += other.failed

    def check(self) -> None:
        """Raise RunError where ingested is not kept + rejected + failed: a clip was lost."""
        if self.ingested != self.kept + self.rejected + self.failed:
            raise RunError(
                f"{self.ingested} clips were ingested, but {self.kept} kept + {self.rejected} "
                f"rejected + {self.failed} failed do not add up; run the same command again."
            )


def count(tables: Tables, complete: bool = True) -> Funnel:
    """Count every clip once.

    Args:
        tables: of all stages of the run.
        complete: whether the run is finished, so that every clip must have come to its end.

    Raises:
        RunError: ingested is not kept + rejected + failed, which means a clip was lost.
    """
    funnel = Funnel({name: Count() for name in tables})
    for outcomes in all_outcomes(tables, {name: ["reason"] for name in tables}):
        funnel.add(outcomes)
    if complete:
        funnel.check()
    return funnel
