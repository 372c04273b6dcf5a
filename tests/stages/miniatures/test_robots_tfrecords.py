"""Laws of the miniatures that are TFRecords, and of Bridge's other layouts."""

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

from handloom.stages.datasets.formats.tfrecord import masked_crc
from handloom.stages.miniatures.robots.tfrecords import Values, encode_example
from tests.helpers.miniatures import Written, writer

Record = dict[str, tuple[int, list[Any]]]  # key: field of the Feature, values


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return writer(tmp_path_factory)


# Reading TFRecords, independently of what writes them.


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        assert tag & 7 == 2
        length, at = varint(data, at)
        yield tag >> 3, data[at : at + length]
        at += length


def parsed(payload: bytes) -> Record:
    ((_, features),) = fields(payload)
    found: Record = {}
    for _, entry in fields(features):
        (_, key), (_, feature) = fields(entry)
        ((kind, content),) = fields(feature)
        if kind == 1:
            found[key.decode()] = kind, [value for _, value in fields(content)]
            continue
        ((_, packed),) = fields(content)
        if kind == 2:
            found[key.decode()] = kind, list(struct.unpack(f"<{len(packed) // 4}f", packed))
            continue
        numbers, at = [], 0
        while at < len(packed):
            number, at = varint(packed, at)
            numbers.append(number - (1 << 64) if number >> 63 else number)
        found[key.decode()] = kind, numbers
    return found


def payloads(path: Path) -> Iterator[bytes]:
    """The payloads that are whole; their checksums are computed bit by bit elsewhere."""
    data, at = path.read_bytes(), 0
    while at + 12 <= len(data):
        head = data[at : at + 8]
        (length,), (crc,) = struct.unpack("<Q", head), struct.unpack("<I", data[at + 8 : at + 12])
        assert crc == masked_crc(head)
        if at + length + 16 > len(data):
            return
        payload = data[at + 12 : at + 12 + length]
        assert struct.unpack("<I", data[at + 12 + length :][:4])[0] == masked_crc(payload)
        yield payload
        at += length + 16


def records(root: Path, pattern: str) -> list[Record]:
    return [parsed(p) for path in sorted(root.rglob(pattern)) for p in payloads(path)]


