"""The HowTo100M adapter: captions are streamed, found files matched, and speech cut into clips."""

import json
import math
import pickle
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.errors import UserError
from handloom.stages.datasets.formats import json_stream as json_values
from handloom.stages.datasets.howto100m import adapter as howto100m
from handloom.stages.datasets.howto100m import speech
from handloom.stages.datasets.source import CutRule, SourceVideo, Span

RULE = CutRule(min_s=2.0, max_s=15.0)
Rows = list[tuple[Any, Any, Any]]


def captions(*rows: tuple[Any, Any, Any]) -> dict[str, list[Any]]:
    return {name: [row[i] for row in rows] for i, name in enumerate(("start", "end", "text"))}


LINES = captions((0.0, 3.0, "take the pan"), (3.0, 6.0, "and the oil"))


def cut(*rows: tuple[Any, Any, Any], rule: CutRule = RULE) -> list[Span]:
    return list(speech.cut_speech(rows, rule))


def times(spans: list[Span]) -> list[tuple[float, float]]:
    return [(span.start_s, span.end_s) for span in spans]


@st.composite
def speeches(draw: st.DrawFn) -> Rows:
    seconds = st.integers(-2000, 60_000).map(lambda ms: ms / 1000)
    texts = st.lists(st.sampled_from(["cut.", "the", "onion", "[Music]", "&gt;&gt; now", "é"]))
    row = st.tuples(seconds, seconds, texts.map(" ".join))
    return draw(st.lists(row, max_size=30))


@given(speeches())
def test_clips_do_not_overlap_nor_exceed_the_limit_and_no_line_is_lost(rows: Rows) -> None:
    found = cut(*rows)
    clips = [span for span in found if not span.reason]
    for clip in clips:
        assert 0.0 <= clip.start_s < clip.end_s <= clip.start_s + RULE.max_s + 1e-9
        assert clip.text
    for one, other in pairwise(clips):
        assert one.end_s <= other.start_s
    # Every line is in a clip or in the span that counts the dropped ones.
    kept = [text for s in found for text in s.other_texts or ([s.text] if s.text else [])]
    assert sorted(" ".join(kept).split()) == sorted(" ".join(text for _, _, text in rows).split())
    assert len({(s.start_s, s.end_s) for s in found}) == len(found) > 0


@given(speeches(), st.randoms(use_true_random=False))
def test_the_order_of_the_lines_does_not_matter(rows: Rows, chance: Any) -> None:
    shuffled = list(rows)
    chance.shuffle(shuffled)
    assert cut(*shuffled) == cut(*rows)


def test_rolling_lines_end_where_the_next_one_starts() -> None:
    # Each line stands while the next two are spoken; a real pair of such lines overlaps so.
    rows = [(33.45, 39.69, "lay the tomatoes on the tray"), (36.84, 41.67, "and season them")]
    # No other texts: nothing was cleaned.
    assert cut(*rows) == [Span(33.45, 41.67, "lay the tomatoes on the tray and season them")]
    assert times(cut(*rows, rule=CutRule(2.0, 5.0))) == [(33.45, 36.84), (36.84, 41.67)]


def test_words_that_the_line_before_has_shown_are_said_once() -> None:
    rows: Rows = [
        (0.0, 2.0, "take a sharp knife"),
        (2.0, 2.1, "take a sharp knife"),
        (2.1, 4.0, "a sharp knife and cut"),
        (4.0, 4.1, "and cut"),
        (4.1, 6.0, "and cut the onion"),
    ]
    (clip,) = cut(*rows)
    assert clip.text == "take a sharp knife and cut the onion"
    assert clip.other_texts == tuple(text for _, _, text in rows)
    assert times([clip]) == [(0.0, 6.0)]


def test_what_is_said_again_later_or_by_chance_is_kept() -> None:
    found = cut((0.0, 3.0, "stir it"), (60.0, 63.0, "stir it"))
    assert [span.text for span in found] == ["stir it"] * 2
    (clip,) = cut((0.0, 3.0, "put it in the"), (3.0, 6.0, "the pan"))
    assert clip.text == "put it in the the pan"


def test_clips_end_with_sentences() -> None:
    rows = [(i * 2, i * 2 + 2, f"word{i}" + "." * (i in (2, 7, 12))) for i in range(15)]
    assert {6.0, 16.0, 26.0} <= {span.end_s for span in cut(*rows)}


def test_clips_end_at_pauses() -> None:
    rows: Rows = [(0, 3, "a b"), (3, 6, "c d"), (7.5, 10, "e f"), (10, 14, "g h"), (14, 18, "i j")]
    assert times(cut(*rows))[0] == (0.0, 6.0)


