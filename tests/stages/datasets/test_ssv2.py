"""The Something-Something V2 adapter: whole files, their labels, and what the templates tell."""

import json
from pathlib import Path
from typing import Any

import pytest

from handloom.errors import UserError
from handloom.stages.datasets import ssv2
from handloom.stages.datasets.source import TO_THE_END, CutRule, SourceVideo

ROWS: list[dict[str, Any]] = [
    {
        "id": "78687",
        "label": "holding potato next to vicks vaporub bottle",
        "template": "Holding [something] next to [something]",
        "placeholders": ["potato", "vicks vaporub bottle"],
    },
    {
        "id": "36585",
        "label": "plastic falling like a feather or paper",
        "template": "[Something] falling like a feather or paper",
        "placeholders": ["plastic"],
    },
]
VALIDATION = [
    {
        "id": "74225",
        "label": "spinning cube that quickly stops spinning",
        "template": "Spinning [something] that quickly stops spinning",
        "placeholders": ["cube"],
    }
]
TEST = [{"id": "1420"}, {"id": "166429"}]


def download(root: Path, train: Any = ROWS, names: str = "something-something-v2-{}.json") -> Path:
    """A data folder with the three label files and an empty file for each labelled video."""
    media = root / "20bn-something-something-v2"
    media.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", train), ("validation", VALIDATION), ("test", TEST)):
        file = root / names.format(split)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(rows))
        for row in rows:
            (media / f"{row['id']}.webm").touch()
    return root


def videos(root: Path) -> dict[str, SourceVideo]:
    found = list(ssv2.videos(root, CutRule()))
    assert all(span.reason == "" for video in found for span in video.spans)  # the video's counts
    assert len({video.unit for video in found}) == len(found)
    return {video.video_id: video for video in found}


@pytest.mark.parametrize("names", ["something-something-v2-{}.json", "labels/{}.json"])
def test_each_file_is_one_clip_in_its_official_split(tmp_path: Path, names: str) -> None:
    found = videos(download(tmp_path, names=names))
    assert {k: (v.split, v.reason) for k, v in found.items()} == {
        "78687": ("train", ""),
        "36585": ("train", ""),
        "74225": ("val", ""),
        "1420": ("test", "benchmark_test"),
        "166429": ("test", "benchmark_test"),
    }
    potato = found["78687"]
    assert potato.media_path == "20bn-something-something-v2/78687.webm"
    (span,) = potato.spans
    assert (span.start_s, span.end_s) == (0.0, TO_THE_END)
    assert span.text == "holding potato next to vicks vaporub bottle"
    assert span.other_texts == ("Holding something next to something",)
    assert span.flags == ()
    assert all(len(v.spans) == 1 for v in found.values())


def test_the_label_files_decide_what_is_ingested(tmp_path: Path) -> None:
    root = download(tmp_path)
    names = {path.name for path in ssv2.annotations(root)}
    assert names == {f"something-something-v2-{s}.json" for s in ("train", "validation", "test")}
    (root / "something-something-v2-test.json").unlink()
    assert {v.split for v in videos(root).values()} == {"train", "val"}


def test_files_and_rows_may_lack_each_other(tmp_path: Path) -> None:
    root = download(tmp_path)
    (root / "20bn-something-something-v2/78687.webm").unlink()
    (root / "20bn-something-something-v2/5.webm").touch()
    found = videos(root)
    assert "5" not in found
    assert (found["78687"].reason, found["78687"].media_path) == ("missing_file", "")
    assert found["78687"].spans[0].text  # what is missing is still told by its text


def test_copies_as_mp4_count_once_and_the_original_wins(tmp_path: Path) -> None:
    root = download(tmp_path)
    original = root / "20bn-something-something-v2"
    (original / "78687.mp4").touch()
    for folder in ("a", "videos"):  # listed before and after the original
        (root / folder).mkdir()
        (root / folder / "78687.mp4").touch()
    (original / "36585.webm").rename(root / "videos/36585.mp4")
    found = videos(root)
    assert found["78687"].media_path == "20bn-something-something-v2/78687.webm"
    assert found["36585"].media_path == "videos/36585.mp4"


def test_the_strictest_split_that_lists_an_id_has_it(tmp_path: Path) -> None:
    train = [*ROWS, *VALIDATION, {**ROWS[0], "id": "1420"}, ROWS[0]]
    found = videos(download(tmp_path, train))
    assert (found["74225"].split, found["1420"].reason) == ("val", "benchmark_test")
    assert len(found) == 5


@pytest.mark.parametrize(
    ("template", "flags"),
    [
        ("Pretending to pick [something] up", {"pretended"}),
        ("Pretending or failing to wipe [something] off", {"pretended", "failed_action"}),
        ("Failing to put [something] in as it does not fit", {"failed_action"}),
        ("Trying to pour [something], but missing so it spills", {"failed_action"}),
        ("Lifting [something] but not enough for it to slide", {"failed_action"}),
        ("Pulling two ends of [something] but nothing happens", {"failed_action"}),
        ("Trying to bend [something unbendable] so nothing happens", {"failed_action"}),
        ("Approaching [something] with your camera", {"camera_motion"}),
        ("Turning the camera left while filming [something]", {"camera_motion", "mirror_matters"}),
        ("Turning the camera upwards while filming [something]", {"camera_motion"}),
        ("Moving [something] towards the camera", set()),
        ("Showing [something] to the camera", set()),
        ("Pushing [something] from left to right", {"mirror_matters"}),
        ("Putting [something] upright on the table", set()),
        ("Plugging [something] in but pulling it right out as you remove your hand", set()),
        ("Touching (without moving) [part] of it", set()),
    ],
)
def test_templates_tell_what_a_label_does_not_show(template: str, flags: set[str]) -> None:
    row = {"id": "1", "label": "x", "template": template, "placeholders": ["cup"]}
    assert set(ssv2.span(row).flags) == flags
    # Objects are named by their own words: "left shoe" is no direction.
    assert set(ssv2.span({**row, "label": "folding left shoe"}).flags) == flags


