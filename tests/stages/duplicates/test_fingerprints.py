"""Fingerprints: what they keep of a frame, and which frames share a key."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from handloom.stages.duplicates import fingerprints as fp


def picture(seed: int, width: int = 320, height: int = 240) -> np.ndarray:
    """Soft colours and a few things with edges, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(40, 215, (6, 6, 3), dtype=np.uint8))
    canvas = np.array(soft.resize((width, height), Image.Resampling.BICUBIC))
    for _ in range(10):
        x, y = rng.integers(0, width * 3 // 4), rng.integers(0, height * 3 // 4)
        canvas[y : y + height // 5, x : x + width // 6] = rng.integers(30, 250, 3)
    return np.asarray(Image.fromarray(canvas).filter(ImageFilter.GaussianBlur(1.5)))


def keys(frame_hwc: np.ndarray, views: int) -> set[int]:
    return set(fp.band_keys(fp.spectra(fp.fingerprint(frame_hwc)[None], views)).ravel().tolist())


def meet(one: np.ndarray, other: np.ndarray) -> bool:
    every = len(fp.VIEWS)
    return bool(keys(one, 1) & keys(other, every) or keys(other, 1) & keys(one, every))


def test_a_fingerprint_is_luma_and_coarse_colour() -> None:
    frame = np.full((240, 320, 3), (255, 0, 0), np.uint8)
    stored = fp.fingerprint(frame)[None]
    assert stored.shape == (1, fp.BYTES)
    assert stored.dtype == np.uint8
    # BT.601: pure red has luma 0.299 * 255, Cr at its end, Cb at -0.169 * 255.
    assert fp.luma(stored) == pytest.approx(np.full((1, 32, 32), 0.299 * 255), abs=1)
    assert fp.chroma(stored)[0, 1] == pytest.approx(np.full((8, 8), 127), abs=1)
    assert fp.chroma(stored)[0, 0] == pytest.approx(np.full((8, 8), -0.169 * 255), abs=1)


def test_luma_cells_lie_where_the_picture_has_them() -> None:
    frame = np.full((64, 64, 3), 100, np.uint8)
    frame[:32, 32:] = 200
    luma = fp.luma(fp.fingerprint(frame)[None])[0]
    assert (luma[:16, 16:] == 200).all()
    assert (luma[16:] == 100).all()


@pytest.mark.parametrize("size", [(160, 120), (320, 180), (640, 480)])
def test_size_and_aspect_change_little(size: tuple[int, int]) -> None:
    frame = picture(1)
    resized = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
    apart = fp.fingerprint(frame).astype(int) - fp.fingerprint(resized)
    assert np.abs(apart).mean() < 3


def test_black_bars_are_left_out() -> None:
    frame = picture(2)
    boxed = np.pad(frame, ((30, 30), (40, 40), (0, 0)), constant_values=16)
    assert (fp.fingerprint(boxed) == fp.fingerprint(frame)).all()


def test_one_dark_side_is_no_bar() -> None:
    frame = picture(3).copy()
    frame[:40] = 0
    assert (fp.luma(fp.fingerprint(frame)[None])[0, :5] == 0).all()


def test_black_frames_keep_their_whole_picture() -> None:
    black = np.zeros((48, 64, 3), np.uint8)
    assert fp.is_flat(fp.fingerprint(black)[None]).all()


def test_plain_frames_are_flat_and_pictures_are_not() -> None:
    rng = np.random.default_rng(0)
    wall = np.clip(rng.normal(128, 3, (240, 320, 3)), 0, 255).astype(np.uint8)
    stored = np.stack([fp.fingerprint(wall), fp.fingerprint(picture(4))])
    assert fp.is_flat(stored).tolist() == [True, False]


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("side", ["left top", "right bottom", "middle"])
def test_crops_share_a_key_with_their_original(mirror: bool, side: str) -> None:
    met = 0
    for seed in range(20):
        frame = picture(seed)
        left, top = {"left top": (32, 24), "right bottom": (0, 0), "middle": (16, 12)}[side]
        crop = frame[top : top + 216, left : left + 288]
        met += meet(crop[:, ::-1] if mirror else crop, frame)
    assert met >= 19


def test_unrelated_pictures_hardly_ever_share_a_key() -> None:
    frames = [picture(seed) for seed in range(40)]
    whole, parts = [keys(f, 1) for f in frames], [keys(f, len(fp.VIEWS)) for f in frames]
    met = sum(bool(whole[i] & parts[j]) for i in range(40) for j in range(40) if i != j)
    assert met < 0.02 * 40 * 39


def test_signatures_of_a_mirrored_frame_are_those_of_its_mirrored_views() -> None:
    frame = picture(5)
    ours, mirrored = (fp.spectra(fp.fingerprint(f)[None], 14)[0] for f in (frame, frame[:, ::-1]))
    half = len(fp.VIEWS) // 2
    # The whole frame and the middle cut are the same places in both.
    assert ours[half] == pytest.approx(mirrored[0], abs=0.02 * float(np.abs(ours).max()))
    assert fp.VIEWS[half].mirror
    assert fp.signatures(ours)[half] == fp.signatures(mirrored)[0]


def test_spectra_of_a_frame_do_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (300, fp.BYTES), np.uint8)
    together = fp.spectra(frames, len(fp.VIEWS))
    for count in (1, 2, 7, 129):
        chosen = rng.permutation(300)[:count]
        assert (fp.spectra(frames[chosen], len(fp.VIEWS)) == together[chosen]).all()
    assert (fp.spectra(frames, 1) == together[:, :1]).all()


def test_spectra_are_cosine_transforms_of_a_view() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (1, fp.BYTES), np.uint8)
    halves = fp.luma(frames)[0].astype(float).reshape(16, 2, 16, 2).mean(axis=(1, 3))
    at = (np.arange(16) + 0.5) / 16
    whole = [
        (halves * np.cos(np.pi * u * at) * np.cos(np.pi * v * at)[:, None]).sum()
        * np.hypot(u, v) ** fp.FALL_OFF
        for u, v in fp.FREQUENCIES
    ]
    assert fp.spectra(frames, 1)[0, 0] == pytest.approx(np.array(whole), rel=1e-3, abs=0.5)