def test_lines_without_sentences_or_pauses_give_clips_of_comfortable_length() -> None:
    lengths = [s.end_s - s.start_s for s in cut(*((i, i + 1, f"word{i}") for i in range(300)))]
    assert all(6.0 <= length <= 11.0 for length in lengths)


def test_a_long_silence_is_in_no_clip() -> None:
    rows = [(0.0, 1.0, "okay so"), (8.0, 12.0, "cut the onion")]
    assert times(cut(*rows)) == [(0.0, 1.0), (8.0, 12.0)]  # ingest finds the first too short


def test_a_short_line_is_merged_where_it_can_be() -> None:
    rows = [(0.0, 14.0, "a long sentence."), (14.0, 15.0, "okay."), (15.5, 30.0, "another one.")]
    assert times(cut(*rows)) == [(0.0, 15.0), (15.5, 30.0)]
    # Better to break a sentence than to lose one to a clip that is too short.
    rows = [(i, i + 2, f"word{i}" + "." * (i == 2)) for i in range(0, 12, 2)]
    assert times(cut(*rows, rule=CutRule(6.0, 8.0))) == [(0.0, 6.0), (6.0, 12.0)]


def test_a_line_that_is_too_long_is_shortened_and_says_so() -> None:
    found = cut((0.0, 40.0, "one line for minutes"), (50.0, 55.0, "cut the onion"))
    assert [(s.end_s, s.flags) for s in found] == [(15.0, ("shortened",)), (55.0, ())]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("salt &amp; pepper, that&#39;s it", "salt & pepper, that's it"),
        ("that&amp;#39;s it", "that's it"),
        ("[Music] cut\n the  onion [Applause]", "cut the onion"),
        ("&gt;&gt; hello >> hi", "hello hi"),
        ("♪ la la ♪", "la la"),
        ("(music) stir (gently)", "stir (gently)"),
        (" 🙂 stir", "🙂 stir"),
    ],
)
def test_lines_are_cleaned_and_kept_as_they_were(raw: str, text: str) -> None:
    (clip,) = cut((1.0, 4.0, raw))
    assert (clip.text, clip.other_texts) == (text, (raw,) if raw != text else ())


def test_numbers_and_nan_are_texts_and_none() -> None:
    nothing: list[Any] = [float("nan"), None, "", " ", "NaN", "[Music]", "...", [], True]
    (dropped, clip) = cut(*((i, i + 1, text) for i, text in enumerate(nothing)), (20, 23, 350))
    assert (dropped.reason, len(dropped.other_texts)) == ("no_text", len(nothing))
    assert (clip.text, clip.flags, clip.reason) == ("350", ("no_words",), "")
    assert [(span.reason, span.other_texts) for span in cut()] == [("no_text", ())]


def test_lines_without_a_time_are_counted() -> None:
    odd: list[tuple[Any, Any]] = [
        (3.0, 3.0), (4.0, 3.0), (None, 1.0), ("x", 1.0), (float("nan"), 1.0), (1.0, float("inf")),
        (1e300, 2e300), (-3.0, -1.0), (True, 2.0), (10**400, 1.0), ([], 1.0), (1.0001, 1.0002),
    ]  # fmt: skip
    (dropped, clip) = cut(*((a, b, "cut") for a, b in odd), ("1.5", "4", "cut"), (-1.0, 1.5, "now"))
    assert (dropped.reason, len(dropped.other_texts)) == ("no_time", len(odd))
    assert times([clip]) == [(0.0, 4.0)]


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("нарежьте лук", ("not_english",)), ("玉ねぎを切る", ("not_english",)),
        ("crème brûlée in a pan", ()), ("1 2 3", ("no_words",)),
    ],
)  # fmt: skip
def test_other_scripts_are_flagged(text: str, flags: tuple[str, ...]) -> None:
    assert cut((0.0, 3.0, text))[0].flags == flags


# Streaming


def streamed(path: Path) -> list[tuple[str, Any]]:
    found = list(json_values.stream_values(path))
    for _, raw, value in found:
        assert json_values.load_value(raw) == value
    return [(key, value) for key, _, value in found]


