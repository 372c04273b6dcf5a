"""A pickle gets what the reader's list says, and changes nothing that outlives it."""

import collections
import copyreg
import pickle
from pathlib import Path
from typing import Any

import pytest

from handloom import unpickle
from handloom.unpickle import Refused, Unpickler

NAMES = {"collections.OrderedDict": collections.OrderedDict}


def test_a_name_stands_for_what_the_list_says() -> None:
    content = pickle.dumps({"a": collections.OrderedDict(x=[1, "é", b"b", 2.5])})
    assert Unpickler(content, NAMES).load() == pickle.loads(content)
    with pytest.raises(Refused, match=r"^asks for collections\.OrderedDict$"):
        Unpickler(content, {}).load()
    assert Unpickler(content, {"collections.OrderedDict": dict}).load() == {
        "a": {"x": [1, "é", b"b", 2.5]}
    }


def test_a_pickle_may_begin_anywhere() -> None:
    assert Unpickler(b"head" + pickle.dumps([1, 2]), {}, 4).load() == [1, 2]


class Listed:
    shared = "as it was"


def test_what_is_on_the_list_is_not_changed() -> None:
    change = b"cm\nListed\nN}X\x06\x00\x00\x00sharedK\x01s\x86b."
    with pytest.raises(Refused, match="the state of Listed"):
        Unpickler(change, {"m.Listed": Listed}).load()
    assert Listed.shared == "as it was"
    made = Unpickler(b"cm\nListed\n)\x81" + change[10:], {"m.Listed": Listed}).load()
    assert (type(made), made.shared, Listed.shared) == (Listed, 1, "as it was")


def test_this_process_register_of_extensions_is_closed(tmp_path: Path) -> None:
    copyreg.add_extension("pathlib", "Path", 240)
    try:
        content = pickle.dumps(Path, 2)
        assert pickle.loads(content) is Path
        with pytest.raises(Refused, match="extension 240"):
            Unpickler(content, {"pathlib.Path": Path}).load()
    finally:
        copyreg.remove_extension("pathlib", "Path", 240)
        copyreg.clear_extension_cache()  # type: ignore[attr-defined]


def test_the_number_of_objects_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    content: Any = b"(" + 999 * b"]" + b"t."
    assert len(Unpickler(content, {}).load()) == 999
    monkeypatch.setattr(unpickle, "MAX_INSTRUCTIONS", 1000)
    with pytest.raises(pickle.UnpicklingError, match="more than 1,000 instructions"):
        Unpickler(content, {}).load()
