"""HDF5 as a container: identity, damage, links, filters, sizes, processes."""

import fcntl
import multiprocessing
import pickle
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from handloom.errors import MediaError, UserError
from handloom.stages.datasets.hdf5 import adapter as hdf5
from tests.helpers.folders import another_user
from tests.helpers.hdf5_files import (
    AUTO,
    STEPS,
    STORED,
    Parts,
    aloha,
    listed,
    loaded,
    pictures,
    refused,
    robomimic_demo,
    seen,
    write,
)


def test_identity_is_the_content(tmp_path: Path) -> None:
    """Neither the file's name, nor the number, nor how it is stored."""
    write(tmp_path / "a/x.hdf5", {"demo_1": robomimic_demo(1), "demo_2": robomimic_demo(2)})
    one, two = (hdf5.load(tmp_path / "a", s, AUTO) for s in listed(tmp_path / "a"))
    write(tmp_path / "b/y.h5", {"demo_7": robomimic_demo(1)})
    same = loaded(tmp_path / "b", STORED)
    assert one.episode_id == same.episode_id != two.episode_id


def test_files_that_do_not_open_cost_only_themselves(tmp_path: Path) -> None:
    good = write(tmp_path / "good.hdf5", {"demo_0": robomimic_demo(1)})
    whole = good.read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.hdf5").touch()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    with h5py.File(tmp_path / "void.h5", "w") as file:
        file.create_group("data")
    found = {s.media_path: s for s in listed(tmp_path)}
    assert "truncated file: eof" in found["cut.hdf5"].error
    assert "does not open as HDF5" in found["empty.hdf5"].error
    assert found["other.h5"].reason == "unknown_layout"
    assert found["void.h5"].reason == "no_episodes"
    assert not any(str(tmp_path) in s.error for s in found.values())
    assert hdf5.load(tmp_path, found["good.hdf5"], AUTO).action.shape == (STEPS, 7)
    with pytest.raises(UserError, match=r"no \.hdf5 or \.h5 file.*robomimic"):
        list(hdf5.episodes(tmp_path / "nowhere", AUTO))


def test_closed_and_locked_files(open_folder: Path) -> None:
    path = write(open_folder / "a.hdf5", {"demo_0": robomimic_demo(1)})
    with path.open("rb") as file:  # as a writer on a network disk leaves it
        fcntl.flock(file, fcntl.LOCK_EX)
        assert len(loaded(open_folder).action) == STEPS
    path.chmod(0o000)
    with another_user():
        (source,) = listed(open_folder)
    assert "may not be read by this user" in source.error


def linked(path: Path, make: Any) -> None:
    """A demonstration whose agentview_image is what `make` puts there."""
    demo = robomimic_demo(1)
    stored = demo.pop("obs/agentview_image")
    write(path, {"demo_0": demo})
    with h5py.File(path, "a") as file:
        make(file, file["data/demo_0/obs"], stored)


