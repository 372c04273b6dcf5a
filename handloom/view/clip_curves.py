"""States and actions of a robot episode as curves, with the names and units of their columns."""

from collections.abc import Sequence
from typing import Any

from handloom.tokenize.shards.format import ARM
from handloom.view.clip_rows import ClipRows, Values

ARRAYS = ("state", "action", "idle", "hz")
STATE = (("x", "m"), ("y", "m"), ("z", "m"), ("roll", "rad"), ("pitch", "rad"), ("yaw", "rad"))
ACTION = (("dx", "m"), ("dy", "m"), ("dz", "m"), ("wx", "rad"), ("wy", "rad"), ("wz", "rad"))
GRIPPER = ("gripper", "0 to 1")

Column = tuple[str, str]
"""Name and unit; the unit is empty where the source does not tell it."""


def curves(rows: ClipRows, clip_id: str) -> dict[str, Any]:
    """A robot episode's trajectory, {} for a clip of people.

    It is the one at the common rate, as it goes into shards; of an episode that has none, the
    source's own.

    Returns:
        `hz`; `source`, whether it is the source's own; `action_kind`; `idle`, steps without a
        command; `state` and `action`, lists of {name, unit, values}.
    """
    facts = rows.row("ingest", clip_id, ["action_kind", "grippers", "facts", *ARRAYS])
    if not facts or "action_kind" not in facts:
        return {}
    stored = rows.row("episodes", clip_id, list(ARRAYS))
    is_source = not stored or not stored.get("state")
    arrays = facts if is_source else stored
    assert arrays is not None
    return {
        "hz": arrays["hz"],
        "source": is_source,
        "action_kind": facts["action_kind"],
        "idle": [step for step, idle in enumerate(arrays["idle"] or ()) if idle],
        **{role: _columns(arrays[role], _names(facts, role, arrays[role])) for role in ARRAYS[:2]},
    }


def _columns(matrix: list[list[float]] | None, names: Sequence[Column]) -> list[dict[str, Any]]:
    """The columns of a matrix [steps, width], each with its name."""
    columns = zip(*(matrix or ()), strict=True)
    return [
        {"name": name, "unit": unit, "values": list(values)}
        for (name, unit), values in zip(names, columns, strict=True)
    ]


def _names(facts: Values, role: str, matrix: list[list[float]] | None) -> list[Column]:
    """Name and unit of each column of a state or action."""
    width = len(matrix[0]) if matrix else 0
    if facts["action_kind"] == "ee_delta" and width and width % ARM == 0:
        arm, arms = [*(STATE if role == "state" else ACTION), GRIPPER], width // ARM
        return [
            (f"{name} {number + 1}" if arms > 1 else name, unit)
            for number in range(arms)
            for name, unit in arm
        ]
    said = _said(facts.get("facts") or (), role)
    names = said if len(said) == width else [f"{role} {number + 1}" for number in range(width)]
    if facts["action_kind"] != "joints":
        return [(name, "") for name in names]
    grippers = set(facts.get("grippers") or ())
    units = ["0 to 1" if column in grippers else "rad" for column in range(width)]
    return list(zip(names, units, strict=True))


def _said(facts: Sequence[str], role: str) -> list[str]:
    """Names that the source gives the columns, `state_names: shoulder,elbow`; [""] without any."""
    found = (fact.partition(": ")[2] for fact in facts if fact.startswith(f"{role}_names: "))
    return next(found, "").split(",")
