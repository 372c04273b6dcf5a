"""The stage-2 model: the GPT of stage 1, a readout of its features, and an action head on top.

    [text][frame: view 0, view 1, ...][...]  ->  GPT  ->  codes of the next frame of every view
                                                  |
       [states][one query for each action]  <-  readout  ->  action head  ->  a chunk of actions

Nothing flows from states or queries back into the pictures, so stage-1 predictions are preserved
bit for bit while the GPT is frozen, its features can be stored, and an action takes one pass over
the frames given and no sampling of pictures.

Shape legend: B windows, h frames given (the current one last), F = h + 1 frames, V views, R rows,
C columns, n = F*V*R*C codes, S numbers of an encoded state, k actions of a chunk, A numbers of an
action, D width of the GPT, X numbers of a feature, M features, W width of the Q = h + k context
tokens.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handloom.train.finetune.config import HeadOptions, LossOptions
from handloom.train.finetune.heads.catalog import make_head
from handloom.train.finetune.heads.head import ActionHead, Demonstration, HeadShape, mean_of_each
from handloom.train.finetune.inputs import Inputs
from handloom.train.finetune.readout import Readout
from handloom.train.model.gpt import GPT
from handloom.train.model.shape import Shape


@dataclass(frozen=True)
class RobotShape:
    """All that fixes the shapes of the parameters; a checkpoint loads only into an equal one."""

    trunk: Shape
    views: tuple[str, ...]
    history: int
    chunk: int
    state_width: int
    action_width: int
    grippers: tuple[int, ...]
    """Columns of an action that are grippers, 0 closed to 1 open."""
    head: HeadOptions
    other_head: dict[str, Any] | None = None
    """`name` and options of an action head that is not the cVAE."""
    blind: bool = False
    """A control: the readout gets zeros for the GPT's features."""

    @property
    def given(self) -> int:
        """Codes of the frames given."""
        return self.history * self.trunk.codes_per_frame

    @property
    def grid(self) -> tuple[int, int, int, int]:
        """h, V, R, C of the features that the readout attends to."""
        pool = self.head.pool
        return (self.history, self.trunk.views, self.trunk.rows // pool, self.trunk.cols // pool)

    @property
    def layers(self) -> tuple[int, int]:
        """Blocks whose output is a feature: the one in the middle and the last."""
        return (self.trunk.layers + 1) // 2, self.trunk.layers

    @property
    def feature_width(self) -> int:
        """X: numbers of a feature."""
        return len(self.layers) * self.trunk.width

    def make_head(self) -> ActionHead:
        """The action head, with random weights."""
        shape = HeadShape(
            self.chunk, self.action_width, self.state_width, self.head.width, self.grippers
        )
        options = dict(self.other_head or {"name": "cvae", **asdict(self.head)})
        return make_head(options.pop("name"), shape, options)


class RobotModel(nn.Module):
    """Pictures, instruction and states in; the next pictures and a chunk of actions out."""

    fsdp_methods = ("loss", "features", "context", "act", "measure", "video_nats")

    def __init__(self, shape: RobotShape) -> None:
        super().__init__()
        self.shape, head, trunk = shape, shape.head, shape.trunk
        self.trunk = GPT(trunk)
        self.readout = Readout(
            shape.grid, shape.feature_width, trunk.text_length, trunk.text_width,
            shape.state_width, shape.chunk, head.width, head.layers,
        )  # fmt: skip
        made = shape.make_head()
        self._key = made.key  # names its parameters in exports
        self.add_module(made.key, made)

    @property
    def head(self) -> ActionHead:
        """The action head."""
        head = self.get_submodule(self._key)
        assert isinstance(head, ActionHead)
        return head

    def fsdp_blocks(self) -> list[nn.Module]:
        """The modules that FSDP gathers one after the other."""
        return list(self.trunk.blocks)

    def loss(self, inputs: Inputs, weights: LossOptions, video: bool = True) -> dict[str, Tensor]:
        """The parts of the loss of a batch of windows, scalars.

        `video` is the cross entropy of the next frame's codes, nats; the others are the head's.

        Args:
            inputs: of the windows.
            weights: what the head wants to know of them.
            video: predict the next pictures too; else that part is 0, at a third of the cost.
        """
        if video:
            features_BMX, video_BV = self._run_with_next_frame(inputs)
        else:
            video_BV = inputs.state_BhS.new_zeros(inputs.visible_BFV[:, -1].shape)
            stored = inputs.features_BMX
            features_BMX = self.features(inputs) if stored is None else stored
        next_BV = inputs.visible_BFV[:, -1]
        losses = self.head.losses(self.context(features_BMX, inputs), _true(inputs), weights)
        return {"video": mean_of_each(video_BV[..., None], next_BV), **losses}

    def total(self, losses: dict[str, Tensor], weights: LossOptions, step: int) -> Tensor:
        """The loss to minimise, parts weighted, after so many steps."""
        total = weights.video * losses["video"]
        for part in self.head.weighted(losses, weights, step):
            total = total + part
        return total

    def features(self, inputs: Inputs) -> Tensor:
        """Features of the GPT of the frames given: [B, M, X], M = h*V*R/p*C/p of `pool` p."""
        return _in_order(self._features(self._hidden(inputs, self.shape.given)), inputs)

    def context(self, features_BMX: Tensor, inputs: Inputs) -> Tensor:
        """Context tokens of the action head: [B, Q, W]."""
        out: Tensor = self.readout(
            0 * features_BMX.float() if self.shape.blind else features_BMX.float(),
            inputs.visible_BFV[:, : self.shape.history],
            inputs.text_BLE,
            inputs.state_BhS,
            inputs.state_known_Bh,
        )
        return out

    def act(self, context_BQW: Tensor, noise: Tensor | None = None) -> Tensor:
        """Chunks [B, k, A] of normalised actions; grippers 0 closed to 1 open.

        Args:
            context_BQW: see `context`.
            noise: normal, [B, *head.noise_shape]; without it the chunk that a policy executes.
        """
        return self.head.act(context_BQW, noise)

    def measure(self, context_BQW: Tensor, inputs: Inputs) -> dict[str, Tensor]:
        """Measurements of these windows that the head's scores are made of."""
        return self.head.measure(context_BQW, _true(inputs))

    def video_nats(self, inputs: Inputs) -> Tensor:
        """Cross entropy of the next frame's codes by view, nats [B, V]; NaN without a picture."""
        _, nats_BV = self._run_with_next_frame(inputs)
        return nats_BV.where(inputs.visible_BFV[:, -1], torch.nan)

    def _hidden(self, inputs: Inputs, codes: int) -> list[Tensor]:
        """The GPT's stream over the first codes of each window, in the order of `inputs.masked`."""
        codes_Bn, text_BLE, masked = inputs.codes_Bn[:, :codes], inputs.text_BLE, inputs.masked
        if masked is None:
            visible_Bn = inputs.visible_codes()
        else:
            codes_Bn, text_BLE = codes_Bn[masked.order_B], text_BLE[masked.order_B]
            visible_Bn = masked.visible_bn
        return self.trunk.hidden(
            codes_Bn, text_BLE, None if visible_Bn is None else visible_Bn[:, :codes]
        )

    def _run_with_next_frame(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Features [B, M, X], and the loss of the next picture's codes, nats [B, V]."""
        codes_Bn, masked = inputs.codes_Bn, inputs.masked
        stream = self._hidden(inputs, codes_Bn.shape[1] - 1)
        if masked is not None:
            codes_Bn = codes_Bn[masked.order_B]
        # Only the next frame is to be predicted: logits of the frames given would double the cost.
        logits_BmK = self.trunk.predict_last_frame(stream[-1], codes_Bn).float()
        true_Bm = codes_Bn[:, self.shape.given :]
        loss = F.cross_entropy(logits_BmK.flatten(0, 1), true_Bm.flatten(), reduction="none")
        loss_BV = loss.view(len(codes_Bn), self.shape.trunk.views, -1).mean(-1)
        return _in_order(self._features(stream), inputs), _in_order(loss_BV, inputs)

    def _features(self, stream: list[Tensor]) -> Tensor:
        start, shape = self.shape.trunk.text_length, self.shape
        layers = torch.cat([stream[layer] for layer in shape.layers], dim=-1)
        features_BnX, pool = layers[:, start : start + shape.given], shape.head.pool
        h, views, rows, cols = shape.grid
        tiles = features_BnX.reshape(len(layers), h * views * rows, pool, cols, pool, -1)
        features_BMX: Tensor = tiles.mean((2, 4)).flatten(1, 2)
        return features_BMX


def _in_order(rows: Tensor, inputs: Inputs) -> Tensor:
    """Results of the GPT in the order of the windows."""
    return rows if inputs.masked is None else rows[inputs.masked.row_B]


def _true(inputs: Inputs) -> Demonstration:
    return Demonstration(inputs.action_BkA, inputs.action_valid_Bk, inputs.state_BhS[:, -1])
