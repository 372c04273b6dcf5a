"""Pickles are read as data: what numpy and Python write comes back, and nothing is ever run."""

import collections
import contextlib
import functools
import io
import os
import pickle
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.errors import MediaError
from handloom.stages.datasets.formats import pickles

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
ARRAYS = {
    "matrix": np.arange(6.0).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">i4"),
    "pixels": np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
    "flags": np.array([True, False]),
    "texts": np.array(["ab", "c"]),
    "empty": np.zeros((0, 3), np.float32),
    "one": np.array(3.5),
}
PLAIN: dict[str, Any] = {
    "numbers": (1, -5, 2.5, 2**70, 1 + 2j, True, None),
    "texts": ["x", "ä€", b"abc", b""],
    "sets": [{1, 2}, frozenset(["a"])],
    "ordered": collections.OrderedDict(b=1, a=2),
    "nested": {"a": {"b": [{"c": ()}]}, (0, "key"): 1},
    "scalars": [np.float32(2.5), np.int64(-3), np.bool_(True), np.str_("hi")],
    "dtype": np.dtype(">f8"),
}


def read(tmp_path: Path, content: bytes, name: str = "obs_dict.pkl") -> Any:
    path = tmp_path / name
    path.write_bytes(content)
    return pickles.load(path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_written_comes_back(tmp_path: Path, protocol: int) -> None:
    found = read(tmp_path, pickle.dumps({"plain": PLAIN, "arrays": ARRAYS}, protocol))
    assert found["plain"] == PLAIN
    assert [type(value) for value in found["plain"]["scalars"]] == [
        np.float32, np.int64, np.bool_, np.str_,
    ]  # fmt: skip
    for name, array in ARRAYS.items():
        got = found["arrays"][name]
        assert type(got) is np.ndarray
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        assert (got == array).all()
        assert got.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_objects_and_shared_things(tmp_path: Path, protocol: int) -> None:
    shared = np.ones(3)
    objects = np.array([[1, "a"], [None, {"k": shared}]], object)
    found = read(tmp_path, pickle.dumps([objects, shared, shared], protocol))
    assert found[0].shape == (2, 2)
    assert found[0][0].tolist() == [1, "a"]
    assert found[1] is found[2]
    assert found[0][1, 1]["k"] is found[1]


def test_the_reader_and_numpy_keep_their_dtypes(tmp_path: Path) -> None:
    read(tmp_path, pickle.dumps(np.arange(3, dtype=">f8"), 2))
    assert np.dtype("f8").isnative  # a byte order was not set on numpy's own type
    assert np.dtype("f8").str == np.dtype(float).str


def test_both_names_of_numpys_modules(tmp_path: Path) -> None:
    new = pickle.dumps(np.arange(3.0), 2)
    assert b"numpy._core.multiarray" in new
    old = new.replace(b"cnumpy._core.", b"cnumpy.core.")
    for content in (old, new):
        assert read(tmp_path, content).tolist() == [0.0, 1.0, 2.0]


def test_what_python_2_wrote(tmp_path: Path) -> None:
    """Byte strings are str there, in quotes in protocol 0 and binary in protocol 2."""
    array = np.array([1.5, -2.0])
    raw = array.tobytes()
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nt"
    dtype = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
    quoted = "".join(f"\\x{byte:02x}" for byte in raw).encode()
    protocol_0 = head + dtype + b"S'" + quoted + b"'\ntb."
    binary = head + dtype + b"U" + bytes([len(raw)]) + raw + b"tb."
    for content in (protocol_0, binary):
        assert read(tmp_path, content).tolist() == [1.5, -2.0]
    assert read(tmp_path, b"U\x03a\xe4b.") == "aäb"
    assert read(tmp_path, b"c__builtin__\nset\n((lp0\nI1\natR.") == {1}


class Runs:
    """Its pickle calls something with some arguments."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = call
        self.arguments = arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


SEEN: list[str] = []


def gadget(text: str) -> str:
    SEEN.append(text)
    return text


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        (Runs(os.system, "touch harm"), r"asks for \w+\.system,"),
        (Runs(eval, "1"), r"asks for (builtins|__builtin__)\.eval,"),
        (Runs(exec, "1"), r"\.exec,"),
        (Runs(getattr, "a", "upper"), r"\.getattr,"),
        (Runs(subprocess.Popen, "true"), r"(subprocess|commands)\.Popen"),
        (Runs(functools.partial, print, 1), r"functools\.partial"),
        (Runs(np.load, "x.npy"), r"numpy\.load"),
        (Runs(np.zeros, 10**12), r"numpy\.zeros"),
        (Runs(np.lib.format.read_array, None), r"asks for numpy\.\S*read_array"),
        (Runs(gadget, "seen"), r"gadget"),
        (Runs(bytes, 10**12), r"builtins\.bytes of int"),
        (Runs(bytearray, 10**12), r"builtins\.bytearray of int"),
        (Runs(set, "abc"), r"builtins\.set of str"),
        (Runs(list, "abc"), r"builtins\.list,"),
        (Runs(int, "9" * 100), r"builtins\.(int|long),"),
        (Runs(io.BytesIO, b""), r"_io\.BytesIO|io\.BytesIO"),
        (Path("x"), r"pathlib"),
        (np.ma.masked_array([1.0], [True]), r"numpy\.ma"),
        (np.zeros(2, [("a", "f4")]), r"a numpy\.dtype 'V4'"),
        (collections.defaultdict(list), r"collections\.defaultdict"),
        (collections.Counter("aa"), r"collections\.Counter"),
        (PLAIN.update, r"getattr|builtins"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_called(tmp_path: Path, call: Any, asked: str, protocol: int) -> None:
    content = pickle.dumps({"a": [np.arange(2), call]}, protocol)
    with pytest.raises(MediaError, match=asked) as error:
        read(tmp_path, content)
    assert "do not trust this file" in str(error.value)
    assert str(tmp_path) not in str(error.value)
    assert not SEEN
    assert not Path("harm").exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
UNSET = b"J\xff\xff\xff\xff"
DTYPE = b"cnumpy\ndtype\n(U\x02%sK\x00K\x01tR(K\x03U\x01<NNN" + 2 * UNSET + b"K\x00tb"
HUGE = b"\x8a\x06\x00\x00\x00\x00\x00\x10"  # LONG1, 2 ** 44


def array(shape: bytes, dtype: bytes, data: bytes) -> bytes:
    return ARRAY + b"(K\x01" + shape + DTYPE.replace(b"%s", dtype) + b"\x89" + data + b"tb."


def test_the_hand_made_array_is_one(tmp_path: Path) -> None:
    made = array(b"(K\x02t", b"i2", b"U\x04\x01\x00\x02\x00")
    assert read(tmp_path, made).tolist() == [1, 2]
    objects = ARRAY + b"(K\x01(K\x02tcnumpy\ndtype\n(U\x02O8K\x00K\x01tR(K\x03U\x01|NNN"
    objects += 2 * UNSET + b"K?tb\x89]q\x01(K\x05Netb."
    assert read(tmp_path, objects).tolist() == [5, None]
    short = objects.replace(b"(K\x02tc", b"(K\x09tc")  # numpy itself reads beyond the list
    with pytest.raises(MediaError, match="shape is not that of its list"):
        read(tmp_path, short)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (array(b"(" + HUGE + b"t", b"i2", b"U\x04abcd"), "4 bytes for an array"),
        (array(b"(K\x02t", b"O8", b"]"), "shape is not that of its list"),
        (array(b"(" + HUGE + b"t", b"O8", b"]"), "shape is not that of its list"),
        (array(b"(J\xff\xff\xff\xffJ\xff\xff\xff\xfft", b"u1", b"U\x01a"), "proper shape"),
        (array(b"(K\x02t", b"u1", b"K\x05"), "proper shape or bytes"),
        (array(b"K\x02", b"u1", b"U\x02ab"), "proper shape"),
        (array(b"(K\x01t", b"S0", b"U\x00"), "unknown type"),
        (ARRAY + b"K\x01b.", "without content"),
        (ARRAY + b".", "without content"),
        (ARRAY + b"(K\x01(K\x01tNK\x00U\x01atb.", "unknown type"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + HUGE + b"tU\x01btR.",
         "unknown kind"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nset\n(K\x00tU\x01btR.",
         "unknown kind"),
        (b"B\xff\xff\xff\xffabc.", "bytes are missing"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "bytes are missing"),
        (b"\x96\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "bytes are missing"),
        (b"T\xff\xff\xff\x7fabc.", "not a whole pickle"),
        (b"}](K\x01es.", "not a whole pickle"),
        (b"}(K\x01u.", "not a whole pickle"),
        (b".", "not a whole pickle"),
        (b"0.", "not a whole pickle"),
        (b"e.", "not a whole pickle"),
        (b"h\x07.", "not a whole pickle"),
        (b"\x80\x09N.", "protocol: 9"),
        (b"I12", "not a whole pickle"),
        (b"Sabc\n.", "must be quoted"),
        (b"", "is empty"),
        (b"\x00\x01\x02", "not a whole pickle"),
        (b"\x97.", "out-of-band"),
        (b"cbuiltins\nset\n)\x81.", "not a type object"),
        (b"\x8c\x08builtins\x8c\x03set\x93)}\x92.", "not a type object"),
        (b"cbuiltins\nset\nK\x01a.", "no attribute 'append'"),
        (b"cnumpy\nndarray\n(K\x00tR.", "not callable"),
        (b"K\x05)R.", "not callable"),
        (b"<!DOCTYPE html>", "not a whole pickle"),
        (b"\xff" * 40, "not a whole pickle"),
    ],
)  # fmt: skip
def test_damaged_and_lying_files(tmp_path: Path, content: bytes, fault: str) -> None:
    tracemalloc.start()
    with pytest.raises(MediaError, match=fault):
        read(tmp_path, content)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (b"Vsome id\nQ.", "an object beside it"),
        (b"P7\n.", "an object beside it"),
        (b"(K\x01ios\nsystem\n.", r"os\.system"),
        (b"(cos\nsystem\nU\x02lso.", r"os\.system"),
        (b"(cbuiltins\nlist\no.", r"builtins\.list"),
        (b"cbuiltins\nlist\n)\x81.", r"builtins\.list"),
        (b"\x8c\x08builtins\x8c\x04list\x93)}\x92.", r"builtins\.list"),
        (b"\x82\x01.", "extension 1"),
        (b"}}(U\x09__class__cos\nsystem\nub.", r"os\.system"),
        (b"}}U\x01aK\x01sb.", "the state of a dict"),
        (b"ccollections\nOrderedDict\n)R}b.", "the state of a OrderedDict"),
        (b"cbuiltins\nset\n}b.", "the state of a function"),
        (b"c_codecs\ndecode\n.", r"_codecs\.decode"),
        (b"cnumpy\ndtype\n(U\x0c(9999999,)f8K\x00K\x01tR.", r"a numpy\.dtype"),
        (b"cnumpy\ndtype\n(U\x02f8tR(K\x03U\x01<cos\nsystem\nNNtb.", r"os\.system"),
        (b"cnumpy\ndtype\n(U\x02f8tR(K\x03U\x01<(U\x01at}NNtb.", "with fields"),
        (b"cnumpy.testing._private.utils\nruncode\n.", r"numpy\.testing"),
        (b"cos.path\nos.system\n.", r"os\.path\.os\.system"),
    ],
)
def test_other_ways_to_objects(tmp_path: Path, content: bytes, asked: str) -> None:
    with pytest.raises(MediaError, match=rf"asks for .*{asked}.* do not trust this file"):
        read(tmp_path, content)


def test_every_beginning_of_a_file_is_refused(tmp_path: Path) -> None:
    whole = pickle.dumps({"state": np.arange(14.0).reshape(2, 7), "t": [1, (2.5, "x")]}, 4)
    for length in range(len(whole)):
        with pytest.raises(MediaError):
            read(tmp_path, whole[:length])


def test_noise_is_refused_or_data(tmp_path: Path) -> None:
    """Whatever the bytes: an error of ours or plain data, nothing else."""
    rng = np.random.default_rng(0)
    whole = pickle.dumps({"state": np.arange(14.0), "o": np.array([None, "a"], object)}, 2)
    refused = 0
    for _ in range(1500):
        content = bytearray(whole)
        for at in rng.integers(0, len(content), 3):
            content[at] = rng.integers(256)
        try:
            read(tmp_path, bytes(content))
        except MediaError:
            refused += 1
    assert refused > 500


def test_small_files_do_not_fill_the_memory(tmp_path: Path) -> None:
    text = b"X\x10\x27\x00\x00" + b"a" * 10_000 + b"q\x010"
    copies = b"".join([b"c_codecs\nencode\n(h\x01tR0" for _ in range(20_000)])
    tracemalloc.start()
    for content in (
        text + b"](" + copies.replace(b"R0", b"R") + b"e.",  # 200 MB of copies
        b"r\xff\xff\xff\x7f.",
        b"Nr\xff\xff\xff\x7f.",  # a memo of 2 ** 31 entries
    ):
        with contextlib.suppress(MediaError):
            read(tmp_path, content)
    assert tracemalloc.get_traced_memory()[1] < 30 << 20
    tracemalloc.stop()
    with pytest.raises(MediaError, match="much more than it holds"):
        read(tmp_path, text + b"](" + copies.replace(b"R0", b"R") + b"e.")
    path = tmp_path / "large.pkl"
    path.write_bytes(b"X\x05\x00\x00\x00abcde.")
    with pytest.raises(MediaError, match="has 11 bytes, expected at most 10"):
        pickles.load(path, max_bytes=10)
    with pytest.raises(MediaError, match=r"^none\.pkl is not there"):
        pickles.load(tmp_path / "none.pkl")


def npy(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "auto_lang_ann.npy"
    path.write_bytes(content)
    return pickles.load_npy(path)


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("name", ARRAYS)
def test_npy_files_of_numbers(tmp_path: Path, name: str) -> None:
    got = npy(tmp_path, saved(ARRAYS[name]))
    assert (got == ARRAYS[name]).all()
    assert (got.dtype, got.shape) == (ARRAYS[name].dtype, ARRAYS[name].shape)
    assert (pickles.parse_npy(saved(ARRAYS[name]), "x") == ARRAYS[name]).all()


def test_npy_files_of_objects(tmp_path: Path) -> None:
    told = {"language": {"ann": ["push it"], "emb": np.ones((1, 1, 4))}, "info": [(3, 9)]}
    found = npy(tmp_path, saved(np.array(told, object))).item()
    assert found["language"]["ann"] == ["push it"]
    assert found["info"] == [(3, 9)]
    assert (found["language"]["emb"] == 1).all()
    with pytest.raises(MediaError, match=r"^auto_lang_ann\.npy: asks for \w+\.system, expected"):
        npy(tmp_path, saved(np.array({"a": Runs(os.system, "touch harm")}, object)))


def test_npy_files_that_lie(tmp_path: Path) -> None:
    numbers, objects = saved(np.arange(4.0)), saved(np.array([1, None], object))
    huge = numbers.replace(b"(4,), }     ", b"(1<<44,), }")
    for content, fault in (
        (numbers[:-1], "ends before"),
        (numbers.replace(b"(4,), }          ", b"(40000000000,), }"), "ends before"),
        (numbers.replace(b"(4,)", b"(-4,)").replace(b"(-4,), } ", b"(-4,), }"), "damaged header"),
        (huge, "damaged header|ends before"),
        (numbers[:20], "damaged header"),
        (b"PK\x03\x04", r"not an \.npy file"),
        (objects[:-4], "not a whole pickle"),
        (objects[:128] + pickle.dumps({"a": 1}), "holds a dict"),
        (objects.replace(b"'|O'", b"'|X'"), "damaged header"),
    ):
        with pytest.raises(MediaError, match=fault):
            npy(tmp_path, content)
