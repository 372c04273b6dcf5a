"""The readout: query tokens that attend to the trunk's features of the pictures.

The trunk never attends back to them, so what it predicts about pictures stays what it was.

Shape legend: B windows, h frames given, V views, R rows, C columns, X numbers of a feature, L and E
text length and width, S numbers of an encoded state, k actions of a chunk, W width, Q = h + k
tokens, M = h*V*R*C + L memory tokens.
"""

import torch
from torch import Tensor, nn

from handloom.train.model.blocks import CrossBlock


class Readout(nn.Module):
    """From features of the trunk, text and states to the context tokens of the action head.

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
        self.blocks = nn.ModuleList(CrossBlock(width, max(1, width // 32)) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        features_BMX: Tensor,
        visible_BhV: Tensor,
        text_BLE: Tensor,
        state_BhS: Tensor,
        state_known_Bh: Tensor,
    ) -> Tensor:
        """Tokens [B, Q, W]: of the states, then of the actions to take.

        Args:
            features_BMX: of the trunk [B, h*V*R*C, X].
            visible_BhV: bool, the pictures that there are.
            text_BLE: features of the instructions, zero behind their end.
            state_BhS: encoded.
            state_known_Bh: bool, the states that there are.
        """
        h, _, rows, cols = self.grid
        pictures = self.feature_in(self.feature_norm(features_BMX)) + self._places()
        words = self.text_in(text_BLE) + self.text_place
        memory_BMW = self.memory_norm(torch.cat([pictures, words], dim=1))
        there_BM = torch.cat(
            [visible_BhV.flatten(1).repeat_interleave(rows * cols, 1), (text_BLE != 0).any(-1)],
            dim=1,
        )
        # The VAE reads these tokens too: what is unknown must say nothing.
        states = self.state_in(state_BhS * state_known_Bh[..., None]) + self.time
        x_BQW = torch.cat([states, self.query.expand(len(states), -1, -1)], dim=1)
        asked = state_known_Bh.new_ones(len(states), x_BQW.shape[1] - h)
        there_BQ = torch.cat([state_known_Bh, asked], dim=1)
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
