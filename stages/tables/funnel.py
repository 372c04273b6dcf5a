"""The funnel: counts of kept, rejected and failed clips, stage by stage.

Tables come in the order of the data flow, each with its gate, as a job and `open_tables` have them.
"""

from collections import Counter
from dataclasses import dataclass, field

from handloom.errors import RunError, UserError
from handloom.stages.tables.parts import Tables
from handloom.stages.tables.rows import Row


@dataclass
class Count:
    """Clips that reached one stage, by outcome."""

    entered: int = 0
    kept: int = 0
    failed: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Count a row."""
        self.entered += 1
        if row.status == "ok":
            self.kept += 1
        elif row.status == "failed":
            self.failed += 1
        else:
            self.rejected[row.reason] += 1


@dataclass
class Funnel:
    """Counts of each stage, and of all ingested clips by their end."""

    stages: dict[str, Count]
    ingested: int = 0
    kept: int = 0
    rejected: int = 0
    failed: int = 0


def count(tables: Tables, complete: bool = True) -> Funnel:
    """Count every clip once.

    Args:
        tables: of all stages of the run.
        complete: whether the run is finished, so that every clip must have come to its end.

    Raises:
        RunError: ingested is not kept + rejected + failed, which means a clip was lost.
    """
    funnel = Funnel({name: Count() for name in tables})
    for bucket in tables["ingest"].buckets():
        _count_bucket(tables, bucket, funnel)
    if complete and funnel.ingested != funnel.kept + funnel.rejected + funnel.failed:
        raise RunError(
            f"{funnel.ingested} clips were ingested, but {funnel.kept} kept + {funnel.rejected} "
            f"rejected + {funnel.failed} failed do not add up; run the same command again."
        )
    return funnel


def reached(tables: Tables, bucket: str) -> dict[str, dict[str, Row]]:
    """Rows of the clips that came to each stage, by stage and clip id; without deselected clips.

    Raises:
        UserError: a table without a gate, of a run that an earlier version wrote.
    """
    by_stage: dict[str, dict[str, Row]] = {}
    for name, table in tables.items():
        rows = table.read(Row, bucket)
        if name != "ingest" and not table.gate:
            raise UserError(
                f"{table.folder.parent} does not say which clips come to {name}, since an earlier "
                "version wrote it; run the same command again, nothing is computed anew."
            )
        passed = ok_ids(by_stage[table.gate]) if table.gate else None
        by_stage[name] = {r.clip_id: r for r in rows if passed is None or r.clip_id in passed}
    return by_stage


def coming(tables: Tables, stage: str, bucket: str) -> set[str]:
    """Ids of the clips that come to a stage: its gate let them through, and the gate's gate."""
    gate = tables[stage].gate
    passed = {row.clip_id for row in tables[gate].read(Row, bucket) if row.status == "ok"}
    return passed & coming(tables, gate, bucket) if tables[gate].gate else passed


def ok_ids(rows: dict[str, Row]) -> set[str]:
    """Ids of the clips that a stage let through."""
    return {clip_id for clip_id, row in rows.items() if row.status == "ok"}


def _count_bucket(tables: Tables, bucket: str, funnel: Funnel) -> None:
    ended: dict[str, str] = {}
    by_stage = reached(tables, bucket)
    for name, rows in by_stage.items():
        for clip_id, row in rows.items():
            funnel.stages[name].add(row)
            # A clip can end in both branches behind `select`: failed counts before rejected.
            if row.status != "ok" and ended.get(clip_id) != "failed":
                ended[clip_id] = row.status
    ends = Counter(ended.values())
    funnel.ingested += len(by_stage["ingest"])
    funnel.rejected += ends["rejected"]
    funnel.failed += ends["failed"]
    funnel.kept += len(set.intersection(*(ok_ids(rows) for rows in by_stage.values())))
