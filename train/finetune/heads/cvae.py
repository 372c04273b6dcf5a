"""A conditional VAE of action chunks: what a trajectory may look like, given what is seen.

In training a posterior looks at the true chunk and sums it up as a few numbers, the latent; the
decoder makes the chunk from the latent and from what the model has seen. At inference the latent
is zero, the middle of the prior, or drawn from it: demonstrations that go left and others that go
right then become one trajectory or the other, and not their mean (Sohn et al. 2015; for robots ACT,
arXiv 2304.13705, and GR-MG, arXiv 2408.14368, whose sizes are the defaults).

Shape legend: B windows, k actions of a chunk, A numbers of an action, Z latent dimensions, C tokens
that tell what is seen, W width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVE_VARIANCE = 0.01  # of a dimension's posterior mean over windows (Burda et al. 1509.00519)


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


class SelfBlock(nn.Module):
    """Self-attention without causality, then an MLP four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BNW: Tensor, mask_B11N: Tensor | None = None) -> Tensor:
        """One residual step; a mask is True at the tokens that may be looked at."""
        split = self.qkv(self.attention_norm(x_BNW)).unflatten(-1, (3, self.heads, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4)
        y_BHNS = F.scaled_dot_product_attention(q, k, v, mask_B11N)
        x_BNW = x_BNW + self.out(y_BHNS.transpose(1, 2).flatten(2))
        out: Tensor = x_BNW + self.down(F.gelu(self.up(self.mlp_norm(x_BNW))))
        return out


class ActionVAE(nn.Module):
    """Posterior encoder and decoder of chunks.

    Args:
        actions: k, of a chunk.
        action_width: A.
        state_width: of the current state, encoded; the posterior sees it beside the chunk.
        seen_width: of the tokens that tell what is seen.
        latent: Z; 0 makes a deterministic head, without a posterior.
        width: W of both transformers.
        blocks: of each of them.
    """

    def __init__(
        self,
        actions: int,
        action_width: int,
        state_width: int,
        seen_width: int,
        latent: int = 32,
        width: int = 128,
        blocks: int = 4,
    ) -> None:
        super().__init__()
        self.latent, heads = latent, max(1, width // 32)
        # As large as what is added to them: a step that the first layers cannot tell from the next
        # one makes posterior and decoder see the mean of a chunk, and the latent goes unused.
        self.step = nn.Parameter(torch.randn(actions, width))
        self.seen_in = nn.Linear(seen_width, width)
        self.decoder = nn.ModuleList(SelfBlock(width, heads) for _ in range(blocks))
        self.norm, self.action_out = nn.LayerNorm(width), nn.Linear(width, action_width)
        if latent:
            self.posterior_step = nn.Parameter(torch.randn(actions, width))
            self.summary = nn.Parameter(0.02 * torch.randn(width))
            self.action_in = nn.Linear(action_width, width)
            self.state_in = nn.Linear(state_width, width)
            self.encoder = nn.ModuleList(SelfBlock(width, heads) for _ in range(blocks))
            self.posterior_norm = nn.LayerNorm(width)
            self.posterior_out = nn.Linear(width, 2 * latent)
            self.latent_in = nn.Linear(latent, width)

    def posterior(self, action_BkA: Tensor, there_Bk: Tensor, state_BE: Tensor) -> Posterior:
        """The latent of true chunks.

        Args:
            action_BkA: normalised.
            there_Bk: bool; actions behind the end of an episode are False and not looked at.
            state_BE: the current state, encoded.
        """
        actions_BkW = self.action_in(action_BkA * there_Bk[..., None]) + self.posterior_step
        first_B2W = torch.stack(
            [self.summary.expand(len(state_BE), -1), self.state_in(state_BE)], dim=1
        )
        x_BNW = torch.cat([first_B2W, actions_BkW], dim=1)
        mask_BN = torch.cat([there_Bk.new_ones(len(there_Bk), 2), there_Bk], dim=1)
        for block in self.encoder:
            x_BNW = block(x_BNW, mask_BN[:, None, None])
        mean_BZ, log_var_BZ = self.posterior_out(self.posterior_norm(x_BNW[:, 0])).chunk(2, dim=-1)
        return Posterior(mean_BZ, log_var_BZ.clamp(-10, 10))

    def decode(self, seen_BCW: Tensor, z_BZ: Tensor | None) -> Tensor:
        """Chunks [B, k, A]: normalised arm numbers, and logits where the grippers are.

        Args:
            seen_BCW: tokens that tell what is seen.
            z_BZ: the latent; None stands for zero, the middle of the prior.
        """
        x_BkW = self.step.expand(len(seen_BCW), -1, -1)
        if self.latent:
            if z_BZ is None:
                z_BZ = seen_BCW.new_zeros(len(seen_BCW), self.latent)
            x_BkW = x_BkW + self.latent_in(z_BZ)[:, None]
        count = x_BkW.shape[1]
        x_BNW = torch.cat([x_BkW, self.seen_in(seen_BCW)], dim=1)
        for block in self.decoder:
            x_BNW = block(x_BNW)
        out: Tensor = self.action_out(self.norm(x_BNW[:, :count]))
        return out


def active_dimensions(mean_MZ: Tensor) -> int:
    """How many latent dimensions tell chunks apart: their posterior means vary over M windows.

    A dimension that does not has collapsed: its posterior is the prior, whatever the chunk.
    """
    if len(mean_MZ) < 2 or not mean_MZ.shape[1]:
        return 0
    return int((mean_MZ.var(0) > ACTIVE_VARIANCE).sum())
