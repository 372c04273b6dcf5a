"""The Kinetics adapter: rows and files are matched by name, and no video is in two splits."""

from pathlib import Path

import pytest

from handloom.errors import UserError
from handloom.stages.datasets import kinetics700
from handloom.stages.datasets.source import TO_THE_END, CutRule, SourceVideo

COLUMNS = "label,youtube_id,time_start,time_end,split"
TEST_COLUMNS = "youtube_id,time_start,time_end,split"
TRAIN = ["testifying,---QUuC4vJs,84,94,train", "abseiling,0wR5jVB-WPk,417,427,train"]
VAL = ["washing feet,--GkrdYZ9Tc,0,10,validate"]
TEST = ["---v8pgm1eQ,0,10,test"]


def table(path: Path, columns: str, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([columns, *rows]) + "\n")


def lists(
    folder: Path, train: list[str] = TRAIN, val: list[str] = VAL, test: list[str] = TEST
) -> Path:
    table(folder / "train.csv", COLUMNS, train)
    table(folder / "validate.csv", COLUMNS, val)
    table(folder / "test.csv", TEST_COLUMNS, test)
    return folder


def media(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def videos(root: Path) -> dict[str, SourceVideo]:
    """By unit, which is what clip ids are made of."""
    found = list(kinetics700.videos(root, CutRule()))
    by_unit = {video.unit: video for video in found}
    assert len(by_unit) == len(found)
    assert all(len(video.spans) == 1 for video in found)
    assert all(video.spans[0].reason == "" for video in found)  # the video's reason counts
    return by_unit


def test_a_trimmed_file_is_one_clip(tmp_path: Path) -> None:
    lists(tmp_path)
    media(tmp_path, "train/---QUuC4vJs_000084_000094.mp4")
    found = videos(tmp_path)
    assert {k: (v.split, v.reason) for k, v in found.items()} == {
        "---QUuC4vJs#000084_000094": ("train", ""),
        "0wR5jVB-WPk#000417_000427": ("train", "missing_file"),
        "--GkrdYZ9Tc#000000_000010": ("val", "missing_file"),
        "---v8pgm1eQ#000000_000010": ("test", "benchmark_test"),
    }
    video = found["---QUuC4vJs#000084_000094"]
    assert video.video_id == "---QUuC4vJs"
    assert video.media_path == "train/---QUuC4vJs_000084_000094.mp4"
    # Times count on the web video, not on the file, which is often shorter than its row.
    (span,) = video.spans
    assert (span.start_s, span.end_s, span.text) == (0.0, TO_THE_END, "testifying")
    assert (video.expected_s, video.whole_if_shorter_s) == (0.0, 0.0)
    assert {p.name for p in kinetics700.annotations(tmp_path)} == {
        "train.csv", "validate.csv", "test.csv",
    }  # fmt: skip


@pytest.mark.parametrize(
    "folder",
    [
        "train", "k700-2020/train", "passing American football (in game)", "videos/vol_00",
        "videos_train/passing_american_football_in_game", "kinetics700/val", ".",
    ],
)  # fmt: skip
@pytest.mark.parametrize("video_id", ["---QUuC4vJs", "_ab-c_000_1", "0wR5jVB-WPk"])
def test_files_are_found_by_name_in_every_layout(
    tmp_path: Path, folder: str, video_id: str
) -> None:
    label = "passing American football (in game)"
    lists(tmp_path, train=[f"{label},{video_id},84,94,train"])
    media(tmp_path, f"{folder}/{video_id}_000084_000094.mp4")
    media(tmp_path, f"{folder}/v_{'x' * 11}_000084_000095.mp4", "other.mp4", "notes.txt")
    video = videos(tmp_path)[f"{video_id}#000084_000094"]
    assert (tmp_path / video.media_path).is_file()
    assert video.media_path.endswith(f"{video_id}_000084_000094.mp4")
    assert video.spans[0].text == label  # as in the list, not as in the folder's name


def test_names_are_read_from_the_right(tmp_path: Path) -> None:
    lists(tmp_path)
    media(tmp_path, "val/v_---QUuC4vJs_000084_000094.webm", "val/0wR5jVB-WPk_417_427.mp4")
    found = videos(tmp_path)
    prefixed = found["---QUuC4vJs#000084_000094"].media_path
    assert prefixed == "val/v_---QUuC4vJs_000084_000094.webm"
    assert found["0wR5jVB-WPk#000417_000427"].reason == "missing_file"


def test_each_file_is_used_once_and_replacements_win(tmp_path: Path) -> None:
    lists(tmp_path)
    name = "---QUuC4vJs_000084_000094.mp4"
    media(tmp_path, f"a/{name}", f"z/{name}")
    once = videos(tmp_path)["---QUuC4vJs#000084_000094"].media_path
    assert once in (f"a/{name}", f"z/{name}")
    media(tmp_path, f"m/replacement_for_corrupted/{name}")
    found = videos(tmp_path)["---QUuC4vJs#000084_000094"].media_path
    assert found == f"m/replacement_for_corrupted/{name}"


def test_a_plain_file_is_cut_unless_it_is_trimmed(tmp_path: Path) -> None:
    lists(tmp_path)
    media(tmp_path, "---QUuC4vJs.mp4")
    video = videos(tmp_path)["---QUuC4vJs#000084_000094"]
    assert (video.media_path, video.reason) == ("---QUuC4vJs.mp4", "")
    (span,) = video.spans
    assert (span.start_s, span.end_s, span.text) == (84.0, 94.0, "testifying")
    assert 10.0 < video.whole_if_shorter_s < 12.0
    # The trimmed file is the better one.
    media(tmp_path, "---QUuC4vJs_000084_000094.mp4")
    again = videos(tmp_path)["---QUuC4vJs#000084_000094"]
    assert again.media_path == "---QUuC4vJs_000084_000094.mp4"
    assert again.spans[0].end_s == TO_THE_END


def test_several_rows_of_a_plain_file_are_told_apart(tmp_path: Path) -> None:
    rows = ["playing piano,6sYu45RK454,22,32,train", "playing keyboard,6sYu45RK454,45,55,train"]
    lists(tmp_path, train=rows)
    media(tmp_path, "6sYu45RK454.mp4")
    found = [v for v in videos(tmp_path).values() if v.video_id == "6sYu45RK454"]
    assert [(v.part, v.spans[0].start_s, v.spans[0].text) for v in found] == [
        ("000022_000032", 22.0, "playing piano"),
        ("000045_000055", 45.0, "playing keyboard"),
    ]
    # Even a file of ten seconds does not tell which of the two it is.
    assert all(v.whole_if_shorter_s == 0.0 for v in found)
    # Nor does it if the other row is of another split; the same row twice is one row.
    lists(tmp_path, train=rows[:1], val=rows[1:])
    assert videos(tmp_path)["6sYu45RK454#000045_000055"].whole_if_shorter_s == 0.0
    lists(tmp_path, train=rows[:1] * 2, val=VAL)
    assert videos(tmp_path)["6sYu45RK454#000022_000032"].whole_if_shorter_s > 10.0


def test_training_never_sees_a_video_of_val_or_test(tmp_path: Path) -> None:
    train = [
        "snatch weight lifting,8FJN2hidOLw,6,16,train",
        "playing flute,--GkrdYZ9Tc,84,94,train",
        "playing flute,---v8pgm1eQ,84,94,train",
        "playing flute,0kKuQu4Gs--,84,94,train",
    ]
    val = [*VAL, "clean and jerk,8FJN2hidOLw,25,35,validate"]
    lists(tmp_path, train, val, test=[*TEST, "8FJN2hidOLw,1,11,test"])
    media(tmp_path, "8FJN2hidOLw_000006_000016.mp4", "8FJN2hidOLw_000025_000035.mp4")
    found = videos(tmp_path)
    assert {k: v.reason for k, v in found.items() if v.split == "train"} == {
        "8FJN2hidOLw#000006_000016": "video_in_val",
        "--GkrdYZ9Tc#000084_000094": "video_in_val",
        "---v8pgm1eQ#000084_000094": "video_in_test",
        "0kKuQu4Gs--#000084_000094": "missing_file",
    }
    # The official lists of val and test share videos; val is not trained on.
    assert found["8FJN2hidOLw#000025_000035"].reason == ""


def test_rows_of_the_same_seconds_count_once(tmp_path: Path) -> None:
    train = [
        "playing flute,AGVaB1mjLU0,38,48,train",
        "playing piccolo,AGVaB1mjLU0,40,50,train",
        "playing flute,AGVaB1mjLU0,38.0,48.0,train",
        "playing recorder,AGVaB1mjLU0,38,48,train",
        "playing flute,BDTn6VxmBsQ,1,11,train",
        "washing hands,--GkrdYZ9Tc,0,10,train",
    ]
    lists(tmp_path, train)
    found = videos(tmp_path)
    assert len(found) == 5
    (flute,) = found["AGVaB1mjLU0#000038_000048"].spans
    assert (flute.text, flute.other_texts) == ("playing flute", ("playing recorder",))
    # Other rows of the same label do not inherit the further text.
    assert found["BDTn6VxmBsQ#000001_000011"].spans[0].other_texts == ()
    # Across lists, too: val has it.
    (feet,) = found["--GkrdYZ9Tc#000000_000010"].spans
    assert found["--GkrdYZ9Tc#000000_000010"].split == "val"
    assert (feet.text, feet.other_texts) == ("washing feet", ("washing hands",))


def test_lists_are_read_by_column_and_with_quotes(tmp_path: Path) -> None:
    table(
        tmp_path / "annotations/val.csv",
        "label,youtube_id,time_start,time_end,split,is_cc",
        ['"air drumming",3yaoNwz99xM,62.0,72.0,val,1'],
    )
    table(
        tmp_path / "annotations/train.csv",
        "youtube_id,label,time_start,time_end",
        ['0000000000e,"massaging person\'s head",0,9', '"#NAME?","a, b",1,6'],
    )
    found = videos(tmp_path)
    assert {k: v.spans[0].text for k, v in found.items()} == {
        "3yaoNwz99xM#000062_000072": "air drumming",
        "0000000000e#000000_000009": "massaging person's head",
        "#NAME?#000001_000006": "a, b",
    }


def test_rows_without_times_or_label_are_counted(tmp_path: Path) -> None:
    train = [
        "abseiling,0wR5jVB-WPk,soon,later,train",
        "abseiling,1wR5jVB-WPk,nan,inf,train",
        "abseiling,2wR5jVB-WPk,-4,6,train",
        "abseiling,3wR5jVB-WPk,10,1e12,train",
        "abseiling,4wR5jVB-WPk",
        "abseiling,4wR5jVB-WPk",
        ",5wR5jVB-WPk,1,2,train",
    ]
    lists(tmp_path, train)
    media(tmp_path, "0wR5jVB-WPk.mp4", "5wR5jVB-WPk_000001_000002.mp4")
    found = [v for v in videos(tmp_path).values() if v.split == "train"]
    assert [v.reason for v in found] == ["no_time"] * 5 + ["no_text"]


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("kinetics700/validate.csv", "700"), ("kinetics700_2020/validate.csv", "700-2020"),
        ("k700-2020/annotations/val.csv", "700-2020"), ("kinetics-400_val.csv", "400"),
        ("annotations/kinetics-600_val.csv", "600"), ("val.csv", "unknown"),
        ("700_2020/annotations/val.csv", "700-2020"), ("annotations/val.csv", "unknown"),
    ],
)  # fmt: skip
def test_the_release_is_told_by_names(tmp_path: Path, path: str, version: str) -> None:
    root = tmp_path / "data"
    table(root / path, COLUMNS, VAL)
    (video,) = videos(root).values()
    assert (video.version, video.split) == (version, "val")


