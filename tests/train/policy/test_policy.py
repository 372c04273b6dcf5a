"""A policy remembers what it saw, and turns what its model says into motion."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from handloom.errors import UserError
from handloom.tokenize import vqgan
from handloom.tokenize.frames import center_square
from handloom.train.finetune import export
from handloom.train.finetune.config import HeadOptions
from handloom.train.finetune.inputs import Inputs, codes_of
from handloom.train.finetune.model import RobotModel, RobotShape
from handloom.train.finetune.space import Space
from handloom.train.model import text
from handloom.train.model.shape import Shape
from handloom.train.policy.policy import Chunk, Execution, Policy

VIEWS = ("static", "wrist")
STRIDE, HISTORY, K = 3, 2, 6
SAYS = "push the block left"
Images = Mapping[str, NDArray[np.uint8]]

SPACE = Space(
    "ee_delta", 10.0,
    state_mean=(0.1, 0.0, 0.2, 0.0, 0.0, 0.0, 0.5), state_std=(0.1, 0.2, 0.1, 1.0, 1.0, 1.0, 0.5),
    action_mean=(0.001, 0.0, -0.002, 0.0, 0.0, 0.01, 0.6),
    action_std=(0.01, 0.02, 0.015, 0.05, 0.05, 0.1, 0.5),
)  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_vqgan: Path) -> Path:
    """A policy with random weights as `handloom train finetune` leaves it, with 4 x 4 codes."""
    encoder = text.load("seeded", 8)
    trunk = Shape(2, 32, 2, codebook_size=256, views=2, frames=HISTORY + 1, rows=4, cols=4,
                  text_length=8, text_width=encoder.width)  # fmt: skip
    head = HeadOptions(width=32, layers=2, latent=4, vae_width=32, vae_blocks=1)
    torch.manual_seed(0)
    model = RobotModel(
        RobotShape(trunk, VIEWS, HISTORY, K, SPACE.state_width, 7, SPACE.grippers, head)
    )
    for weight in model.parameters():  # as it starts out, a model hardly looks at anything
        torch.nn.init.normal_(weight, std=0.2)
    folder = tmp_path_factory.mktemp("run")
    facts = {
        "stride": STRIDE,
        "space": SPACE.to_dict(),
        "tokenizer": vqgan.describe(str(tiny_vqgan), resolution=16) | {"model": str(tiny_vqgan)},
        "text_encoder": {
            "name": "seeded", "length": 8, "weights_sha256": encoder.weights_sha256,
        },
    }  # fmt: skip
    export.save(folder / "export", model, facts)
    return folder


def load(saved: Path, **execution: Any) -> Policy:
    return Policy.from_checkpoint(
        saved, execution=Execution(**{"smoothing": 0.0} | execution), threads=1
    )


def seen(number: int, views: tuple[str, ...] = VIEWS) -> tuple[Images, NDArray[np.float64]]:
    """Observation `number`: pictures of noise of another kind in each view, and a state."""
    random = np.random.default_rng(number)
    sizes = {"static": (40, 48), "wrist": (24, 24)}
    images = {v: random.integers(0, 256, (*sizes[v], 3), dtype=np.uint8) for v in VIEWS}
    return {v: images[v] for v in views}, random.normal(0, 0.3, 7)


def expected(
    policy: Policy, then: int, now: int, masked: bool = False, views: tuple[str, ...] = VIEWS
) -> NDArray[np.float32]:
    """What the model says to the frames `then` and `now`, computed beside the policy."""
    codes = np.zeros((1, HISTORY + 1, 2, 4, 4), np.uint16)
    for frame, number in enumerate((then, now, now)):
        for view, image in seen(number, views)[0].items():
            square = center_square(image, 16)[None]
            codes[0, frame, VIEWS.index(view)] = policy.tokenizer.encode(square)[0]
    there = np.array([[view in views for view in VIEWS]] * (HISTORY + 1))
    there[0] &= not masked
    states = np.stack([seen(then)[1], seen(now)[1]]).astype(np.float32)
    inputs = Inputs(
        codes_of(codes, torch.device("cpu")),
        torch.from_numpy(there)[None],
        policy.encoder([SAYS]),
        SPACE.encode_state(torch.from_numpy(states)[None]),
        torch.tensor([[not masked, True]]),
        torch.zeros(1, K, 7),
        torch.ones(1, K, dtype=torch.bool),
        all_visible=bool(there.all()),
    )
    with torch.no_grad():
        model = policy.model
        said = model.act(model.context(model.features(inputs), inputs))
    chunk: NDArray[np.float32] = SPACE.denormalise(said)[0].numpy()
    return chunk


def act(policy: Policy, number: int, views: tuple[str, ...] = VIEWS) -> Chunk:
    return policy.act(SAYS, *seen(number, views))


def same(a: Chunk, b: NDArray[np.float32]) -> bool:
    return bool(np.allclose(a.actions, b, atol=1e-6))


def test_before_the_start_there_is_nothing(saved: Path) -> None:
    policy = load(saved)
    first = act(policy, 1)
    assert same(first, expected(policy, 1, 1, masked=True))
    assert not same(first, expected(policy, 1, 1))


def test_mixed_precision_acts_nearly_the_same(saved: Path) -> None:
    exact = act(load(saved), 1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = act(load(saved), 1)
    assert rounded.actions.dtype == np.float32
    assert not np.array_equal(rounded.actions, exact.actions)
    assert np.allclose(rounded.actions, exact.actions, atol=0.05 * np.abs(exact.actions).max())


def test_it_looks_back_a_stride(saved: Path) -> None:
    policy = load(saved)  # executes as many as lie between two frames
    assert policy.execute_n == STRIDE
    for number in (1, 2, 3):
        chunk = act(policy, number)
    assert same(chunk, expected(policy, 2, 3))


def test_one_action_at_a_time_looks_back_as_far(saved: Path) -> None:
    policy = load(saved, execute_n=1)
    for number in range(6):
        chunk = act(policy, number)
    assert same(chunk, expected(policy, 5 - STRIDE, 5))


def test_what_was_observed_between_fills_the_gap(saved: Path) -> None:
    policy = load(saved, execute_n=K)
    act(policy, 1)
    assert same(act(policy, 2), expected(policy, 1, 2, masked=True))
    policy.reset()
    act(policy, 1)
    policy.observe(*seen(7), ago=STRIDE)
    assert same(act(policy, 2), expected(policy, 7, 2))


def test_chunks_are_timed(saved: Path) -> None:
    chunk = act(load(saved, execute_n=2), 1)
    assert (chunk.execute_n, chunk.hz) == (2, 10.0)
    assert np.array_equal(chunk.execute, chunk.actions[:2])
    assert chunk.times_s.tolist() == [i / 10 for i in range(K)]
    assert chunk.actions.shape == chunk.predicted.shape == (K, 7)
    assert chunk.actions.dtype == np.float32


def test_grippers_are_left_alone_by_smoothing(saved: Path) -> None:
    policy = load(saved, smoothing=1.0)
    chunk = act(policy, 1)
    assert np.array_equal(chunk.actions[:, 6], chunk.predicted[:, 6])
    assert ((chunk.actions[:, 6] >= 0) & (chunk.actions[:, 6] <= 1)).all()
    assert not np.allclose(chunk.actions[:, :6], chunk.predicted[:, :6])
    assert np.allclose(chunk.predicted, expected(policy, 1, 1, masked=True), atol=1e-6)


def test_smoothing_continues_what_was_executed(saved: Path) -> None:
    policy = load(saved, smoothing=100.0)
    before, after = act(policy, 1).execute[:, :6], act(policy, 2).actions[:, :6]
    lone = load(saved, smoothing=100.0)
    for number in (1, 2):
        plain = act(lone, number)
        lone._done = lone._done[:0]  # as if nothing had been executed
    gaps = [np.abs(np.diff(np.concatenate([before[-2:], v[:1]]), 2, 0)).sum()
            for v in (after, plain.actions[:, :6])]  # fmt: skip
    assert gaps[0] < gaps[1]


def test_reset_forgets_everything(saved: Path) -> None:
    policy = load(saved, smoothing=0.5, ensemble=0.1, execute_n=2, sample=True)
    first = [act(policy, number).actions.tobytes() for number in (1, 2, 3)]
    assert len(set(first)) == 3
    policy.reset()
    assert [act(policy, number).actions.tobytes() for number in (1, 2, 3)] == first


def test_two_policies_do_the_same(saved: Path) -> None:
    one, other = load(saved), load(saved / "export")
    for number in (1, 2):
        assert act(one, number).actions.tobytes() == act(other, number).actions.tobytes()


def test_a_missing_view_is_blind(saved: Path) -> None:
    policy = load(saved)
    for number in (1, 2):
        chunk = act(policy, number, ("wrist",))
    assert same(chunk, expected(policy, 1, 2, views=("wrist",)))
    assert not same(chunk, expected(policy, 1, 2))


def test_samples_follow_the_seed(saved: Path) -> None:
    drawn = [act(load(saved, sample=True, seed=seed), 1).actions for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.allclose(drawn[0], drawn[2])
    policy = load(saved, sample=True)
    assert not same(act(policy, 1), expected(policy, 1, 1, masked=True))


def test_ensembling_by_hand(saved: Path) -> None:
    rate = 0.5
    policy = load(saved, execute_n=2, ensemble=rate)
    p0, p2, p4 = (act(policy, number) for number in (1, 2, 3))
    weight = np.exp(-rate * np.arange(3))
    # At step 4 chunks of steps 0, 2 and 4 speak: the first of two more steps, the second of four.
    mixed = p4.predicted.astype(np.float64)
    three = [p0.predicted[4:6], p2.predicted[2:4], p4.predicted[:2]]
    mixed[:2] = sum(w * p for w, p in zip(weight, three, strict=True)) / weight.sum()
    two = [p2.predicted[4:6], p4.predicted[2:4]]
    mixed[2:4] = sum(w * p for w, p in zip(weight[:2], two, strict=True)) / weight[:2].sum()
    np.testing.assert_allclose(p4.actions, mixed, rtol=1e-5, atol=1e-7)
    assert np.array_equal(p0.actions, p0.predicted)


def test_imagining_shows_the_views_and_is_no_step(saved: Path) -> None:
    policy, other = load(saved), load(saved)
    act(policy, 1)
    frames = policy.imagine(SAYS, *seen(2), frames=2)
    assert {name: (f.shape, f.dtype) for name, f in frames.items()} == {
        view: ((2, 16, 16, 3), np.dtype(np.uint8)) for view in VIEWS
    }
    assert list(policy.imagine(SAYS, *seen(2, ("wrist",)))) == ["wrist"]
    act(other, 1)
    assert act(policy, 3).actions.tobytes() == act(other, 3).actions.tobytes()
    policy.reset()
    policy.imagine(SAYS, ANOTHER, STATE)  # its size is not remembered either
    act(policy, 1)


def test_what_was_imagined_again_is_the_same(saved: Path) -> None:
    policy = load(saved)
    one, two = (policy.imagine(SAYS, *seen(1), frames=n) for n in (1, 2))
    assert np.array_equal(one["static"][0], two["static"][0])


IMAGES, STATE = seen(1)
ANOTHER = {"static": np.zeros((50, 48, 3), np.uint8)}


@pytest.mark.parametrize(
    ("images", "state", "said"),
    [
        (dict(IMAGES) | {"top": IMAGES["wrist"]}, STATE, "no view 'top'.*static, wrist"),
        (IMAGES, np.full(7, np.nan), "7 NaN and 0 infinities, expected 7 finite"),
        (IMAGES, np.zeros(8), r"state is \[8\].* expected 7"),
        ({}, STATE, "no image"),
        ({"wrist": IMAGES["wrist"] / 255}, STATE, "'wrist' is float64.*expected uint8"),
        ({"wrist": IMAGES["wrist"][..., 0]}, STATE, r"uint8 \[24, 24\]"),
        (ANOTHER, STATE, "'static' is 48 x 50 pixels, and was 48 x 40"),
    ],
)
def test_what_does_not_fit_is_said(
    saved: Path, images: Images, state: NDArray[np.float64], said: str
) -> None:
    policy, other = load(saved), load(saved)
    act(policy, 1)
    with pytest.raises(UserError, match=said):
        policy.act(SAYS, images, state)
    act(other, 1)  # and the call that failed has left nothing behind
    assert act(policy, 2).actions.tobytes() == act(other, 2).actions.tobytes()


def test_another_size_after_reset(saved: Path) -> None:
    policy = load(saved)
    act(policy, 1)
    policy.reset()
    policy.act(SAYS, ANOTHER, STATE)


@pytest.mark.parametrize("wrong", [{"execute_n": K + 1}, {"execute_n": 0}, {"smoothing": -1.0}])
def test_motion_that_cannot_be(saved: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))} .* choose"):
        load(saved, **wrong)


def test_no_checkpoint_and_another_tokenizer(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"handloom train finetune.*finished"):
        Policy.from_checkpoint(tmp_path)
    with pytest.raises(UserError, match="was trained with"):
        Policy.from_checkpoint(saved, tokenizer="bundled")
