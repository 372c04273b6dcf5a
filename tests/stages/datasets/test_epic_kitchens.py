"""The EPIC-KITCHENS adapter: segments by timestamp, splits by video, one release of two."""

from pathlib import Path

import pytest

from handloom.errors import UserError
from handloom.stages.datasets import epic_kitchens
from handloom.stages.datasets.source import CutRule, SourceVideo

COLUMNS = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
    "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)
OPEN_DOOR = (
    "P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:03.37,8,202,open door,open,3,door,3,"
    "['door'],[3]"
)
TAKE_PLATE = (
    "P01_11_0,P01,P01_11,00:00:00.560,00:00:00.00,00:00:01.89,1,113,take plate,take,0,plate,2,"
    "['plate'],[2]"
)
PUT_KNIFE = (
    "P01_11_81,P01,P01_11,00:04:13.920,00:04:13.92,00:04:14.42,15235,15265,put knife into rack.,"
    "put-into,5,knife,4,\"['knife', 'rack']\",\"[4, 110]\""
)
ROLL = (
    "P02_12_293,P02,P02_12,,00:17:47.56,00:17:50.75,64053,64245,roll,roll,47,ball:dough,25,"
    "['ball:dough'],[25]"
)
TEST_COLUMNS = COLUMNS[: COLUMNS.index(",narration,")]
TEST_ROW = "P01_101_0,P01,P01_101,00:00:02.851,00:00:02.86,00:00:03.87,143,193"

COLUMNS_55 = (
    "uid,participant_id,video_id,narration,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)
OPEN_DOOR_55 = "0,P01,P01_01,open door,00:00:00.14,00:00:03.37,8,202,open,2,door,8,['door'],[8]"
TEST_COLUMNS_55 = (
    "uid,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame"
)
TEST_ROW_55 = "1924,P01,P01_11,00:00:00.00,00:00:01.89,1,113"


def row(video: str, start: str, stop: str, text: str, number: int = 0) -> str:
    return f"{video}_{number},P01,{video},,{start},{stop},1,2,{text},v,0,n,0,['n'],[0]"


def table(path: Path, columns: str, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([columns, *rows]) + "\n")


def epic_100(
    folder: Path, train: tuple[str, ...] = (OPEN_DOOR,), val: tuple[str, ...] = (TAKE_PLATE,)
) -> None:
    table(folder / "EPIC_100_train.csv", COLUMNS, *train)
    table(folder / "EPIC_100_validation.csv", COLUMNS, *val)
    table(folder / "EPIC_100_test_timestamps.csv", TEST_COLUMNS, TEST_ROW)
    table(
        folder / "EPIC_100_video_info.csv",
        "video_id,duration,fps,resolution",
        "P01_01,1652.152817,59.9400599400599,1920x1080",
    )


def epic_55(folder: Path) -> None:
    table(folder / "EPIC_train_action_labels.csv", COLUMNS_55, OPEN_DOOR_55)
    table(folder / "EPIC_test_s1_timestamps.csv", TEST_COLUMNS_55, TEST_ROW_55)
    table(
        folder / "EPIC_video_info.csv",
        "video,resolution,duration,fps",
        "P01_01,1920x1080,1652.152817,59.9400599400599",
    )


def media(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def videos(root: Path) -> dict[str, SourceVideo]:
    found = list(epic_kitchens.videos(root, CutRule()))
    assert len({video.unit for video in found}) == len(found)
    for video in found:  # clip ids are made of these
        times = [(round(s.start_s * 1000), round(s.end_s * 1000)) for s in video.spans]
        assert times == sorted(set(times))
    return {video.video_id: video for video in found}


def test_segments_are_cut_by_their_timestamps(tmp_path: Path) -> None:
    epic_100(tmp_path, val=(TAKE_PLATE, PUT_KNIFE, ROLL))
    media(tmp_path, "P01/videos/P01_01.MP4", "P01/videos/P01_11.MP4")
    found = videos(tmp_path)
    door = found["P01_01"]
    assert (door.media_path, door.split, door.version) == ("P01/videos/P01_01.MP4", "train", "100")
    assert door.expected_s == 1652.152817
    (span,) = door.spans
    assert (span.start_s, span.end_s, span.text, span.reason) == (0.14, 3.37, "open door", "")
    (plate, knife) = found["P01_11"].spans
    assert (plate.start_s, plate.end_s) == (0.0, 1.89)
    assert (knife.start_s, knife.text) == (253.92, "put knife into rack.")
    assert found["P01_11"].split == "val"
    # The time at which the narrator spoke may be empty; it is not the action.
    assert found["P02_12"].spans[0].start_s == 17 * 60 + 47.56
    assert found["P02_12"].reason == "missing_file"


def test_test_segments_have_no_text_and_are_left_out(tmp_path: Path) -> None:
    epic_100(tmp_path)
    media(tmp_path, "P01/videos/P01_101.MP4")
    test = videos(tmp_path)["P01_101"]
    assert (test.split, test.reason) == ("test", "benchmark_test")
    assert [(s.start_s, s.text, s.reason) for s in test.spans] == [(2.86, "", "benchmark_test")]


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        ("00:00:00.14", 140), ("00:00:01.089", 1089), ("01:02:03", 3_723_000),
        ("00:00:59.9996", 60_000), ("00:01:00.", 60_000), (" 00:00:02.5 ", 2500),
        ("", None), ("12.5", None), ("00:-1:00", None), ("nan:00:00", None), ("00:00:1e9", None),
    ],
)  # fmt: skip
def test_times_have_any_number_of_decimals(written: str, ms: int | None) -> None:
    assert epic_kitchens.parse_timestamp(written) == ms


