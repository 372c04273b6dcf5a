"""Recordings of ALOHA in handloom's convention."""

import io
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handloom.stages.datasets.source import EpisodeOptions
from tests.helpers.hdf5_files import STEPS, aloha, listed, loaded, pictures, refused, seen


def jpegs(seed: int, length: int = 4096) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """JPEG rows padded with zeros [T, length], and what they show."""
    rows, shown = np.zeros((STEPS, length), np.uint8), []
    for i, picture in enumerate(pictures(seed)):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=50)
        rows[i, : file.tell()] = np.frombuffer(file.getvalue(), np.uint8)
        shown.append(np.asarray(Image.open(file).convert("RGB")))
    return rows, np.stack(shown)


def test_aloha(tmp_path: Path) -> None:
    path = aloha(tmp_path / "open_the_cup/episode_3.hdf5", base_action=np.zeros((STEPS, 2)))
    episode = loaded(tmp_path)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(episode.action, file["action"][()])
        np.testing.assert_array_equal(episode.state, file["observations/qpos"][()])
    assert (episode.action_kind, episode.hz, episode.success) == ("joints", 50, None)
    assert (episode.text, loaded(tmp_path, EpisodeOptions(text="b")).text) == ("open the cup", "b")
    assert episode.flags == ("text_from_folder", "base_action_left_out")
    assert list(episode.views) == ["cam_high", "cam_left_wrist"]
    np.testing.assert_array_equal(seen(episode, "cam_high"), pictures(1))
    swapped = loaded(tmp_path, EpisodeOptions(bgr=True, views=("cam_high",), hz=25))
    np.testing.assert_array_equal(seen(swapped, "cam_high"), pictures(1)[..., ::-1])
    assert (list(swapped.views), swapped.hz) == (["cam_high"], 25)


def test_compressed_aloha_is_told_by_the_number_of_axes(tmp_path: Path) -> None:
    rows, shown = jpegs(7)
    lengths = np.zeros((1, STEPS), np.float32)  # not used: a JPEG tells where it ends
    aloha(tmp_path / "a/episode_0.hdf5", compress_len=lengths, **{
        "observations/images/cam_high": rows, "observations/images/cam_left_wrist": None,
    })  # fmt: skip
    episode = loaded(tmp_path)
    np.testing.assert_array_equal(seen(episode, "cam_high"), shown)
    np.testing.assert_array_equal(  # it is for pictures stored uncompressed
        seen(loaded(tmp_path, EpisodeOptions(bgr=True)), "cam_high"), shown
    )
    print_of = episode.views["cam_high"].fingerprint
    assert print_of(0) == bytes(rows[0]).rstrip(b"\0") != print_of(1)


def test_aloha_that_does_not_fit_together(tmp_path: Path) -> None:
    path = tmp_path / "a/episode_0.hdf5"
    aloha(path, **{"observations/qpos": np.zeros((STEPS - 1, 14))})
    assert "has 5 states for 6 actions" in refused(tmp_path)
    aloha(path, **{"observations/images/cam_high": pictures(0, 4)})
    assert "has 4 pictures for 6 actions" in refused(tmp_path)
    aloha(path, width=16)
    assert loaded(tmp_path).action_kind == "as_stored"
    assert "expected 7 for each arm" in refused(tmp_path, EpisodeOptions(action_kind="ee_delta"))
    assert "expected top; see --ingest.views" in refused(tmp_path, EpisodeOptions(views=("top",)))
    aloha(path, **{f"observations/images/{x}": None for x in ("cam_high", "cam_left_wrist")})
    assert [s.reason for s in listed(tmp_path)] == ["no_pictures"]
