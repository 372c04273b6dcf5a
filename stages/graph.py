"""The graph of a run: which clips come to each stage, and in which order the stages run.

Both follow from the stages. A stage gets the clips that its gate let through: the stage that it
names as `gate`, or else the last one before it in the recipe that filters. It runs after its gate
and after the stages whose tables it reads. Whatever cannot be placed is refused.
"""

from collections import Counter
from collections.abc import Sequence

from handloom.errors import UserError
from handloom.stages.stage import Stage

ROOT = "ingest"  # makes the clips, so nothing comes to it


def gates(stages: Sequence[Stage]) -> dict[str, str]:
    """Gates by stage, in an order in which the stages can run.

    Args:
        stages: as a recipe lists them; those that may run at the same time keep this order.

    Returns:
        For each stage the name of its gate; `ingest` comes first, and its gate is "".

    Raises:
        UserError: no `ingest`, two stages of one name, a gate or a table that no stage of the run
            writes, stages that wait for each other, or a table without rows for some of the clips.
    """
    _check_names(stages)
    gate_of = _gates_as_listed(stages)
    waiting = {stage.name: {gate_of[stage.name], *stage.reads} - {""} for stage in stages}
    _check_tables(waiting)
    ordered: dict[str, str] = {}
    while waiting:
        name = next((n for n, needs in waiting.items() if needs <= ordered.keys()), None)
        if name is None:
            raise UserError(
                f"the stages {', '.join(waiting)} cannot be put in order, since among them some "
                "wait for each other; see `gate` and `reads` of each."
            )
        ordered[name] = gate_of[name]
        del waiting[name]
    for stage in stages:
        _check_rows(stage, ordered)
    return ordered


def insert(stages: Sequence[Stage], added: Sequence[Stage]) -> list[Stage]:
    """A recipe's stages with others inserted, in their order.

    Each comes behind its gate and the tables that it reads; one that names no gate comes behind the
    recipe's last filter, so that the expensive stages are spared what it rejects.
    """
    listed = list(stages)
    for stage in added:
        last_filter = next((other.name for other in reversed(listed) if other.filters), ROOT)
        behind = {stage.gate or last_filter, *stage.reads}
        # Positions behind each of them; the last one is behind all.
        places = [i for i, other in enumerate(listed, 1) if other.name in behind]
        listed.insert(max(places, default=len(listed)), stage)
    return listed


def _check_names(stages: Sequence[Stage]) -> None:
    counts = Counter(stage.name for stage in stages)
    if ROOT not in counts:
        raise UserError(f"no stage is called {ROOT}, expected one that lists the clips.")
    name, count = counts.most_common(1)[0]
    if count > 1:
        raise UserError(f"{count} stages are called {name!r}, expected a name of its own for each.")


def _gates_as_listed(stages: Sequence[Stage]) -> dict[str, str]:
    gate_of: dict[str, str] = {}
    last_filter = ROOT
    for stage in stages:
        gate_of[stage.name] = "" if stage.name == ROOT else stage.gate or last_filter
        if stage.filters:
            last_filter = stage.name
    return gate_of


def _check_tables(waiting: dict[str, set[str]]) -> None:
    for name, needs in waiting.items():
        if unknown := sorted(needs - waiting.keys()):
            raise UserError(
                f"the stage {name} needs the table of {unknown[0]!r} (see its `gate` and `reads`), "
                f"which no stage of this run writes; there are {', '.join(waiting)}."
            )


def _check_rows(stage: Stage, gate_of: dict[str, str]) -> None:
    """Every clip that comes to a stage must have a row in the tables that the stage reads."""
    passed = [gate_of[stage.name]]
    while passed[-1]:
        passed.append(gate_of[passed[-1]])
    for name in stage.reads:
        if gate_of[name] not in passed:
            raise UserError(
                f"the stage {stage.name} gets the clips that passed {passed[0] or 'nothing'}, but "
                f"reads the table of {name}, which has rows of those alone that passed "
                f"{gate_of[name]}; set `gate` to {gate_of[name]!r} or {name!r}."
            )