def test_links_within_the_file_are_followed_and_others_are_not(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/secret.hdf5", {"demo_0": robomimic_demo(5)})
    secret = str(tmp_path / "elsewhere/secret.hdf5")
    root = tmp_path / "root"

    def soft(file: Any, obs: Any, stored: Any) -> None:
        file["kept/pictures"] = stored
        obs["agentview_image"] = h5py.SoftLink("/kept/pictures")

    linked(root / "a.hdf5", soft)
    np.testing.assert_array_equal(seen(loaded(root), "agentview_image"), pictures(1))

    def external(file: Any, obs: Any, stored: Any) -> None:
        obs["agentview_image"] = h5py.ExternalLink(secret, "data/demo_0/obs/agentview_image")

    def soft_then_external(file: Any, obs: Any, stored: Any) -> None:
        file["kept"] = h5py.ExternalLink(secret, "data/demo_0/obs")
        obs["agentview_image"] = h5py.SoftLink("/kept/agentview_image")

    def group(file: Any, obs: Any, stored: Any) -> None:
        del file["data"]
        file["data"] = h5py.ExternalLink(secret, "data")

    for make in (external, soft_then_external, group):
        linked(root / "a.hdf5", make)
        (source,) = listed(root)
        assert "is a link into another file" in source.error

    def circle(file: Any, obs: Any, stored: Any) -> None:
        obs["agentview_image"] = h5py.SoftLink("/data/demo_0/obs/agentview_image")

    linked(root / "a.hdf5", circle)
    assert list(loaded(root).views) == ["robot0_eye_in_hand_image"]


def test_data_that_lies_in_other_files_is_not_read(tmp_path: Path) -> None:
    shape = (STEPS, 8, 10, 3)
    (tmp_path / "raw").write_bytes(bytes(STEPS * 240))

    def raw(file: Any, obs: Any, stored: Any) -> None:
        place = [(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]
        obs.create_dataset("agentview_image", shape, np.uint8, external=place)

    def virtual(file: Any, obs: Any, stored: Any) -> None:
        layout = h5py.VirtualLayout(shape, np.uint8)
        layout[:] = h5py.VirtualSource(str(tmp_path / "x.hdf5"), "x", shape)
        obs.create_virtual_dataset("agentview_image", layout)

    for make in (raw, virtual):
        linked(tmp_path / "root/a.hdf5", make)
        assert "keeps its data in other files" in refused(tmp_path / "root")


def test_filters_that_need_a_plugin_are_named(tmp_path: Path) -> None:
    def blosc(file: Any, obs: Any, stored: Any) -> None:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk(stored.shape)
        plan.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (0,))
        space = h5py.h5s.create_simple(stored.shape)
        kind = h5py.h5t.NATIVE_UINT8
        made = h5py.h5d.create(obs.id, b"agentview_image", kind, space, plan)
        made.write_direct_chunk((0, 0, 0, 0), b"not what zlib would write", 0)

    linked(tmp_path / "a.hdf5", blosc)
    assert "compressed with blosc (filter 32001)" in refused(tmp_path)


@pytest.mark.parametrize(
    "options", [{"compression": "gzip"}, {"compression": "lzf"}, {"chunks": (1, 8, 10, 3)}]
)
def test_compressed_and_chunked_pictures(tmp_path: Path, options: Parts) -> None:
    linked(tmp_path / "a.hdf5", lambda file, obs, stored: obs.create_dataset(
        "agentview_image", data=stored, **options))  # fmt: skip
    np.testing.assert_array_equal(seen(loaded(tmp_path), "agentview_image"), pictures(1))


def test_a_damaged_chunk_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    linked(path, lambda file, obs, stored: obs.create_dataset(
        "agentview_image", data=stored, compression="gzip", chunks=stored.shape))  # fmt: skip
    with h5py.File(path) as file:
        chunk = file["data/demo_0/obs/agentview_image"].id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * 64)
    with pytest.raises(MediaError, match="agentview_image cannot be read"):
        seen(loaded(tmp_path), "agentview_image")


def test_sizes_are_checked_before_anything_is_allocated(tmp_path: Path) -> None:
    huge = 10**9
    for where, shape, chunks, message in (
        ("actions", (huge, 7), (1000, 7), "claims 1000000000 steps"),
        ("actions", (STEPS, huge), (1, 1000), "expected numbers that fit into 256 MB"),
        ("obs/agentview_image", (STEPS, huge, huge, 3), (1, 8, 8, 3), "MB for each step"),
        ("obs/agentview_image", (STEPS, 20_000, 20_000, 3), (1, 20_000, 20_000, 3), "in chunks of"),
    ):
        demo = robomimic_demo(1)
        del demo[where]
        path = write(tmp_path / "a.hdf5", {"demo_0": demo})
        with h5py.File(path, "a") as file:
            file["data/demo_0"].create_dataset(where, shape, np.uint8, chunks=chunks)
        assert path.stat().st_size < 1 << 20
        assert message in refused(tmp_path)


def test_long_recordings_are_read_in_blocks_in_any_order(tmp_path: Path) -> None:
    many = np.random.default_rng(0).integers(0, 256, (40, 480, 640, 3), np.uint8)
    parts = {"action": np.zeros((40, 14)), "observations/qpos": np.zeros((40, 14))}
    parts["observations/images/cam_left_wrist"] = None
    aloha(tmp_path / "a.hdf5", **parts, **{"observations/images/cam_high": many})
    shown = loaded(tmp_path).views["cam_high"]
    for step in (39, 0, 8, 9, 10, 1, 30):
        np.testing.assert_array_equal(shown[step], many[step])
    assert len(pickle.dumps(shown)) < 40 * many[0].nbytes / 2
    assert shown.fingerprint(1) != shown.fingerprint(2)


def fingerprints(pictures: Any) -> list[bytes]:
    return [pictures.fingerprint(i) for i in range(len(pictures))]


def test_pictures_cross_a_fork(tmp_path: Path) -> None:
    aloha(tmp_path / "a.hdf5")
    shown = loaded(tmp_path).views["cam_high"]
    before = fingerprints(shown)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(fingerprints, [shown] * 4).get(timeout=60) == [before] * 4


def test_a_file_rewritten_meanwhile_is_noticed(tmp_path: Path) -> None:
    aloha(tmp_path / "a.hdf5")
    shown = loaded(tmp_path).views["cam_high"]
    aloha(tmp_path / "a.hdf5", **{"observations/images/cam_high": pictures(0, 3)})
    with pytest.raises(MediaError, match="was rewritten"):
        shown[0]
    shutil.rmtree(tmp_path)
    with pytest.raises(MediaError, match="does not open"):
        shown[0]