AWKWARD = {
    "---0tKA3iYI": {"text": ["}", '"}', "\\", '{"a": "}"}', "é\u2028🙂"], "x": {"y": {}}},
    'k"e}y\\': {},
    "": {"text": []},
    "_97kyZVWVG0": LINES,
}


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("to_ascii", [True, False])
def test_streaming_gives_what_parsing_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, indent: int, to_ascii: bool
) -> None:
    monkeypatch.setattr(json_values, "BLOCK", block)
    path = tmp_path / "captions.json"
    text = json.dumps(AWKWARD, indent=indent, ensure_ascii=to_ascii)
    for mark in ("", "\ufeff"):
        path.write_text(f"{mark} {text}\n \n", encoding="utf-8")
        assert streamed(path) == list(AWKWARD.items())


def test_json_as_python_writes_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_bytes(b'{"a": {"text": [NaN, "\\ud800", "\xff}", "ok"]}, "\\udc00": {"text": []}}')
    (_, _, value), (odd_key, _, _) = json_values.stream_values(path)
    assert odd_key == "\ufffd"
    assert repr(value["text"]) == repr([None, "\ufffd", "\ufffd}", "ok"])


def test_a_file_that_breaks_off_anywhere_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    whole = json.dumps({"a": LINES, "b": LINES}).encode()
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"captions\.json is not complete JSON .*download it"):
            streamed(path)
    with pytest.raises(UserError, match="breaks off after 2 videos"):
        streamed(path)


WORDS = ["NaN", "Infinity", "-Infinity", '"NaN', "a\\", '\\"NaN', "}", "{}", "\ud800", "é", ""]
CELLS = st.sampled_from(WORDS) | st.text(st.sampled_from('NaIinfty-"\\{}[] é'), max_size=12)
NUMBERS = st.floats() | st.integers(-5, 5)


@given(st.dictionaries(CELLS, st.lists(CELLS | NUMBERS, max_size=6), max_size=3), st.booleans())
def test_odd_entries_are_read_as_python_reads_them(value: dict[str, Any], to_ascii: bool) -> None:
    def plain(part: Any) -> Any:
        if isinstance(part, str):  # lone surrogates cannot be stored
            return part.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return None if isinstance(part, float) and not math.isfinite(part) else part

    text = json.dumps({"a": value, "b": {}}, ensure_ascii=to_ascii)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "captions.json"
        path.write_bytes(text.encode("utf-8", "surrogatepass" if to_ascii else "replace"))
        found = streamed(path)
        read = json.loads(path.read_bytes())["a"]
    expected = {plain(key): [plain(part) for part in parts] for key, parts in read.items()}
    assert found == [("a", expected), ("b", {})]


def test_a_file_that_grows_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text('{"a": {"text": []}, "b": {"te')
    entries = json_values.stream_values(path)
    assert next(entries)[0] == "a"
    with path.open("a") as file:
        file.write('xt": []}')
    message = r"captions\.json changed while it was read, from 29 to 37 bytes; wait until"
    with pytest.raises(UserError, match=message):
        list(entries)


@pytest.mark.parametrize("content", ['{"a": {"text": []}}', " "])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_wrong_encoding_is_named(tmp_path: Path, content: str, encoding: str) -> None:
    path = tmp_path / "captions.json"
    path.write_text(content, encoding=encoding)
    with pytest.raises(UserError, match=r"captions\.json is not UTF-8, but UTF-16 or UTF-32"):
        streamed(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n", "is empty, expected one JSON object"),
        ("<html>404</html>", "begins with '<', expected one JSON object"),
        ('[{"a": 1}]', "begins with '\\[', expected one JSON object"),
        ('{"a": [[1, 0.0, 2.0, "text"]]}', "has '\\[' behind 'a', expected an object with the"),
        ('{"a": {"text": [1,]}}', "is not complete JSON"),
        ('{"a": {} "b": {}}', "in place of a comma after 1 videos"),
        ('{"a": {}, b: {}}', "no key in quotes after 1 videos"),
        ('{"a": {}}x', "'x' follows its end"),
        ('{"a": {}}' + "\0" * 9, "a NUL byte, as of a download that broke off, follows its end"),
        ('{"a": {}, "b": {"text": ["x' + "\0" * 9 + '"]}}', "is not complete JSON .* after 1 vid"),
        ('{"a": {}' + "\0" * 9, "a NUL byte, .* in place of a comma after 1 videos"),
        ('{"a": ' + '{"a":' * 5000 + "1" + "}" * 5001, "nested too deeply after 0 videos"),
    ],
)
def test_what_is_no_object_of_objects_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "captions.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        streamed(path)