def test_rows_are_sorted_by_time_and_overlap(tmp_path: Path) -> None:
    """Tables are sorted by number as text: _0, _1, _10, _2."""
    rows = (
        row("P01_02", "00:00:01.00", "00:00:09.00", "stir", 0),
        row("P01_02", "00:01:00.00", "00:01:02.00", "wash hands", 10),
        row("P01_02", "00:00:02.00", "00:00:03.00", "take salt", 2),
    )
    epic_100(tmp_path, train=rows)
    (tmp_path / "turned").mkdir()
    epic_100(tmp_path / "turned", train=rows[::-1])
    spans = videos(tmp_path)["P01_02"].spans
    assert [s.text for s in spans] == ["stir", "take salt", "wash hands"]
    assert all(s.reason == "" for s in spans)
    assert videos(tmp_path / "turned")["P01_02"].spans == spans


def test_rows_of_the_same_milliseconds_share_a_span(tmp_path: Path) -> None:
    rows = (
        row("P01_02", "00:00:01.00", "00:00:02.000", "wash cup"),
        row("P01_02", "00:00:01.0001", "00:00:02.00", "take cup"),
        row("P01_02", "00:00:01.00", "00:00:02.00", "wash cup"),
        row("P01_02", "00:00:01.00", "00:00:02.01", "take cup"),
    )
    for order in (rows, rows[::-1]):
        epic_100(tmp_path, train=order)
        (first, second) = videos(tmp_path)["P01_02"].spans
        assert (first.text, first.other_texts) == ("take cup", ("wash cup",))
        assert (second.end_s, second.other_texts) == (2.01, ())


def test_rows_without_times_or_text_are_counted(tmp_path: Path) -> None:
    rows = (
        row("P01_02", "", "00:00:02.00", "take cup"),
        row("P01_02", "soon", "later", "take cup"),
        row("P01_02", "00:00:01.00", "00:00:02.00", "  "),
        row("P01_02", "00:00:01.00", "00:00:03.00", " still stirring "),
    )
    epic_100(tmp_path, train=rows)
    spans = videos(tmp_path)["P01_02"].spans
    assert [(s.text, s.reason) for s in spans] == [
        ("take cup", "no_time"),
        ("", "no_text"),
        ("still stirring", ""),
    ]


def test_a_video_belongs_to_the_strictest_split_that_lists_it(tmp_path: Path) -> None:
    train = (
        row("P01_11", "00:00:05.00", "00:00:06.00", "take cup"),
        row("P01_101", "00:00:05.00", "00:00:06.00", "take cup"),
        TAKE_PLATE,
    )
    epic_100(tmp_path, train=train)
    media(tmp_path, "P01_11.MP4", "P01_101.MP4")
    found = videos(tmp_path)
    assert found["P01_11"].split == "val"
    assert [s.reason for s in found["P01_11"].spans] == ["", "video_in_val"]
    assert (found["P01_101"].split, found["P01_101"].reason) == ("test", "benchmark_test")
    assert [s.reason for s in found["P01_101"].spans] == ["benchmark_test", "video_in_test"]


