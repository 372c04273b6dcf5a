"""Laws of drawing codes, of the cache, and of the distance between sets of videos."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from handloom.errors import UserError
from handloom.train.generate import fvd
from handloom.train.generate.config import Sampling
from handloom.train.model.gpt import GPT, Cache
from handloom.train.model.sampling import choose, continue_frames, predict_each_frame
from handloom.train.model.shape import Shape

SHAPE = Shape(
    layers=2,
    width=64,
    heads=2,
    codebook_size=97,
    views=2,
    frames=3,
    rows=3,
    cols=2,
    text_length=5,
    text_width=16,
)
EACH = SHAPE.codes_per_frame
DRAWN = Sampling(temperature=1.0, seed=3)


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    model = GPT(SHAPE).eval()
    for parameter in model.parameters():  # every path counts
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def clip() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, SHAPE.codebook_size, (2, SHAPE.codes), generator=generator)
    return codes, torch.randn(2, SHAPE.text_length, SHAPE.text_width, generator=generator)


@torch.no_grad()
def without_cache(
    model: GPT, codes: torch.Tensor, text: torch.Tensor, frames: int
) -> tuple[torch.Tensor, float]:
    """The likeliest codes, each from a pass over all in sight; and how near the next best came."""
    smallest = float("inf")
    while codes.shape[1] < frames * EACH:
        newest = codes.shape[1] // EACH * EACH - (SHAPE.frames - 1) * EACH
        window = codes[:, max(0, newest) :]
        padded = torch.nn.functional.pad(window, (0, SHAPE.codes - window.shape[1]))
        best = model(padded, text)[:, window.shape[1]].topk(2)
        smallest = min(smallest, float((best.values[:, 0] - best.values[:, 1]).min()))
        codes = torch.cat([codes, best.indices[:, :1]], dim=1)
    return codes, smallest


@pytest.mark.parametrize(("given", "frames"), [(1, 3), (2, 3), (1, 5), (4, 6)])
def test_codes_with_a_cache_are_those_without(
    model: GPT, clip: tuple[torch.Tensor, torch.Tensor], given: int, frames: int
) -> None:
    codes, text = clip
    start = torch.cat([codes, codes], dim=1)[:, : given * EACH]
    expected, margin = without_cache(model, start, text, frames)
    assert margin > 1e-4  # so that no tie is decided by rounding
    assert torch.equal(continue_frames(model, start, text, frames), expected)


def test_several_codes_at_once_are_taken_in_as_one_after_another(
    model: GPT, clip: tuple[torch.Tensor, torch.Tensor]
) -> None:
    codes, text = clip
    logits = []
    for sizes in ([4, 1, 1, 1, 1], [4, 4]):
        cache = Cache(SHAPE, 2, codes.device)
        for i, part in enumerate(codes[:, : sum(sizes)].split(sizes, dim=1)):
            last = model.extend(part, cache, text if i == 0 else None)
        logits.append(last)
    assert torch.allclose(*logits, atol=1e-5)


def test_a_frame_alone_knows_the_frames_before_it_and_nothing_of_itself_or_later_ones(
    model: GPT, clip: tuple[torch.Tensor, torch.Tensor]
) -> None:
    codes, text = clip
    alone = predict_each_frame(model, codes, text)
    expected, _ = without_cache(model, codes[:, : 2 * EACH], text, 3)
    assert torch.equal(alone[:, EACH:], expected[:, 2 * EACH :])
    other = codes.clone()
    other[:, EACH:] = (other[:, EACH:] + 1) % SHAPE.codebook_size
    changed = predict_each_frame(model, other, text)
    assert torch.equal(changed[:, :EACH], alone[:, :EACH])
    assert not torch.equal(changed[:, EACH:], alone[:, EACH:])


def test_draws_follow_their_seed_and_few_choices_leave_the_likeliest(
    model: GPT, clip: tuple[torch.Tensor, torch.Tensor]
) -> None:
    codes, text = clip

    def drawn(how: Sampling) -> torch.Tensor:
        return continue_frames(model, codes[:, :EACH], text, 3, how)

    assert torch.equal(drawn(DRAWN), drawn(DRAWN))
    assert not torch.equal(drawn(DRAWN), drawn(replace(DRAWN, seed=4)))
    likeliest = drawn(Sampling())
    assert torch.equal(drawn(replace(DRAWN, top_k=1)), likeliest)
    assert torch.equal(drawn(replace(DRAWN, top_p=1e-6)), likeliest)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Sampling(temperature=1.0), [0.15, 0.5, 0.05, 0.3]),
        (Sampling(temperature=0.5), [0.0225 / 0.365, 0.25 / 0.365, 0.0025 / 0.365, 0.09 / 0.365]),
        (Sampling(temperature=1.0, top_k=2), [0, 0.625, 0, 0.375]),
        (Sampling(temperature=1.0, top_p=0.5), [0, 1, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.81), [0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95]),
        (Sampling(temperature=1.0, top_k=3, top_p=0.8), [0, 0.625, 0, 0.375]),
    ],
)
def test_codes_are_drawn_as_often_as_they_should_be(how: Sampling, expected: list[float]) -> None:
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().expand(20_000, -1)
    drawn = choose(logits, how, torch.Generator().manual_seed(0)).flatten()
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor(expected).float(), rtol=0, atol=0.015)
    assert not shares[torch.tensor(expected) == 0].any()


def test_the_frechet_distance_is_the_formula() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(300, 6)), random.normal(size=(200, 6)) @ np.diag(range(1, 7)) + 1
    cov_a, cov_b = (np.cov(v.T, bias=True) for v in (a, b))
    trace = np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + trace
    assert fvd.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    few = random.normal(size=(4, 400))  # fewer videos than features
    assert fvd.frechet_distance(few, few) == pytest.approx(0, abs=1e-8)
    assert fvd.frechet_distance(few, few + 0.5) == pytest.approx(400 * 0.25, rel=1e-6)


class StandIn(torch.nn.Module):
    """The call of i3d_torchscript.pt: for features the mean of each frame, rescaled."""

    def forward(
        self,
        x: torch.Tensor,
        rescale: bool = False,
        resize: bool = False,
        return_features: bool = False,
    ) -> torch.Tensor:
        if not (rescale and resize and return_features):
            raise RuntimeError("another call than the protocol's")
        return (x * 2 / 255 - 1).mean([1, 3, 4])


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_features_are_asked_for_as_the_protocol_says(tmp_path: Path) -> None:
    torch.jit.script(StandIn()).save(str(tmp_path / "i3d.pt"))
    network = fvd.load(tmp_path / "i3d.pt")
    levels = np.array([0, 51, 102, 255], np.uint8)
    video = np.broadcast_to(levels[:, None, None, None], (4, 8, 8, 3))
    np.testing.assert_allclose(network(video), np.repeat([-1, -0.6, -0.2, 1], 4), atol=1e-6)
    long = np.repeat(video, 8, axis=0)
    np.testing.assert_allclose(network(long), np.repeat([-1, -0.6], 8), atol=1e-6)
    (tmp_path / "text.pt").write_text("no module")
    with pytest.raises(UserError, match="does not load as a TorchScript module"):
        fvd.load(tmp_path / "text.pt")
