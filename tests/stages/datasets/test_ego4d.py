"""The Ego4D adapter: narrations become spans as the format's documentation says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.errors import UserError
from handloom.stages.datasets import ego4d
from handloom.stages.datasets.source import CutRule, SourceVideo, Span
from handloom.stages.ingest.videos import Ingest, hashed_split
from handloom.stages.media.clip_frames import ClipFrames, whole
from handloom.stages.tables.rows import Clip, clip_id
from tests.helpers.odd_videos import Odd, truth, with_audio, x264
from tests.helpers.videos import write_grey_video

RULE = CutRule(max_s=8.0)
Rows = list[tuple[Any, str]]


def narrations(*passes: Rows) -> dict[str, Any]:
    return {
        f"narration_pass_{i}": {
            "narrations": [{"timestamp_sec": t, "narration_text": text} for t, text in rows]
        }
        for i, rows in enumerate(passes, 1)
    }


def spans(*passes: Rows, redacted: list[tuple[float, float]] | None = None) -> list[Span]:
    return list(ego4d.cut(narrations(*passes), RULE, redacted or []))


def test_a_span_runs_to_the_next_narration_and_not_too_far() -> None:
    found = spans([(20.0, "#C C b"), (1.0, "#C C a"), (3.5, "#C C c")])
    assert [(s.start_s, s.end_s, s.text) for s in found] == [
        (1.0, 3.5, "#C C a"),
        (3.5, 11.5, "#C C c"),
        (20.0, 28.0, "#C C b"),
    ]


def test_other_people_summaries_and_empty_texts_are_rejected_but_bound_spans() -> None:
    found = spans(
        [(1.0, "#C C a"), (2.0, "#O A man X sits"), (3.0, "#summary C cooks"), (4.0, "#C ")]
    )
    assert [s.reason for s in found] == ["", "other_person", "summary", "no_text"]
    assert found[0].end_s == 2.0


def test_the_second_pass_adds_texts_not_clips() -> None:
    first: Rows = [(1.0, "#C C picks a cup"), (5.0, "#C C drops a cup")]
    second: Rows = [(1.5, "#C C takes the cup"), (1.7, "#O X waves"), (40.0, "#C C leaves")]
    (picks, drops) = spans(first, second[:2])
    assert picks.other_texts == ("#C C takes the cup",)
    assert drops.other_texts == ()
    # The pass with more of the wearer's narrations cuts.
    assert len(spans(first[:1], second)) == 3


def test_either_pass_may_be_absent() -> None:
    only_second = narrations([], [(1.0, "#C C a")])
    del only_second["narration_pass_1"]
    assert [s.text for s in ego4d.cut(only_second, RULE)] == ["#C C a"]
    assert list(ego4d.cut({"status": "complete"}, RULE)) == []


def test_narrations_at_one_time_share_a_span() -> None:
    (span, _) = spans([(1.0, "#O X a"), (1.0, "#C C b"), (1.0, "#C C b"), (4.0, "#C C c")])
    assert (span.text, span.other_texts, span.reason) == ("#C C b", (), "")


def test_redacted_seconds_reject_what_touches_them() -> None:
    rows: Rows = [(1.0, "#C C a"), (5.0, "#C C b"), (9.0, "#C C c")]
    assert [s.reason for s in spans(rows, redacted=[(6.0, 7.0)])] == ["", "redacted", ""]


def test_the_same_text_at_other_times_is_another_clip() -> None:
    found = spans([(1.0, "#C C cuts"), (4.0, "#C C cuts"), (7.0, "#C C cuts")])
    assert [s.start_s for s in found] == [1.0, 4.0, 7.0]


def test_text_keeps_its_letters() -> None:
    (span,) = spans([(1.0, "#C C opens “the” café door \n")])
    assert span.text == "#C C opens “the” café door \n"
    assert ego4d.who_acts(span.text) == "wearer"


@pytest.mark.parametrize("status", ["complete", "redacted", "redacted_partial"])
def test_the_status_of_the_narrations_says_nothing_of_the_picture(status: str) -> None:
    entry = narrations([(1.0, "#C C a")]) | {"status": status}
    assert [s.reason for s in ego4d.cut(entry, RULE)] == [""]


def test_rows_of_another_kind_have_no_time() -> None:
    odd = {"narration_pass_1": {"narrations": ["text", {"narration_text": "#C C b"}, None]}}
    assert [s.reason for s in ego4d.cut(odd, RULE)] == ["no_time"]
    assert (
        list(ego4d.cut({"narration_pass_1": [], "narration_pass_2": {"narrations": 3}}, RULE)) == []
    )
    assert [s.reason for s in spans([(1e300, "#C C a")])] == ["no_time"]


def test_rows_without_a_time_are_counted() -> None:
    found = spans([(None, "#C C a"), (-1.0, "#C C b"), (2.0, "#C C c")])
    assert [s.reason for s in found] == ["", "no_time"]


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ("#C C opens", "wearer"), ("# C C opens", "wearer"), ("#c c opens", "wearer"),
        ("#C #C C opens", "wearer"), ("#unsure #C C opens", "wearer"), ("C opens", "wearer"),
        ("#O A man X opens", "other"), ("#o X opens", "other"), ("X opens", "other"),
        ("#Summary C opens", "summary"), ("opens the door", "unknown"), ("A door", "unknown"),
        ("#cutting board", "unknown"), ("", "unknown"),
    ],
)  # fmt: skip
def test_who_acts(text: str, who: str) -> None:
    assert ego4d.who_acts(text) == who


def test_flags_say_what_is_doubtful() -> None:
    (unsure, untagged) = spans([(1.0, "#unsure #C C a"), (3.0, "opens a door")])
    assert unsure.flags == ("unsure",)
    assert untagged.flags == ("no_tag",)


def download(root: Path, videos: list[dict[str, Any]], told: dict[str, Any]) -> Path:
    """An Ego4D folder with empty video files."""
    home = root / "v2"
    (home / "annotations").mkdir(parents=True)
    (home / "full_scale").mkdir()
    (home / "ego4d.json").write_text(json.dumps({"version": "2.0", "videos": videos}))
    (home / "annotations/narration.json").write_text(json.dumps(told))
    for video in videos:
        (home / f"full_scale/{video['video_uid']}.mp4").touch()
    return root


@pytest.mark.parametrize("wrapped", [False, True])
def test_videos_carry_split_release_and_reason(tmp_path: Path, wrapped: bool) -> None:
    videos: list[dict[str, Any]] = [
        {"video_uid": "a", "split_em": None, "split_fho": "train"},
        {"video_uid": "b", "split_em": "multi", "split_fho": "train"},
        {"video_uid": "c", "split_av": "test", "split_fho": "val"},
        {"video_uid": "d", "is_stereo": True},
        {"video_uid": "grp-e"},
    ]
    told = {v["video_uid"]: narrations([(1.0, "#C C a")]) for v in [*videos, {"video_uid": "f"}]}
    root = download(tmp_path, videos, {"videos": told} if wrapped else told)
    found = {v.video_id: v for v in ego4d.videos(root, RULE)}
    assert {k: (v.split, v.reason) for k, v in found.items()} == {
        "a": ("train", ""),
        "b": ("val", ""),
        "c": ("test", "benchmark_test"),
        "d": ("", "stereo"),
        "grp-e": ("", "grouped_video"),
        "f": ("", "missing_file"),
    }
    assert found["a"].media_path == "v2/full_scale/a.mp4"
    assert found["a"].version == "v2"


def test_a_folder_in_place_of_a_file_is_no_file(tmp_path: Path) -> None:
    root = download(tmp_path, [], {"a": narrations([(1.0, "#C C a")])})
    (root / "v2/full_scale/a.mp4").mkdir()
    assert [v.reason for v in ego4d.videos(root, RULE)] == ["missing_file"]


def test_each_video_is_read_once_whatever_copies_there_are(tmp_path: Path) -> None:
    told = {"a": narrations([(1.0, "#C C a")]), "b": narrations([(1.0, "#C C b")])}
    root = download(tmp_path, [{"video_uid": "a"}], told)
    for copy in ("video_540ss", "clips", "clips_540ss"):
        (root / "v2" / copy).mkdir()
        (root / "v2" / copy / "a.mp4").touch()
    (root / "v2/full_scale/c.mp4").touch()  # of the other release: told by nobody
    found = [(v.video_id, v.media_path, v.reason) for v in ego4d.videos(root, RULE)]
    assert found == [("a", "v2/full_scale/a.mp4", ""), ("b", "", "missing_file")]


def test_releases_and_the_place_of_the_metadata_may_be_mixed(tmp_path: Path) -> None:
    told = {"a": narrations([(1.0, "#C C a")]), "b": narrations([(1.0, "#C C b")])}
    root = download(tmp_path, [{"video_uid": "a"}], told)
    (root / "v1").mkdir()
    (root / "v2/full_scale").rename(root / "v1/full_scale")  # v1's files, v2's annotations
    (root / "v2/ego4d.json").rename(root / "ego4d.json")
    found = [(v.media_path, v.version, v.reason) for v in ego4d.videos(root, RULE)]
    assert found == [("v1/full_scale/a.mp4", "v2", ""), ("", "v2", "missing_file")]
    assert [path.name for path in ego4d.annotations(root)] == ["ego4d.json", "narration.json"]


def test_a_uid_leads_to_no_file_outside(tmp_path: Path) -> None:
    told = {uid: narrations([(1.0, "#C C a")]) for uid in ("../../secret", "/etc/secret", "..")}
    root = download(tmp_path / "data", [], told)
    (tmp_path / "data/secret.mp4").touch()
    assert {v.media_path for v in ego4d.videos(root, RULE)} == {""}


@pytest.mark.parametrize(
    ("piece", "whose"),
    [
        ("full_scale/a.mp4/300.mp4", "LaViLa"),
        ("full_scale/a/0.mp4", "EgoVLP"),
        ("video_288px/a.mp4/0.mp4", "LaViLa"),
        ("chunked/a/1.mp4", "EgoVLP"),
    ],
)
def test_videos_in_pieces_are_refused_by_name(tmp_path: Path, piece: str, whose: str) -> None:
    root = download(tmp_path, [], {"a": narrations([(1.0, "#C C a")])})
    (root / "v2/full_scale").rmdir()
    (root / "v2" / piece).parent.mkdir(parents=True)
    (root / "v2" / piece).touch()
    with pytest.raises(UserError, match=f"laid out like {whose}'s, .* expected whole videos"):
        list(ego4d.videos(root, RULE))


def test_no_videos_at_all_are_told_of(tmp_path: Path) -> None:
    root = download(tmp_path, [], {"a": narrations([(1.0, "#C C a")])})
    (root / "v2/full_scale").rmdir()
    with pytest.raises(UserError, match="holds neither full_scale/ nor video_540ss/"):
        list(ego4d.videos(root, RULE))


def test_broken_metadata_is_named(tmp_path: Path) -> None:
    odd = {"video_uid": "a", "redacted_intervals": [{"start_sec": None, "end_sec": 1.0}]}
    root = download(tmp_path, [odd], {})
    with pytest.raises(UserError, match=r"ego4d\.json has an entry below `videos` that is not a"):
        list(ego4d.videos(root, RULE))


def test_broken_annotations_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not an Ego4D download: expected v2/ego4d\.json"):
        list(ego4d.videos(tmp_path, RULE))
    root = download(tmp_path, [{"video_uid": "a"}], {"a": narrations([(1.0, "#C C a")])})
    told = root / "v2/annotations/narration.json"
    whole = told.read_text()
    for broken in (whole[: len(whole) // 2], "", "[1, 2"):
        told.write_text(broken)
        with pytest.raises(UserError, match=r"narration\.json is not complete JSON"):
            list(ego4d.videos(root, RULE))
    told.write_text('{"a": [1, 2]}')
    with pytest.raises(UserError, match="expected an object"):
        list(ego4d.videos(root, RULE))
    told.unlink()
    with pytest.raises(UserError, match=r"holds no narration\.json"):
        list(ego4d.videos(root, RULE))


def test_spans_are_fitted_to_the_file(tmp_path: Path) -> None:
    def fit(start_s: float, end_s: float, duration_s: float, expected_s: float = 0.0) -> Clip:
        """The clip of a span in a file that lasts so long."""
        write_grey_video(tmp_path / "a.mp4", [0] * round(10 * duration_s), fps=10)
        span = Span(start_s, end_s, "#C C a")
        video = SourceVideo("a", "a.mp4", "", "v2", (span,), expected_s)
        (found,) = Ingest().at(tmp_path)(video)
        return found

    whole, clamped = fit(1.0, 4.0, 10.0), fit(1.0, 4.0, 3.0)
    assert (whole.status, whole.end_s, whole.clamped_s) == ("ok", 4.0, 0.0)
    assert (clamped.status, clamped.end_s, clamped.clamped_s) == ("ok", 3.0, 1.0)
    assert clamped.clip_id == whole.clip_id  # identity is the annotated span
    assert fit(3.5, 5.0, 3.9).reason == "too_short"
    assert fit(5.0, 8.0, 4.0).reason == "past_end"
    for start_s, end_s in ((float("nan"), 2.0), (1.0, float("nan")), (float("inf"), 2.0)):
        assert fit(start_s, end_s, 4.0).reason == "no_time"
    cut_off = fit(5.0, 8.0, 4.0, expected_s=20.0)
    assert (cut_off.status, "download it again" in cut_off.error) == ("failed", True)


def test_annotated_times_count_from_the_start_of_the_container(tmp_path: Path) -> None:
    """As in a player: where pictures begin a second late, 3.0 s is two seconds into them."""
    Odd("late.mp4", x264(), copy=with_audio(4, "-itsoffset", "1")).write(tmp_path)
    spans = [Span(0.0, 0.9, "a"), Span(0.0, 2.5, "b"), Span(2.0, 3.0, "c"), Span(3.5, 4.0, "d")]
    video = SourceVideo("late", "late.mp4", "", "v2", tuple(spans), 0.0)
    before, first, second, behind = Ingest().at(tmp_path)(video)
    assert (before.reason, behind.reason) == ("before_start", "past_end")
    assert (first.status, first.start_s, first.end_s) == ("ok", 1.0, 2.5)
    assert (second.start_s, second.end_s) == (2.0, 3.0)
    right = truth(tmp_path / "late.mp4")
    shown = ClipFrames(tmp_path).frames(second, whole(second), np.array([2.5]))
    assert right.at(2.5) in right.which(next(shown))
    assert right.at(2.5) == 45  # of 30 pictures a second, from 1.0 s on


def test_identity_is_dataset_video_and_milliseconds() -> None:
    assert clip_id("d", "v", 1.0, 2.0) == clip_id("d", "v", 1.0004, 1.9996)
    others = {clip_id("e", "v", 1, 2), clip_id("d", "w", 1, 2), clip_id("d", "v", 1, 2.001)}
    assert clip_id("d", "v", 1.0, 2.0) not in others
    assert len(others) == 3


def test_videos_without_an_official_split_are_split_by_their_id() -> None:
    splits = [hashed_split(f"video-{i}", 20.0) for i in range(2000)]
    assert 0.17 < splits.count("val") / 2000 < 0.23
    assert splits == [hashed_split(f"video-{i}", 20.0) for i in range(2000)]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_mark_and_a_time_that_is_nan_cost_that_narration_alone(
    tmp_path: Path, wrapped: bool
) -> None:
    told: dict[str, Any] = {
        "a": narrations([(float("nan"), "#C C a"), (2.0, "#C C b"), (float("inf"), "#C C c")]),
        "b": narrations([(1.0, "#C C d")]),
    }
    videos = [
        {"video_uid": "a", "video_metadata": {"mp4_duration_sec": float("nan")}},
        {"video_uid": "b", "split_em": "val"},
    ]
    root = download(tmp_path, videos, {"videos": told} if wrapped else told)
    for name in ("ego4d.json", "annotations/narration.json"):
        path = root / "v2" / name
        path.write_text(path.read_text(), encoding="utf-8-sig")
    found = {v.video_id: v for v in ego4d.videos(root, RULE)}
    assert [(s.text, s.reason) for s in found["a"].spans] == [("#C C b", ""), ("#C C a", "no_time")]
    assert [(s.text, s.start_s, s.reason) for s in found["b"].spans] == [("#C C d", 1.0, "")]
    assert (found["a"].expected_s, found["b"].split) == (0.0, "val")


def test_the_other_file_of_narrations_is_named(tmp_path: Path) -> None:
    root = download(tmp_path, [], {})
    told = root / "v2/annotations/narration.json"
    told.rename(told.with_name("all_narrations_redacted.json"))
    with pytest.raises(UserError, match=r"holds no narration\.json.*all_narrations_redacted\.json"):
        list(ego4d.videos(root, RULE))


def test_narrations_nested_without_end_are_refused(tmp_path: Path) -> None:
    root = download(tmp_path, [], {})
    told = root / "v2/annotations/narration.json"
    told.write_text('{"a": ' + '{"a":' * 40_000 + "1" + "}" * 40_001)
    with pytest.raises(UserError, match=r"narration\.json is nested too deeply, beyond 200"):
        list(ego4d.videos(root, RULE))
