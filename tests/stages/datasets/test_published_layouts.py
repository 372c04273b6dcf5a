"""DROID and AgiBot World in the generic adapters, with the columns that their releases have.

Names and shapes are those of the published info.json and features.json; docs/datasets.md says which
options they need.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handloom.errors import MediaError
from handloom.stages.datasets.source import EpisodeOptions
from handloom.stages.miniatures.robots.tfrecords import (
    FeatureSpec,
    encode_example,
    flatten,
    step_flags,
)
from handloom.stages.miniatures.robots.views import jpeg
from tests.helpers.lerobot_files import loaded, write_v2
from tests.helpers.rlds_files import lay_out, only

T = 5
AGIBOT = {
    "observation.state": "observation.states.joint.position",
    "action": "actions.joint.position",
}
GRIPPERS = "observation.states.effector.position"
AGIBOT_MORE = {
    GRIPPERS: [2], "observation.states.robot.position": [3],
    "actions.effector.position": [2], "actions.end.position": [2, 3],
}  # fmt: skip
DROID_MORE = {
    "observation.state.cartesian_position": [6], "observation.state.gripper_position": [1],
    "action.joint_velocity": [7], "camera_extrinsics.wrist_left": [6],
}  # fmt: skip
TEXTS = ("language_instruction", "language_instruction_2", "building")
CAMERAS = ("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left")


def with_columns(root: Path, names: dict[str, str], more: dict[str, list[int]]) -> Path:
    """A dataset of two episodes whose columns are renamed, with others beside."""
    write_v2(root, [[0] * T, [1] * T])
    info = json.loads((root / "meta/info.json").read_text())
    features = {names.get(name, name): told for name, told in info["features"].items()}
    for name, shape in more.items():
        features[name] = {"dtype": "float32", "shape": shape, "names": {"motors": [name]}}
    features |= {name: {"dtype": "string", "shape": [1], "names": None} for name in TEXTS}
    (root / "meta/info.json").write_text(json.dumps(info | {"features": features}))
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        table = table.rename_columns([names.get(name, name) for name in table.column_names])
        for name, shape in more.items():
            table = table.append_column(name, pa.array(np.ones((T, *shape)).tolist()))
        for name in TEXTS:
            table = table.append_column(name, pa.array(["…"] * T))
        pq.write_table(table, path)
    return root


def test_agibot_world_in_lerobot_needs_its_columns_named(tmp_path: Path) -> None:
    root = with_columns(tmp_path, AGIBOT, AGIBOT_MORE)
    with pytest.raises(
        MediaError, match=r"observation\.states\.joint\.position.*--ingest\.state-key"
    ):
        loaded(root)
    found = loaded(root, EpisodeOptions(state_key=AGIBOT["observation.state"],
                                        action_key=AGIBOT["action"]))  # fmt: skip
    for number, episode in enumerate(found):
        np.testing.assert_array_equal(episode.state[:, 0], np.arange(T))
        np.testing.assert_array_equal(episode.state[:, 1], number)
        np.testing.assert_array_equal(episode.action, 2 * episode.state)


def test_columns_side_by_side_are_one_state_with_its_grippers(tmp_path: Path) -> None:
    root = with_columns(tmp_path, AGIBOT, AGIBOT_MORE)
    info = json.loads((root / "meta/info.json").read_text())
    for name in (GRIPPERS, "actions.effector.position"):
        info["features"][name]["names"] = {"motors": ["left_gripper", "right_gripper"]}
    for name in AGIBOT.values():
        info["features"][name]["names"] = {"motors": ["left_arm_0", "right_arm_0"]}
    (root / "meta/info.json").write_text(json.dumps(info))
    options = EpisodeOptions(
        state_key=f"{AGIBOT['observation.state']}+{GRIPPERS}",
        action_key=f"{AGIBOT['action']}+actions.effector.position",
    )
    for number, episode in enumerate(loaded(root, options)):
        expected = [[frame, number, 1, 1] for frame in range(T)]
        assert episode.state.tolist() == expected
        assert episode.action.tolist() == [[2 * a, 2 * b, 1, 1] for a, b, *_ in expected]
        assert episode.facts["state_names"] == "left_arm_0,right_arm_0,left_gripper,right_gripper"
    joints = replace(options, action_kind="joints", joint_unit="radians")
    assert loaded(root, joints)[0].grippers == (2, 3)
    with pytest.raises(MediaError, match=r"expected observation\.state\+nothing"):
        loaded(root, EpisodeOptions(state_key="observation.state+nothing"))


def test_droid_in_lerobot_comes_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain = loaded(write_v2(tmp_path / "plain", [[0] * T, [1] * T]))
    found = loaded(with_columns(tmp_path / "droid", {}, DROID_MORE))
    assert [one.episode_id for one in found] == [one.episode_id for one in plain]
    cartesian = EpisodeOptions(state_key="observation.state.cartesian_position")
    assert loaded(tmp_path / "droid", cartesian)[0].state.shape == (T, 6)


def droid() -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Features of DROID's steps and episodes, and a record."""
    picture = FeatureSpec(shape=(8, 8, 3), kind="image", encoding="jpeg")
    widths = {"cartesian_position": 6, "gripper_position": 1, "joint_position": 7}
    numbers = {name: FeatureSpec("float64", (width,)) for name, width in widths.items()}
    text = FeatureSpec(kind="text")
    steps = {
        "observation": {**numbers, **dict.fromkeys(CAMERAS, picture)},
        "action": FeatureSpec("float64", (7,)),
        "action_dict": {**numbers, "joint_velocity": FeatureSpec("float64", (7,))},
        "language_instruction": text, "language_instruction_2": text,
        "is_first": FeatureSpec("bool"), "is_last": FeatureSpec("bool"),
        "is_terminal": FeatureSpec("bool"),
    }  # fmt: skip
    episode = {"episode_metadata": {"file_path": text, "recording_folderpath": text}}
    rng = np.random.default_rng(0)
    pictures = [jpeg(p) for p in rng.integers(0, 255, (T, 8, 8, 3), np.uint8)]
    counted = {name: np.full((T, w), w) + np.arange(T)[:, None] for name, w in widths.items()}
    values = {
        "steps": {
            "observation": {**counted, **dict.fromkeys(CAMERAS, pictures)},
            "action": np.tile(np.arange(7.0), (T, 1)),
            "action_dict": {**counted, "joint_velocity": np.zeros((T, 7))},
            "language_instruction": [b"Put the marker in the pot"] * T,
            "language_instruction_2": [b"Place the pen"] * T,
            **step_flags(T),
        },
        "episode_metadata": {"file_path": [b"a"], "recording_folderpath": [b"b"]},
    }
    return steps, episode, encode_example(flatten(values), rng)


def test_droid_in_rlds_has_no_state_until_one_is_named(tmp_path: Path) -> None:
    steps, episode, record = droid()
    shards = {"droid_100-train.tfrecord-00000-of-00031": [record]}
    lay_out(tmp_path / "droid_100/1.0.0", shards, steps, episode)
    plain = only(tmp_path, EpisodeOptions(hz=15.0))
    assert (plain.text, plain.other_texts) == ("Put the marker in the pot", ("Place the pen",))
    assert list(plain.views) == list(CAMERAS)
    assert plain.action.tolist() == [list(range(7))] * T
    assert (plain.state.shape, plain.flags) == ((T, 0), ("no_state",))
    named = only(tmp_path, EpisodeOptions(hz=15.0, state_key="observation/joint_position"))
    np.testing.assert_array_equal(named.state[:, 0], 7 + np.arange(T))
    both = EpisodeOptions(hz=15.0, state_key="observation/joint_position",
                          action_key="action_dict")  # fmt: skip
    assert only(tmp_path, both).action.shape == (T, 6 + 1 + 7 + 7)