@pytest.mark.parametrize(
    "folder",
    [
        "", "annotations", "epic-kitchens-100-annotations", "epic-kitchens-100-annotations-master",
        "annotations/epic-kitchens-100-annotations",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "path",
    [
        "P01/videos/P01_01.MP4", "EPIC-KITCHENS/P01/videos/P01_01.MP4",
        "videos/train/P01/P01_01.MP4", "P01_01.mp4", "lower/p01_01.Mp4",
    ],
)  # fmt: skip
def test_places_of_tables_and_videos(tmp_path: Path, folder: str, path: str) -> None:
    epic_100(tmp_path / folder)
    media(tmp_path, path)
    assert videos(tmp_path)["P01_01"].media_path == path
    names = {
        p.relative_to(tmp_path / folder).as_posix() for p in epic_kitchens.annotations(tmp_path)
    }
    assert names == {
        "EPIC_100_train.csv", "EPIC_100_validation.csv", "EPIC_100_test_timestamps.csv",
        "EPIC_100_video_info.csv",
    }  # fmt: skip


def test_of_two_releases_only_the_newer_is_read(tmp_path: Path) -> None:
    epic_100(tmp_path / "epic-kitchens-100-annotations")
    epic_55(tmp_path / "epic-kitchens-55-annotations")
    found = videos(tmp_path)
    assert {v.version for v in found.values()} == {"100"}
    # A test video of EPIC-55 is a validation video of EPIC-100.
    assert found["P01_11"].split == "val"
    assert all(p.name.startswith("EPIC_100_") for p in epic_kitchens.annotations(tmp_path))


def test_epic_55_alone(tmp_path: Path) -> None:
    epic_55(tmp_path / "epic-kitchens-55-annotations")
    media(tmp_path, "videos/train/P01/P01_01.MP4", "videos/test/P01/P01_11.MP4")
    found = videos(tmp_path)
    (door,) = found["P01_01"].spans
    assert (door.start_s, door.end_s, door.text) == (0.14, 3.37, "open door")
    assert (found["P01_01"].version, found["P01_01"].expected_s) == ("55", 1652.152817)
    assert found["P01_11"].reason == "benchmark_test"


def test_the_same_seconds_have_the_same_identity_in_both_releases(tmp_path: Path) -> None:
    epic_100(tmp_path / "a")
    epic_55(tmp_path / "b")
    (new,), (old,) = (videos(tmp_path / name)["P01_01"].spans for name in ("a", "b"))
    assert (new.start_s, new.end_s, new.text) == (old.start_s, old.end_s, old.text)


def test_subsets_and_spoken_times_are_not_read(tmp_path: Path) -> None:
    epic_100(tmp_path)
    extra = row("P01_03", "00:00:01.00", "00:00:02.00", "take cup")
    for name in ("UDA_annotations/EPIC_100_uda_source_train.csv", "EPIC_100_uda_source_train.csv"):
        table(tmp_path / name, COLUMNS, extra)
    table(
        tmp_path / "retrieval_annotations/EPIC_100_retrieval_train_sentence.csv",
        "narration_id,narration,verb_class,noun_classes,verb,nouns",
        "P01_03_0,take cup,0,[1],take,['cup']",
    )
    assert set(videos(tmp_path)) == {"P01_01", "P01_11", "P01_101"}
    epic_55(tmp_path / "old")
    table(
        tmp_path / "old/EPIC_train_action_narrations.csv",
        "participant_id,video_id,start_timestamp,stop_timestamp,narration",
        "P01,P01_01,00:00:01.089,00:00:02.629,open door",
    )
    table(
        tmp_path / "old/EPIC_train_invalid_labels.csv",
        COLUMNS_55,
        "119,P01,P01_01,stay,00:08:45.83,00:09:01.44,31549,32486,stay,,n,90,['n'],[90]",
    )
    assert len(videos(tmp_path / "old")["P01_01"].spans) == 1


def test_other_files_of_the_download_are_no_videos(tmp_path: Path) -> None:
    epic_100(tmp_path)
    media(
        tmp_path,
        "P01/rgb_frames/P01_01.tar",
        "P01/rgb_frames/P01_01/P01_01.MP4",
        "P01/meta_data/P01_101-accl.csv",
        "P01/videos/GH010001.MP4",
        "P01/videos/._P01_01.MP4",
    )
    assert videos(tmp_path)["P01_01"].reason == "missing_file"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    epic_100(tmp_path)
    media(tmp_path, "P01/videos/P01_01.MP4")
    (tmp_path / "P01/again").symlink_to(tmp_path, target_is_directory=True)
    assert videos(tmp_path)["P01_01"].media_path == "P01/videos/P01_01.MP4"


def test_unusable_lengths_are_ignored(tmp_path: Path) -> None:
    epic_100(tmp_path)
    table(tmp_path / "EPIC_100_video_info.csv", "video_id,duration", "P01_01,long", "P01_11,7.5")
    found = videos(tmp_path)
    assert (found["P01_01"].expected_s, found["P01_11"].expected_s) == (0.0, 7.5)
    (tmp_path / "EPIC_100_video_info.csv").unlink()
    assert videos(tmp_path)["P01_11"].expected_s == 0.0


def test_missing_and_broken_tables_are_named(tmp_path: Path) -> None:
    media(tmp_path, "P01/videos/P01_01.MP4")
    with pytest.raises(UserError, match=r"holds P01/; expected EPIC_100_train\.csv.*git clone"):
        videos(tmp_path)
    (tmp_path / "EPIC_100_train.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=r"only pickles \(EPIC_100_train\.pkl\)"):
        videos(tmp_path)
    table(tmp_path / "EPIC_100_train.csv", "video_id,narration", "P01_01,open door")
    with pytest.raises(UserError, match=r"expected start_timestamp, stop_timestamp among them"):
        videos(tmp_path)
    table(tmp_path / "EPIC_100_train.csv", COLUMNS, "P01_01_0,P0")  # the download broke off
    with pytest.raises(UserError, match=r"EPIC_100_train\.csv has a row without video_id"):
        videos(tmp_path)


def test_the_datasets_own_ids_travel_along(tmp_path: Path) -> None:
    epic_100(tmp_path, train=(OPEN_DOOR, row("P01_01", "0:00:05.0", "0:00:06.0", "close door", 7)))
    spans = {s.text: s for v in epic_kitchens.videos(tmp_path, CutRule()) for s in v.spans}
    assert spans["open door"].annotation_id == "P01_01_0"
    assert spans["close door"].annotation_id == "P01_01_7"