def table(record: Record, key: str, width: int) -> NDArray[np.float64]:
    return np.asarray(record[key][1], np.float64).reshape(-1, width)


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Features by flat key, from features.json."""
    for name, told in tree["featuresDict"]["features"].items():
        if "sequence" in told:
            yield from leaves(told["sequence"]["feature"], f"{prefix}{name}/")
        elif "featuresDict" in told:
            yield from leaves(told, f"{prefix}{name}/")
        else:
            yield prefix + name, told


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("data", [b"", b"123456789", bytes(range(256))])
def test_checksums_are_masked_castagnoli(data: bytes) -> None:
    crc = crc32c(data)
    assert masked_crc(data) == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    assert crc32c(b"123456789") == 0xE3069283


def test_examples_hold_what_was_put_in_in_any_order() -> None:
    put: dict[str, Values] = {
        "text": [b"a", b"", b"long" * 99],
        "numbers": np.array([0, 1, -1, 300, -(2**63), 2**63 - 1]),
        "floats": np.array([[0.5, -2.0], [1e30, 0.0]]),
        "flags": np.array([True, False]),
    }
    first, second = (encode_example(put, np.random.default_rng(seed)) for seed in (0, 1))
    assert first != second
    assert parsed(first) == parsed(second)
    found = parsed(first)
    assert found["text"] == (1, put["text"])
    assert found["numbers"] == (3, [int(n) for n in put["numbers"]])
    assert np.allclose(found["floats"][1], [0.5, -2.0, 1e30, 0.0])
    assert found["flags"] == (3, [1, 0])


@pytest.mark.parametrize(
    ("name", "pattern", "count"),
    [
        ("rt1", "*-train.tfrecord-*-of-01024", 8),  # eight, one twice, one cut off
        ("bridge", "bridge_dataset-*.tfrecord-*", 6),
        ("bridge_openx", "bridge-train.tfrecord-*-of-01024", 2),
        ("rlds", "my_robot-*.tfrecord-*", 5),
    ],
)
def test_records_are_what_features_json_says(
    written: Written, name: str, pattern: str, count: int
) -> None:
    found = records(written(name), pattern)
    assert len(found) == count
    (features,) = written(name).rglob("features.json")
    told = dict(leaves(json.loads(features.read_text())))
    for record in found:
        assert set(record) == set(told)
        steps = len(record["steps/is_first"][1])
        for key, leaf in told.items():
            kind, values = record[key]
            body = leaf.get("tensor") or leaf.get("image") or {"shape": {}, "dtype": "string"}
            shape = [int(n) for n in body["shape"].get("dimensions", [])]
            stored_as = {"string": 1, "uint8": 1, "float32": 2}.get(body["dtype"], 3)
            assert kind == stored_as, key
            size = 1 if "image" in leaf else int(np.prod(shape))
            assert len(values) == (steps if key.startswith("steps/") else 1) * size, key
            if "image" in leaf:
                picture = Image.open(io.BytesIO(values[0]))
                assert [picture.height, picture.width, 3] == shape
        flags = [record[f"steps/is_{name}"][1] for name in ("first", "last")]
        assert flags == [[1] + [0] * (steps - 1), [0] * (steps - 1) + [1]]


def test_dataset_info_adds_up(written: Written) -> None:
    folder = written("rlds") / "my_robot/1.0.0"
    info = json.loads((folder / "dataset_info.json").read_text())
    assert (info["name"], info["fileFormat"]) == ("my_robot", "tfrecord")
    for split in info["splits"]:
        paths = sorted(folder.glob(f"my_robot-{split['name']}.tfrecord-*"))
        found = [list(payloads(path)) for path in paths]
        assert [str(len(shard)) for shard in found] == split["shardLengths"]
        assert str(sum(len(p) for shard in found for p in shard)) == split["numBytes"]
    (partial,) = (written("rt1")).rglob("dataset_info.json")
    (train,) = json.loads(partial.read_text())["splits"]
    assert len(train["shardLengths"]) == 1024


RT1_KEYS = """
action/base_displacement_vector action/base_displacement_vertical_rotation action/rotation_delta
action/terminate_episode action/gripper_closedness_action action/world_vector is_terminal reward
observation/base_pose_tool_reached observation/workspace_bounds observation/vector_to_go
observation/orientation_start observation/robot_orientation_positions_box
observation/orientation_box observation/image observation/rotation_delta_to_go
observation/height_to_bottom observation/gripper_closed observation/gripper_closedness_commanded
observation/natural_language_embedding observation/natural_language_instruction
observation/src_rotation is_last is_first
"""


def test_rt1_has_the_keys_and_the_oddities(written: Written) -> None:
    found = records(written("rt1"), "*.tfrecord-*")
    steps = {key.removeprefix("steps/") for key in found[0] if key.startswith("steps/")}
    assert steps == set(RT1_KEYS.split())
    assert {len(record) for record in found} == {len(RT1_KEYS.split()) + 12 + 5}
    same = [i for i, record in enumerate(found) if record == found[0]]
    assert len(same) == 2  # a duplicate, in another shard, whose bytes differ
    whole = [p for path in sorted(written("rt1").rglob("*.tfrecord-*")) for p in payloads(path)]
    assert whole[same[0]] != whole[same[1]]
    modes = [table(record, "steps/action/terminate_episode", 3).argmax(axis=1) for record in found]
    assert any((mode[:2] == 0).all() for mode in modes)
    assert any((mode == 2).any() for mode in modes)
    assert all(mode[-1] == 0 for mode in modes)
    told = {tuple(record[f"aspects/{name}"][1][0] for name in ("has_aspects", "success"))
            for record in found}  # fmt: skip
    assert told == {(0, 0), (1, 0), (1, 1)}
    files = sorted(path.name for path in written("rt1").rglob("*.tfrecord-*"))
    assert files[1] == "fractal20220817_data-train.tfrecord-00007-of-01024"


def test_rt1_actions_lead_from_pose_to_pose(written: Written) -> None:
    for record in records(written("rt1"), "*.tfrecord-*"):
        pose = table(record, "steps/observation/base_pose_tool_reached", 7)
        moved = table(record, "steps/action/world_vector", 3)
        turned = table(record, "steps/action/rotation_delta", 3)
        assert np.allclose(pose[:1, :3] + np.cumsum(moved, axis=0)[:-1], pose[1:, :3], atol=1e-5)
        here = Rotation.from_quat(pose[0, 3:])
        for step, angles in enumerate(turned[:-1]):
            here = Rotation.from_euler("xyz", angles) * here
            assert (here * Rotation.from_quat(pose[step + 1, 3:]).inv()).magnitude() < 1e-4
        closed, is_closed = table(record, "steps/action/gripper_closedness_action", 1), 0.0
        for command, wanted in zip(
            closed, table(record, "steps/observation/gripper_closedness_commanded", 1), strict=True
        ):
            is_closed = {1: 1.0, -1: 0.0, 0: is_closed}[int(command[0])]
            if not record["steps/is_last"][1][-1]:
                assert is_closed == wanted[0]


def test_bridge_hides_its_absent_cameras(written: Written) -> None:
    found = records(written("bridge"), "*.tfrecord-*")
    texts = [record["steps/language_instruction"][1][0].decode() for record in found]
    assert texts.count("") == len(found) // 3
    assert any(text != text.strip() for text in texts)
    for record, text in zip(found, texts, strict=True):
        assert [record[f"episode_metadata/has_image_{k}"][1] for k in range(4)] == [[0]] * 4
        assert record["episode_metadata/has_language"][1] == [int(bool(text))]
        assert np.any(record["steps/language_embedding"][1]) == bool(text)
        pictures = [record[f"steps/observation/image_{k}"][1] for k in range(4)]
        assert len(set(pictures[0])) > 5
        assert len(set(pictures[2])) == 1  # nobody was there: black
        assert not np.asarray(Image.open(io.BytesIO(pictures[2][0]))).any()
        assert np.abs(table(record, "steps/action", 7)[0, :6]).max() < 1e-8
    identities = {(r["episode_metadata/file_path"][1][0], r["episode_metadata/episode_id"][1][0])
                  for r in found}  # fmt: skip
    assert len(identities) == len(found)


def test_bridge_commands_are_followed(written: Written) -> None:
    for record in records(written("bridge"), "*.tfrecord-*"):
        state, action = (
            table(record, "steps/observation/state", 7),
            table(record, "steps/action", 7),
        )
        target = state[0, :3] + np.cumsum(action[:, :3], axis=0)
        assert np.abs(target[:-1] - state[1:, :3]).max() < 2e-3
        assert np.abs(action[:-1, :3] - np.diff(state[:, :3], axis=0)).max() > 1e-5
        assert np.abs(state[:, 3:6]).max() < 0.6  # (0, 0, 0) is the gripper that points down
        assert set(action[:, 6]) <= {0.0, 1.0}


def test_bridge_was_recorded_with_a_lag_in_2021(written: Written) -> None:
    found = {}
    for path in sorted(written("bridge_raw").rglob("traj*/obs_dict.pkl")):
        observed = np.load(path, allow_pickle=True)
        policy = np.load(path.with_name("policy_out.pkl"), allow_pickle=True)
        count = len(list((path.parent / "images0").glob("im_*.jpg")))
        assert (len(observed["state"]), len(policy)) == (count, count - 1)
        moves = np.array([p["actions"] if isinstance(p, dict) else p for p in policy])
        target = observed["state"][0, :3] + np.cumsum(moves[:, :3], axis=0)
        # Of the actions, the last that a state shows is its own one or the one before.
        lags = [np.abs(observed["state"][1 + lag :, :3] - target[: len(target) - lag]).max()
                for lag in (0, 1)]  # fmt: skip
        found[path.parts[-5]] = int(np.argmin(lags))
        assert min(lags) < 2e-3
        assert b"numpy._core" not in path.read_bytes()  # as numpy 1 wrote it
    assert found == {"2022-01-01_00-00-00": 0, "2021-06-12_09-30-00": 1}
    assert len(list(written("bridge_raw").rglob("lang.txt"))) == 2


def test_bridge_for_numpy_is_a_list_of_dicts(written: Written) -> None:
    paths = sorted(written("bridge_numpy").rglob("out.npy"))
    assert {path.parent.name for path in paths} == {"train", "val"}
    for trajectory in [t for path in paths for t in np.load(path, allow_pickle=True)]:
        names = {"observations", "next_observations", "actions", "terminals", "language"}
        assert set(trajectory) == names
        assert set(trajectory["observations"][0]) == {"images0", "state", "time_stamp"}
        after = trajectory["next_observations"][0]["state"]
        assert (trajectory["observations"][1]["state"] == after).all()
