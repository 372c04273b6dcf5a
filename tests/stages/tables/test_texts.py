"""Texts from outside can be stored, hashed and shown; ordinary ones stay as they are."""

import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.stages.ingest.videos import hashed_split
from handloom.stages.tables.parts import Table, bucket_of
from handloom.stages.tables.rows import Row, clip_id
from handloom.stages.tables.texts import (
    LONGEST_NAME,
    LONGEST_TEXT,
    shown,
    storable_name,
    storable_text,
)

ORDINARY = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\n\t\r"))


@given(ORDINARY)
def test_ordinary_texts_and_names_stay(text: str) -> None:
    assert storable_text(text) == storable_name(text) == text


@given(st.text(st.characters(categories=("Cs", "Cc", "L")), max_size=50))
def test_any_text_can_be_stored_and_loses_no_letter(text: str) -> None:
    stored = storable_text(text)
    assert pa.array([stored]).to_pylist() == [stored]
    assert len(stored) == len(text)
    assert [c for c in stored if c.isalpha()] == [c for c in text if c.isalpha()]
    assert not any(unicodedata.category(c) == "Cc" for c in stored if c not in "\n\t\r")


@given(st.sets(st.text(st.characters(categories=("Cs", "Cc", "L")), max_size=4), max_size=8))
def test_different_names_stay_different(names: set[str]) -> None:
    stored = {storable_name(name) for name in names}
    assert len(stored) == len(names)
    assert pa.array(sorted(stored)).to_pylist() == sorted(stored)


def test_long_texts_are_cut_and_long_names_keep_their_identity() -> None:
    assert storable_text("ab" * LONGEST_TEXT) == "ab" * (LONGEST_TEXT // 2)
    names = [storable_name("x" * 10**6 + end) for end in ("a", "b")]
    assert [len(name) for name in names] == [LONGEST_NAME] * 2
    assert names[0] != names[1]


@given(st.text(st.characters(categories=("Cs", "Cc", "Cf", "L", "Zs")), max_size=50))
def test_what_is_shown_obeys_no_character(text: str) -> None:
    assert shown(text).isprintable()


def test_shown_escapes() -> None:
    assert shown("a\x1b[2J\n\u202eb caf\u00e9") == "a\\x1b[2J\\n\\u202eb caf\u00e9"
    assert shown(b"caf\xe9.mp4".decode(errors="surrogateescape")) == "caf\\xe9.mp4"
    assert shown("\ud800") == "\\ud800"
    assert shown("abcdef", 3) == "abc..."


@pytest.mark.parametrize("name", ["\ud800", "a\udcffb", "\0", "x" * 10**6, "", "\U0010ffff"])
def test_any_name_can_be_hashed(name: str, tmp_path: Path) -> None:
    assert int(bucket_of(name), 16) < 256
    assert hashed_split(name, 5.0) in ("train", "val")
    assert clip_id("d", name, 0.0, 1.0) != clip_id("d", name + "a", 0.0, 1.0)
    Table(tmp_path, "f" * 64).write("00", "0", [Row(clip_id="a", error=name)], Row)
    (row,) = Table(tmp_path, "f" * 64).read(Row)
    assert row.error == name.replace("\ud800", "\ufffd").replace("\udcff", "\ufffd")


def test_hashes_of_ordinary_names_are_those_of_earlier_versions() -> None:
    # Computed by the code before names were cleaned: ids and splits of existing runs stay.
    assert clip_id("ego4d", "0a1b", 1.25, 3.5) == "0927b35119116c0dc991"
    assert clip_id("ssv2", "caf\u00e9 \U0001f600", 0.0, float("inf")) == "8efca862e6a271402bbd"
    assert [bucket_of(name) for name in ("0a1b", "caf\u00e9")] == ["40", "d6"]


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e308, -1e308])
def test_any_time_can_be_hashed(seconds: float) -> None:
    assert len(clip_id("d", "v", seconds, seconds)) == 20
