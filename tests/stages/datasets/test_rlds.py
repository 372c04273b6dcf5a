"""RLDS: features.json drives decoding, and every shard's every record is listed or named."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.errors import MediaError, UserError
from handloom.stages.datasets import rlds, rt1
from handloom.stages.datasets.bridge import adapter as bridge
from handloom.stages.datasets.formats import tfds_features as features
from handloom.stages.datasets.source import EpisodeOptions, SourceEpisode
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.miniatures.robots.tfrecords import (
    FeatureSpec,
    encode_example,
    features_json,
    flatten,
    frame_record,
)
from tests.helpers.rlds_files import (
    EPISODE,
    OPTIONS,
    STEPS,
    T,
    lay_out,
    listing,
    only,
    payload,
    step_values,
)


def test_an_episode_comes_as_it_is_stored(tmp_path: Path) -> None:
    lay_out(tmp_path / "set/1.2.0", {"set-train.tfrecord-00000-of-00001": [payload()]})
    (source,) = listing(tmp_path)
    assert source.unit == "set/1.2.0/set-train.tfrecord-00000-of-00001#0"
    assert (source.split, source.version, source.error) == ("", "1.2.0", "")  # all train: by hash
    episode = rlds.load(tmp_path, source, OPTIONS)
    assert (episode.text, episode.hz, episode.action_kind) == ("open it", 10.0, "as_stored")
    assert episode.success is None
    # A dict of actions is joined in name order: grip, turn.
    assert episode.action.tolist() == [[1, 0, 0], [0, 1, -1], [1, 2, -2], [0, 3, -3]]
    assert episode.flags == ("joined_action",)
    assert episode.state.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert episode.state.dtype == episode.action.dtype == np.float32
    assert list(episode.views) == ["image", "hand_image"]  # no depth; the hand's camera last
    stored = step_values()["observation"]["image"]
    assert [episode.views["image"].fingerprint(t) for t in range(T)] == stored
    assert episode.views["image"][2].shape == (8, 8, 3)


def test_named_splits_count_where_one_of_them_is_held_out(tmp_path: Path) -> None:
    name = "set-train.tfrecord-00000-of-00001"
    lay_out(tmp_path / "files", {name: [payload()], "set-val.tfrecord": [payload()]})
    assert [s.split for s in listing(tmp_path / "files")] == ["train", "val"]
    # Of a set whose held-out shards were not fetched.
    lay_out(tmp_path / "listed", {name: [payload()]})
    splits = [{"name": "train", "shardLengths": ["1"]}, {"name": "test", "shardLengths": ["7"]}]
    (tmp_path / "listed/dataset_info.json").write_text(json.dumps({"splits": splits}))
    assert [s.split for s in listing(tmp_path / "listed")] == ["train"]


@pytest.mark.parametrize("below", ["", "1.0.0", "name/1.0.0"])
def test_a_dataset_is_found_by_what_the_folder_holds(tmp_path: Path, below: str) -> None:
    lay_out(tmp_path / below, {"my shard.tfrecord": [payload()], "notes.tfrecord.md5": []})
    assert [s.split for s in listing(tmp_path)] == [""]
    assert rlds.annotations(tmp_path) == [tmp_path / below / "features.json"]


def test_of_two_datasets_one_is_to_be_named(tmp_path: Path) -> None:
    for version in ("1.0.0", "2.0.0", "incomplete.ABC_3.0.0"):
        lay_out(tmp_path / "set" / version, {"a.tfrecord": [payload()]})
    with pytest.raises(UserError, match=r"several datasets \(set/1\.0\.0, set/2\.0\.0\)"):
        listing(tmp_path)
    assert len(listing(tmp_path / "set/2.0.0")) == 1


def test_folders_without_a_dataset_are_told_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there are no TFRecords\. Open X"):
        listing(tmp_path)
    (tmp_path / "a.tfrecord").write_bytes(frame_record(payload()))
    with pytest.raises(UserError, match=r"a\.tfrecord lies there without a features\.json"):
        listing(tmp_path)
    (tmp_path / "features.json").write_text("{")
    with pytest.raises(UserError, match="does not describe TFDS features"):
        listing(tmp_path)
    (tmp_path / "a.tfrecord").rename(tmp_path / "a-train.array_record-00000-of-00001")
    lay_out(tmp_path, {})
    with pytest.raises(UserError, match="array_record format, expected tfrecord"):
        listing(tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("test_set-train.tfrecord-00003-of-01024", "train"), ("set-val.tfrecord", "val"),
        ("set-validation.tfrecord-00000-of-00001", "val"), ("set-test_part.tfrecord-7", "test"),
        ("shard.tfrecord-00000-of-00001", ""), ("untested.tfrecord", ""),
    ],
)  # fmt: skip
def test_the_split_is_in_the_name_of_the_shard(name: str, split: str) -> None:
    assert rlds.SPLITS.get(rlds.split_name(name), "") == split


def test_every_file_is_listed_or_named(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a.tfrecord": [payload(i) for i in range(3)], "b.tfrecord": [payload(3)]})
    whole = (tmp_path / "a.tfrecord").read_bytes()
    (tmp_path / "c.tfrecord").write_bytes(whole[:-10])
    (tmp_path / "d.tfrecord").write_bytes(b"\x1f\x8b" + bytes(50))
    (tmp_path / "e.tfrecord.gstmp").write_bytes(whole)
    (tmp_path / "f.tfrecord").touch()
    (tmp_path / "g.tfrecord").mkdir()
    found = listing(tmp_path)
    assert [s.unit for s in found] == [
        "a.tfrecord#0", "a.tfrecord#1", "a.tfrecord#2", "b.tfrecord#0", "c.tfrecord#0",
        "c.tfrecord#1", "c.tfrecord#2", "d.tfrecord#0", "e.tfrecord.gstmp#0", "f.tfrecord#0",
        "g.tfrecord#0",
    ]  # fmt: skip
    errors = [s.error for s in found if s.error]
    said = ["breaks off inside record 2", "gzip", "did not end", "after 0 records", "a folder"]
    assert len(errors) == len(said)
    assert all(part in error for part, error in zip(said, errors, strict=True))
    assert not any(str(tmp_path) in error for error in errors)
    ids = [rlds.load(tmp_path, s, OPTIONS).episode_id for s in found[:4]]
    assert len(set(ids)) == 4


def test_a_shard_cut_between_two_records_is_noticed_by_its_length(tmp_path: Path) -> None:
    folder = tmp_path / "1.0.0"
    lay_out(folder, {"set-train.tfrecord-00001-of-00002": [payload(i) for i in range(2)]})
    split = {"name": "train", "shardLengths": ["9", "3"], "numBytes": "1"}
    (folder / "dataset_info.json").write_text(json.dumps({"splits": [split]}))
    assert [bool(s.error) for s in listing(tmp_path)] == [False, False, True]
    assert "ends after 2 records, expected 3" in listing(tmp_path)[-1].error
    # Another number of shards is another build, whose lengths tell nothing.
    name = folder / "set-train.tfrecord-00001-of-00004"
    (folder / "set-train.tfrecord-00001-of-00002").rename(name)
    assert [s.error for s in listing(tmp_path)] == ["", ""]
    for broken in ("{", "[]", '{"splits": [{"shardLengths": ["x"]}]}'):
        (folder / "dataset_info.json").write_text(broken)
        assert len(listing(tmp_path)) == 2


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    lay_out(tmp_path / "data", {"a.tfrecord": [payload()]})
    lay_out(tmp_path / "else", {"b.tfrecord": [payload()]})
    os.symlink(tmp_path / "else/b.tfrecord", tmp_path / "data/b.tfrecord")
    assert [s.media_path for s in listing(tmp_path / "data")] == ["a.tfrecord"]
    for path in ("../else/b.tfrecord", "b.tfrecord"):  # as a table could still name it
        stray = SourceEpisode("x", path, (12, 100), "", "")
        with pytest.raises(MediaError, match=r"leads out of the data folder.*--data"):
            EpisodeIngest().at(tmp_path / "data").pictures.open(stray)


def test_ids_are_of_the_content_wherever_it_lies(tmp_path: Path) -> None:
    lay_out(tmp_path / "a", {"x-train.tfrecord-00000-of-00001": [payload(i) for i in range(3)]})
    again = [payload(i, 9) for i in (2, 0, 1)]
    assert again[1] != payload(0)  # the map is in another order
    lay_out(tmp_path / "b", {"s1.tfrecord": again[:1], "s2.tfrecord": again[1:]})
    loaded = [
        [rlds.load(root, s, OPTIONS).episode_id for s in listing(root)]
        for root in (tmp_path / "a", tmp_path / "b")
    ]
    assert loaded[1] == [loaded[0][2], loaded[0][0], loaded[0][1]]
    chosen = EpisodeOptions(hz=5.0, views=("hand_image",), action_key="action/turn")
    sources = listing(tmp_path / "a", chosen)
    assert [rlds.load(tmp_path / "a", s, chosen).episode_id for s in sources] == loaded[0]
    assert len(set(loaded[0])) == 3


def test_options_name_what_is_there(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a.tfrecord": [payload()]})
    chosen = EpisodeOptions(
        hz=1.0, views=("hand_image", "image"), action_key="action/turn", state_key="action/grip",
        text="never asked for", action_kind="joints",
    )  # fmt: skip
    episode = only(tmp_path, chosen)
    assert list(episode.views) == ["hand_image", "image"]
    assert (episode.action.shape, episode.state.shape, episode.text) == ((4, 2), (4, 1), "open it")
    assert (episode.flags, episode.action_kind) == ((), "joints")
    for wrong, said in (
        (EpisodeOptions(), "pass --ingest.hz"),
        (EpisodeOptions(hz=1, views=("wrist",)), "no view 'wrist': this dataset has image, hand_"),
        (EpisodeOptions(hz=1, action_key="act"), "one of action/grip, action/turn, is_first"),
        (EpisodeOptions(hz=1, state_key="pose"), r"name the state with --ingest\.state-key"),
        (EpisodeOptions(hz=1, text_key="task"), "can be language_instruction"),
        (EpisodeOptions(hz=1, relabel=True), "for bridge and calvin only"),
    ):
        with pytest.raises(UserError, match=said):
            listing(tmp_path, wrong)
    (source,) = listing(tmp_path)
    with pytest.raises(MediaError, match="are not ee_delta"):
        rlds.load(tmp_path, source, EpisodeOptions(hz=1, action_kind="ee_delta"))


def test_sets_without_language_or_state_are_read(tmp_path: Path) -> None:
    steps = STEPS | {"observation": {"image": STEPS["observation"]["image"]}}
    lay_out(tmp_path, {"a.tfrecord": [payload()]}, steps, {})
    episode = only(tmp_path, EpisodeOptions(hz=10.0, text="stack the blocks"))
    assert (episode.text, episode.state.shape) == ("stack the blocks", (T, 0))
    assert episode.flags == ("joined_action", "no_state")
    assert only(tmp_path).text == ""


def test_texts_of_an_episode_are_told_apart(tmp_path: Path) -> None:
    names = ("language_instruction", "language_instruction_2", "language_instruction_3")
    told = {name: [text] for name, text in zip(names, (b" ", b"open", b"pull"), strict=True)}
    steps: dict[str, Any] = STEPS | {name: FeatureSpec("string") for name in names}
    values: dict[str, Any] = {f"steps/{name}": text * T for name, text in told.items()}
    lay_out(tmp_path, {"a.tfrecord": [payload(**values)]}, steps, {})
    assert (only(tmp_path).text, only(tmp_path).other_texts) == ("open", ("pull",))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps/observation/state": np.zeros(2 * T + 1, np.float32)}, "state has 9 values, exp"),
        ({"steps/observation/image": [b"x"] * (T - 1)}, "image has 3 values, expected 4 for 4"),
        ({"steps/action/turn": np.full(2 * T, np.nan, np.float32)}, "turn holds values that are"),
        ({"steps/action/turn": [b"bytes"]}, "turn holds bytes"),
        ({"steps/observation/image": np.zeros(T)}, "image holds numbers"),
        ({"steps/is_first": np.zeros(0, np.int64)}, r"has no steps/is_first"),
    ],
)
def test_records_that_do_not_fit_are_refused(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    lay_out(tmp_path, {"a.tfrecord": [payload(**changed)]})
    with pytest.raises(MediaError, match=said):
        only(tmp_path)


def test_a_key_that_features_json_promises_may_be_absent(tmp_path: Path) -> None:
    values = flatten({"steps": step_values()})
    del values["steps/action/turn"]
    lay_out(tmp_path, {"a.tfrecord": [encode_example(values, np.random.default_rng(0))]})
    with pytest.raises(MediaError, match="steps/action/turn is not in the record"):
        only(tmp_path)


def told(key: str, shape: list[str], dtype: str, encoding: str = "none") -> dict[str, Any]:
    """features.json with one more tensor in the observation, typed as TFDS writes it."""
    found = features_json(STEPS, EPISODE)
    inner = found["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]
    tensor = {"shape": {"dimensions": shape}, "dtype": dtype, "encoding": encoding}
    observation = inner["features"]["observation"]["featuresDict"]["features"]
    observation[key] = {"pythonClassName": "a.b.Tensor", "tensor": tensor}
    return found


@pytest.mark.parametrize(
    ("dtype", "encoding", "stored"),
    [
        ("int16", "bytes", lambda a: [row.tobytes() for row in a]),
        ("float64", "zlib", lambda a: [zlib.compress(row.tobytes()) for row in a]),
        ("int32", "none", lambda a: a.ravel()),
        ("uint64", "none", lambda a: a.ravel().view(np.int64)),
        ("float16", "none", lambda a: a.ravel().astype(np.float32)),
    ],
)
def test_tensors_come_back_in_their_own_type(
    tmp_path: Path, dtype: str, encoding: str, stored: Any
) -> None:
    values = (np.arange(T * 6).reshape(T, 2, 3) * 37).astype(dtype)
    if dtype == "uint64":
        values += np.uint64(1 << 63)
    if dtype == "int16":
        values = -values
    lay_out(tmp_path, {})
    (tmp_path / "features.json").write_text(json.dumps(told("x", ["2", "3"], dtype, encoding)))
    key = "steps/observation/x"
    described = features.read_features(tmp_path / "features.json")
    data = payload(**{key: stored(values)})
    found = features.parse_record(data, described, {key}.__contains__).array(key)
    assert found.dtype == values.dtype
    assert found.tolist() == values.tolist()


def test_a_deflated_tensor_is_not_unpacked_beyond_its_size(tmp_path: Path) -> None:
    lay_out(tmp_path, {})
    key, bomb = "steps/observation/x", zlib.compress(bytes(1 << 24))
    for shape, said in ((["2"], "has 9 bytes at step 0, expected 8"), (["-1"], "ragged tensor")):
        described = told("x", shape, "float32", "zlib")
        (tmp_path / "features.json").write_text(json.dumps(described))
        described = features.read_features(tmp_path / "features.json")
        record_read = features.parse_record(
            payload(**{key: [bomb] * T}), described, {key}.__contains__
        )
        with pytest.raises(MediaError, match=said):
            record_read.array(key)
    (tmp_path / "a.tfrecord").write_bytes(frame_record(payload()))
    with pytest.raises(UserError, match="ragged tensor"):
        listing(tmp_path, EpisodeOptions(hz=1.0, state_key="observation/x"))


def test_inner_sequences_are_ragged_even_of_fixed_length(tmp_path: Path) -> None:
    described = told("x", ["2"], "float32")
    steps = described["featuresDict"]["features"]["steps"]["sequence"]["feature"]
    observation = steps["featuresDict"]["features"]["observation"]["featuresDict"]["features"]
    observation["x"] = {"sequence": {"feature": observation["x"], "length": "5"}}
    path = tmp_path / "features.json"
    path.write_text(json.dumps(described))
    assert features.read_features(path)["steps/observation/x"].shape == (features.VARIES, 2)


def test_uncompressed_pictures_are_a_view_and_depth_is_none(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (T, 8, 8, 3)).astype(np.uint8)
    lay_out(tmp_path, {"a.tfrecord": [payload(**{"steps/observation/x": pictures.ravel()})]})
    (tmp_path / "features.json").write_text(json.dumps(told("x", ["8", "8", "3"], "uint8")))
    episode = only(tmp_path, EpisodeOptions(hz=1.0, views=("x",)))
    assert episode.views["x"][3].tolist() == pictures[3].tolist()
    assert episode.views["x"].fingerprint(0) != episode.views["x"].fingerprint(1)


@pytest.mark.skipif("HANDLOOM_TFDS" not in os.environ, reason="a folder that TFDS itself wrote")
def test_sets_written_by_tfds_are_read() -> None:
    """Every dataset folder below $HANDLOOM_TFDS: each episode loads and each picture decodes."""
    for features_path in sorted(Path(os.environ["HANDLOOM_TFDS"]).glob("*/*/features.json")):
        sources = listing(features_path.parent)
        assert sources
        for source in sources:
            episode = rlds.load(features_path.parent, source, OPTIONS)
            assert all(view[t].ndim == 3 for view in episode.views.values() for t in (0, -1))
            assert (
                len(episode.state) == len(episode.action) == len(next(iter(episode.views.values())))
            )


@pytest.mark.parametrize("below", ["", "0.1.0", "fractal20220817_data/0.1.0"])
def test_shards_without_their_features_json_say_so(tmp_path: Path, below: str) -> None:
    name = "fractal20220817_data-train.tfrecord-00000-of-01024"
    path = lay_out(tmp_path / below, {name: [payload()]})
    (path / "features.json").unlink()
    where = f"{below}/{name}".lstrip("/")
    for adapter in (rlds, rt1, bridge):
        with pytest.raises(UserError, match=f"{where} lies there without a features.json"):
            list(adapter.episodes(tmp_path, OPTIONS))


def test_what_is_wrong_with_a_record_names_file_and_record(tmp_path: Path) -> None:
    good = [payload(i) for i in range(3)]
    lay_out(tmp_path / "1.0.0", {"a.tfrecord": good})
    path = tmp_path / "1.0.0/a.tfrecord"
    listed = listing(tmp_path)
    data = bytearray(path.read_bytes())
    data[listed[1].place[0] + 40] ^= 0xFF  # of the second record
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"^1\.0\.0/a\.tfrecord#1: .*another checksum"):
        rlds.load(tmp_path, listed[1], OPTIONS)
    odd = payload(1, **{"steps/observation/image": [b"no picture"] * T})
    for changed, why in (
        (payload(1, **{"steps/observation/image": [b"x"]}), "image"),
        (b"\xff" * 60, ""),
        (payload(1, **{"steps/observation/state": np.ones(3, np.float32)}), "state"),
        (odd, "image"),
    ):
        lay_out(tmp_path / "1.0.0", {"a.tfrecord": [good[0], changed, good[2]]})
        stage = EpisodeIngest(**vars(OPTIONS)).at(tmp_path)
        rows = []
        for source in listing(tmp_path):
            try:
                rows += [row.status for row in stage(source)]
            except MediaError as error:
                rows.append(str(error))
        assert rows[::2] == ["ok", "ok"]
        assert rows[1].startswith("1.0.0/a.tfrecord#1: ")
        assert why in rows[1]
