"""BridgeData outside of TFDS: three forms of the same trajectories, and their convention."""

import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

from handloom.errors import MediaError, UserError
from handloom.stages.datasets import bridge, bridge_raw, tfrecord
from handloom.stages.datasets.source import Episode, EpisodeOptions, SourceEpisode

OPTIONS = EpisodeOptions()
TRAJ = "rail/toykitchen2/pick/00/2022-01-01_00-00-00/raw/traj_group0/traj0"
STEPS = 12  # observations of a raw trajectory


def recorded(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """States [STEPS, 7] and commands [STEPS - 1, 7]."""
    rng = np.random.default_rng(seed)
    states = np.cumsum(rng.uniform(-0.02, 0.02, (STEPS, 7)), axis=0)
    states[:, 6] = np.where(np.arange(STEPS) < 6, 1.0008, 0.1)
    commands = np.diff(states, axis=0) + rng.uniform(-1e-3, 1e-3, (STEPS - 1, 7))
    commands[0, :6] = 1e-9
    commands[:, 6] = np.where(np.arange(STEPS - 1) < 5, 1.0, 0.0)
    return states, commands


def picture(step: int, camera: int) -> NDArray[np.uint8]:
    return np.full((12, 16, 3), [10 * step + 5, 100 * camera, 50], np.uint8)


def png(array: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")  # under the name .jpg: the content counts
    return file.getvalue()


def write_raw(
    root: Path, path: str = TRAJ, seed: int = 0, cameras: int = 2, protocol: int = 4
) -> Path:
    """A trajectory as recorded; commands are dicts where the seed is odd."""
    folder = root / path
    folder.mkdir(parents=True)
    states, commands = recorded(seed)
    stored = {"state": states, "time_stamp": [0.2 * i for i in range(STEPS)], "full_state": states}
    (folder / "obs_dict.pkl").write_bytes(pickle.dumps(stored, protocol))
    told = [{"actions": row, "policy_type": "VR"} for row in commands] if seed % 2 else [*commands]
    (folder / "policy_out.pkl").write_bytes(pickle.dumps(told, protocol))
    (folder / "agent_data.pkl").write_bytes(pickle.dumps({"camera_info": object}))
    for camera in range(cameras):
        (folder / f"images{camera}").mkdir()
        for step in range(STEPS):
            content = png(picture(step, camera))
            (folder / f"images{camera}/im_{step}.jpg").write_bytes(content)
    (folder / "depth_images0").mkdir()
    (folder / "lang.txt").write_text("pick up the cup \nconfidence: 1\nlift the cup\n")
    return folder


def listed(root: Path, options: EpisodeOptions = OPTIONS) -> list[SourceEpisode]:
    return list(bridge_raw.episodes(root, options))


def only(root: Path, options: EpisodeOptions = OPTIONS) -> Episode:
    (source,) = listed(root, options)
    return bridge_raw.load(root, source, options)


def shown(episode: Episode, view: str) -> list[int]:
    """Steps that the pictures of a view are of."""
    pictures = episode.views[view]
    return [(int(pictures[i][0, 0, 0]) - 5) // 10 for i in range(len(pictures))]


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


class Harm:
    def __reduce__(self) -> Any:
        return os.system, ("touch harm",)


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


# Converted files.


def converted(seed: int) -> dict[str, Any]:
    """A trajectory as the official conversion writes it from a raw one; camera 1 is black."""
    states, commands = recorded(seed)
    observed = [
        {"images0": picture(i, 0), "images1": 0 * picture(i, 0), "state": state, "time_stamp": i}
        for i, state in enumerate(states)
    ]
    return {
        "observations": observed[:-1],
        "next_observations": observed[1:],
        "actions": list(commands),
        "terminals": [i == STEPS - 2 for i in range(STEPS - 1)],
        "language": ["pick up the cup\n", "lift the cup"],
    }


def write_npy(path: Path, trajectories: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    held = np.empty(len(trajectories), object)
    held[:] = trajectories
    np.save(path, held, allow_pickle=True)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def proto(array: Any, dtype: int) -> bytes:
    """A TensorProto as `tf.io.serialize_tensor` writes it."""
    if isinstance(array, list):
        strings = b"".join(message(8, text.encode()) for text in array)
        return b"\x08\x07" + message(2, message(2, b"\x08" + varint(len(array)))) + strings
    shape = b"".join(message(2, b"\x08" + varint(side)) for side in array.shape)
    return b"\x08" + varint(dtype) + message(2, shape) + message(4, array.tobytes())


def write_records(path: Path, trajectories: list[dict[str, Any]]) -> None:
    content = b""
    for told in trajectories:
        features = {
            "actions": proto(np.array(told["actions"], np.float32), 1),
            "terminals": proto(np.array(told["terminals"]), 10),
            "language": proto(told["language"], 7),
        }
        for name in ("observations", "next_observations"):
            for key, dtype in (("images0", 4), ("images1", 4), ("state", 1)):
                kind = np.uint8 if dtype == 4 else np.float32
                values = np.array([step[key] for step in told[name]], kind)
                features[f"{name}/{key}"] = proto(values, dtype)
        entries = b"".join(
            message(1, message(1, key.encode()) + message(2, message(1, message(1, value))))
            for key, value in features.items()
        )
        payload = message(1, entries)
        head = struct.pack("<Q", len(payload))
        for part in (head, payload):
            content += part + struct.pack("<I", tfrecord.masked_crc(part))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_three_forms_hold_the_same_trajectories(tmp_path: Path) -> None:
    roots = {kind: tmp_path / kind for kind in ("raw", "npy", "records")}
    told = [converted(0), converted(1)]
    for seed in (0, 1):
        write_raw(roots["raw"], TRAJ[:-1] + str(seed), seed, cameras=1)
    write_npy(roots["npy"] / "toykitchen2/pick/train/out.npy", told)
    write_records(roots["records"] / "toykitchen2/pick/train/out.tfrecord", told)
    for options in (OPTIONS, EpisodeOptions(relabel=True)):
        found = {
            kind: [bridge_raw.load(root, s, options) for s in listed(root, options)]
            for kind, root in roots.items()
        }
        for raw, npy, record in zip(*found.values(), strict=True):
            for other in (npy, record):
                assert other.episode_id == raw.episode_id
                assert np.allclose(other.state, raw.state, atol=1e-6)
                assert np.allclose(other.action, raw.action, atol=1e-6)
                assert (other.idle is None) == (raw.idle is None)
                assert (other.text, other.other_texts) == (raw.text, raw.other_texts)
                assert list(other.views) == ["image_0"]  # no black camera
                assert shown(other, "image_0") == shown(raw, "image_0")
            assert npy.views["image_0"].fingerprint(1) == record.views["image_0"].fingerprint(1)


@pytest.mark.parametrize("form", ["npy", "tfrecord"])
def test_splits_are_the_folders(tmp_path: Path, form: str) -> None:
    write: Any = write_npy if form == "npy" else write_records
    for folder in ("train", "val", "other"):
        write(tmp_path / f"pick/{folder}/out.{form}", [converted(0), converted(1)])
    write_npy(tmp_path / "lmdb/train/out.npy", [converted(2)])
    found = {s.unit: s.split for s in listed(tmp_path)}
    names = [("other", ""), ("train", "train"), ("val", "val")]
    assert found == {f"pick/{f}/out.{form}#{i}": split for f, split in names for i in (0, 1)}


def test_of_two_files_with_the_same_content_one_is_read(tmp_path: Path) -> None:
    write_npy(tmp_path / "pick/train/out.npy", [converted(0)])
    write_records(tmp_path / "pick/train/out.tfrecord", [converted(0)])
    assert [s.unit for s in listed(tmp_path)] == ["pick/train/out.tfrecord#0"]
    write_raw(tmp_path)
    with pytest.raises(UserError, match="raw trajectories and converted ones"):
        listed(tmp_path)


def test_damaged_npy_files(tmp_path: Path) -> None:
    path = tmp_path / "pick/train/out.npy"
    for told, fault in (
        ([Harm()], r"asks for \w+\.system.*do not trust"),
        ([{"observations": [Harm()]}], r"asks for \w+\.system"),
    ):
        write_npy(path, told)
        (source,) = listed(tmp_path)
        assert source.unit == "pick/train/out.npy#0"
        with pytest.raises(MediaError, match=fault):
            raise MediaError(source.error)
    whole = converted(0)
    for damaged, fault in (
        (whole | {"actions": whole["actions"][:-1]}, "10 actions and 11 of states"),
        ({"observations": []}, "has no observations"),
        (whole | {"observations": [1, 2]}, "has no observations"),
        ("text", "has no observations"),
        (whole | {"observations": [{"state": np.zeros(7)}] * 11 + [{}]}, "has no observations"),
        (whole | {"observations": [{"state": np.zeros(7), "images0": "x"}] * 11}, "is a str"),
        (whole | {"observations": [{"state": np.zeros(7), "images0": np.zeros((2, 2, 3))}] * 11},
         "expected pictures"),
    ):  # fmt: skip
        write_npy(path, [damaged, whole])
        first, second = listed(tmp_path)
        with pytest.raises(MediaError, match=rf"^pick/train/out\.npy#0: .*{fault}"):
            bridge_raw.load(tmp_path, first, OPTIONS)
        assert bridge_raw.load(tmp_path, second, OPTIONS).text == "pick up the cup"
    path.write_bytes(path.read_bytes()[:-40])
    (source,) = listed(tmp_path)
    assert "not a whole pickle" in source.error
    assert not Path("harm").exists()


def test_damaged_records(tmp_path: Path) -> None:
    path = tmp_path / "pick/train/out.tfrecord"
    write_records(path, [converted(0), converted(1)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    first, second = listed(tmp_path)
    assert bridge_raw.load(tmp_path, first, OPTIONS).text == "pick up the cup"
    assert "breaks off inside record 1" in second.error
    without = converted(0)
    without["actions"] = without["actions"][:-1]
    write_records(path, [without])
    with pytest.raises(MediaError, match="10 actions and 11 of states"):
        only(tmp_path)


def test_files_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no BridgeData"):
        listed(tmp_path)
    assert not bridge_raw.holds(tmp_path)
    assert not bridge_raw.holds(tmp_path / "none")
    (tmp_path / "bridge/0.1.0").mkdir(parents=True)
    (tmp_path / "bridge/0.1.0/bridge-train.tfrecord-00000-of-01024").touch()
    assert not bridge_raw.holds(tmp_path)
    write_raw(tmp_path)
    assert bridge_raw.holds(tmp_path)


def test_looking_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(30):
        (tmp_path / f"a{i}").mkdir()
    write_npy(tmp_path / "z/train/out.npy", [])
    assert bridge_raw.holds(tmp_path)
    monkeypatch.setattr(bridge_raw, "LOOKED_INTO", 20)
    assert not bridge_raw.holds(tmp_path)


def test_the_bridge_adapter_reads_them_too(tmp_path: Path) -> None:
    write_raw(tmp_path)
    (source,) = bridge.episodes(tmp_path, OPTIONS)
    assert bridge.load(tmp_path, source, OPTIONS).text == "pick up the cup"
    assert bridge.annotations(tmp_path) == []
