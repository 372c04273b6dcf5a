"""Bridge as TFRecords: two layouts, told apart by what they hold, in handloom's convention."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.bridge import adapter as bridge
from handloom.stages.datasets.formats import rotations
from handloom.stages.datasets.source import EpisodeOptions
from handloom.stages.miniatures import bridge as miniature
from handloom.stages.miniatures.bridge import EPISODE, OPENX_STEPS, STEPS
from handloom.stages.miniatures.robots.tfrecords import (
    example,
    features_json,
    flatten,
    record,
    step_flags,
)
from handloom.stages.miniatures.robots.views import jpeg
from tests.helpers.folders import CHECKOUT

T = 5
PATH = b"/nfs/somebody/bridge_data_all/numpy_256/bridge_data_v1/berkeley/sink/put_cup/val/out.npy"
BLACK = jpeg(np.zeros((32, 32, 3), np.uint8))
RELABEL = EpisodeOptions(relabel=True)

MOVES = np.array([[1e-10, 0, 0, -5e-7, 0, 0], *[[0.01, 0, -0.02, 0, 0, 0.1]] * (T - 1)])
GRIPPER = np.array([1.0, 0.96, 0.5, 0.04, 0.0])
POSES = np.array([[0.2 + 0.01 * t, 0.1, 0.15, 0, 0, 3.0 + 0.1 * t, 1.0008] for t in range(T)])


def pictures(seed: int) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [jpeg(picture) for picture in rng.integers(0, 255, (T, 32, 32, 3)).astype(np.uint8)]


def build(**changed: Any) -> dict[str, Any]:
    """An episode of the TFDS build: two cameras of four, has_image_* never true."""
    cameras = {f"steps/observation/image_{k}": [BLACK] * T for k in range(4)}
    cameras |= {f"steps/observation/image_{k}": pictures(k) for k in (0, 3)}
    told = {
        "steps/action": np.column_stack([MOVES, GRIPPER]),
        "steps/observation/state": POSES,
        "steps/language_instruction": [b"Put cup in sink \n"] * T,
        "episode_metadata/file_path": [PATH],
        "episode_metadata/episode_id": np.array([5]),
        **{f"episode_metadata/has_image_{k}": np.array([False]) for k in range(4)},
        **cameras,
        **flatten({"steps": step_flags(T)}),
    }
    return told | changed


def openx(**changed: Any) -> dict[str, Any]:
    """The same episode in the layout of Open X-Embodiment."""
    told = {
        "steps/action/world_vector": MOVES[:, :3],
        "steps/action/rotation_delta": MOVES[:, 3:],
        "steps/action/open_gripper": np.array([1, 1, 0, 0, 0]),
        "steps/action/terminate_episode": np.zeros(T),
        "steps/observation/state": POSES,
        "steps/observation/natural_language_instruction": [b"Put cup in sink \n"] * T,
        "steps/observation/image": pictures(0),
        **flatten({"steps": step_flags(T)}),
    }
    return told | changed


def lay_out(home: Path, shards: dict[str, list[dict[str, Any]]], is_openx: bool = False) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    told = features_json(OPENX_STEPS, {}) if is_openx else features_json(STEPS, EPISODE)
    (home / "features.json").write_text(json.dumps(told))
    rng = np.random.default_rng(0)
    for name, episodes in shards.items():
        data = [record(example({k: _flat(v) for k, v in e.items()}, rng)) for e in episodes]
        (home / name).write_bytes(b"".join(data))
    return home


def _flat(values: Any) -> Any:
    return values if isinstance(values, list) else values.ravel()


def load(root: Path, options: EpisodeOptions = EpisodeOptions()) -> list[Any]:  # noqa: B008
    return [bridge.load(root, source, options) for source in bridge.episodes(root, options)]


def test_the_build_in_handlooms_convention(tmp_path: Path) -> None:
    lay_out(tmp_path / "bridge_dataset/1.0.0", {"s-train.tfrecord-00003-of-01024": [build()]})
    (episode,) = load(tmp_path)
    assert (episode.text, episode.hz, episode.action_kind) == (
        "Put cup in sink \n",
        5.0,
        "ee_delta",
    )
    assert (episode.success, episode.flags) == (None, ("bridge_default_pose",))
    assert episode.action[1] == pytest.approx([0.01, 0, -0.02, 0, 0, 0.1, 1])
    assert episode.action[:, 6].tolist() == [1, 1, 0, 0, 0]  # 0.5 takes the next decided value
    assert episode.idle.tolist() == [True, False, False, False, False]
    assert episode.state[0] == pytest.approx([0.2, 0.1, 0.15, 0, 0, 3.0, 1.0])  # 1.0008 clipped
    assert episode.state[2, 5] == pytest.approx(3.2 - 2 * np.pi)
    assert list(episode.views) == ["image_0", "image_3"]
    assert episode.views["image_3"].fingerprint(4) == pictures(3)[4]


def test_both_layouts_are_found_by_their_features_whatever_their_names(tmp_path: Path) -> None:
    lay_out(tmp_path / "a/bridge/1.0.0", {"bridge-train.tfrecord-00000-of-01024": [build()]})
    renamed = {"bridge_dataset-test.tfrecord": [openx()]}
    lay_out(tmp_path / "b/bridge_dataset/0.1.0", renamed, is_openx=True)
    (seven,), (parts,) = load(tmp_path / "a"), load(tmp_path / "b")
    assert parts.action == pytest.approx(seven.action)
    assert parts.state.tolist() == seven.state.tolist()
    assert (parts.text, parts.hz, list(parts.views)) == (seven.text, 5.0, ["image"])
    # (a) has train and test only: test serves as val.
    assert [s.split for s in bridge.episodes(tmp_path / "b", EpisodeOptions())] == ["val"]


def test_two_layouts_at_once_are_refused(tmp_path: Path) -> None:
    lay_out(tmp_path / "bridge/0.1.0", {"a.tfrecord": [openx()]}, is_openx=True)
    lay_out(tmp_path / "bridge_dataset/1.0.0", {"a.tfrecord": [build()]})
    with pytest.raises(UserError, match="several datasets"):
        load(tmp_path)


def test_the_split_is_the_shards_and_not_the_paths(tmp_path: Path) -> None:
    lay_out(tmp_path, {"x-train.tfrecord": [build()], "x-val.tfrecord": [build()]})
    found = list(bridge.episodes(tmp_path, EpisodeOptions()))
    assert [s.split for s in found] == ["train", "val"]  # though the path says val


@pytest.mark.parametrize("is_openx", [False, True])
def test_relabelled_actions_lead_from_pose_to_pose(tmp_path: Path, is_openx: bool) -> None:
    lay_out(tmp_path, {"a.tfrecord": [openx() if is_openx else build()]}, is_openx)
    (told,), (reached,) = load(tmp_path), load(tmp_path, RELABEL)
    state, action = reached.state.astype(float), reached.action.astype(float)
    assert len(action) == T
    assert state[:-1, :3] + action[:-1, :3] == pytest.approx(state[1:, :3], abs=1e-6)
    for t in range(T - 1):
        turned = Rotation.from_rotvec(action[t, 3:6]) * rotations.from_rpy(state[t, 3:6])
        assert (turned * rotations.from_rpy(state[t + 1, 3:6]).inv()).magnitude() < 1e-5
    assert action[-1, :6].tolist() == [0.0] * 6
    assert reached.idle.tolist() == [False] * (T - 1) + [True]
    assert reached.flags == ("bridge_default_pose", "relabelled")
    assert reached.episode_id == told.episode_id
    assert action[:, 6].tolist() == told.action[:, 6].tolist()


def test_a_first_action_that_moves_is_not_idle(tmp_path: Path) -> None:
    moving = np.column_stack([np.full((T, 6), 0.01), GRIPPER])
    lay_out(tmp_path, {"a.tfrecord": [build(**{"steps/action": moving})]})
    assert load(tmp_path)[0].idle is None


def test_black_cameras_are_left_out_and_dark_ones_kept(tmp_path: Path) -> None:
    still = [jpeg(np.full((32, 32, 3), 90, np.uint8))] * T  # a camera that saw no change
    blink = [BLACK] * (T - 1) + [pictures(1)[0]]
    seen = {"steps/observation/image_1": still, "steps/observation/image_2": blink}
    lay_out(tmp_path, {"a.tfrecord": [build(**seen)]})
    assert list(load(tmp_path)[0].views) == ["image_0", "image_1", "image_2", "image_3"]
    lay_out(tmp_path, {"a.tfrecord": [build()]})
    wanted = EpisodeOptions(views=("image_3", "image_1"))
    assert list(load(tmp_path, wanted)[0].views) == ["image_3"]
    with pytest.raises(MediaError, match="none of the views image_1 shows anything"):
        load(tmp_path, EpisodeOptions(views=("image_1",)))
    with pytest.raises(UserError, match="no view 'wrist': this dataset has image_0, image_1"):
        load(tmp_path, EpisodeOptions(views=("wrist",)))


def test_empty_language_stays_empty_or_takes_what_is_told(tmp_path: Path) -> None:
    silent = build(**{"steps/language_instruction": [b""] * T})
    lay_out(tmp_path, {"a.tfrecord": [silent]})
    assert load(tmp_path)[0].text == ""
    assert load(tmp_path, EpisodeOptions(text="move something"))[0].text == "move something"


def test_an_id_is_the_recording_and_the_number_in_it(tmp_path: Path) -> None:
    elsewhere = PATH.replace(b"/nfs/somebody/bridge_data_all", b"/home/you/x")
    scripted = PATH.replace(b"numpy_256", b"scripted_numpy_256")
    episodes = [
        build(),
        build(
            **{"episode_metadata/file_path": [elsewhere], "steps/observation/image_0": [BLACK] * T}
        ),
        build(**{"episode_metadata/file_path": [scripted]}),
        build(**{"episode_metadata/episode_id": np.array([6])}),
    ]
    lay_out(tmp_path, {"a.tfrecord": episodes})
    first, moved, by_script, next_one = load(tmp_path)
    assert first.episode_id == "bridge_data_v1/berkeley/sink/put_cup/val/out.npy#5"
    assert first.facts == {"recording": "bridge_data_v1/berkeley/sink/put_cup/val/out.npy"}
    assert moved.episode_id == first.episode_id
    assert by_script.episode_id == "scripted/" + first.episode_id
    assert next_one.episode_id == first.episode_id[:-1] + "6"


def test_episodes_without_a_path_are_identified_by_content(tmp_path: Path) -> None:
    other = openx(**{"steps/observation/image": pictures(8)})
    lay_out(tmp_path / "a", {"bridge-train.tfrecord-00011-of-01024": [openx(), other]}, True)
    lay_out(tmp_path / "b", {"1.tfrecord": [other], "2.tfrecord": [openx()]}, True)
    ids = [[e.episode_id for e in load(root)] for root in (tmp_path / "a", tmp_path / "b")]
    assert ids[0] == ids[1][::-1]
    assert len(set(ids[0])) == 2


def test_png_and_jpeg_are_told_apart_by_content(tmp_path: Path) -> None:
    import io

    from PIL import Image

    files = []
    for t in range(T):
        buffer = io.BytesIO()
        picture = Image.new("RGB", (8, 6), (t, 2, 3))
        picture.save(buffer, "PNG" if t % 2 else "JPEG")
        files.append(buffer.getvalue())
    lay_out(tmp_path, {"a.tfrecord": [openx(**{"steps/observation/image": files})]}, True)
    view = load(tmp_path)[0].views["image"]
    assert view[3][0, 0].tolist() == [3, 2, 3]
    assert [view[t].shape for t in range(T)] == [(6, 8, 3)] * T


@pytest.mark.parametrize("key", ["steps/action", "steps/observation/state"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, key: str) -> None:
    lay_out(tmp_path, {"a.tfrecord": [build(**{key: np.full((T, 7), np.nan)})]})
    with pytest.raises(MediaError, match=f"{key} holds values that are not finite"):
        load(tmp_path)


def test_other_datasets_are_not_taken_for_bridge(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a.tfrecord": [build()]})
    steps = {**STEPS, "action": {"joints": STEPS["action"]}}
    (tmp_path / "features.json").write_text(json.dumps(features_json(steps, EPISODE)))
    with pytest.raises(UserError, match="is not BridgeData in any of its layouts"):
        load(tmp_path)


SAMPLE = CHECKOUT.parent / "shared/samples/metadata/rlds/bridge_dataset/1.0.0"


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="two published records are not at hand")
def test_published_records_come_out_as_their_page_says() -> None:
    found = [s for s in bridge.episodes(SAMPLE, EpisodeOptions()) if not s.error]
    assert [s.place for s in found] == [(12, 144644), (144672, 139113)]
    episode = bridge.load(SAMPLE, found[0], EpisodeOptions())
    assert episode.episode_id == (
        "bridge_data_v1/berkeley/toysink2_bww/put_cup_from_counter_or_drying_rack_into_sink/val/"
        "out.npy#5"
    )
    assert episode.text == "put cup from counter or drying rack into sink"
    first = [3.6e-10, 3.3e-11, 2.0e-10, -1.9e-07, -5.0e-07, 7.5e-08, 1.0]
    assert episode.action[0] == pytest.approx(first, rel=0.03)
    state = [0.2338, 0.1124, 0.1750, 0.1000, -0.2138, 0.2133, 1.0]
    assert episode.state[0] == pytest.approx(state, abs=6e-5)
    assert list(episode.views) == ["image_0", "image_1", "image_2"]
    assert {view[9].shape for view in episode.views.values()} == {(64, 64, 3)}
    assert episode.state.shape == episode.action.shape == (10, 7)


def test_raw_recordings_are_read_through_the_same_adapter(tmp_path: Path) -> None:
    miniature.write_raw(tmp_path, clips=2)
    first, second = load(tmp_path)
    assert {first.hz, second.hz} == {5.0}
    assert first.episode_id != second.episode_id
    assert all(path.is_file() for path in bridge.annotations(tmp_path))
