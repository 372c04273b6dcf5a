"""A conditional VAE of action chunks: possible trajectories, given the context.

In training a posterior attends to the true chunk and sums it up as a few numbers, the latent; the
decoder makes the chunk from the latent and from the context. At inference the latent is zero, the
middle of the prior, or drawn from it: demonstrations that go left and others that go right then
become one trajectory or the other, and not their mean (Sohn et al. 2015; for robots ACT, arXiv
2304.13705, and GR-MG, arXiv 2408.14368, whose sizes are the defaults).

Shape legend: B windows, k actions of a chunk, A numbers of an action, Z latent dimensions, C
context tokens, W width.
"""

from dataclasses import asdict
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from handloom.train.finetune.config import HeadOptions, LossOptions
from handloom.train.finetune.heads.head import (
    ActionHead,
    ActionScores,
    Demonstration,
    HeadScores,
    HeadShape,
    Score,
    action_errors,
    mean_of_each,
)
from handloom.train.model.blocks import SelfBlock

ACTIVE_VARIANCE = 0.01  # of a dimension's posterior mean over windows (Burda et al. 1509.00519)
ENOUGH_ACTIVE = 4  # latent dimensions; with fewer the VAE is nearly a deterministic head
# Free bits let dimensions vary that say nothing of use: the true chunk has to help the decoder too.
LEAST_HELP = 0.02


class Posterior(NamedTuple):
    """Mean and log variance of the latent given the true chunk, [B, Z] each."""

    mean_BZ: Tensor
    log_var_BZ: Tensor

    def draw(self) -> Tensor:
        """A sample, through which gradients pass: [B, Z]."""
        return self.mean_BZ + (0.5 * self.log_var_BZ).exp() * torch.randn_like(self.mean_BZ)

    def kl(self) -> Tensor:
        """Divergence from the standard normal in nats, of each dimension: [B, Z]."""
        return 0.5 * (self.mean_BZ**2 + self.log_var_BZ.exp() - 1 - self.log_var_BZ)


