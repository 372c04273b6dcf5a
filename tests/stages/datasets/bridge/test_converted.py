"""BridgeData in out.npy and out.tfrecord: the same trajectories as the raw ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.bridge import raw as bridge_raw
from handloom.stages.datasets.source import EpisodeOptions
from tests.helpers.bridge_files import (
    OPTIONS,
    TRAJ,
    Harm,
    converted,
    listed,
    only,
    shown,
    write_npy,
    write_raw,
    write_records,
)


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
