"""Laws of the miniatures of long videos: EPIC-KITCHENS' segments and HowTo100M's speech."""

import ast
import json
import re
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.media import Rows, playable, table
from tests.helpers.miniatures import writer

pytestmark = pytest.mark.long

Captions = dict[str, dict[str, list[Any]]]


@pytest.fixture(scope="module")
def kitchens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writer(tmp_path_factory)("epic_kitchens")


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writer(tmp_path_factory)("howto100m")


# EPIC-KITCHENS


EPIC_COLUMNS = """
    narration_id participant_id video_id narration_timestamp start_timestamp stop_timestamp
    start_frame stop_frame narration verb verb_class noun noun_class all_nouns all_noun_classes
"""


@pytest.fixture
def epic(kitchens: Path) -> dict[str, Rows]:
    folder = kitchens / "epic-kitchens-100-annotations"
    names = ("train", "validation", "test_timestamps", "video_info", "noun_classes",
             "verb_classes")  # fmt: skip
    return {name: table(folder / f"EPIC_100_{name}.csv") for name in names}


def seconds_of(clock: str) -> Fraction:
    hours, minutes, seconds = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)


def test_epic_files_are_two_kinds_of_mp4_as_long_as_listed(
    kitchens: Path, epic: dict[str, Rows]
) -> None:
    files = sorted((kitchens / "EPIC-KITCHENS").glob("P*/videos/*.MP4"))
    facts, listed = playable(files), {row["video_id"]: row for row in epic["video_info"]}
    assert len(listed) - len(files) == 1
    assert len(files) - len(facts) == 1
    for name, found in facts.items():
        row = listed[name.removesuffix(".MP4")]
        assert found["codec"] == "h264"
        assert found["kinds"] == ["video", "audio", "data"]
        assert found["fps"] == (50 if len(name) == len("P01_101.MP4") else Fraction(60000, 1001))
        assert float(row["fps"]) == pytest.approx(float(found["fps"]))
        assert float(row["duration"]) == pytest.approx(found["seconds"], abs=0.04)
        assert row["resolution"] == "{}x{}".format(*found["size"])
    assert {float(row["fps"]) for row in listed.values()} == {50.0, 59.9400599400599}


def test_epic_tables_have_the_columns_and_the_order_of_the_original(epic: dict[str, Rows]) -> None:
    columns = EPIC_COLUMNS.split()
    assert list(epic["train"][0]) == list(epic["validation"][0]) == columns
    assert list(epic["test_timestamps"][0]) == columns[:8]
    for name in ("train", "validation", "test_timestamps"):
        ids = [row["narration_id"] for row in epic[name]]
        assert ids == sorted(ids)
    starts = [
        seconds_of(row["start_timestamp"]) for row in epic["train"] if row["video_id"] == "P01_01"
    ]
    assert starts != sorted(starts)


def test_epic_segments_overlap_go_too_far_and_lack_narration_times(
    kitchens: Path, epic: dict[str, Rows]
) -> None:
    lengths = {row["video_id"]: float(row["duration"]) for row in epic["video_info"]}
    late, spans = 0, []
    for row in epic["train"] + epic["validation"] + epic["test_timestamps"]:
        start, stop = (seconds_of(row[f"{end}_timestamp"]) for end in ("start", "stop"))
        rate = 50 if len(row["video_id"]) == len("P01_101") else 60
        assert (int(row["start_frame"]), int(row["stop_frame"])) == (
            int(start * rate), int(stop * rate),
        )  # fmt: skip
        late += stop > lengths[row["video_id"]]
        spans.append((row["video_id"], start, stop))
    assert late == 1
    spans.sort()
    assert sum(a == b and start < stop for (a, _, stop), (b, start, _) in pairwise(spans)) > 3
    folder = kitchens / "epic-kitchens-100-annotations"
    for name in ("train", "validation"):
        silent = [row["narration_id"] for row in epic[name] if not row["narration_timestamp"]]
        rows = table(folder / f"EPIC_100_{name}_missing_timestamp_narrations.csv")
        assert [row["narration_id"] for row in rows] == silent != []
    subset = table(folder / "UDA_annotations/EPIC_100_uda_source_train.csv")
    assert 0 < len([row for row in subset if row in epic["train"]]) == len(subset)


