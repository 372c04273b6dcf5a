"""Any folder of videos: nothing of the folder or its list is lost, and what is wrong is told."""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handloom.errors import UserError
from handloom.stages.datasets import spool, videos
from handloom.stages.datasets.source import TO_THE_END, SourceVideo, Span
from handloom.stages.datasets.spool import Spool
from handloom.stages.datasets.video_list import COLUMNS, folder_list, read_list
from handloom.stages.datasets.videos import Survey, Uncut, lines, survey_of, videos_of

Rows = Iterable[dict[str, Any]]


def folder_of(root: Path, *names: str) -> Path:
    """A folder with files of these names; listing opens none of them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"?")
    return root


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, rows: Rows) -> None:
    found = [{name: row.get(name) for name in COLUMNS} for row in rows]
    pq.write_table(pa.Table.from_pylist(found), path)


WRITERS = {".csv": write_csv, ".jsonl": write_jsonl, ".parquet": write_parquet}
ROWS = (
    {"path": "b/two.MOV", "start": 3.5, "end": 6.0, "text": "pour tea, slowly", "split": "val"},
    {"path": "one.mp4", "text": "wash a cup"},
    {"path": "./b//two.MOV", "start": 0.0, "end": 3.0, "text": "open the tin", "split": "val"},
    {"path": "b/two.MOV", "start": 6.5},
)


def listed(root: Path, path: Path | None) -> tuple[list[SourceVideo], Survey]:
    survey = Survey()
    return list(videos_of(root, path, survey)), survey


@pytest.mark.parametrize("suffix", WRITERS)
def test_lists_of_all_kinds_say_the_same(suffix: str, tmp_path: Path) -> None:
    root = folder_of(tmp_path, "one.mp4", "b/two.MOV", "unlisted.avi", "notes.txt")
    path = root / f"clips{suffix}"
    WRITERS[suffix](path, ROWS)
    assert folder_list(root) == path
    found = {video.unit: video for video in listed(root, path)[0]}
    assert found.keys() == {"one.mp4", "b/two.MOV"}
    assert found["one.mp4"].raw == Uncut(text="wash a cup")
    assert found["b/two.MOV"].split == "val"
    assert found["b/two.MOV"].spans == (
        Span(0.0, 3.0, "open the tin"),
        Span(3.5, 6.0, "pour tea, slowly"),
        Span(6.5, TO_THE_END, ""),
    )
    survey, usable = survey_of(root, path)
    assert (survey.rows, survey.texts, survey.unlisted, usable) == (4, 3, 1, 2)


def test_a_folder_gives_its_videos_and_counts_the_rest(tmp_path: Path) -> None:
    names = ("a.mp4", "deep/er/b.WebM", "c.3gp", "._a.mp4", "d.jpg", "deep/e.txt", "f.mp4.part")
    root = folder_of(tmp_path, *names)
    found, survey = listed(root, None)
    assert {video.media_path for video in found} == {"a.mp4", "deep/er/b.WebM", "c.3gp"}
    assert (survey.videos, survey.others) == (3, 3)  # a hidden file is the system's own
    assert list(lines(survey, None)) == ["ingest: 3 videos, and 3 other files passed over"]


def test_no_row_of_a_bad_list_is_lost(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", "a.mp4")
    outside = folder_of(tmp_path, "secret.mp4") / "secret.mp4"
    bad: tuple[tuple[str, Any, Any, str], ...] = (
        ("gone.mp4", 0, 2, "missing_file"),
        ("../secret.mp4", 0, 2, "outside_folder"),
        (str(outside), 0, 2, "outside_folder"),
        ("b/../../secret.mp4", "", "", "outside_folder"),
        ("a.mp4", 5, 3, "ends_before_start"),
        ("a.mp4", 3, 3, "ends_before_start"),
        ("a.mp4", "soon", 3, "no_time"),
        ("a.mp4", 0, 2, ""),
        ("a.mp4", 0, 2, ""),  # the same again
        (str(root / "a.mp4"), 2, 4, ""),  # written in full, but inside
    )
    write_csv(
        root / "clips.csv",
        ({"path": p, "start": a, "end": b, "text": "wave"} for p, a, b, _ in bad),
    )
    found, survey = listed(root, root / "clips.csv")
    told = Counter(span.reason or video.reason for video in found for span in video.spans)
    expected = Counter(reason for *_, reason in bad)
    assert told == expected - Counter([""])  # two rows are one clip
    assert survey.counts == Counter(
        missing_file=1, outside_folder=3, ends_before_start=2, no_time=1, repeated=1
    )
    assert not any(video.media_path for video in found if video.reason)
    text = "\n".join(lines(survey, root / "clips.csv"))
    assert "row 5, a.mp4" in text
    assert "row 2, ../secret.mp4" in text


def test_doubled_rows_keep_all_their_texts(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "a.mp4")
    rows = [{"path": "a.mp4", "start": 0, "end": 2, "text": text} for text in ("", "x", "y", "x")]
    write_jsonl(root / "clips.jsonl", rows)
    ((video,), survey) = listed(root, root / "clips.jsonl")
    assert video.spans == (Span(0.0, 2.0, "x", ("y",)),)
    assert survey.counts["repeated"] == 1


WRONG = (
    ("clips.csv", "", "columns none"),
    ("clips.csv", "name,length\na.mp4,3\n", "column 'name'"),
    ("clips.csv", "id,length\na.mp4,3\n", "columns id, length, expected path"),
    ("clips.csv", "path;start\na.mp4;3\n", "columns path;start"),
    ("clips.csv", "path,start_s,end_s\na.mp4,1,2\n", "'start_s', expected 'start'"),
    ("clips.csv", "path,caption\na.mp4,wave\n", "'caption', expected 'text'"),
    ("clips.csv", "path,Text\na.mp4,wave\n", "'Text', expected 'text'"),
    ("clips.csv", "path,text\na.mp4,wa\0ve\n", "NUL bytes in line 2"),
    ("clips.csv", "path,split\na.mp4,holdout\n", "split 'holdout' in row 1"),
    ("clips.csv", "path,text\n,wave\n", "no path in row 1"),
    ("clips.csv", "path,text\n", "has no rows"),
    ("clips.csv", "path,text\nb.mp4,wave\n", "1 missing_file (row 1, b.mp4)"),
    ("clips.jsonl", '{"path": "a.mp4"}\n[1]\n', "no JSON object in line 2"),
    ("clips.jsonl", '{"path": "a.mp4"\n', "no JSON object in line 1"),
    ("clips.jsonl", '{"path": "a.mp4"}\n{"file": "a.mp4"}\n', "'file' in line 2"),
    ("clips.parquet", "no Parquet", "cannot be read as Parquet"),
    ("other.txt", "a.mp4\n", "expected a .csv, .jsonl or .parquet"),
)


@pytest.mark.parametrize(("name", "content", "told"), WRONG)
def test_a_wrong_list_is_refused_in_one_sentence(
    name: str, content: str, told: str, tmp_path: Path
) -> None:
    root = folder_of(tmp_path, "a.mp4")
    (root / name).write_text(content)
    with pytest.raises(UserError) as error:
        survey_of(root, root / name)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_nul_in_a_json_text_is_text(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "a.mp4")
    write_jsonl(root / "clips.jsonl", [{"path": "a.mp4", "start": 0, "text": "wa\0ve"}])
    (row,) = read_list(root / "clips.jsonl")
    assert row.text == "wa\0ve"  # the table stores it as a space, as of all datasets


def test_an_empty_folder_and_two_lists_are_refused(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "notes.txt")
    with pytest.raises(UserError, match="holds no video"):
        survey_of(root, None)
    folder_of(root, "a.mp4", "clips.csv", "clips.jsonl")
    with pytest.raises(UserError, match="expected one list"):
        folder_list(root)


def test_a_val_row_takes_its_whole_file_to_val_and_a_test_row_out(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "a.mp4", "b.mp4")
    rows = [
        {"path": name, "start": at, "end": at + 2, "text": "wave", "split": split}
        for name, splits in (("a.mp4", ("train", "val", "")), ("b.mp4", ("train", "test")))
        for at, split in enumerate(splits)
    ]
    write_csv(root / "clips.csv", rows)
    found = {v.video_id: (v.split, v.reason) for v in listed(root, root / "clips.csv")[0]}
    assert found == {"a.mp4": ("val", ""), "b.mp4": ("test", "benchmark_test")}


def test_parts_of_a_large_file_share_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder_of(tmp_path, "a.mp4", "b.mp4")
    (root / "a.mp4").write_bytes(bytes(1000))
    monkeypatch.setattr(videos, "PART_BYTES", 300)
    found = [video for video in listed(root, None)[0] if video.video_id == "a.mp4"]
    assert [(v.raw.part, v.raw.parts) for v in found] == [(part, 4) for part in range(4)]
    assert len({video.unit for video in found}) == 4
    assert len({video.bucket_key for video in found}) == 1


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers())), st.integers(1, 9))
def test_a_spool_gives_back_what_it_took_grouped(records: list[tuple[str, int]], kept: int) -> None:
    with pytest.MonkeyPatch.context() as patch, Spool() as taking:
        patch.setattr(spool, "KEPT", kept)
        for key, value in records:
            taking.add(key, value)
        found = dict(taking.groups())
    expected: dict[str, list[int]] = {}
    for key, value in records:
        expected.setdefault(key, []).append(value)
    assert found == expected


def test_times_that_are_infinite_or_no_number_cut_nothing(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "a.mp4")
    rows = [{"path": "a.mp4", "start": a, "end": b, "text": "wave"}
            for a, b in ((math.nan, 2.0), (-math.inf, 2.0), (1.0, math.inf))]  # fmt: skip
    write_parquet(root / "clips.parquet", rows)
    ((video,), _) = listed(root, root / "clips.parquet")
    assert [(s.start_s, s.end_s, s.reason) for s in video.spans] == [
        (0.0, 0.0, "no_time"),
        (1.0, math.inf, ""),
    ]
