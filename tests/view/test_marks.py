"""Thresholds that are tried and marks that are set are what `select` then decides."""

import csv
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handloom.errors import UserError
from handloom.pipeline.configuration import read_command
from handloom.pipeline.recipes import CurateConfig
from handloom.stages.overrides import MARKS, read_marks
from handloom.stages.select import Select
from handloom.stages.tables.parts import open_tables
from tests.view.viewed import all_clips, client, decided, generated, get, opened


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return generated(tmp_path / "out")


OPTIONS: list[dict[str, Any]] = [
    {},
    {"min_sharpness": 0.7},
    {"min_hand_share": None, "max_similarity": 0.2},
    {"max_stereo": 0.1, "min_change": 0.5, "lone_hand": True},
    {"max_repeats": 2},
    {"dark_below": 0.6, "min_confidence": 0.6},  # scores are made again
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_trial_keeps_what_select_keeps_with_the_options_that_it_prints(
    out: Path, options: dict[str, Any]
) -> None:
    page = client(opened(out))
    given = {f"select.{name}": _said(value) for name, value in options.items()}
    found = page.get("/api/judge", params=given).json()
    words = ["ego4d", "--data", str(out), "--out", str(out), *_base(), *found["flags"]]
    config = read_command(words, "curate").config
    assert isinstance(config, CurateConfig)
    now, before = decided(out, config.select), decided(out, Select())
    assert found["now"]["clips"] == sum(status == "ok" for status, _ in now.values())
    assert found["reasons"] == dict(Counter(reason for _, reason in now.values() if reason))
    moves = (("newly kept", "rejected", "ok"), ("newly rejected", "ok", "rejected"))
    for word, was, became in moves:
        listed = {row["id"] for row in all_clips(page, moved=word, **_named(given))}
        moved = {i for i in now if before[i][0] == was and now[i][0] == became}
        assert listed == moved
        assert found[word]["clips"] == len(moved)


def _said(value: Any) -> str:
    return "none" if value is None else str(value).lower()


def _named(given: dict[str, str]) -> dict[str, str]:
    return {name.replace(".", "__"): value for name, value in given.items()}


def _base() -> list[str]:
    return ["--select.max-flat-share", "0.5"]  # the generated run has it, ego4d's recipe has not


def test_marks_stand_over_the_scores_and_change_no_other_row(out: Path) -> None:
    page, before = client(opened(out)), decided(out, Select())
    kept = [i for i, (status, _) in before.items() if status == "ok"][:3]
    rejected = [i for i, (status, _) in before.items() if status == "rejected"][:2]
    wanted = {kept[0]: "drop", kept[1]: "wrong_caption", rejected[0]: "keep"}
    for clip_id, mark in wanted.items():
        said = {"ids": [clip_id], "mark": mark, "note": 'she said "no",\nthen\tyes'}
        assert page.post("/api/marks", json=said).status_code == 200
    page.post("/api/marks", json={"ids": [kept[2]], "note": "look again"})
    now = decided(out, replace(Select(), overrides=out / "marks.csv"))
    changed = {i: now[i] for i in now if now[i] != before[i]}
    assert changed == {
        kept[0]: ("rejected", "marked_drop"),
        kept[1]: ("rejected", "marked_wrong_caption"),
        rejected[0]: ("ok", "marked_keep"),
    }
    judged = get(page, "/api/judge")
    assert judged["flags"] == ["--select.overrides", str(out / "marks.csv")]
    assert judged["now"]["clips"] == sum(status == "ok" for status, _ in now.values())
    assert {row["id"] for row in all_clips(page, mark="note")} == {kept[2]}
    assert get(page, "/api/marks")["marks"][kept[0]]["note"] == 'she said "no",\nthen\tyes'


def test_unmarked_clips_leave_the_file_and_other_hands_writing_is_seen(out: Path) -> None:
    page = client(opened(out))
    ids = [row["id"] for row in all_clips(page, status="kept")[:2]]
    page.post("/api/marks", json={"ids": ids, "mark": "drop"})
    page.post("/api/marks", json={"ids": ids[:1]})
    with (out / "marks.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"clip_id": ids[1], "mark": "drop", "note": ""}]
    (out / "marks.csv").write_text(f"clip_id,mark,note\n{ids[0]},keep,by hand\n")
    assert [row["id"] for row in all_clips(page, mark="keep")] == [ids[0]]
    page.post("/api/marks", json={"ids": ids[1:], "mark": "drop"})
    assert set(read_marks(out / "marks.csv")) == set(ids)


SETS = """
import sys
from pathlib import Path
from handloom.view.marks import Marks
marks = Marks(Path(sys.argv[1]))
sys.stdin.readline()  # both begin together
for number in range(40):
    marks.set([f"{sys.argv[2]}{number}"], "keep", "")
"""


def test_two_viewers_of_a_run_keep_each_others_marks(tmp_path: Path) -> None:
    path = tmp_path / "marks.csv"
    viewers = [
        subprocess.Popen([sys.executable, "-c", SETS, str(path), name], stdin=subprocess.PIPE)
        for name in ("a", "b")
    ]
    for viewer in viewers:
        assert viewer.stdin
        viewer.stdin.write(b"\n")
        viewer.stdin.flush()
    for viewer in viewers:
        assert viewer.wait(timeout=60) == 0
        assert viewer.stdin
        viewer.stdin.close()
    assert set(read_marks(path)) == {f"{name}{number}" for name in "ab" for number in range(40)}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 100_000, "a mark is sent as JSON"),
        (b'{"ids": ["\\ud800"], "mark": "drop"}', "half a character"),
        (b'{"ids": [], "note": "\\udfff"}', "half a character"),
        (b"\xff\xfe", "a mark is sent as JSON"),
    ],
)
def test_a_mark_that_is_no_text_is_refused_in_a_sentence(
    out: Path, body: bytes, words: str
) -> None:
    answer = client(opened(out)).post("/api/marks", content=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_controls_in_a_note_become_spaces_and_its_row_stays_one(out: Path) -> None:
    page = client(opened(out))
    ids = [row["id"] for row in all_clips(page, status="kept")[:2]]
    (out / "marks.csv").write_text(f'clip_id,mark,note\n{ids[1]},keep,"by\rhand"\n', newline="")
    note = "one\rtwo\x00\x1b[31m\r\nthree\t\x85 \u202e"
    page.post("/api/marks", json={"ids": ids[:1], "note": note})
    read = read_marks(out / "marks.csv")
    assert {key: one.note for key, one in read.items()} == {
        ids[0]: "one two  [31m\nthree\t  \u202e",
        ids[1]: "by hand",
    }


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        ({"ids": ["nobody"], "mark": "drop"}, 404, "holds no clip"),
        ({"ids": [], "mark": "burn"}, 400, "'burn' is no mark"),
        ({"ids": "all"}, 400, "a mark is sent as"),
        ([1], 400, "a mark is sent as"),
    ],
)
def test_marks_that_cannot_be_are_refused(out: Path, said: Any, status: int, words: str) -> None:
    answer = client(opened(out)).post("/api/marks", json=said)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert not (out / "marks.csv").exists()


