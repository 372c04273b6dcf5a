"""Laws of the embedded Ego4D: same bytes from the same seed, hands that are found, oddities."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from mediapipe import Image, ImageFormat
from mediapipe.tasks.python import BaseOptions, vision

from handloom.errors import UserError
from handloom.stages.miniatures import ego4d
from handloom.stages.miniatures.encode import render as rendered
from handloom.stages.miniatures.people.cast import FPS, NarratedVideo, plan
from handloom.stages.miniatures.people.motion import Action, state_at
from handloom.stages.miniatures.people.objects import Thing
from handloom.stages.miniatures.people.raster import Frame
from tests.helpers.folders import sums

CLIPS = 6
MODEL = Path(ego4d.__file__).parents[1] / "hands/models/hand_landmarker.task"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ego4d")
    ego4d.write(out, clips=CLIPS)
    return out


@pytest.fixture(scope="module")
def finds_hand() -> Iterator[Any]:
    options = vision.HandLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(MODEL)),
        num_hands=2,
        min_hand_detection_confidence=0.5,
        min_hand_presence_confidence=0.3,
    )
    with vision.HandLandmarker.create_from_options(options) as landmarker:
        yield lambda rgb: bool(
            landmarker.detect(
                Image(image_format=ImageFormat.SRGB, data=np.ascontiguousarray(rgb))
            ).hand_landmarks
        )


def narrations(root: Path) -> dict[str, Any]:
    found = json.loads((root / "v2/annotations/narration.json").read_text())
    assert isinstance(found, dict)
    return found


def listed(root: Path) -> list[dict[str, Any]]:
    found = json.loads((root / "v2/ego4d.json").read_text())["videos"]
    assert isinstance(found, list)
    return found


def decoded(path: Path) -> list[Frame]:
    with av.open(str(path)) as media:
        return [frame.to_ndarray(format="rgb24") for frame in media.decode(video=0)]


def actions(videos: Iterable[NarratedVideo]) -> list[Action]:
    return [action for video in videos for action in video.actions]


@pytest.mark.long
def test_an_interrupted_run_ends_with_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    (tmp_path / ego4d.MARKER).unlink()
    victim = next((tmp_path / "v2/full_scale").glob("*.mp4"))
    victim.write_bytes(b"half")
    (victim.parent / "left.partial").touch()
    ego4d.write(tmp_path, clips=CLIPS)
    assert sums(tmp_path) == sums(tiny)


def test_a_finished_folder_is_left_alone(tiny: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    ego4d.write(tiny, clips=CLIPS)
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before


def test_the_original_is_never_overwritten(tmp_path: Path) -> None:
    real = tmp_path / "v2/ego4d.json"
    real.parent.mkdir()
    real.write_text('{"description": "Ego4D"}')
    with pytest.raises(UserError, match="not a miniature"):
        ego4d.write(tmp_path, clips=CLIPS)
    assert real.read_text() == '{"description": "Ego4D"}'


def test_files_are_as_long_as_the_metadata_says(tiny: Path) -> None:
    """All but the one that was never downloaded and the one whose download was cut off."""
    outcomes: Counter[str] = Counter()
    for video in listed(tiny):
        path = tiny / f"v2/full_scale/{video['video_uid']}.mp4"
        if not path.exists():
            outcomes["missing"] += 1
            continue
        try:
            frames = decoded(path)
        except av.error.InvalidDataError:
            outcomes["truncated"] += 1
            continue
        media = video["video_metadata"]
        assert len(frames) == media["num_frames"]
        assert frames[0].shape[1] == media["display_resolution_width"]
        outcomes["stereo" if video["is_stereo"] else "plain"] += 1
    assert outcomes == {"missing": 1, "truncated": 1, "stereo": 1, "plain": len(listed(tiny)) - 3}


def test_annotations_have_the_oddities_of_the_original(tiny: Path) -> None:
    entries = narrations(tiny)
    seconds = {video["video_uid"]: video["duration_sec"] for video in listed(tiny)}
    passes = [
        (uid, entry[name]["narrations"])
        for uid, entry in entries.items()
        for name in entry
        if name.startswith("narration_pass")
    ]
    times = [[row["timestamp_sec"] for row in rows] for _, rows in passes]
    assert any(found != sorted(found) for found in times)
    assert any(max(found) > seconds[uid] for (uid, _), found in zip(passes, times, strict=True))
    assert all(rows.count(max(rows, key=rows.count)) == 2 for _, rows in passes)
    assert sum("narration_pass_2" not in entry for entry in entries.values()) == 1
    assert sum(uid.startswith("grp-") for uid in entries) == 1
    assert set(entries) == set(seconds)


def test_redacted_seconds_are_black_and_narrated(tiny: Path) -> None:
    video = next(v for v in listed(tiny) if v["has_redacted_regions"])
    (span,) = video["redacted_intervals"]
    frames = decoded(tiny / f"v2/full_scale/{video['video_uid']}.mp4")
    dark = [index for index, frame in enumerate(frames) if frame.mean() < 3]
    assert dark == list(range(span["start_frame"], span["end_frame"]))
    rows = narrations(tiny)[video["video_uid"]]["narration_pass_1"]["narrations"]
    assert any(span["start_sec"] <= row["timestamp_sec"] < span["end_sec"] for row in rows)


def test_hands_are_found_where_there_are_some(tiny: Path, finds_hand: Any) -> None:
    video = plan(CLIPS, 0)[1]
    frames = decoded(tiny / f"v2/full_scale/{video.uid}.mp4")
    for action in actions([video])[:2]:  # the third is black
        times = np.arange(action.start_s, action.end_s, 0.5)
        assert np.mean([finds_hand(frames[round(at * FPS)]) for at in times]) >= 0.6


@pytest.mark.parametrize("landscape", [False, True])
def test_no_hand_is_found_where_there_is_none(landscape: bool, finds_hand: Any) -> None:
    video = next(v for v in plan(110, 0) if not v.actions and v.landscape == landscape)
    assert not any(finds_hand(frame) for frame in list(rendered(video))[::5])


def test_splits_are_spread() -> None:
    videos = [v for v in plan(110, 0) if v.actions and not v.fault and "grp" not in v.uid]
    clips: Counter[str] = Counter()
    for video in videos:
        kept = next((name for name in ("test", "val") if name in video.splits), "train")
        clips[kept] += len(video.actions)
    assert 100 <= clips.total() <= 120
    assert 0.74 <= clips["train"] / clips.total() <= 0.82
    assert clips["test"] < clips["val"]


def test_nothing_leaves_the_square_or_stays_in_the_air() -> None:
    for video in plan(110, 0):
        if not video.actions:
            continue
        for at_s in np.arange(0, video.seconds, 0.1):
            things, _, _ = state_at(video.things, video.actions, at_s, video.seconds)
            assert all(40 + 24 <= thing.base[0] <= 280 - 24 for thing in things)
        assert not any(thing.lift for thing in things)
        columns = [round(thing.column) for thing in things]
        assert len(set(columns)) == len(columns)


def test_the_same_words_move_a_thing_the_same_way() -> None:
    """Movement depends on the words and the thing's place, not on what lies around it."""
    thing, action = Thing("cup", "red", 1.0, 0.0), Action("push", 0, 1.0, 2.4)
    alone = state_at((thing,), (action,), 2.2, 6.0)
    other = Thing("box", "blue", 3.0, 1.0)
    beside = state_at((thing, other), (action,), 2.2, 9.0)
    assert alone[0][0] == beside[0][0]
    assert alone[1:] == beside[1:]
    assert beside[0][1] == other