def test_an_entry_without_end_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_values, "BLOCK", 1 << 12)
    monkeypatch.setattr(json_values, "MAX_VALUE", 1 << 14)
    path = tmp_path / "captions.json"
    for filling in ("x", "}", "{", '\\"'):
        path.write_text('{"a": {"text": ["' + filling * 100_000 + '"]}}')
        with pytest.raises(UserError, match=r"more than \d+ MB for 'a'"):
            streamed(path)


# The dataset


def lay_out(root: Path, told: dict[str, Any], name: str = "raw_caption.json") -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(told))
    return root


def put(root: Path, *paths: str, content: bytes = b"x") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def read(root: Path) -> dict[str, SourceVideo]:
    listed = list(howto100m.videos(root, RULE))
    assert len({video.video_id for video in listed}) == len(listed)
    return {video.video_id: video for video in listed}


def test_videos_are_found_by_the_end_of_their_names(tmp_path: Path) -> None:
    names = {
        "---0tKA3iYI": "---0tKA3iYI.mp4",
        "_97kyZVWVG0": "videos/a/_97kyZVWVG0.WEBM",
        "CTPAZ2euJ2Q": "some title-CTPAZ2euJ2Q.mkv",
        "gkjnR3-ZVts": "a title [gkjnR3-ZVts].mp4",
    }
    root = lay_out(tmp_path, dict.fromkeys([*names, "nVbIUDjzWY4"], LINES))
    put(root, *names.values(), "nVbIUDjzWY4.mp4.part", "nVbIUDjzWY4.f137.mp4", "nVbIUDjzWY4.m4a")
    found = read(root)
    lost = found["nVbIUDjzWY4"]
    assert {key: video.media_path for key, video in found.items() if video != lost} == names
    assert (lost.reason, lost.raw, lost.spans) == ("missing_file", None, (Span(0.0, 0.0, ""),))
    assert {video.version for video in found.values()} == {"v1-raw_caption"}


def test_of_several_files_the_whole_and_merged_one_is_taken(tmp_path: Path) -> None:
    root = lay_out(tmp_path, dict.fromkeys(("CTPAZ2euJ2Q", "nVbIUDjzWY4", "gkjnR3-ZVts"), LINES))
    put(root, "a/CTPAZ2euJ2Q.webm", "b/CTPAZ2euJ2Q.mp4", "c/CTPAZ2euJ2Q.mp4", "nVbIUDjzWY4.webm")
    put(root, "nVbIUDjzWY4.mp4", "gkjnR3-ZVts.mp4", content=b"")
    found = [(video.media_path, video.reason) for video in read(root).values()]
    # An empty file that is all there is is left to probing, which says what is wrong with it.
    assert found == [("b/CTPAZ2euJ2Q.mp4", ""), ("nVbIUDjzWY4.webm", ""), ("gkjnR3-ZVts.mp4", "")]


def test_spans_are_cut_from_what_a_worker_is_sent(tmp_path: Path) -> None:
    put(tmp_path, "CTPAZ2euJ2Q.mp4")
    root = lay_out(tmp_path, {"CTPAZ2euJ2Q": LINES})
    sent = pickle.loads(pickle.dumps(read(root)["CTPAZ2euJ2Q"]))
    assert sent.spans == ()
    assert howto100m.cut(sent, RULE) == (Span(0.0, 6.0, "take the pan and the oil"),)


def test_lists_of_unequal_length_lose_no_line(tmp_path: Path) -> None:
    root = lay_out(tmp_path, {"CTPAZ2euJ2Q": {"start": [0, 3, 6], "end": [3], "text": ["a", "b"]}})
    put(root, "CTPAZ2euJ2Q.mp4")
    found = howto100m.cut(read(root)["CTPAZ2euJ2Q"], RULE)
    dropped = [(s.reason, s.other_texts) for s in found]
    assert dropped == [("no_text", ("",)), ("no_time", ("b",)), ("", ())]


def test_the_least_processed_captions_are_read(tmp_path: Path) -> None:
    names = ("raw_caption.json", "raw_caption_superclean.json", "caption.json")
    put(tmp_path, "CTPAZ2euJ2Q.mp4")
    for place, name in zip(("", "annotations/", "files/"), names[::-1], strict=True):
        lay_out(tmp_path, {"CTPAZ2euJ2Q": LINES}, place + name)
        assert [path.name for path in howto100m.annotations(tmp_path)] == [name]
        video = read(tmp_path)["CTPAZ2euJ2Q"]
        assert video.version == f"v1-{name.removesuffix('.json')}"
        flags = howto100m.cut(video, RULE)[0].flags
        assert flags == (("stop_words_removed",) if name == "caption.json" else ())


