"""Attention has a mask only for the windows that need one, and says the same without it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from handloom.train.finetune.config import HeadOptions, LossOptions
from handloom.train.finetune.inputs import DeviceWindows, Inputs, needs_no_mask
from handloom.train.finetune.model import RobotModel, RobotShape
from handloom.train.model.shape import Shape

TRUNK = Shape(2, 32, 2, codebook_size=50, views=2, frames=3, rows=4, cols=4,
              text_length=6, text_width=16)  # fmt: skip
B, K, S, A = 8, 5, 10, 7


@pytest.fixture
def model() -> RobotModel:
    torch.manual_seed(0)
    small = HeadOptions(width=32, layers=2, latent=0, vae_width=32, vae_blocks=1)
    model = RobotModel(RobotShape(TRUNK, ("static", "wrist"), 2, K, S, A, (6,), small))
    for block in model.trunk.blocks:  # untrained blocks end in zeros, which hide what they read
        torch.nn.init.normal_(block.down.weight, std=0.1)
    return model


def windows(visible: np.ndarray) -> DeviceWindows:
    torch.manual_seed(1)
    inputs = Inputs(
        codes_Bn=torch.randint(50, (B, 3 * 2 * 16)),
        visible_BFV=torch.from_numpy(visible),
        text_BLE=torch.randn(B, 6, 16),
        state_BhS=torch.randn(B, 2, S),
        state_known_Bh=torch.ones(B, 2, dtype=torch.bool),
        action_BkA=torch.rand(B, K, A),
        action_valid_Bk=torch.ones(B, K, dtype=torch.bool),
    )
    return DeviceWindows.of(inputs, visible)


def pictures(**hidden: tuple[object, ...]) -> np.ndarray:
    visible = np.ones((B, 3, 2), np.bool_)
    for place in hidden.values():
        visible[place] = False
    return visible


CASES = {
    "all there": (pictures(), 0),
    "behind the end": (pictures(last=([1, 4, 5], 2)), 0),
    "one before the start": (pictures(first=(3, 0), last=([1, 4], 2)), 2),
    "three before the start": (pictures(first=([1, 2, 6], 0)), 4),
    "a view that is not there": (pictures(view=([0, 7], slice(None), 1)), 2),
    "a view of the next frame alone": (pictures(next=(5, 2, 0)), 2),
    "all before the start": (pictures(first=(slice(None), 0)), 8),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mask_for_some_windows_says_what_one_for_all_says(case: str, model: RobotModel) -> None:
    visible, rows = CASES[case]
    found = windows(visible)
    part = found.part(slice(None))
    assert (0 if part.masked is None else len(part.masked.visible_bn)) == rows
    whole = found.inputs._replace(all_visible=False)
    gradients = []
    for inputs in (part, whole):
        model.zero_grad()
        losses = model.loss(inputs, LossOptions())
        model.total(losses, LossOptions(), 0).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        nats = [model.video_nats(inputs) for inputs in (part, whole)]
        torch.testing.assert_close(*nats, equal_nan=True)
        # Of a picture that is not there the features are never read.
        there_BM = part.visible_BFV[:, :2].flatten(1).repeat_interleave(4, 1)[..., None]
        features = [model.features(inputs) * there_BM for inputs in (part, whole)]
        torch.testing.assert_close(*features, rtol=1e-4, atol=1e-5)


def test_only_windows_that_need_it_are_attended_with_a_mask(
    model: RobotModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    attend, calls = F.scaled_dot_product_attention, []

    def watched(q: torch.Tensor, k: torch.Tensor, *rest: object, **named: object) -> torch.Tensor:
        if q.shape[-2] == k.shape[-2] > 90:  # of the GPT, not of the readout
            calls.append((len(q), bool(named.get("is_causal"))))
        return attend(q, k, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    for visible, _ in (CASES["behind the end"], CASES["one before the start"]):
        model.loss(windows(visible).part(slice(None)), LossOptions())
    assert calls == [(8, True)] * 2 + [(6, True), (2, False)] * 2


def test_a_window_that_shows_all_or_ends_the_episode_needs_no_mask() -> None:
    needs = {case: ~needs_no_mask(visible) for case, (visible, _) in CASES.items()}
    assert not needs["behind the end"].any()
    assert np.flatnonzero(needs["one before the start"]).tolist() == [3]
    assert np.flatnonzero(needs["a view of the next frame alone"]).tolist() == [5]
