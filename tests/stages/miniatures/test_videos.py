"""Laws of the miniatures of video datasets: how they are written, and SSv2's and Kinetics'."""

import json
import re
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from handloom.errors import UserError
from handloom.stages.datasets.catalog import video_adapter
from handloom.stages.datasets.source import CutRule
from handloom.stages.miniatures import (
    egocentric10k,
    egodex,
    egoexo4d,
    epic_kitchens,
    howto100m,
    kinetics700,
    ssv2,
)
from handloom.stages.miniatures.people.motion import state_at
from tests.helpers.folders import sums
from tests.helpers.media import Rows, playable, table
from tests.helpers.miniatures import CLIPS, Written, marked, writer

MODULES = {"ssv2": ssv2, "kinetics700": kinetics700, "epic_kitchens": epic_kitchens,
           "howto100m": howto100m, "egoexo4d": egoexo4d, "egodex": egodex,
           "egocentric10k": egocentric10k}  # fmt: skip
ORIGINAL = {
    "ssv2": "20bn-something-something-v2/1.webm",
    "kinetics700": "k700-2020/train/-Abc_dEf-12_000001_000011.mp4",
    "epic_kitchens": "EPIC-KITCHENS/P01/videos/P01_01.MP4",
    "howto100m": "raw_caption.json",
    "egoexo4d": "takes.json",
    "egodex": "part1/task/0.mp4",
    "egocentric10k": "factory_001/workers/worker_001/factory001_worker001_part00.tar",
}
# Whose adapters list what is there; of the others the files say it themselves.
LISTED = [name for name in MODULES if name not in ("egodex", "egocentric10k")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return writer(tmp_path_factory)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.long if n in ("ssv2",) else pytest.mark.slow)
        for n in MODULES
    ],
)
def test_an_interrupted_run_ends_with_the_same_bytes(
    name: str, tiny: Written, tmp_path: Path
) -> None:
    before = sums(tiny(name))
    shutil.copytree(tiny(name), tmp_path, dirs_exist_ok=True)
    (tmp_path / ".complete.json").unlink()
    victim = max(tmp_path.rglob("*"), key=lambda path: path.stat().st_size)
    victim.write_bytes(b"half")
    victim.with_name("left.partial").touch()
    MODULES[name].write(tmp_path, clips=CLIPS[name])
    assert sums(tmp_path) == before


@pytest.mark.parametrize("name", marked(MODULES))
def test_a_finished_folder_is_left_alone(name: str, tiny: Written) -> None:
    root = tiny(name)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    MODULES[name].write(root, clips=CLIPS[name])
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize("name", MODULES)
def test_the_original_is_never_overwritten(name: str, tmp_path: Path) -> None:
    real = tmp_path / ORIGINAL[name]
    real.parent.mkdir(parents=True, exist_ok=True)
    real.write_text("7 TB")
    with pytest.raises(UserError, match="not a miniature"):
        MODULES[name].write(tmp_path, clips=CLIPS[name])
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [real]
    assert real.read_text() == "7 TB"


def test_another_miniature_is_never_overwritten(tiny: Written, tmp_path: Path) -> None:
    (tmp_path / ".miniature").write_bytes((tiny("ssv2") / ".miniature").read_bytes())
    with pytest.raises(UserError, match="another miniature"):
        kinetics700.write(tmp_path, clips=4)


@pytest.mark.parametrize("module", MODULES.values(), ids=list(MODULES))
def test_another_seed_shows_something_else(module: ModuleType) -> None:
    assert list(module.plan(8, 0)) == list(module.plan(8, 0))
    assert list(module.plan(8, 0)) != list(module.plan(8, 1))


@pytest.mark.parametrize("name", marked(LISTED))
def test_adapters_find_what_is_there_and_miss_what_is_not(name: str, tiny: Written) -> None:
    root, adapter = tiny(name), video_adapter(name)
    videos = list(adapter.videos(root, CutRule()))
    assert all((root / video.media_path).is_file() for video in videos if video.media_path)
    assert any(video.reason == "missing_file" for video in videos)
    good = [video for video in videos if not video.reason]
    spans = [
        span
        for video in good
        for span in (adapter.cut(video, CutRule()) if adapter.cut else video.spans)
    ]
    assert len([span for span in spans if not span.reason]) >= CLIPS[name]


# Something-Something V2


def ssv2_json(root: Path, name: str) -> Any:
    return json.loads((root / f"something-something-v2-{name}.json").read_text())


def test_ssv2_files_are_webm_as_the_original(tiny: Written) -> None:
    files = sorted((tiny("ssv2") / "20bn-something-something-v2").glob("*"))
    assert all(re.fullmatch(r"[1-9]\d*\.webm", file.name) for file in files)
    facts = playable(files)
    assert len(facts) == len(files)
    assert {(f["codec"], f["fps"], f["size"][1]) for f in facts.values()} == {("vp9", 12, 240)}
    assert {f["size"][0] for f in facts.values()} == {427, 320, 180}
    assert not any(f["sound"] for f in facts.values())
    clips = {f"{clip.name}.webm": clip for clip in ssv2.plan(CLIPS["ssv2"], 0)}
    assert all(2 <= clip.take.seconds <= 6 for clip in clips.values())
    short = [n for n, f in facts.items() if f["frames"] < round(12 * clips[n].take.seconds)]
    assert [clips[name].fault for name in short] == ["truncated"]


