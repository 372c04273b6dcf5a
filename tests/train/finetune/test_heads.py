"""What holds for every action head."""

from dataclasses import asdict

import pytest
import torch

from handloom.train.finetune.config import FlowOptions, HeadOptions, LossOptions
from handloom.train.finetune.heads.catalog import HEADS, make_head
from handloom.train.finetune.heads.flow import FlowMatching
from handloom.train.finetune.heads.head import (
    ActionHead,
    ActionScores,
    Demonstration,
    HeadShape,
    score,
)

SHAPE = HeadShape(actions=5, action_width=7, state_width=10, context_width=32, grippers=(6,))
SMALL = {
    "cvae": asdict(HeadOptions(width=32, latent=4, vae_width=32, vae_blocks=1)),
    "flow": asdict(FlowOptions(width=32, blocks=1, euler_steps=5)),
}
B, M = 3, 4


@pytest.fixture(params=sorted(HEADS))
def head(request: pytest.FixtureRequest) -> ActionHead:
    torch.manual_seed(0)
    return make_head(request.param, SHAPE, SMALL[request.param])


@pytest.fixture
def context() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(B, 6, 32)


@pytest.fixture
def true() -> Demonstration:
    torch.manual_seed(2)
    counts = torch.ones(B, 5, dtype=torch.bool)
    counts[:, 3:] = False
    return Demonstration(torch.rand(B, 5, 7), counts, torch.randn(B, 10))


def test_a_head_names_the_parts_of_its_loss(
    head: ActionHead, context: torch.Tensor, true: Demonstration
) -> None:
    losses = head.losses(context, true, LossOptions())
    assert set(head.parts) <= losses.keys()
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
    sum(head.weighted(losses, LossOptions(), 500)).backward()  # type: ignore[union-attr]
    unused = [name for name, p in head.named_parameters() if p.grad is None]
    assert not unused


def test_what_does_not_count_moves_no_loss(
    head: ActionHead, context: torch.Tensor, true: Demonstration
) -> None:
    beyond = true.action_BkA.clone()
    beyond[:, 3:] = 9.0
    found = []
    for action in (true.action_BkA, beyond):
        torch.manual_seed(3)
        losses = head.losses(context, true._replace(action_BkA=action), LossOptions())
        found.append([losses[name].item() for name in head.parts])
    if isinstance(head, FlowMatching):  # its noisy chunk is attended to as a whole
        pytest.skip("a velocity is predicted for the whole chunk at once")
    assert found[0] == found[1]


def test_noise_makes_draws_and_none_makes_one_chunk(
    head: ActionHead, context: torch.Tensor
) -> None:
    with torch.no_grad():
        torch.testing.assert_close(head.act(context), head.act(context), rtol=0, atol=0)
        draws = [head.act(context, torch.randn(B, *head.noise_shape)) for _ in range(2)]
    assert not torch.equal(*draws)
    for chunk in (head.act(context), *draws):
        assert chunk.shape == (B, 5, 7)
        assert ((chunk[..., 6] >= 0) & (chunk[..., 6] <= 1)).all()


def test_scores_are_plain(head: ActionHead, context: torch.Tensor, true: Demonstration) -> None:
    with torch.no_grad():
        measured = head.measure(context, true)
    assert all(len(value) == B for value in measured.values())

    def judge(chunk: torch.Tensor) -> ActionScores:
        return score(chunk, true.action_BkA, true.valid_Bk, SHAPE.grippers)

    scores = head.scores(measured, judge(head.act(context)), judge)
    assert scores.rows
    assert scores.line


def test_euler_steps_follow_a_velocity_that_points_to_one_chunk() -> None:
    """Where the velocity is (goal - x) / (1 - t), every path ends at the goal."""

    class Known(FlowMatching):
        goal = torch.rand(5, 7) * 2 - 1

        def velocity(
            self, x_BkA: torch.Tensor, time_B: torch.Tensor, context_BCW: torch.Tensor
        ) -> torch.Tensor:
            return (self.goal - x_BkA) / (1 - time_B[:, None, None])

    head = Known(SHAPE, FlowOptions(width=32, blocks=1, euler_steps=7))
    chunk = head.act(torch.zeros(B, 6, 32), torch.randn(B, 5, 7))
    goal = Known.goal.clone()
    goal[:, 6] = (goal[:, 6] + 1) / 2
    torch.testing.assert_close(chunk, goal.expand(B, 5, 7), rtol=1e-4, atol=1e-5)