def test_tables_of_captions(tmp_path: Path) -> None:
    table = 'start,end,text\n0.0,3.0,"stir, then wait"\n3.0,6.0,\n6.0,9.0,nan\n9.0,12.0,350\n'
    put(tmp_path, "howto/-bIUDjzWY4_.csv", content=("\ufeff" + table).encode())
    put(tmp_path, "howto/CTPAZ2euJ2Q.csv", content=b"start,end,text\r\n1,4,caf\xe9\r\n")
    put(tmp_path, "howto/gkjnR3-ZVts.csv", content=b"")
    put(tmp_path, "howto/_97kyZVWVG0.csv", content=b"start,end,text\n1,2\n\0,\n")
    put(tmp_path, "howto/nVbIUDjzWY4.csv", "HowTo100M_v1.csv", "annotations.csv", content=b"a,b\n")
    ids = ("-bIUDjzWY4_", "CTPAZ2euJ2Q", "gkjnR3-ZVts", "_97kyZVWVG0")
    put(tmp_path, *(f"videos/{video_id}.mp4" for video_id in ids))
    assert len(howto100m.annotations(tmp_path)) == 5
    found = read(tmp_path)
    assert found["nVbIUDjzWY4"].reason == "missing_file"
    spans = {key: howto100m.cut(video, RULE) for key, video in found.items() if not video.reason}
    texts = [(s.reason, s.text) for s in spans["-bIUDjzWY4_"]]
    assert texts == [("no_text", ""), ("", "stir, then wait"), ("", "350")]
    assert spans["CTPAZ2euJ2Q"][0].text == "caf\ufffd"
    assert spans["gkjnR3-ZVts"][0].flags == ("damaged_captions",)
    for empty in ("gkjnR3-ZVts", "_97kyZVWVG0"):
        assert {span.reason for span in spans[empty]} == {"no_text"}


def test_the_first_of_two_entries_for_a_video_counts(tmp_path: Path) -> None:
    (first, second) = (json.dumps({"CTPAZ2euJ2Q": captions((0, 3, t))})[1:-1] for t in ("a", "b"))
    (tmp_path / "raw_caption.json").write_text(f"{{{first}, {second}}}")
    put(tmp_path, "CTPAZ2euJ2Q.mp4")
    assert howto100m.cut(read(tmp_path)["CTPAZ2euJ2Q"], RULE)[0].text == "a"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("htm_align.json", '{"CTPAZ2euJ2Q": [[1, 10.739, 17.535, "add extra virgin olive oil"]]}'),
        ("htm_align.json", '["CTPAZ2euJ2Q", "---0tKA3iYI"]'),
        ("htm_holdout_vid.txt", "---0tKA3iYI\r\nCTPAZ2euJ2Q\r\n"),
    ],
)
def test_videos_of_the_benchmark_are_held_out(tmp_path: Path, name: str, content: str) -> None:
    root = lay_out(tmp_path, {"CTPAZ2euJ2Q": LINES, "nVbIUDjzWY4": LINES}, "text/raw_caption.json")
    put(root, "CTPAZ2euJ2Q.mp4", "nVbIUDjzWY4.mp4")
    put(root, f"text/{name}", content=content.encode())
    found = {key: (video.split, video.reason) for key, video in read(root).items()}
    assert found == {"CTPAZ2euJ2Q": ("test", "benchmark_test"), "nVbIUDjzWY4": ("", "")}
    assert [path.name for path in howto100m.annotations(root)] == ["raw_caption.json", name]


def test_a_broken_list_of_held_out_videos_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path, {"CTPAZ2euJ2Q": LINES})
    for content in ("<html>", "3", "[1, 2]"):
        (tmp_path / "htm_align.json").write_text(content)
        with pytest.raises(UserError, match=r"htm_align\.json is neither a JSON object by video"):
            read(tmp_path)


def test_other_captions_and_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a HowTo100M folder: expected raw_caption\.json"):
        read(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        read(tmp_path / "absent")
    lay_out(tmp_path, {"CTPAZ2euJ2Q": {"segments": []}})
    with pytest.raises(UserError, match="has 'segments' for 'CTPAZ2euJ2Q', expected the lists"):
        read(tmp_path)


def test_an_id_leads_to_no_file_outside(tmp_path: Path) -> None:
    put(tmp_path, "secretvideo.mp4")
    root = lay_out(tmp_path / "data", {"../secretvideo": LINES, f"{tmp_path}/secretvideo": LINES})
    assert {video.media_path for video in read(root).values()} == {""}