def test_only_the_newest_release_is_read(tmp_path: Path) -> None:
    lists(tmp_path / "kinetics700")
    table(tmp_path / "kinetics-400_train.csv", COLUMNS, VAL)
    table(tmp_path / "kinetics700_2020_delta/train.csv", COLUMNS, ["x,0000000000d,1,2,train"])
    assert {v.version for v in videos(tmp_path).values()} == {"700"}
    lists(tmp_path / "kinetics700_2020", train=TRAIN[:1])
    found = videos(tmp_path)
    assert {v.version for v in found.values()} == {"700-2020"}
    assert len(found) == 3
    # Of two copies of one release the outer one is read, never a mix of both.
    lists(tmp_path / "kinetics700_2020/annotations")
    assert len(videos(tmp_path)) == 3


def test_missing_and_broken_lists_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder of that name"):
        videos(tmp_path / "nowhere")
    media(tmp_path, "train/---QUuC4vJs_000084_000094.mp4")
    with pytest.raises(UserError, match=r"holds train/; expected train\.csv.*k700_2020_downloader"):
        videos(tmp_path)
    media(tmp_path, "kinetics700/validate.json")
    with pytest.raises(UserError, match="JSON, which has one entry a video"):
        videos(tmp_path)
    table(tmp_path / "train.csv", "label,id", ["x,y"])
    with pytest.raises(UserError, match="expected youtube_id, time_start, time_end among them"):
        videos(tmp_path)
    table(tmp_path / "train.csv", COLUMNS, ["absei"])  # the download broke off
    with pytest.raises(UserError, match=r"train\.csv has a row without youtube_id"):
        videos(tmp_path)
