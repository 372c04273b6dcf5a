"""The funnel: what became of every clip, counted from the tables."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from handloom.errors import RunError
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Row

CLIP_FLOW = {
    "ingest": "", "hands": "ingest", "duplicates": "hands", "select": "hands",
    "caption": "select", "tokens": "select",
}  # fmt: skip
EPISODE_FLOW = {"ingest": "", "episodes": "ingest", "caption": "episodes", "tokens": "episodes"}


def flow(stages: Iterable[str]) -> dict[str, str]:
    """The row stages in order, each with the stage whose `ok` rows come to it."""
    return EPISODE_FLOW if "episodes" in stages else CLIP_FLOW


@dataclass
class Count:
    """What one stage did with the clips that reached it."""

    entered: int = 0
    kept: int = 0
    failed: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Count one row."""
        self.entered += 1
        if row.status == "ok":
            self.kept += 1
        elif row.status == "failed":
            self.failed += 1
        else:
            self.rejected[row.reason] += 1


@dataclass
class Funnel:
    """Per-stage counts, and the end of every ingested clip."""

    stages: dict[str, Count]
    ingested: int = 0
    kept: int = 0
    rejected: int = 0
    failed: int = 0


def count(tables: dict[str, Table], complete: bool = True) -> Funnel:
    """Count every clip once.

    Args:
        tables: of all stages of the flow.
        complete: whether the run is finished, so that every clip must have come to its end.

    Raises:
        RunError: ingested is not kept + rejected + failed, which means a clip was lost.
    """
    funnel = Funnel({name: Count() for name in flow(tables)})
    for bucket in tables["ingest"].buckets():
        _count_bucket(tables, bucket, funnel)
    if complete and funnel.ingested != funnel.kept + funnel.rejected + funnel.failed:
        raise RunError(
            f"{funnel.ingested} clips were ingested, but {funnel.kept} kept + {funnel.rejected} "
            f"rejected + {funnel.failed} failed do not add up; run the same command again."
        )
    return funnel


def reached(tables: dict[str, Table], bucket: str) -> dict[str, dict[str, Row]]:
    """Per stage, the rows of the clips that came to it; rows of clips since deselected are not."""
    found: dict[str, dict[str, Row]] = {}
    for name, before in flow(tables).items():
        rows = tables[name].read(Row, bucket)
        gate = ok_ids(found[before]) if before else None
        found[name] = {r.clip_id: r for r in rows if gate is None or r.clip_id in gate}
    return found


def ok_ids(rows: dict[str, Row]) -> set[str]:
    """The clips that a stage let through."""
    return {clip_id for clip_id, row in rows.items() if row.status == "ok"}


def _count_bucket(tables: dict[str, Table], bucket: str, funnel: Funnel) -> None:
    ended: dict[str, str] = {}
    found = reached(tables, bucket)
    for name, rows in found.items():
        for clip_id, row in rows.items():
            funnel.stages[name].add(row)
            if row.status != "ok" and ended.get(clip_id) != "failed":
                ended[clip_id] = row.status
    ends = Counter(ended.values())
    funnel.ingested += len(found["ingest"])
    funnel.rejected += ends["rejected"]
    funnel.failed += ends["failed"]
    funnel.kept += len(set.intersection(*(ok_ids(rows) for rows in found.values())))