class ConditionalVAE(ActionHead):
    """Posterior encoder and decoder of chunks.

    Args:
        shape: of its inputs and outputs.
        options: sizes; a latent of 0 makes a deterministic head, without a posterior.
    """

    key: ClassVar[str] = "vae"
    parts: ClassVar[tuple[str, ...]] = ("arm", "gripper", "kl")

    def __init__(self, shape: HeadShape, options: HeadOptions) -> None:
        super().__init__(shape, options)
        latent, width, blocks = options.latent, options.vae_width, options.vae_blocks
        self.latent, heads = latent, max(1, width // 32)
        # As large as what is added to them: a step that the first layers cannot tell from the next
        # one makes posterior and decoder see the mean of a chunk, and the latent goes unused.
        self.step = nn.Parameter(torch.randn(shape.actions, width))
        self.seen_in = nn.Linear(shape.context_width, width)
        self.decoder = nn.ModuleList(SelfBlock(width, heads) for _ in range(blocks))
        self.norm, self.action_out = nn.LayerNorm(width), nn.Linear(width, shape.action_width)
        if latent:
            self.posterior_step = nn.Parameter(torch.randn(shape.actions, width))
            self.summary = nn.Parameter(0.02 * torch.randn(width))
            self.action_in = nn.Linear(shape.action_width, width)
            self.state_in = nn.Linear(shape.state_width, width)
            self.encoder = nn.ModuleList(SelfBlock(width, heads) for _ in range(blocks))
            self.posterior_norm = nn.LayerNorm(width)
            self.posterior_out = nn.Linear(width, 2 * latent)
            self.latent_in = nn.Linear(latent, width)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """A latent."""
        return (self.latent,) if self.latent else ()

    def losses(
        self, context_BCW: Tensor, true: Demonstration, weights: LossOptions
    ) -> dict[str, Tensor]:
        """Smooth L1 of the arm (beta 1), cross entropy of the gripper, KL divergence in nats.

        `kl` is that of all dimensions together; `kl_paid` the same, where a dimension pays no less
        than its free bits.
        """
        posterior = self.posterior(true) if self.latent else None
        out_BkA = self.decode(context_BCW, None if posterior is None else posterior.draw())
        arm_BkA, gripper_BkA = action_errors(out_BkA, true.action_BkA, self.shape)
        kl_BZ = posterior.kl() if posterior is not None else out_BkA.new_zeros(1, 1)
        # Means over the batch are compared with the free bits (Kingma et al. 1606.04934).
        paid = kl_BZ.mean(0).clamp(min=weights.free_bits).sum()
        return {
            "arm": mean_of_each(arm_BkA, true.valid_Bk),
            "gripper": mean_of_each(gripper_BkA, true.valid_Bk),
            "kl": kl_BZ.sum(-1).mean(),
            "kl_paid": paid if posterior is not None else out_BkA.new_zeros(()),
        }

    def weighted(self, losses: dict[str, Tensor], weights: LossOptions, step: int) -> list[Tensor]:
        """The weight of the divergence rises while a run is young."""
        kl_share = min(1.0, (step + 1) / max(1, weights.kl_warmup))
        return [
            weights.arm * losses["arm"],
            weights.gripper * losses["gripper"],
            weights.kl * kl_share * losses["kl_paid"],
        ]

    def act(self, context_BCW: Tensor, noise: Tensor | None = None) -> Tensor:
        """Chunks [B, k, A]; without noise those of latent zero, the middle of the prior."""
        out_BkA = self.decode(context_BCW, noise)
        grippers = list(self.shape.grippers)
        out_BkA[..., grippers] = out_BkA[..., grippers].sigmoid()
        return out_BkA

    def posterior(self, true: Demonstration) -> Posterior:
        """The latent of true chunks; actions that do not count are not attended to."""
        valid_Bk = true.valid_Bk
        actions_BkW = self.action_in(true.action_BkA * valid_Bk[..., None]) + self.posterior_step
        first_B2W = torch.stack(
            [self.summary.expand(len(valid_Bk), -1), self.state_in(true.state_BS)], dim=1
        )
        x_BNW = torch.cat([first_B2W, actions_BkW], dim=1)
        valid_BN = torch.cat([valid_Bk.new_ones(len(valid_Bk), 2), valid_Bk], dim=1)
        for block in self.encoder:
            x_BNW = block(x_BNW, valid_BN)
        mean_BZ, log_var_BZ = self.posterior_out(self.posterior_norm(x_BNW[:, 0])).chunk(2, dim=-1)
        return Posterior(mean_BZ, log_var_BZ.clamp(-10, 10))

    def decode(self, context_BCW: Tensor, z_BZ: Tensor | None) -> Tensor:
        """Chunks [B, k, A]: normalised arm numbers, and logits where the grippers are.

        Args:
            context_BCW: context tokens of the readout.
            z_BZ: the latent; None stands for zero, the middle of the prior.
        """
        x_BkW = self.step.expand(len(context_BCW), -1, -1)
        if self.latent:
            if z_BZ is None:
                z_BZ = context_BCW.new_zeros(len(context_BCW), self.latent)
            x_BkW = x_BkW + self.latent_in(z_BZ)[:, None]
        count = x_BkW.shape[1]
        x_BNW = torch.cat([x_BkW, self.seen_in(context_BCW)], dim=1)
        for block in self.decoder:
            x_BNW = block(x_BNW)
        out: Tensor = self.action_out(self.norm(x_BNW[:, :count]))
        return out

    def measure(self, context_BCW: Tensor, true: Demonstration) -> dict[str, Tensor]:
        """Chunks of the posterior's mean, that mean, and the divergence in nats."""
        if not self.latent:
            return {}
        posterior = self.posterior(true)
        return {
            "posterior": self.act(context_BCW, posterior.mean_BZ),
            "latent_mean": posterior.mean_BZ,
            "kl": posterior.kl().sum(-1),
        }

    def scores(self, measured: dict[str, Tensor], acted: ActionScores, score: Score) -> HeadScores:
        """Active dimensions and divergence of the latent, and a remark where it has collapsed."""
        if not measured:
            return HeadScores(numbers={"latent": 0})
        posterior, kl = score(measured["posterior"]), float(measured["kl"].mean())
        active = active_dimensions(measured["latent_mean"])
        said = f"{active} of {self.latent} dimensions active, {kl:.2f} nats a chunk"
        remarks = [f"latent: {said}"]
        if has_collapsed(active, self.latent, posterior.arm_l1, acted.arm_l1):
            remarks.append(COLLAPSED)
        return HeadScores(
            rows={"posterior": posterior},
            numbers={
                "posterior": asdict(posterior),
                "kl": kl,
                "active_dimensions": active,
                "latent": self.latent,
            },
            line=f"posterior {posterior.arm_l1:.3f}, KL {kl:.2f}, {active} of {self.latent} active",
            remarks=tuple(remarks),
        )


COLLAPSED = (
    f"the posterior has collapsed: fewer than {ENOUGH_ACTIVE} dimensions tell chunks apart, or "
    f"knowing the chunk makes it less than {LEAST_HELP:.0%} better, so drawing from the prior "
    "changes little. Where demonstrations differ, train longer, lower --loss.kl or raise "
    "--loss.kl-warmup; where they do not, --head.latent 0 is as good"
)


def has_collapsed(active: int, latent: int, posterior_l1: float, prior_l1: float) -> bool:
    """True where the latent carries next to nothing.

    Args:
        active: dimensions that vary between chunks.
        latent: dimensions in all.
        posterior_l1: error of the arm where the latent is that of the true chunk.
        prior_l1: where it is zero.
    """
    few = active < min(ENOUGH_ACTIVE, latent)
    return latent > 0 and (few or posterior_l1 > (1 - LEAST_HELP) * prior_l1)


def active_dimensions(mean_MZ: Tensor) -> int:
    """Number of latent dimensions whose posterior means vary over M windows.

    A dimension that does not has collapsed: its posterior is the prior, whatever the chunk.
    """
    if len(mean_MZ) < 2 or not mean_MZ.shape[1]:
        return 0
    return int((mean_MZ.var(0) > ACTIVE_VARIANCE).sum())