def test_placeholders_are_counted_and_kept_out_of_the_way() -> None:
    row = dict(ROWS[0])
    for placeholders in (["potato"], ["a", "b", "c"], [], None, "potato"):
        span = ssv2.span({**row, "placeholders": placeholders})
        assert span.flags == ("placeholders_differ",)
        assert span.text == row["label"]
    assert ssv2.span({**row, "placeholders": ["Käse", ""]}).flags == ()


def test_texts_stay_as_they_are() -> None:
    text = 'Putting käse, (part of) bob\'s "box" on the table'
    row = {"id": "1", "label": f" {text}\n", "template": text, "placeholders": []}
    assert ssv2.span(row).text == text
    assert ssv2.span(row).other_texts == ()  # nothing was filled in


def test_rows_without_a_label_are_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": "1", "label": " "}, {"id": 2}, {"id": "3", "label": None}]
    found = videos(download(tmp_path, rows))
    assert [found[name].reason for name in "123"] == ["no_text"] * 3


def test_text_that_is_no_utf8_stays_readable(tmp_path: Path) -> None:
    root = download(tmp_path)
    told = json.dumps([{**ROWS[0], "label": "holding k?se"}]).encode().replace(b"?", b"\xe4")
    (root / "something-something-v2-train.json").write_bytes(b"\xef\xbb\xbf" + told)
    assert videos(root)["78687"].spans[0].text == "holding k\ufffdse"


def test_paths_in_ids_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret.webm").touch()
    root = download(tmp_path / "data")
    row = {**ROWS[0], "id": "../secret"}
    (root / "something-something-v2-train.json").write_text(json.dumps([row]))
    assert videos(root)["../secret"].reason == "missing_file"


def test_pictures_and_v1_are_not_searched_for_videos(tmp_path: Path) -> None:
    root = download(tmp_path)
    for folder in ("20bn-something-something-v1", "frames/78687"):
        (root / folder).mkdir(parents=True)
        (root / folder / "36585.mp4").touch()
    (root / "20bn-something-something-v2/36585.webm").unlink()
    assert videos(root)["36585"].reason == "missing_file"


def test_v1_is_refused(tmp_path: Path) -> None:
    (tmp_path / "20bn-something-something-v1/100218").mkdir(parents=True)
    (tmp_path / "something-something-v1-train.csv").write_text("100218;Holding something\n")
    with pytest.raises(UserError, match="V1, whose numbers name other videos"):
        list(ssv2.videos(tmp_path, CutRule()))


@pytest.mark.parametrize(
    "part", ["v/20bn-something-something-v2-00", "20bn-something-something-v2-01.zip"]
)
def test_a_packed_archive_is_told_how_to_unpack(tmp_path: Path, part: str) -> None:
    root = download(tmp_path)
    for file in (root / "20bn-something-something-v2").iterdir():
        file.unlink()
    (root / part).parent.mkdir(exist_ok=True)
    (root / part).touch()
    with pytest.raises(UserError, match=r"cat 20bn-something-something-v2-\?\? \| tar zx"):
        videos(root)
    # One video is enough to know that it was unpacked, if not whole.
    (root / "20bn-something-something-v2/36585.webm").touch()
    assert [v.reason for v in videos(root).values()].count("missing_file") == 2


def test_broken_label_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds nothing; expected .*v2-train\.json.*qualcomm"):
        videos(tmp_path)
    with pytest.raises(UserError, match="no folder of that name"):
        videos(tmp_path / "nowhere")
    root = download(tmp_path)
    train = root / "something-something-v2-train.json"
    whole = train.read_text()
    for broken, why in (
        (whole[: len(whole) // 2], "is not complete JSON"),
        ("", "is not a JSON list"),
        ('{"78687": "holding"}', "is not a JSON list"),
        ('["78687"]', "expected objects with an id"),
        ('[{"label": "holding"}]', "expected objects with an id"),
    ):
        train.write_text(broken)
        with pytest.raises(UserError, match=rf"train\.json {why}|train\.json .*{why}"):
            videos(root)


def test_labels_with_nan_are_read_and_deep_ones_refused(tmp_path: Path) -> None:
    root = download(tmp_path)
    train = root / "something-something-v2-train.json"
    row = {"id": "78687", "label": "holding potato", "seconds": float("nan")}
    train.write_text(json.dumps([row]), encoding="utf-8-sig")
    assert videos(root)["78687"].spans[0].text == "holding potato"
    train.write_text('[{"id": "1", "a": ' + "[" * 40_000 + "]" * 40_000 + "}]")
    with pytest.raises(UserError, match=r"train\.json is nested too deeply"):
        videos(root)
