"""The Ego-Exo4D adapter: takes and their splits, sentences and their annotators, poses."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.errors import UserError
from handloom.stages.camera import Camera, CameraRow
from handloom.stages.datasets import egoexo4d as adapter
from handloom.stages.datasets.source import CutRule, SourceVideo, Span
from handloom.stages.ingest.videos import Ingest
from handloom.stages.miniatures import egoexo4d as miniature
from handloom.stages.miniatures.people.motion import VERBS
from handloom.stages.stage import run_isolated
from handloom.stages.tables.rows import Clip
from tests.helpers.miniatures import CLIPS, writer

PLAN = miniature.plan(CLIPS["egoexo4d"], 0)
RULE = CutRule()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writer(tmp_path_factory)("egoexo4d")


def listed(root: Path) -> dict[str, SourceVideo]:
    found = list(adapter.videos(root, RULE))
    assert all(one.spans for one in found)
    units = {one.unit: one for one in found}
    assert len(units) == len(found)
    return units


def clips(root: Path) -> list[Clip]:
    ingest = Ingest(dataset="egoexo4d", format="egoexo4d").at(root)
    found = [row for video in ingest.sources() for row in run_isolated(ingest, (video,))]
    assert len({row.clip_id for row in found}) == len(found)
    return [row for row in found if isinstance(row, Clip)]


def said(text: str, at_s: Any, **more: Any) -> dict[str, Any]:
    return {"text": text, "timestamp": at_s, "subject": "C", "ego_visible": True} | more


def spans(*annotators: list[dict[str, Any]], rejected: tuple[int, ...] = ()) -> list[Span]:
    told = [
        {"annotator_id": str(i), "rejected": i in rejected, "descriptions": rows}
        for i, rows in enumerate(annotators)
    ]
    return list(adapter.cut(told, RULE))


def write(root: Path, told: Any, **files: Any) -> Path:
    """A download with one take, `uid`."""
    contents = {
        "takes.json": [{"take_uid": "uid", "root_dir": "takes/t", "duration_sec": 9.5}],
        "annotations/splits.json": {"take_uid_to_split": {"uid": "train"}},
        "annotations/atomic_descriptions_train.json": {"annotations": told},
    } | files
    for name, value in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(value))
    return root


def test_takes_have_their_official_split_and_one_view(data: Path) -> None:
    found = listed(data)
    for one in PLAN:
        video = found[one.uid]
        reason = {
            "missing": "missing_file", "withdrawn": "unknown_take", "silent": "no_text",
        }.get(one.fault, "")  # fmt: skip
        assert video.reason == ("benchmark_test" if one.split == "test" else reason)
        assert video.split == one.split
        if one.fault not in ("missing", "withdrawn"):
            assert video.media_path == f"{one.folder}{one.camera}_214-1.mp4"
            assert video.expected_s == one.take.seconds
    assert len(found) == len(PLAN) + 1
    (twice,) = [one for one in PLAN if len(one.described) == 2]
    assert found[f"{twice.uid}#train"].reason == "video_in_val"


def test_sentences_of_the_best_annotator_cut_a_take(data: Path) -> None:
    rows: dict[str, list[Clip]] = {}
    for row in clips(data):
        rows.setdefault(row.video_id, []).append(row)
    for one in PLAN[:3]:
        good = [row for row in rows[one.uid] if row.status == "ok"]
        actions, name = one.take.actions, one.take.names[0]
        assert [row.start_s for row in good] == [action.start_s for action in actions]
        assert [row.end_s for row in good[:-1]] == [action.start_s for action in actions[1:]]
        for row, action in zip(good, actions, strict=True):
            words = VERBS[action.verb]
            assert row.text == f"C {words.words.format(name)}."
            assert row.other_texts == [f"C {words.other_words.format(name)}."]
        reasons = sorted(row.reason for row in rows[one.uid] if row.reason)
        assert reasons == ["no_time", "not_visible"]
        assert all("sings" not in text for row in good for text in (row.text, *row.other_texts))
        assert all((row.text_flags == ["unsure"]) == (one.index % 3 == 2) for row in good)
    (broken,) = [one for one in PLAN if one.fault == "truncated"]
    assert {row.status for row in rows[broken.uid]} == {"failed", "rejected"}


def test_the_order_of_annotators_and_sentences_changes_nothing() -> None:
    first = [said("C cuts.", 2.0), said("C stirs.", 5.0), said("The man X sits.", 3.5, subject="O")]
    second = [said("C chops.", 2.2)]
    expected = spans(first, second)
    assert expected == spans(second, first[::-1])
    assert [(s.start_s, s.end_s, s.text, s.other_texts, s.reason) for s in expected] == [
        (2.0, 3.5, "C cuts.", ("C chops.",), ""),
        (3.5, 5.0, "The man X sits.", (), "other_person"),
        (5.0, 13.0, "C stirs.", (), ""),
    ]


def test_what_the_glasses_do_not_see_is_left_out() -> None:
    rows = [said("C kicks.", 1.0, ego_visible="0"), said("C looks.", 2.0, ego_visible="1")]
    hidden = [said("C steps back.", 2.5, ego_visible=False)]
    assert [(s.reason, s.other_texts) for s in spans(rows, hidden)] == [
        ("not_visible", ()),
        ("", ()),
    ]
    # Of two sentences of one moment, the one that is seen is the clip's.
    (both,) = spans([said("C steps.", 1.0, ego_visible=False), said("C cuts.", 1.0)])
    assert (both.text, both.reason, both.other_texts) == ("C cuts.", "", ())


@pytest.mark.parametrize("time", [None, "3", -1.0, math.nan, 1e30, 10**400, [], {}])
def test_times_that_are_none_are_counted(time: Any) -> None:
    found = spans([said("C cuts.", 1.0), said("C stirs.", time)])
    assert [(s.text, s.reason) for s in found] == [("C cuts.", ""), ("C stirs.", "no_time")]


def test_rejected_annotations_count_where_there_are_no_others() -> None:
    wrong, right = [said("C sings.", 1.0), said("C hums.", 2.0)], [said("C cuts.", 1.0)]
    assert [s.text for s in spans(wrong, right, rejected=(0,))] == ["C cuts."]
    assert {s.reason for s in spans(wrong, rejected=(0,))} == {"annotation_rejected"}


@pytest.mark.parametrize("told", [[], [{"descriptions": []}], [{"descriptions": None}], {}, None])
def test_a_take_of_whom_nothing_is_said_is_counted(told: Any, tmp_path: Path) -> None:
    (video,) = listed(write(tmp_path, {"uid": told})).values()
    assert (video.reason, len(video.spans)) == ("no_text", 1)


def test_odd_entries_are_no_errors(tmp_path: Path) -> None:
    told = [{"descriptions": ["C cuts.", {"text": None, "timestamp": 1.0}, said(" ", 2.0)]}, 7]
    (video,) = listed(write(tmp_path, {"uid": told})).values()
    assert [s.reason for s in video.spans] == ["no_text", "no_text", "no_time"]


def test_the_larger_videos_are_read_and_paths_are_found_not_made(tmp_path: Path) -> None:
    told = {"uid": [{"descriptions": [said("C cuts.", 1.0)]}]}
    aligned = write(tmp_path, told) / "takes/t/frame_aligned_videos"
    small = aligned / "downscaled/448/aria01_214-1.mp4"
    small.parent.mkdir(parents=True)
    small.touch()
    assert listed(tmp_path)["uid"].media_path == small.relative_to(tmp_path).as_posix()
    large = aligned / "aria01_214-1.mp4"
    large.touch()
    assert listed(tmp_path)["uid"].media_path == large.relative_to(tmp_path).as_posix()
    takes = [{"take_uid": "uid", "root_dir": "../../etc", "duration_sec": 1e300}]
    write(tmp_path, told, **{"takes.json": takes})
    assert (listed(tmp_path)["uid"].media_path, listed(tmp_path)["uid"].reason) == (
        "", "missing_file",
    )  # fmt: skip


def test_without_splits_a_take_has_that_of_the_list_that_describes_it(tmp_path: Path) -> None:
    told = {"uid": [{"descriptions": [said("C cuts.", 1.0)]}]}
    write(tmp_path, told, **{"annotations/atomic_descriptions_val.json": {"annotations": told}})
    (tmp_path / "annotations/splits.json").unlink()
    assert {one.split for one in listed(tmp_path).values()} == {"val"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("takes.json", '[{"take_uid": "a"', "takes.json is not complete JSON"),
        ("takes.json", '[{"uid": 3}]', "takes.json has an entry without take_uid"),
        ("annotations/atomic_descriptions_train.json", '{"annotations": {"a": [', "not complete"),
        ("annotations/splits.json", '{"take_uid_to_split": {"a": "tr', "not complete JSON"),
    ],
)
def test_broken_lists_are_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    (write(tmp_path, {}) / name).write_text(text)
    with pytest.raises(UserError, match=message):
        list(adapter.videos(tmp_path, RULE))


def test_what_is_missing_is_said_with_the_command_that_gets_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing; expected takes\.json.*egoexo -o"):
        adapter.annotations(tmp_path)
    (tmp_path / "takes.json").write_text("[]")
    with pytest.raises(UserError, match=r"atomic_descriptions_train\.json.*--parts annotations"):
        adapter.annotations(tmp_path)


def tracked(root: Path, clip: Clip) -> CameraRow:
    stage = Camera().at(root, source=Ingest(dataset="egoexo4d", format="egoexo4d"))
    (row,) = run_isolated(stage, (clip,))
    assert isinstance(row, CameraRow)
    return row


def test_poses_are_those_of_the_annotated_frames_in_the_world(data: Path) -> None:
    """x = R X + t is turned round by hand: R^T is a quarter turn about z, -R^T t the place."""
    rows = [row for row in clips(data) if row.status == "ok"]
    clip = next(row for row in rows if row.video_id == PLAN[0].uid and row.start_s > 2)
    row = tracked(data, clip)
    frames = [f for f in range(0, 10_000, 3) if clip.start_s <= f / 30 < clip.end_s]
    np.testing.assert_allclose(row.times_s, np.array(frames) / 30)
    half = math.sqrt(0.5)
    expected = [[f / 30, 2.0, -0.5, 0.0, 0.0, half, half] for f in frames]
    np.testing.assert_allclose(row.camera, expected, atol=1e-12)
    assert (row.model, row.width, row.intrinsics) == ("pinhole", 512, [150.0, 150.0, 255.5, 255.5])
    other = tracked(data, next(row for row in rows if row.video_id == PLAN[1].uid))
    assert (other.status, other.model, other.camera) == ("ok", "", [])


@pytest.mark.parametrize(
    "aria",
    [
        {}, [], {"camera_extrinsics": []}, {"camera_extrinsics": {"x": []}},
        {"camera_extrinsics": {"0": [[1, 0, 0, 0]]}, "camera_intrinsics": np.eye(3).tolist()},
        {"camera_extrinsics": {"0": np.eye(4)[:3].tolist()}, "camera_intrinsics": None},
        {"camera_extrinsics": {"0": [[{}] * 4] * 3}, "camera_intrinsics": np.eye(3).tolist()},
        {"camera_extrinsics": {"0": np.ones((3, 4)).tolist()},
         "camera_intrinsics": np.eye(3).tolist()},
    ],
)  # fmt: skip
def test_broken_poses_fail_with_a_sentence(aria: Any, data: Path, tmp_path: Path) -> None:
    clip = next(row for row in clips(data) if row.status == "ok")
    path = f"annotations/ego_pose/val/camera_pose/{clip.video_id}.json"
    write(tmp_path, {}, **{path: {"aria01": aria}})
    row = tracked(tmp_path, clip)
    assert row.status == "failed"
    assert f"{clip.video_id}.json" in row.error
    assert "download" in row.error
