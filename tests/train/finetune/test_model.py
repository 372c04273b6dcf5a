import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from handloom.train.finetune import export, stage1
from handloom.train.finetune.config import HeadOptions, LossOptions
from handloom.train.finetune.heads.cvae import ConditionalVAE, Posterior, active_dimensions
from handloom.train.finetune.heads.head import Demonstration
from handloom.train.finetune.inputs import Inputs
from handloom.train.finetune.model import RobotModel, RobotShape
from handloom.train.finetune.space import Space
from handloom.train.model.gpt import GPT
from handloom.train.model.shape import Shape
from tests.helpers.stage1_trunk import as_stage1

TRUNK = Shape(2, 32, 2, codebook_size=50, views=2, frames=3, rows=4, cols=4,
              text_length=6, text_width=16)  # fmt: skip
SMALL = HeadOptions(width=32, layers=2, latent=4, vae_width=32, vae_blocks=1)
B, K, A, S = 3, 5, 7, 10


def robot(**head: object) -> RobotModel:
    torch.manual_seed(0)
    shape = RobotShape(TRUNK, ("static", "wrist"), 2, K, S, A, (6,),
                       dataclasses.replace(SMALL, **head))  # fmt: skip
    model = RobotModel(shape).eval()
    torch.manual_seed(0)
    for block in model.trunk.blocks:  # untrained blocks end in zeros, which hide what they read
        torch.nn.init.normal_(block.down.weight, std=0.1)
    return model


@pytest.fixture
def inputs() -> Inputs:
    torch.manual_seed(1)
    return Inputs(
        codes_Bn=torch.randint(50, (B, 3 * 2 * 16)),
        visible_BFV=torch.ones(B, 3, 2, dtype=torch.bool),
        text_BLE=torch.randn(B, 6, 16),
        state_BhS=torch.randn(B, 2, S),
        state_known_Bh=torch.ones(B, 2, dtype=torch.bool),
        action_BkA=torch.rand(B, K, A),
        action_valid_Bk=torch.ones(B, K, dtype=torch.bool),
    )


def other(values: torch.Tensor) -> torch.Tensor:
    return values + torch.randn_like(values)


FREE = LossOptions(free_bits=0.0)


def vae(model: RobotModel) -> ConditionalVAE:
    assert isinstance(model.head, ConditionalVAE)
    return model.head


def acts(model: RobotModel, inputs: Inputs) -> torch.Tensor:
    with torch.no_grad():
        return model.act(model.context(model.features(inputs), inputs))


def video(model: RobotModel, inputs: Inputs) -> torch.Tensor:
    with torch.no_grad():
        return model.video_nats(inputs)


def test_pictures_depend_on_no_state_and_no_action(inputs: Inputs) -> None:
    model = robot()
    changed = inputs._replace(
        state_BhS=other(inputs.state_BhS), action_BkA=other(inputs.action_BkA)
    )
    assert (video(model, changed) == video(model, inputs)).all()
    assert (acts(model, changed) != acts(model, inputs)).any()


def test_actions_do_not_see_the_frame_that_is_to_come(inputs: Inputs) -> None:
    model, codes = robot(), inputs.codes_Bn.clone()
    codes[:, 64:] = torch.randint(50, (B, 32))
    assert torch.equal(acts(model, inputs._replace(codes_Bn=codes)), acts(model, inputs))
    codes[:, 40] = (codes[:, 40] + 1) % 50
    assert not torch.equal(acts(model, inputs._replace(codes_Bn=codes)), acts(model, inputs))


def test_a_blind_control_stays_blind_in_its_export(inputs: Inputs, tmp_path: Path) -> None:
    space = Space("ee_delta", 10.0, *[(0.0,) * 7, (1.0,) * 7] * 2).to_dict()
    other_pictures = inputs._replace(codes_Bn=(inputs.codes_Bn + 1) % 50)
    for blind in (False, True):
        model = RobotModel(dataclasses.replace(robot().shape, blind=blind)).eval()
        export.save(tmp_path / str(blind), model, {"space": space})
        loaded, _, facts = export.load(tmp_path / str(blind))
        assert torch.equal(acts(loaded, inputs), acts(model, inputs))
        assert torch.equal(acts(loaded, other_pictures), acts(loaded, inputs)) == blind
        # As in exports of former versions, which know only one kind.
        assert ("blind" in facts["shape"]) == blind


def test_one_pass_with_the_next_frame_gives_the_features_of_one_without(inputs: Inputs) -> None:
    model = robot()
    with torch.no_grad():
        together, _ = model._run_with_next_frame(inputs)
        assert torch.allclose(together, model.features(inputs), atol=1e-5)
        stored = inputs._replace(features_BMX=model.features(inputs))
        torch.manual_seed(5)
        cached = model.loss(stored, FREE, video=False)
        torch.manual_seed(5)
        computed = model.loss(inputs, FREE, video=False)
    assert torch.equal(cached["arm"], computed["arm"])


