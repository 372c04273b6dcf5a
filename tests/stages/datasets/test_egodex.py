"""The EgoDex adapter and the `camera` table: pairs of files, directions, poses, broken pairs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from handloom.errors import MediaError, UserError
from handloom.pipeline.recipes import RECIPES, egodex, row_stages
from handloom.stages.camera import Camera, CameraRow
from handloom.stages.datasets import egodex as adapter
from handloom.stages.datasets.catalog import VIDEO_FORMATS, video_adapter
from handloom.stages.datasets.source import CutRule, SourceVideo, Span
from handloom.stages.ingest.videos import Ingest
from handloom.stages.miniatures import egodex as miniature
from handloom.stages.stage import run_isolated
from handloom.stages.tables.rows import Clip
from tests.helpers.miniatures import CLIPS, writer

Edit = Callable[[h5py.File], Any]
PLAN = list(miniature.plan(CLIPS["egodex"], 0))
WHOLE = [one for one in PLAN if not one.fault and not one.stem.startswith("test/")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writer(tmp_path_factory)("egodex")


def listed(root: Path) -> dict[str, SourceVideo]:
    found = list(adapter.videos(root, CutRule()))
    assert len({one.unit for one in found}) == len(found)
    return {one.video_id: one for one in found}


def clips(root: Path) -> dict[str, Clip]:
    """The rows of ingest by video."""
    ingest = Ingest(dataset="egodex", format="egodex").at(root)
    rows = [row for video in ingest.sources() for row in run_isolated(ingest, (video,))]
    found = {row.video_id: row for row in rows if isinstance(row, Clip)}
    assert len(found) == len(rows)
    return found


def tracked(root: Path, clip: Clip, **options: Any) -> CameraRow:
    stage = Camera(**options).at(root, source=Ingest(dataset="egodex", format="egodex"))
    (row,) = run_isolated(stage, (clip,))
    assert isinstance(row, CameraRow)
    return row


def pair(data: Path, root: Path, edit: Edit = lambda file: None) -> Clip:
    """A folder with one pair of the miniature, its poses edited."""
    folder = root / "part1/task"
    folder.mkdir(parents=True)
    for suffix in (".mp4", ".hdf5"):
        shutil.copy(data / f"{WHOLE[0].stem}{suffix}", folder / f"7{suffix}")
    with h5py.File(folder / "7.hdf5", "r+") as file:
        edit(file)
    return clips(root)["part1/task/7"]


@pytest.mark.long
def test_a_pair_is_one_clip_of_the_part_that_it_lies_in(data: Path) -> None:
    found = listed(data)
    assert found.keys() == {one.stem for one in PLAN}
    for one in PLAN:
        video = found[one.stem]
        reason = {"no_video": "missing_file", "no_poses": "missing_file"}.get(one.fault, "")
        assert video.reason == ("benchmark_test" if one.stem.startswith("test/") else reason)
        assert video.media_path == ("" if reason else f"{one.stem}.mp4")
        assert video.split == ("test" if one.stem.startswith("test/") else "")


@pytest.mark.long
def test_ids_do_not_depend_on_which_folder_is_named(data: Path) -> None:
    whole = listed(data)
    for below in ("part2", "test", "part1/basic_shake"):
        found = listed(data / below)
        assert found.keys() == {name for name in whole if name.startswith(f"{below}/")}
        assert {one.reason for one in found.values()} <= {"", "missing_file", "benchmark_test"}
        assert all(one.reason == whole[name].reason for name, one in found.items())


@pytest.mark.long
def test_a_folder_that_names_no_part_may_be_of_the_test_split(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "test", tmp_path / "videos")
    assert {one.reason for one in listed(tmp_path).values()} == {"unknown_part"}


@pytest.mark.long
def test_the_text_says_what_was_done_and_never_the_opposite(data: Path) -> None:
    rows = clips(data)
    directions = set()
    for one in WHOLE:
        row, verb = rows[one.stem], one.take.actions[0].verb
        said = row.text.lower().rstrip(".")
        assert said.startswith({"pick": "pick up", "put": "put"}.get(verb, verb))
        assert one.take.names[0] in said
        assert row.other_texts == []
        assert row.status == "ok"
        assert row.split in ("train", "val")
        assert row.text_flags == ["older_description"] * (miniature.OLDER in one.stem)
        directions.add(verb)
    assert {"pick", "put", "push", "pull"} <= directions


@pytest.mark.parametrize(
    ("attributes", "text", "flags"),
    [
        ({"llm_description": "Open it.", "llm_description2": "Close it."}, "Open it.", ()),
        ({"llm_description": b"Open it.", "llm_description2": b"Close it.",
          "which_llm_description": np.int64(2)}, "Close it.", ()),
        ({"llm_description": "Open it.", "llm_description2": "",
          "which_llm_description": "2"}, "Open it.", ("maybe_reversed",)),
        ({"llm_description": " ", "description": "Opens it"}, "Opens it", ("older_description",)),
        ({"llm_description": np.array([1.0, 2.0])}, "", ()),
        ({}, "", ()),
    ],
)  # fmt: skip
def test_which_description_counts(
    attributes: dict[str, Any], text: str, flags: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "part1/task/0.hdf5"
    path.parent.mkdir(parents=True)
    path.with_suffix(".mp4").touch()
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
    (video,) = listed(tmp_path).values()
    (span,) = adapter.cut(video, CutRule())
    assert (span.text, span.flags) == (text, flags)
    assert (span.reason, span.end_s) == ("" if text else "no_text", np.inf)


@pytest.mark.long
def test_a_fingertip_is_where_the_picture_shows_it(data: Path) -> None:
    """Positions and orientations, taken back to pixels by what the row says of the camera."""
    rows = clips(data)
    for one in WHOLE[:3]:
        row = tracked(data, rows[one.stem], joints=("rightIndexFingerTip", "leftHand"))
        assert (row.status, row.model, row.distortion) == ("ok", "pinhole", [])
        assert (row.width, row.height) == miniature.SIZE
        fx, fy, cx, cy = row.intrinsics
        cameras, tips = np.array(row.camera), np.array(row.joint_poses)[:, :3]
        shown = Rotation.from_quat(cameras[:, 3:]).inv().apply(tips - cameras[:, :3])
        pixels = np.column_stack(
            [fx * shown[:, 0] / shown[:, 2] + cx, fy * shown[:, 1] / shown[:, 2] + cy]
        )
        np.testing.assert_allclose(pixels, miniature.grasps_px(one), atol=0.05)
        np.testing.assert_allclose(row.times_s, np.arange(len(cameras)) / 30)
        assert np.ptp(cameras[:, 0]) > 0.01
        assert row.poses == row.frames == len(cameras)


@pytest.mark.long
def test_joints_are_those_asked_for(data: Path) -> None:
    clip = clips(data)[WHOLE[0].stem]
    usual, one = tracked(data, clip), tracked(data, clip, joints=("rightHand",))
    assert usual.joints == list(adapter.JOINTS)
    at = 7 * usual.joints.index("rightHand")
    assert [row[at : at + 7] for row in usual.joint_poses] == one.joint_poses
    assert np.shape(usual.confidences) == (usual.poses, 12)
    unknown = tracked(data, clip, joints=("tail",))
    assert unknown.status == "failed"
    assert "no dataset transforms/tail" in unknown.error


@pytest.mark.long
def test_older_files_say_nothing_of_confidence(data: Path) -> None:
    one = next(one for one in WHOLE if miniature.OLDER in one.stem)
    row = tracked(data, clips(data)[one.stem])
    assert row.status == "ok"
    assert row.confidences == []
    assert len(row.joint_poses) == row.poses


@pytest.mark.long
def test_each_fault_of_the_miniature_costs_its_own_clip(data: Path) -> None:
    rows, fault = clips(data), {one.fault: one.stem for one in PLAN if one.fault}
    assert fault.keys() == set(miniature.FAULTS)
    assert rows[fault["no_text"]].reason == "no_text"
    assert "not a readable video" in rows[fault["cut_video"]].error
    assert "truncated file" in rows[fault["cut_poses"]].error
    assert str(data) not in rows[fault["cut_poses"]].error
    short = tracked(data, rows[fault["short_poses"]])
    assert (short.reason, short.frames - short.poses) == ("poses_differ", 15)
    broken = tracked(data, rows[fault["no_numbers"]])
    assert broken.status == "failed"
    assert "not finite numbers" in broken.error


def mirrored(file: h5py.File) -> None:
    file["transforms/camera"][:, 0, :3] *= -1


def skewed(file: h5py.File) -> None:
    file["camera/intrinsic"][0, 1] = 3.0


def without_camera(file: h5py.File) -> None:
    del file["transforms/camera"]


def of_other_shape(file: h5py.File) -> None:
    poses = file["transforms/camera"][:, :3]
    del file["transforms/camera"]
    file["transforms/camera"] = poses


def without_intrinsics(file: h5py.File) -> None:
    del file["camera"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (mirrored, "no rotation and translation"), (skewed, "no intrinsic matrix"),
        (without_camera, "no dataset transforms/camera"), (of_other_shape, "has shape"),
        (without_intrinsics, "no dataset camera/intrinsic"),
    ],
)  # fmt: skip
def test_a_file_that_says_no_poses_fails_with_a_sentence(
    edit: Edit, said: str, data: Path, tmp_path: Path
) -> None:
    row = tracked(tmp_path, pair(data, tmp_path, edit))
    assert row.status == "failed"
    assert said in row.error
    assert "part1/task/7.hdf5" in row.error


@pytest.mark.long
def test_poses_of_a_span_are_those_of_its_seconds(data: Path, tmp_path: Path) -> None:
    clip = pair(data, tmp_path)
    whole = tracked(tmp_path, clip)
    part = tracked(tmp_path, Clip(**{**vars(clip), "start_s": 1.0, "end_s": 2.0}))
    assert part.times_s == whole.times_s[30:60]
    assert part.camera == whole.camera[30:60]
    assert part.joint_poses == whole.joint_poses[30:60]
    assert part.poses == whole.poses


def test_archives_that_are_not_unpacked_are_named(tmp_path: Path) -> None:
    (tmp_path / "test.zip").touch()
    with pytest.raises(UserError, match=r"test\.zip, not unpacked.*ml-egodex"):
        list(adapter.videos(tmp_path, CutRule()))


def test_a_folder_in_the_place_of_poses_fails_alone(tmp_path: Path) -> None:
    video = SourceVideo("part1/a/0", "a.mp4", "", "1", raw=adapter.Annotation("x.hdf5", tmp_path))
    (tmp_path / "x.hdf5").mkdir()
    with pytest.raises(MediaError, match="a folder, expected a file"):
        adapter.cut(video, CutRule())


def test_other_datasets_have_no_such_table() -> None:
    """Their runs keep their stages, and so their fingerprints and flags."""
    for name in VIDEO_FORMATS:
        has_camera = video_adapter(name).camera is not None
        assert ("camera" in names(RECIPES[name]())) == has_camera
    assert "camera" not in names(RECIPES["sample"]())
    assert names(egodex())[-1] == "camera"


def names(config: Any) -> list[str]:
    return [stage.name for stage in row_stages(config)]


@pytest.mark.long
def test_a_span_is_the_whole_file(data: Path) -> None:
    video = listed(data)[WHOLE[0].stem]
    assert adapter.cut(video, CutRule())[0] == Span(0.0, np.inf, clips(data)[video.unit].text)