def test_epic_classes_are_those_of_the_words(epic: dict[str, Rows]) -> None:
    verbs, nouns = (
        {word: row["id"] for row in epic[name] for word in ast.literal_eval(row["instances"])}
        for name in ("verb_classes", "noun_classes")
    )
    several = 0
    for row in epic["train"] + epic["validation"]:
        assert verbs[row["verb"]] == row["verb_class"]
        assert nouns[row["noun"]] == row["noun_class"]
        named = ast.literal_eval(row["all_nouns"])
        assert [nouns[noun] for noun in named] == [
            str(number) for number in ast.literal_eval(row["all_noun_classes"])
        ]
        assert all(noun in row["narration"] for noun in named)
        several += len(named) > 1
    assert several


# HowTo100M


@pytest.fixture
def captions(lessons: Path) -> Captions:
    found = json.loads((lessons / "raw_caption.json").read_text())
    assert isinstance(found, dict)
    return found


def howto_files(root: Path) -> dict[str, Path]:
    return {path.name[:11]: path for path in sorted((root / "videos").iterdir())}


def test_howto100m_files_are_as_a_video_site_delivers_them(
    lessons: Path, captions: Captions
) -> None:
    files = howto_files(lessons)
    facts = playable(list(files.values()))
    kinds = {(path.suffix, f["codec"], *f["sound"])
             for path in files.values() if (f := facts.get(path.name))}  # fmt: skip
    assert kinds == {(".mp4", "h264", "aac"), (".webm", "vp9", "opus"), (".mkv", "h264", "aac")}
    broken = [path for path in files.values() if path.name not in facts]
    assert sorted(path.suffix for path in broken) == [".mp4", ".mp4", ".part"]
    assert sum(path.stat().st_size == 0 for path in broken) == 1
    assert sum(path.read_bytes().startswith(b"<!DOCTYPE") for path in broken) == 1
    turned = [f for f in facts.values() if f["rotation"]]
    assert [f["size"][0] > f["size"][1] for f in turned] == [True]  # portrait, stored lying
    assert len(captions.keys() - files.keys()) == 3
    assert len(files.keys() - captions.keys()) == 1
    assert {"-", "_"} <= {name[0] for name in files}
    assert all(20 <= facts[files[name].name]["seconds"] <= 40
               for name in captions.keys() & files.keys() if files[name].name in facts)  # fmt: skip


def test_howto100m_lines_stay_until_the_one_after_the_next(captions: Captions) -> None:
    for entry in captions.values():
        lines = list(zip(entry["start"], entry["end"], entry["text"], strict=True))
        spoken = [line for line in lines if line[2] not in ("um", "", "nan")][:-2]
        assert len(spoken) > 4
        for (_, end, _), (start, _, _) in zip(spoken, spoken[2:], strict=False):
            assert end == start


def test_howto100m_lines_have_the_oddities_of_speech_recognition(
    lessons: Path, captions: Captions
) -> None:
    lines = [
        line
        for entry in captions.values()
        for line in zip(entry["start"], entry["end"], entry["text"], strict=True)
    ]
    texts = [text for _, _, text in lines]
    assert any(start == end for start, end, _ in lines)
    assert {"", "nan", "[Music]"} <= set(texts)
    assert any("&#39;" in text for text in texts)
    assert any("&amp;" in text for text in texts)
    assert not any(re.search(r"[A-Z.,!?]", text) for text in texts if text != "[Music]")
    files = howto_files(lessons)
    facts = playable(list(files.values()))
    beyond = [
        entry["start"][-1] > facts[files[name].name]["seconds"]
        for name, entry in captions.items()
        if name in files and files[name].name in facts
    ]
    assert beyond
    assert all(beyond)


def test_howto100m_other_tables_go_with_the_captions(lessons: Path, captions: Captions) -> None:
    short = json.loads((lessons / "caption.json").read_text())
    assert short.keys() == captions.keys()
    for name, entry in captions.items():
        pairs = list(zip(short[name]["text"], entry["text"], strict=True))
        assert all(set(few.split()) <= set(all_words.split()) for few, all_words in pairs)
        assert any(few != all_words for few, all_words in pairs)
    rows = table(lessons / "HowTo100M_v1.csv")
    tasks = {row["id"] for row in table(lessons / "task_ids.csv", "\t")}
    assert {row["task_id"] for row in rows} <= tasks
    counts = Counter(row["video_id"] for row in rows)
    assert counts.keys() == captions.keys()
    assert max(counts.values()) == 2