def test_ssv2_rows_and_files_differ_by_one_each_way(tiny: Written) -> None:
    root = tiny("ssv2")
    files = {path.stem for path in (root / "20bn-something-something-v2").iterdir()}
    test = ssv2_json(root, "test")
    assert all(set(row) == {"id"} for row in test)
    rows = ssv2_json(root, "train") + ssv2_json(root, "validation") + test
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids)
    assert len(set(ids) - files) == len(files - set(ids)) == 1
    lines = (root / "something-something-v2-test-answers.csv").read_text().splitlines()
    answers = dict(line.split(";") for line in lines)
    assert list(answers) == [row["id"] for row in test] != []
    assert set(answers.values()) <= set(ssv2_json(root, "labels"))


def test_ssv2_labels_are_filled_templates_of_the_listed_classes(tiny: Written) -> None:
    root = tiny("ssv2")
    rows, wrong = ssv2_json(root, "train") + ssv2_json(root, "validation"), 0
    for row in rows:
        gaps = re.findall(r"\[[^]]*\]", row["template"])
        assert row["template"].replace("[", "").replace("]", "") in ssv2_json(root, "labels")
        wrong += len(gaps) != len(row["placeholders"])
        filled = row["template"]
        for gap, word in zip(gaps, row["placeholders"], strict=False):
            filled = filled.replace(gap, word, 1)
        assert row["label"] == filled.lower()
    assert wrong == 1
    assert any("," in row["template"] for row in rows)
    assert any(row["template"].startswith("[Something]") for row in rows)


def test_ssv2_shows_what_it_says() -> None:
    """Where the words name a direction or another thing, the things move that way."""
    seen = Counter[str]()
    for clip in ssv2.plan(60, 3):
        take, text = clip.take, clip.template.text
        if not take.actions:
            assert clip.template.happens
            continue
        first, last = (
            state_at(take.things, take.actions, at, take.seconds)[0] for at in (0, take.seconds)
        )
        right = last[0].column - first[0].column
        away, up = last[0].row - first[0].row, last[0].lift - first[0].lift
        words = {"from left to right": right > 0, "from right to left": right < 0,
                 "away from the camera": away > 0, "towards the camera": away < 0,
                 "Picking": up > 0, "Putting": up < 0}  # fmt: skip
        if "closer to" in text or "away from [" in text:
            far = [abs(things[1].column - things[0].column) for things in (first, last)]
            words |= {"closer to": far[1] < far[0], "away from [": far[1] > far[0]}
        for said, shown in words.items():
            if said in text:
                assert shown, text
                seen[said] += 1
    assert len(seen) == 8


# Kinetics


@pytest.fixture
def kinetics_rows(tiny: Written) -> dict[str, Rows]:
    root = tiny("kinetics700") / "k700-2020/annotations"
    return {split: table(root / f"{split}.csv") for split in ("train", "val", "test")}


def kinetics_name(row: dict[str, str]) -> str:
    return f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}.mp4"


def test_kinetics_rows_and_files_differ_both_ways(
    tiny: Written, kinetics_rows: dict[str, Rows]
) -> None:
    root = tiny("kinetics700") / "k700-2020"
    names = {f"{s}/{kinetics_name(r)}" for s, rows in kinetics_rows.items() for r in rows}
    files = {str(path.relative_to(root)) for path in root.glob("*/*.mp4")}
    assert len(files - names) == 1
    assert len(names - files) >= 0.1 * len(names)
    assert all(re.fullmatch(r"\w+/[\w-]{11}_\d{6}_\d{6}\.mp4", name) for name in files)


def test_kinetics_files_are_of_many_kinds_and_some_are_broken(tiny: Written) -> None:
    files = sorted((tiny("kinetics700") / "k700-2020").glob("*/*.mp4"))
    facts = playable(files)
    broken = [file for file in files if file.name not in facts]
    assert sorted(file.stat().st_size > 0 for file in broken) == [False, True]
    (cut_off,) = (file.read_bytes() for file in broken if file.stat().st_size)
    assert b"ftyp" in cut_off
    assert b"moov" not in cut_off
    assert {f["codec"] for f in facts.values()} == {"h264"}
    assert {tuple(f["sound"]) for f in facts.values()} == {(), ("aac",)}
    assert len({f["size"] for f in facts.values()}) >= 3
    assert len({f["fps"] for f in facts.values()}) >= 3
    assert any(height > width for width, height in (f["size"] for f in facts.values()))
    lengths = sorted(f["seconds"] for f in facts.values())
    assert lengths[0] < 9
    assert lengths[1:] == pytest.approx([10.0] * (len(lengths) - 1), abs=0.1)


def test_kinetics_labels_and_ids_have_the_oddities(kinetics_rows: dict[str, Rows]) -> None:
    rows = [row for split in kinetics_rows.values() for row in split]
    labels = {row["label"] for row in rows}
    assert len(labels) > len({label.lower() for label in labels})
    assert any("'" in label for label in labels)
    assert any("(" in label for label in labels)
    ids = {row["youtube_id"] for row in rows}
    assert {"-", "_"} <= {name[0] for name in ids}
    said = {split: kinetics_rows[split][0]["split"] for split in kinetics_rows}
    assert said == {"train": "train", "val": "validate", "test": "test"}


def test_kinetics_ids_come_again() -> None:
    """Twice in a split with other seconds and another label; and in train as well as in val."""
    splits = Counter[frozenset[str]]()
    for seed in range(8):
        clips = sorted(kinetics700.plan(4 + seed, seed), key=lambda clip: clip.video_id)
        for first, second in pairwise(clips):
            if first.video_id == second.video_id:
                assert first.label != second.label
                assert first.start_s != second.start_s
                splits[frozenset((first.split, second.split))] += 1
    assert sum(count for names, count in splits.items() if len(names) == 1) == 8
    assert splits[frozenset(("train", "val"))] >= 4
