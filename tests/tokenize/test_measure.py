"""What a tokenizer is measured with is what its definition says."""

import json

import numpy as np
import pytest
from PIL import Image

from handloom.errors import UserError
from handloom.tokenize import vqgan
from handloom.tokenize.frames import center_square
from handloom.tokenize.measure import lpips as measure_lpips
from handloom.tokenize.measure import report as measure
from handloom.tokenize.measure.pixels import psnr_db, ssim
from tests.helpers.lpips_files import write_lpips


def brute_ssim(a, b):
    """Eq. 13 of Wang et al. 2004, window by window."""
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    found = []
    for channel in range(3):
        x, y = a[..., channel].astype(float), b[..., channel].astype(float)
        for i in range(x.shape[0] - 10):
            for j in range(x.shape[1] - 10):
                p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                cov = (window * (p - mp) * (q - mq)).sum()
                c1, c2 = 2.55**2, 7.65**2
                found.append(
                    (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
                )
    return np.mean(found)


def test_psnr_ssim_and_entropy_are_those_of_their_definitions():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 16, 14, 3), dtype=np.uint8)
    assert ssim(a, b) == pytest.approx(brute_ssim(a, b), abs=1e-9)
    assert ssim(a, a) == pytest.approx(1.0)
    black = np.zeros((12, 12, 3), np.uint8)
    assert psnr_db(black, black + 255) == pytest.approx(0.0)
    assert psnr_db(black, black + 51) == pytest.approx(20 * np.log10(5))
    assert psnr_db(black, black) == 100.0
    both = np.stack([black, black])  # of several frames the error is averaged
    assert psnr_db(both, np.stack([black, black + 51])) == pytest.approx(20 * np.log10(5) + 3.0103)
    assert measure.entropy_bits(np.array([4, 4, 4, 4, 0])) == pytest.approx(2.0)
    assert measure.entropy_bits(np.array([0, 9])) == 0.0


def test_datasets_are_measured_apart_and_together(tmp_path, frames_thwc):
    tokenizer = vqgan.load("bundled")
    big = np.stack([center_square(frame, 256) for frame in frames_thwc])
    flat = np.full((1, 256, 256, 3), 120, np.uint8)
    datasets = {"soft": iter([big[:2], big[2:]]), "flat": iter([flat])}
    facts = measure.measure(tokenizer, datasets, tmp_path / "out")
    assert json.loads((tmp_path / "out/tokenizer.json").read_text()) == facts
    assert facts["tokenizer"]["weights_sha256"] == tokenizer.weights_sha256
    soft, flat_facts, both = *facts["datasets"].values(), facts["all"]
    assert (soft["frames"], flat_facts["frames"], both["frames"]) == (3, 1, 4)
    for key in ("psnr_db", "ssim"):
        assert both[key] == pytest.approx((3 * soft[key] + flat_facts[key]) / 4, abs=1e-3)
    assert soft["psnr_db"] > soft["mean_color_psnr_db"] + 4
    codes_tij = tokenizer.encode(big)
    counts = np.unique(codes_tij, return_counts=True)[1]
    assert soft["codes_used"] == len(counts)
    assert soft["perplexity"] == pytest.approx(2 ** soft["entropy_bits"], rel=1e-3)
    assert soft["entropy_bits"] <= both["codebook_bits"] == 10
    grid = np.array(Image.open(tmp_path / "out/soft.png"))
    assert grid.shape == (512, 3 * 256, 3)
    assert (grid[:256, 256:512] == big[1]).all()
    assert (grid[256:, 256:512] == tokenizer.decode(codes_tij)[1]).all()
    with pytest.raises(UserError, match="nothing gave no frames"):
        measure.measure(tokenizer, {"nothing": []}, tmp_path / "out")


def test_lpips_is_a_distance_and_needs_its_weights(tmp_path, frames_thwc):
    with pytest.raises(UserError, match=r"LPIPS needs vgg16-397923af\.pth and vgg\.pth"):
        measure_lpips.load(tmp_path)
    write_lpips(tmp_path)
    distance = measure_lpips.load(tmp_path)
    a, b, _ = frames_thwc
    nearer = np.clip(a.astype(int) + 3, 0, 255).astype(np.uint8)
    assert distance(a, a) == 0
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-5)
    assert 0 < distance(a, nearer) < distance(a, b)
