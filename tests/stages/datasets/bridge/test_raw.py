"""BridgeData as it is recorded: what becomes of it, and which folders hold it."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.bridge import adapter as bridge
from handloom.stages.datasets.bridge import raw as bridge_raw
from handloom.stages.datasets.source import EpisodeOptions
from tests.helpers.bridge_files import (
    OPTIONS,
    STEPS,
    TRAJ,
    Harm,
    listed,
    only,
    picture,
    png,
    recorded,
    shown,
    write_npy,
    write_raw,
)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("protocol", [0, 2, 3, 4])
def test_raw_trajectories(tmp_path: Path, seed: int, protocol: int) -> None:
    write_raw(tmp_path, seed=seed, protocol=protocol)
    states, commands = recorded(seed)
    (source,) = listed(tmp_path)
    assert (source.unit, source.split) == (f"{TRAJ}#0", "")
    episode = bridge_raw.load(tmp_path, source, OPTIONS)
    assert (episode.hz, episode.action_kind) == (5.0, "ee_delta")
    assert (episode.text, episode.other_texts) == ("pick up the cup", ("lift the cup",))
    assert np.allclose(episode.state[:, :6], states[:-1, :6], atol=1e-6)
    assert episode.state[:, 6].max() == 1.0
    assert np.allclose(episode.action[:, :3], commands[:, :3], atol=1e-6)
    turned = Rotation.from_euler("xyz", commands[:, 3:6]).as_rotvec()
    assert np.allclose(episode.action[:, 3:6], turned, atol=1e-6)
    assert list(episode.views) == ["image_0", "image_1"]
    # im_10 comes after im_9; the picture after the last action is not shown
    assert shown(episode, "image_0") == list(range(STEPS - 1))
    assert episode.views["image_1"][2].tolist() == picture(2, 1).tolist()
    assert episode.idle is not None
    assert episode.idle.tolist() == [True] + [False] * (STEPS - 2)
    assert episode.flags == ("bridge_default_pose",)
    assert episode.success is None


@pytest.mark.parametrize(
    ("day", "lag"), [("2021-07-22_23-59-59", 1), ("2021-07-23_00-00-00", 0), ("2020-01-05_1-1", -1)]
)
def test_late_pictures_are_paired_with_the_action_before(
    tmp_path: Path, day: str, lag: int
) -> None:
    write_raw(tmp_path, TRAJ.replace("2022-01-01_00-00-00", day))
    states, commands = recorded()
    episode = only(tmp_path)
    skipped = max(lag, 0)
    assert shown(episode, "image_0") == list(range(skipped, STEPS - 1))
    assert np.allclose(episode.state[:, :3], states[skipped:-1, :3], atol=1e-6)
    count = STEPS - 1 - skipped
    assert np.allclose(episode.action[:, :3], commands[:count, :3], atol=1e-6)
    flag = {1: ("latency_shifted",), 0: (), -1: ("no_date",)}[lag]
    assert episode.flags == ("bridge_default_pose", *flag)
    moved = only(tmp_path, EpisodeOptions(relabel=True))
    assert np.allclose(moved.action[:, :3], np.diff(states[skipped:, :3], axis=0), atol=1e-6)
    assert np.allclose(moved.action[:, 6], commands[:count, 6])
    assert moved.idle is None  # where the last action led to is known
    assert moved.flags == ("bridge_default_pose", "relabelled", *flag)
    assert moved.episode_id == episode.episode_id


def test_moving_the_data_keeps_the_ids(tmp_path: Path) -> None:
    write_raw(tmp_path / "a/b")
    write_raw(tmp_path / "a/b", TRAJ[:-1] + "1", seed=1)
    first, second = listed(tmp_path / "a")
    ids = [bridge_raw.load(tmp_path / "a", s, OPTIONS).episode_id for s in (first, second)]
    (tmp_path / "a/b").rename(tmp_path / "elsewhere")
    again = listed(tmp_path / "elsewhere")
    assert [bridge_raw.load(tmp_path / "elsewhere", s, OPTIONS).episode_id for s in again] == ids
    assert ids[0] != ids[1]


def test_trajectories_are_found_at_any_depth(tmp_path: Path) -> None:
    for path in ("raw/traj_group0/traj10", "raw/traj_group0/traj9", "x/y/raw/traj_group1/traj0",
                 "lmdb/traj_group0/traj0", ".trash/traj_group0/traj0"):  # fmt: skip
        write_raw(tmp_path, path)
    (tmp_path / "raw/traj_group0/traj11/images0").mkdir(parents=True)
    (tmp_path / "x/circle").symlink_to(tmp_path)
    outside = tmp_path.with_name(tmp_path.name + "_outside")
    write_raw(outside)
    (tmp_path / "out").symlink_to(outside)
    found = [(s.unit, s.reason) for s in listed(tmp_path)]
    assert found == [
        ("raw/traj_group0/traj9#0", ""),
        ("raw/traj_group0/traj10#0", ""),
        ("raw/traj_group0/traj11#0", "missing_file"),
        ("x/y/raw/traj_group1/traj0#0", ""),
    ]


@pytest.mark.parametrize(
    ("lines", "text", "others"),
    [
        (None, "", ()),
        ("", "", ()),
        ("confidence: 0.9\n", "", ()),
        ("  Put it down.\r\nconfidence: 1\r\n\r\n", "Put it down.", ()),
        ("a\na\nb", "a", ("b",)),
    ],
)
def test_lang_txt(tmp_path: Path, lines: str | None, text: str, others: tuple[str, ...]) -> None:
    path = write_raw(tmp_path) / "lang.txt"
    path.unlink() if lines is None else path.write_bytes(lines.encode())
    episode = only(tmp_path)
    assert (episode.text, episode.other_texts) == (text, others)
    given = only(tmp_path, EpisodeOptions(text="do it"))
    assert given.text == (text or "do it")


def test_damaged_raw_trajectories(tmp_path: Path) -> None:
    folder = write_raw(tmp_path)
    (source,) = listed(tmp_path)
    states, commands = recorded()
    nested: list[Any] = [0.0] * 7
    for _ in range(40):
        nested = [nested] * 7
    for name, stored, fault in (
        ("obs_dict.pkl", {"state": Harm()}, r"asks for \w+\.system.*do not trust"),
        ("policy_out.pkl", [Harm()], r"asks for \w+\.system.*do not trust"),
        ("obs_dict.pkl", {"full_state": states}, r"states are not numbers \[steps, 7\]"),
        ("obs_dict.pkl", [states], r"states are not numbers"),
        ("obs_dict.pkl", {"state": states[:, :6]}, r"states are not numbers"),
        ("obs_dict.pkl", {"state": [nested] * STEPS}, r"states are not numbers"),
        ("obs_dict.pkl", {"state": states[:-1]}, "11 actions and 11 states, expected one"),
        ("obs_dict.pkl", {"state": states * np.nan}, "not finite"),
        ("policy_out.pkl", {"actions": commands}, "holds a dict"),
        ("policy_out.pkl", [{"act": row} for row in commands], "actions are not numbers"),
        ("policy_out.pkl", [*commands, commands[0]], "12 actions and 12 states"),
    ):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(pickle.dumps(stored))
        with pytest.raises(MediaError, match=fault) as error:
            bridge_raw.load(tmp_path, source, OPTIONS)
        assert str(error.value).startswith(f"{TRAJ}#0: ")
        (folder / name).write_bytes(whole)
    assert not Path("harm").exists()
    assert len(only(tmp_path).state) == STEPS - 1


def test_pictures_are_as_many_as_states(tmp_path: Path) -> None:
    folder = write_raw(tmp_path)
    (folder / "images2").mkdir()  # nothing was recorded there
    assert list(only(tmp_path).views) == ["image_0", "image_1"]
    (folder / "images1/im_12.jpg").write_bytes(png(picture(12, 1)))
    with pytest.raises(
        MediaError, match=r"images1 has 13 pictures for 12 states \(im_12\.jpg is too"
    ):
        only(tmp_path)
    (folder / "images1/im_4.jpg").unlink()
    with pytest.raises(MediaError, match=r"images1 has 12 pictures.*im_4\.jpg is missing"):
        only(tmp_path)


def test_damaged_pictures_cost_no_more_than_themselves(tmp_path: Path) -> None:
    folder = write_raw(tmp_path, cameras=1)
    pictures = only(tmp_path).views["image_0"]
    (folder / "images0/im_3.jpg").write_bytes(b"\xff\xd8\xff" + b"noise" * 9)
    (folder / "images0/im_4.jpg").unlink()
    for step in (3, 4):
        with pytest.raises(MediaError, match=f"picture {step} of view images0"):
            pictures[step]
    assert pictures[5].tolist() == picture(5, 0).tolist()
    assert pictures.fingerprint(5) == png(picture(5, 0))


def test_chosen_views(tmp_path: Path) -> None:
    write_raw(tmp_path)
    for names in (("images1", "images0"), ("image_1", "image_0")):
        assert list(only(tmp_path, EpisodeOptions(views=names)).views) == ["image_1", "image_0"]
    assert list(only(tmp_path, EpisodeOptions(views=("images1", "images7"))).views) == ["image_1"]
    with pytest.raises(UserError, match="no view 'wrist'"):
        listed(tmp_path, EpisodeOptions(views=("wrist",)))


def test_files_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no BridgeData"):
        listed(tmp_path)
    assert not bridge_raw.contains_recordings(tmp_path)
    assert not bridge_raw.contains_recordings(tmp_path / "none")
    (tmp_path / "bridge/0.1.0").mkdir(parents=True)
    (tmp_path / "bridge/0.1.0/bridge-train.tfrecord-00000-of-01024").touch()
    assert not bridge_raw.contains_recordings(tmp_path)
    write_raw(tmp_path)
    assert bridge_raw.contains_recordings(tmp_path)


def test_looking_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(30):
        (tmp_path / f"a{i}").mkdir()
    write_npy(tmp_path / "z/train/out.npy", [])
    assert bridge_raw.contains_recordings(tmp_path)
    monkeypatch.setattr(bridge_raw, "MAX_FOLDERS", 20)
    assert not bridge_raw.contains_recordings(tmp_path)


def test_the_bridge_adapter_reads_them_too(tmp_path: Path) -> None:
    write_raw(tmp_path)
    (source,) = bridge.episodes(tmp_path, OPTIONS)
    assert bridge.load(tmp_path, source, OPTIONS).text == "pick up the cup"
    assert bridge.annotations(tmp_path) == []
