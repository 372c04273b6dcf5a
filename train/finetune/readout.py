"""Queries for the action: tokens of their own, which look at what the trunk made of the pictures.

The trunk never looks back at them, so what it predicts about pictures stays what it was.

Shape legend: B windows, h frames seen, V views, R rows, C columns, X numbers of a feature, L and E
text length and width, S numbers of an encoded state, k actions of a chunk, W width, Q = h + k
tokens, M = h*V*R*C + L things to look at.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LookBlock(nn.Module):
    """The tokens look at the pictures and the text, then at each other; then an MLP."""

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
        self, x_BQW: Tensor, memory_BMW: Tensor, there_BM: Tensor, there_BQ: Tensor
    ) -> Tensor:
        """One residual step."""
        q, kv = self.q(self.look_norm(x_BQW)), self.kv(memory_BMW)
        k, v = kv.chunk(2, dim=-1)
        x_BQW = x_BQW + self.look_out(self._attend(q, k, v, there_BM))
        q, k, v = self.qkv(self.own_norm(x_BQW)).chunk(3, dim=-1)
        x_BQW = x_BQW + self.own_out(self._attend(q, k, v, there_BQ))
        out: Tensor = x_BQW + self.down(F.gelu(self.up(self.mlp_norm(x_BQW))))
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, there_BK: Tensor) -> Tensor:
        q, k, v = (t.view(*t.shape[:2], self.heads, -1).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, there_BK[:, None, None])
        return y.transpose(1, 2).flatten(2)


class Readout(nn.Module):
    """From features of the trunk, text and states to tokens that say what to do.

    Args:
        grid: h, V, R, C of the features.
        feature_width: X.
        text_length, text_width: L and E.
        state_width: S.
        chunk: k.
        width, layers: of the transformer.
    """

    def __init__(
        self,
        grid: tuple[int, int, int, int],
        feature_width: int,
        text_length: int,
        text_width: int,
        state_width: int,
        chunk: int,
        width: int,
        layers: int,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.feature_norm = nn.LayerNorm(feature_width)
        self.feature_in = nn.Linear(feature_width, width)
        self.text_in = nn.Linear(text_width, width)
        self.state_in = nn.Linear(state_width, width)
        self.axes = nn.ParameterList(0.02 * torch.randn(size, width) for size in grid)
        self.text_place = nn.Parameter(0.02 * torch.randn(text_length, width))
        self.time = nn.Parameter(0.02 * torch.randn(grid[0], width))
        self.query = nn.Parameter(0.02 * torch.randn(chunk, width))
        self.memory_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(LookBlock(width, max(1, width // 32)) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        features_BMX: Tensor,
        seen_BhV: Tensor,
        text_BLE: Tensor,
        state_BhS: Tensor,
        state_seen_Bh: Tensor,
    ) -> Tensor:
        """Tokens [B, Q, W]: of the states, then of the actions to take.

        Args:
            features_BMX: of the trunk [B, h*V*R*C, X].
            seen_BhV: bool, the pictures that there are.
            text_BLE: features of the instructions, zero behind their end.
            state_BhS: encoded.
            state_seen_Bh: bool, the states that there are.
        """
        h, _, rows, cols = self.grid
        pictures = self.feature_in(self.feature_norm(features_BMX)) + self._places()
        words = self.text_in(text_BLE) + self.text_place
        memory_BMW = self.memory_norm(torch.cat([pictures, words], dim=1))
        there_BM = torch.cat(
            [seen_BhV.flatten(1).repeat_interleave(rows * cols, 1), (text_BLE != 0).any(-1)], dim=1
        )
        # The VAE reads these tokens too: what is unknown must say nothing.
        states = self.state_in(state_BhS * state_seen_Bh[..., None]) + self.time
        x_BQW = torch.cat([states, self.query.expand(len(states), -1, -1)], dim=1)
        asked = state_seen_Bh.new_ones(len(states), x_BQW.shape[1] - h)
        there_BQ = torch.cat([state_seen_Bh, asked], dim=1)
        for block in self.blocks:
            x_BQW = block(x_BQW, memory_BMW, there_BM, there_BQ)
        out: Tensor = self.norm(x_BQW)
        return out

    def _places(self) -> Tensor:
        """Frame, view, row and column of each feature as one vector: [h*V*R*C, W]."""
        frames, views, rows, cols = self.axes
        place = rows[:, None] + cols
        for table in (views, frames):
            place = table[:, None] + place.flatten(0, -2)
        flat: Tensor = place.flatten(0, -2)
        return flat