def test_a_view_that_is_missing_says_nothing(inputs: Inputs) -> None:
    model, seen = robot(), inputs.visible_BFV.clone()
    seen[:, :, 1] = False
    blind = inputs._replace(visible_BFV=seen)
    codes = blind.codes_Bn.view(B, 3, 2, 16).clone()
    codes[:, :, 1] = torch.randint(50, (B, 3, 16))
    other_view = blind._replace(codes_Bn=codes.flatten(1))
    assert torch.equal(acts(model, other_view), acts(model, blind))
    assert not torch.equal(acts(model, blind), acts(model, inputs))
    nats_BV = video(model, blind)
    assert nats_BV[:, 1].isnan().all()
    # A window's mean is over its codes of both views, of which one counts nothing.
    assert torch.isclose(model.loss(blind, FREE)["video"], nats_BV[:, 0].mean())


def test_what_does_not_count_moves_no_loss(inputs: Inputs) -> None:
    model = robot(latent=0)
    counts = inputs.action_valid_Bk.clone()
    counts[:, 3:] = False
    action = inputs.action_BkA.clone()
    action[:, 3:] = 9.0
    short = inputs._replace(action_valid_Bk=counts)
    with torch.no_grad():
        one = model.loss(short, FREE)
        two = model.loss(short._replace(action_BkA=action), FREE)
        assert torch.equal(one["arm"], two["arm"])
        assert torch.equal(one["gripper"], two["gripper"])
        out = vae(model).decode(model.context(model.features(inputs), inputs), None)[:, :3]
    true = inputs.action_BkA[:, :3]
    assert torch.isclose(one["arm"], F.smooth_l1_loss(out[..., :6], true[..., :6]))
    expected = F.binary_cross_entropy_with_logits(out[..., 6], true[..., 6])
    assert torch.isclose(one["gripper"], expected)


def test_the_posterior_attends_to_no_padding(inputs: Inputs) -> None:
    model = robot()
    counts = inputs.action_valid_Bk.clone()
    counts[:, 3:] = False
    action = inputs.action_BkA.clone()
    action[:, 3:] = 9.0
    means = [
        vae(model).posterior(Demonstration(a, counts, inputs.state_BhS[:, -1])).mean_BZ
        for a in (inputs.action_BkA, action)
    ]
    assert torch.equal(*means)


def test_the_divergence_is_that_of_normal_distributions() -> None:
    torch.manual_seed(0)
    posterior = Posterior(torch.randn(6, 3), torch.randn(6, 3))
    own = torch.distributions.Normal(posterior.mean_BZ, (0.5 * posterior.log_var_BZ).exp())
    standard = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(own, standard)
    assert torch.allclose(posterior.kl(), expected, atol=1e-6)


def test_a_dimension_pays_no_less_than_its_free_bits(inputs: Inputs) -> None:
    model = robot()
    torch.manual_seed(3)
    losses = model.loss(inputs, LossOptions(free_bits=1e6))
    assert losses["kl_paid"] == 4 * 1e6
    losses = model.loss(inputs, FREE)
    true = Demonstration(inputs.action_BkA, inputs.action_valid_Bk, inputs.state_BhS[:, -1])
    assert torch.isclose(losses["kl_paid"], vae(model).posterior(true).kl().sum(1).mean())
    weights = LossOptions(video=2.0, arm=3.0, gripper=5.0, kl=7.0, kl_warmup=10)
    half = model.total(losses, weights, step=4)
    by_hand = 2 * losses["video"] + 3 * losses["arm"] + 5 * losses["gripper"]
    assert torch.isclose(half, by_hand + 3.5 * losses["kl_paid"])


def test_dimensions_that_do_not_vary_are_not_active() -> None:
    torch.manual_seed(0)
    means = torch.randn(100, 5) * torch.tensor([1.0, 0.5, 0.2, 0.05, 0.0])
    assert active_dimensions(means) == 3
    assert active_dimensions(means[:1]) == 0


def test_more_views_begin_as_the_one_that_stage_1_knew() -> None:
    torch.manual_seed(0)
    gpt = GPT(dataclasses.replace(TRUNK, views=1)).eval()
    shape = RobotShape(dataclasses.replace(gpt.shape, views=2), ("a", "b"), 2, K, S, A, (6,), SMALL)
    model = RobotModel(shape)
    model.trunk.load_state_dict(stage1.widen(gpt.state_dict(), 2))
    again = as_stage1(model, 1)
    for name, tensor in gpt.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    codes, text = torch.randint(50, (2, 48)), torch.randn(2, 6, 16)
    assert torch.equal(again(codes, text), gpt(codes, text))
    # Alone in sight, the first view is told what stage 1 would tell of it.
    both = torch.zeros(2, 3, 2, 16, dtype=torch.long)
    both[:, :, 0] = codes.view(2, 3, 16)
    seen = torch.tensor([True, False]).expand(2, 3, 2).repeat_interleave(16, 2).reshape(2, -1)
    stream = model.trunk.hidden(both.flatten(1)[:, :-1], text, seen[:, :-1])
    logits = model.trunk.predict(stream[-1], both.flatten(1)).view(2, 3, 2, 16, -1)
    assert torch.allclose(logits[:, 0, 0], gpt(codes, text)[:, :16], atol=1e-5)


def test_a_state_that_is_not_known_says_nothing(inputs: Inputs) -> None:
    model, known = robot(), inputs.state_known_Bh.clone()
    known[:, 0] = False
    state = inputs.state_BhS.clone()
    state[:, 0] += 5.0
    unknown = inputs._replace(state_known_Bh=known)
    assert torch.equal(acts(model, unknown._replace(state_BhS=state)), acts(model, unknown))
    assert not torch.equal(acts(model, inputs._replace(state_BhS=state)), acts(model, inputs))
