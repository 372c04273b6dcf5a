"""Transformer blocks without causality, for the readout and the action heads.

Shapes: B windows, N or Q tokens, M memory tokens, W width.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def attend(
    q_BNW: Tensor, k_BMW: Tensor, v_BMW: Tensor, heads: int, valid_BM: Tensor | None
) -> Tensor:
    """Multi-head attention [B, N, W]; keys where `valid_BM`, bool, is False are not attended to."""
    q, k, v = (t.view(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q_BNW, k_BMW, v_BMW))
    mask = None if valid_BM is None else valid_BM[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


class SelfBlock(nn.Module):
    """Self-attention, then an MLP four times as wide, each on the normalised residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BNW: Tensor, valid_BN: Tensor | None = None) -> Tensor:
        """One residual step; tokens that are not valid are not attended to."""
        q, k, v = self.qkv(self.attention_norm(x_BNW)).chunk(3, dim=-1)
        x_BNW = x_BNW + self.out(attend(q, k, v, self.heads, valid_BN))
        out: Tensor = x_BNW + self.down(F.gelu(self.up(self.mlp_norm(x_BNW))))
        return out


class CrossBlock(nn.Module):
    """Cross-attention to a memory, then self-attention, then an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.look_norm, self.own_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp_norm = nn.LayerNorm(width)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.look_out = nn.Linear(width, width)
        self.qkv, self.own_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(
        self, x_BQW: Tensor, memory_BMW: Tensor, valid_BM: Tensor, valid_BQ: Tensor
    ) -> Tensor:
        """One residual step; memory and tokens that are not valid are not attended to."""
        q, kv = self.q(self.look_norm(x_BQW)), self.kv(memory_BMW)
        k, v = kv.chunk(2, dim=-1)
        x_BQW = x_BQW + self.look_out(attend(q, k, v, self.heads, valid_BM))
        q, k, v = self.qkv(self.own_norm(x_BQW)).chunk(3, dim=-1)
        x_BQW = x_BQW + self.own_out(attend(q, k, v, self.heads, valid_BQ))
        out: Tensor = x_BQW + self.down(F.gelu(self.up(self.mlp_norm(x_BQW))))
        return out
