"""Laws of the VQGAN trainer's codebook, discriminator and losses."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from handloom.errors import UserError
from handloom.tokenize.measure import lpips
from handloom.train.vqgan.codebook import Codebook
from handloom.train.vqgan.discriminator import PatchGAN
from handloom.train.vqgan.losses import adaptive_weight, gradient_difference, hinge
from handloom.train.vqgan.model import pictures
from tests.helpers.lpips_files import write_lpips
from tests.helpers.vqgan_training import table_top


def test_dead_codes_come_back() -> None:
    generator = torch.Generator().manual_seed(0)
    weight_kd = torch.randn(16, 4, generator=generator)
    weight_kd[8:] += 100  # where no latent ever comes
    book = Codebook(weight_kd, torch.full((16,), 1 / 16), 64, decay=0.9, dead_after=5)
    for step in range(1, 41):
        latents = torch.randn(1, 4, 8, 8, generator=generator)
        _, ids, _ = book.quantize(latents)
        book.update(latents, ids, step, learn=True)
        if step == 4:
            assert book.usage(step) <= 0.5
    assert book.restarted >= 8
    assert book.usage(40) == 1
    assert weight_kd.abs().max() < 10


def test_codes_that_do_not_learn_stay_and_are_counted() -> None:
    weight_kd = torch.tensor([[0.0], [1.0], [50.0]])
    book = Codebook(weight_kd.clone(), torch.tensor([0.5, 0.5, 0.0]), 4, 0.9, dead_after=2)
    for step in range(1, 9):
        latents = torch.tensor([0.2, -0.1, 0.8, 0.9]).view(1, 1, 2, 2)
        book.update(latents, book.quantize(latents)[1], step, learn=False)
    assert torch.equal(book.weight_kd, weight_kd)
    assert book.usage(8) == pytest.approx(2 / 3)
    assert book.perplexity() == pytest.approx(2, rel=1e-3)


def test_codes_begin_to_learn_from_where_they_are() -> None:
    weight_kd = torch.tensor([[0.0], [1.0]])
    book = Codebook(weight_kd.clone(), torch.tensor([0.1, 0.9]), 4, 0.9, dead_after=50)
    latents = torch.tensor([0.0, 0.0, 0.0, 1.0]).view(1, 1, 2, 2)  # more of the first than before
    for step in range(1, 21):
        book.update(latents, book.quantize(latents)[1], step, learn=step > 10)
        assert torch.allclose(book.weight_kd, weight_kd, atol=1e-5)


def test_gradients_pass_the_codes_unchanged() -> None:
    book = Codebook(torch.randn(8, 2), torch.full((8,), 1 / 8), 4, 0.9, 5)
    latents = torch.randn(1, 2, 2, 2, requires_grad=True)
    codes, ids, commitment = book.quantize(latents)
    assert torch.allclose(codes.permute(0, 2, 3, 1), book.weight_kd[ids], atol=1e-6)
    (codes * torch.arange(8.0).view(1, 2, 2, 2)).sum().backward()
    assert torch.equal(latents.grad, torch.arange(8.0).view(1, 2, 2, 2))
    assert commitment.item() == pytest.approx((latents - codes).square().mean().item(), rel=1e-4)


def test_the_adaptive_weight_balances_both_losses() -> None:
    torch.manual_seed(0)
    last = torch.nn.Conv2d(4, 3, 3, padding=1)
    judge = PatchGAN(8, 32)
    painted = last(torch.randn(2, 4, 32, 32))
    ours, theirs = painted.abs().mean(), -100 * judge(painted).mean()
    weight = adaptive_weight(ours, theirs, last.weight)
    norms = [
        torch.autograd.grad(loss, last.weight, retain_graph=True)[0].norm().item()
        for loss in (ours, weight * theirs)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_hinge_and_gradient_difference() -> None:
    sure, unsure = torch.full((4,), 1.5), torch.zeros(4)
    assert hinge(sure, -sure).item() == 0  # beyond the margin nothing is gained
    assert hinge(unsure, unsure).item() == 1
    assert hinge(-sure, sure).item() == 2.5
    picture = torch.rand(1, 3, 32, 32)
    assert gradient_difference(picture, picture + 0.3).item() == pytest.approx(0, abs=1e-6)
    blurred = torch.nn.functional.avg_pool2d(picture, 3, 1, 1)
    assert gradient_difference(blurred, picture).item() > 0.05


@pytest.mark.parametrize("side", [8, 16, 32, 64, 256])
def test_every_crop_has_patches(side: int) -> None:
    logits = PatchGAN(8, side)(torch.zeros(1, 3, side, side))
    assert logits.shape[1] == 1
    assert min(logits.shape[2:]) >= 1


def test_lpips_is_the_one_that_is_measured_with(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there or not readable"):
        lpips.LPIPS(tmp_path)
    write_lpips(tmp_path)
    a, b = table_top(1, 48), table_top(2, 48)
    loss = lpips.LPIPS(tmp_path)
    x = pictures(np.stack([a, b])).requires_grad_(True)
    found = loss(x[:1], x[1:])
    assert found.item() == pytest.approx(lpips.load(tmp_path)(a, b), rel=1e-4)
    found.backward()
    assert torch.isfinite(x.grad).all()
    assert loss(x, x).item() == 0
    shutil.copy(tmp_path / lpips.VGG, tmp_path / lpips.LINEAR)
    with pytest.raises(UserError, match="is missing"):
        lpips.LPIPS(tmp_path)
