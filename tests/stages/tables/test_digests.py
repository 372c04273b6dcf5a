"""Digests of rows: equal for equal values, other for any other value, however Arrow holds them."""

import math
from typing import Any

import pyarrow as pa
import pytest

from handloom.stages.tables.digests import row_digests

SCHEMA = pa.schema(
    {
        "text": pa.string(),
        "content": pa.binary(),
        "number": pa.int64(),
        "share": pa.float64(),
        "holds": pa.bool_(),
        "texts": pa.list_(pa.string()),
        "path": pa.list_(pa.list_(pa.float64())),
        "hands": pa.list_(pa.struct([("frame", pa.int64()), ("side", pa.string())])),
    }
)
ROW: dict[str, Any] = {
    "text": "opens a drawer",
    "content": b"\xff\x00",
    "number": 3,
    "share": 0.1,
    "holds": True,
    "texts": ["a", "b"],
    "path": [[0.0, 1.0], [2.0]],
    "hands": [{"frame": 0, "side": "left"}, {"frame": 1, "side": "right"}],
}
OTHERS: list[tuple[str, Any]] = [
    ("text", "opens a drawer "),
    ("text", ""),
    ("text", None),
    ("content", b"\xff"),
    ("number", -3),
    ("share", math.nextafter(0.1, 1)),
    ("share", -0.1),
    ("share", math.nan),
    ("share", None),
    ("holds", False),
    ("texts", ["ab"]),
    ("texts", ["a", "b", ""]),
    ("texts", ["b", "a"]),
    ("texts", []),
    ("texts", None),
    ("path", [[0.0], [1.0, 2.0]]),
    ("path", [[0.0, 1.0], [2.0], []]),
    ("hands", [{"frame": 0, "side": "left"}]),
    ("hands", [{"frame": 0, "side": "left"}, {"frame": 1, "side": None}]),
    ("hands", [{"frame": 0, "side": "left"}, None]),
]


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


@pytest.mark.parametrize(("column", "value"), OTHERS)
def test_another_value_has_another_digest(column: str, value: Any) -> None:
    one, two, three = row_digests([table(ROW, {**ROW, column: value}, ROW)])
    assert one == three
    assert one != two


def test_all_other_rows_differ_from_one_another() -> None:
    rows = [{**ROW, column: value} for column, value in OTHERS]
    assert len(set(row_digests([table(*rows)]).tolist())) == len(rows)


def test_a_value_does_not_move_into_the_next_column() -> None:
    names = pa.schema({"one": pa.string(), "two": pa.string()})
    rows = [{"one": "a:1", "two": "b"}, {"one": "a", "two": "1:b"}, {"one": "a:1:b", "two": ""}]
    assert len(set(row_digests([pa.Table.from_pylist(rows, schema=names)]).tolist())) == 3


def test_chunks_slices_and_neighbours_change_nothing() -> None:
    rows = [{**ROW, "number": n, "texts": ["x"] * (n % 4)} for n in range(50)]
    whole = table(*rows)
    expected = row_digests([whole]).tolist()
    assert (
        row_digests([pa.concat_tables([table(*rows[:7]), table(*rows[7:])])]).tolist() == expected
    )
    assert row_digests([whole.slice(13, 20)]).tolist() == expected[13:33]
    columns = whole.column_names
    two = [whole.select(columns[:3]), whole.select(columns[3:])]
    assert row_digests(two).tolist() == expected


def test_the_digest_is_that_of_another_day() -> None:
    """Stored digests are compared by later versions: this number may never change."""
    clip = pa.table({"video_id": ["v"], "start_s": [1.5], "width": [640]})
    assert row_digests([clip]).tolist() == [EXPECTED]


# blake2b of "1:v:4609434218613702656:640", eight bytes, read as a little-endian signed integer.
EXPECTED = -690815627000835427


def test_no_rows_have_no_digests() -> None:
    assert row_digests([table()]).tolist() == []