def test_a_clip_that_select_never_saw_takes_a_note_and_no_mark(out: Path) -> None:
    page = client(opened(out))
    clip_id = all_clips(page, reason="too_short")[0]["id"]
    refused = page.post("/api/marks", json={"ids": [clip_id], "mark": "keep"})
    assert refused.status_code == 400
    assert "`ingest` has rejected this clip (too_short)" in refused.json()["error"]
    assert page.post("/api/marks", json={"ids": [clip_id], "note": "why?"}).status_code == 200


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,mark\na,keep\n", "has no column clip_id"),
        ("clip_id,mark\na,burn\n", "is marked 'burn' in row 1, expected keep, drop"),
        ("clip_id,mark\na,keep\na,drop\n", "clip a comes twice, in row 2"),
        ("clip_id,mark\n,keep\n", "a clip has no id"),
        ("", "has no column clip_id"),
        ('clip_id,mark\n"a,keep\n', "cannot be read"),
    ],
)
def test_a_file_of_marks_that_cannot_be_used_ends_in_a_sentence(
    tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "marks.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        read_marks(path)


def test_marks_of_clips_that_the_run_does_not_hold_end_it(out: Path) -> None:
    path = out / "strange.csv"
    path.write_text("clip_id,mark\n" + "".join(f"{'f' * 19}{i},drop\n" for i in range(7)))
    with pytest.raises(UserError, match=r"marks 7 clips that this run does not hold .* and 2 more"):
        list(replace(Select(), overrides=path).rows(open_tables(out)))
    with pytest.raises(UserError, match="is not there"):
        list(replace(Select(), overrides=out / "none.csv").rows(open_tables(out)))


def test_parquet_says_the_same_as_csv(tmp_path: Path) -> None:
    rows = {"clip_id": ["a", "b"], "mark": ["keep", None], "note": [None, "Ü"], "by": ["x", "y"]}
    pq.write_table(pa.table(rows), tmp_path / "m.parquet")
    (tmp_path / "m.csv").write_text("\ufeffclip_id,mark,note,by\na,keep,,x\nb,,Ü,y\n")
    assert read_marks(tmp_path / "m.parquet") == read_marks(tmp_path / "m.csv")


def test_settings_are_those_of_before_without_marks_and_notes_do_not_count(tmp_path: Path) -> None:
    assert "overrides" not in Select().settings()
    settings = []
    for number, content in enumerate(["a,keep,\n", "a,keep,why\nb,,note\n", "a,drop,\n"]):
        path = tmp_path / f"{number}.csv"
        path.write_text("clip_id,mark,note\n" + content)
        settings.append(replace(Select(), overrides=path).settings())
    assert settings[0] == settings[1] != settings[2]


def test_dropped_clips_are_no_repeats_and_kept_ones_are() -> None:
    select = replace(Select(), max_repeats=1)
    scores = {one.score: np.full(3, 0.0) for one in select.criteria()}
    for name in ("change", "shot_share", "sharpness", "hand_share"):
        scores[name] = np.full(3, 1.0)
    seen = []
    marked = pa.array(["drop", "", "keep"])
    assert set(marked.to_pylist()) - {""} <= set(MARKS)
    select.judge(scores, marked, lambda counts: seen.append(counts.tolist()) or np.zeros(3))  # type: ignore[func-returns-value]
    assert seen == [[False, True, True]]
