"""JSON of a dataset is read as it was written, and refused when it is nested without end."""

import io
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import ijson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.errors import UserError
from handloom.stages.datasets.formats import json_reader
from handloom.stages.datasets.formats.json_reader import CleanJson
from handloom.stages.datasets.formats.json_stream import MAX_DEPTH, load_value, stream_values

DEEP = 40_000
PATH = Path("labels.json")


def nested(depth: int, kind: str) -> str:
    opens, closes = {"lists": ("[", "]"), "objects": ('{"a":', "}")}[kind]
    return opens * depth + "1" + closes * depth


def cleaned(content: bytes, size: int = 1 << 16) -> bytes:
    reader = CleanJson(io.BytesIO(content), PATH)
    return b"".join(iter(lambda: reader.read(size), b""))


TEXTS = st.text(st.sampled_from('a"\\[]{}N\n é\U0001f600')) | st.sampled_from(
    ["NaN", "-Infinity", '"NaN', "\\"]
)
VALUES = st.recursive(
    st.none() | st.floats() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def without_constants(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_constants(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_constants(inner) for inner in value]
    odd = isinstance(value, float) and (value != value or abs(value) == float("inf"))
    return None if odd else value


@given(VALUES, st.integers(1, 9), st.booleans(), st.booleans())
def test_cleaned_json_says_the_same_in_blocks_of_any_size(
    value: Any, block: int, mark: bool, ascii_only: bool
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_reader, "BLOCK", block)
        found = cleaned(text.encode("utf-8-sig" if mark else "utf-8"), block)
    assert json.loads(found, parse_constant=pytest.fail) == without_constants(value)


def test_bytes_that_are_not_utf_8_cost_themselves() -> None:
    assert cleaned(b'["caf\xe9", "b"]') == '["caf\ufffd", "b"]'.encode()


@pytest.mark.parametrize("kind", ["lists", "objects"])
def test_depth_is_counted_outside_of_strings(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_reader, "BLOCK", 7)
    brackets = json.dumps(["[{" * 5000, 'a"[', "\\", "{[" * 5000])
    assert json.loads(cleaned(brackets.encode(), 7)) == load_value(brackets.encode())
    whole = nested(MAX_DEPTH, kind).encode()
    assert cleaned(whole, 7) == whole
    assert load_value(whole) == json.loads(whole)
    for read in (cleaned, load_value):
        with pytest.raises((UserError, ValueError), match="nested too deeply"):
            read(nested(MAX_DEPTH + 1, kind).encode())


READERS = {
    "load_value": "load_value(path.read_bytes())",
    "stream_values": "list(stream_values(path))",
    "ijson": "list(ijson.items(CleanJson(path.open('rb'), path), 'a', use_float=True))",
    "features": "read_features(path)",
    "read_json": "read_json(path)",
}


@pytest.mark.parametrize("kind", ["lists", "objects"])
@pytest.mark.parametrize("reader", READERS)
def test_a_deep_file_takes_no_memory(tmp_path: Path, reader: str, kind: str) -> None:
    """A process of its own with 1.5 GB of address space and 30 s, its imports included."""
    path = tmp_path / "deep.json"
    path.write_text('{"a": ' + nested(DEEP, kind) + "}")
    script = f"""
from pathlib import Path
import ijson
from handloom.errors import UserError
from handloom.stages.datasets.formats.json_reader import CleanJson
from handloom.stages.datasets.formats.json_stream import load_value, stream_values
from handloom.stages.datasets.formats.tfds_features import read_features
from handloom.tokenize.vqgan.json_file import read_json
path = Path({str(path)!r})
try:
    {READERS[reader]}
except (UserError, ValueError) as error:
    print(error)
"""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1500 << 20, 1500 << 20))
        resource.setrlimit(resource.RLIMIT_CPU, (30, 30))

    done = subprocess.run(
        [sys.executable, "-c", script],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.strip()


def test_ijson_itself_would_not_refuse_it() -> None:
    deep = nested(MAX_DEPTH + 50, "objects").encode()
    assert list(ijson.items(io.BytesIO(deep), ""))


def test_a_mark_and_nan_are_read_by_every_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": {"time": NaN, "other": [-Infinity]}}')
    ((_, _, streamed),) = stream_values(path)
    assert repr(streamed) == repr(load_value(path.read_bytes())["a"])
    (read,) = ijson.items(CleanJson(path.open("rb"), path), "a")
    assert read == {"time": None, "other": [None]}
