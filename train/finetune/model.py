"""The stage-2 model: the GPT of stage 1, a readout for the action, and a conditional VAE on top.

    [text][frame: view 0, view 1, ...][...]  ->  GPT  ->  codes of the next frame of every view
                                                  |
            [states][one query for each action] looks at it  ->  VAE  ->  a chunk of actions

Nothing flows from states or queries back into the pictures, so stage-1 predictions are preserved
bit for bit while the GPT is frozen, features of it can be stored, and an action takes one pass over
the frames seen and no sampling of pictures. `state_to_images` gives that up: states then move the
codes of the frame they belong to.

Shape legend: B windows, h frames seen (the current one last), F = h + 1 frames, V views, R rows,
C columns, n = F*V*R*C codes, L and E text length and width, S numbers of an encoded state, k
actions of a chunk, A numbers of an action, Z latent, D width of the GPT, X numbers of a feature.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handloom.train.finetune.config import HeadOptions, LossOptions
from handloom.train.finetune.heads.cvae import ActionVAE, Posterior
from handloom.train.finetune.readout import Readout
from handloom.train.model.gpt import GPT, Shape, to_sequence


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

    @property
    def given(self) -> int:
        """Codes of the frames seen."""
        return self.history * self.trunk.codes_per_frame

    @property
    def grid(self) -> tuple[int, int, int, int]:
        """h, V, R, C of the features that the head looks at."""
        pool = self.head.pool
        return (self.history, self.trunk.views, self.trunk.rows // pool, self.trunk.cols // pool)

    @property
    def layers(self) -> tuple[int, int]:
        """Whose output is a feature: the block in the middle and the last."""
        return (self.trunk.layers + 1) // 2, self.trunk.layers

    @property
    def feature_width(self) -> int:
        """X: numbers of a feature."""
        return len(self.layers) * self.trunk.width


class Inputs(NamedTuple):
    """Windows on the device of the model."""

    codes_Bn: Tensor
    """int64, those of the frame to predict included."""
    seen_BFV: Tensor
    """bool: pictures that there are."""
    text_BLE: Tensor
    state_BhS: Tensor
    """Encoded (`Space.encode_state`)."""
    state_seen_Bh: Tensor
    action_BkA: Tensor
    """Normalised (`Space.normalise`)."""
    action_seen_Bk: Tensor
    """bool: actions that count."""
    features_BMX: Tensor | None = None
    """Of the GPT, where they were computed before."""


class Losses(NamedTuple):
    """Parts of the loss, each a mean over windows of the mean over what counts in a window."""

    video: Tensor
    """Cross entropy of the next frame's codes, nats; a window without a next frame counts 0."""
    video_BV: Tensor
    """The same of each view; NaN where there is no picture to predict."""
    arm: Tensor
    """Smooth L1 (beta 1) of the normalised arm numbers."""
    gripper: Tensor
    """Binary cross entropy, nats."""
    kl: Tensor
    """Of all latent dimensions together, nats a chunk."""
    kl_paid: Tensor
    """The same, where a dimension pays no less than its free bits."""

    def total(self, weights: LossOptions, kl_share: float = 1.0) -> Tensor:
        """What is minimised; the weight of the divergence rises while a run is young."""
        return (
            weights.video * self.video
            + weights.arm * self.arm
            + weights.gripper * self.gripper
            + weights.kl * kl_share * self.kl_paid
        )


class RobotModel(nn.Module):
    """Pictures, instruction and states in; the next pictures and a chunk of actions out."""

    def __init__(self, shape: RobotShape) -> None:
        super().__init__()
        self.shape, head, trunk = shape, shape.head, shape.trunk
        self.trunk = GPT(trunk)
        self.readout = Readout(
            shape.grid, shape.feature_width, trunk.text_length, trunk.text_width,
            shape.state_width, shape.chunk, head.width, head.layers,
        )  # fmt: skip
        self.vae = ActionVAE(
            shape.chunk, shape.action_width, shape.state_width, head.width,
            head.latent, head.vae_width, head.vae_blocks,
        )  # fmt: skip
        if head.state_to_images:
            self.state_to_images = nn.Linear(shape.state_width, trunk.width)
            nn.init.zeros_(self.state_to_images.weight)
            nn.init.zeros_(self.state_to_images.bias)

    def forward(
        self, inputs: Inputs, free_bits: float, video: bool = True
    ) -> tuple[Losses, Posterior | None]:
        """The losses of a batch of windows.

        Args:
            inputs: of the windows.
            free_bits: nats that a latent dimension may use unpaid.
            video: predict the next pictures too; else that part is 0, at a third of the cost.
        """
        if video:
            stream, video_BV = self._run_with_next_frame(inputs)
            features_BMX = self._features(stream)
        else:
            video_BV = inputs.state_BhS.new_zeros(inputs.seen_BFV[:, -1].shape)
            stored = inputs.features_BMX
            features_BMX = self.features(inputs) if stored is None else stored
        seen_BCW = self.look(features_BMX, inputs)
        posterior = self._posterior(inputs)
        out_BkA = self.vae.decode(seen_BCW, None if posterior is None else posterior.draw())
        return self._losses(out_BkA, posterior, video_BV, inputs, free_bits), posterior

    def features(self, inputs: Inputs) -> Tensor:
        """What the GPT makes of the frames seen: [B, M, X], M = h*V*R/p*C/p of `pool` p."""
        given = self.shape.given
        seen_Bn, extra_BnD = self.hidden_codes(inputs)
        extra_BnD = None if extra_BnD is None else extra_BnD[:, :given]
        stream = self.trunk.hidden(
            inputs.codes_Bn[:, :given],
            inputs.text_BLE,
            None if seen_Bn is None else seen_Bn[:, :given],
            extra_BnD,
        )
        return self._features(stream)

    def look(self, features_BMX: Tensor, inputs: Inputs) -> Tensor:
        """Tokens that tell the VAE what is seen: [B, h + k, W]."""
        out: Tensor = self.readout(
            features_BMX.float(),
            inputs.seen_BFV[:, : self.shape.history],
            inputs.text_BLE,
            inputs.state_BhS,
            inputs.state_seen_Bh,
        )
        return out

    def act(self, seen_BCW: Tensor, z_BZ: Tensor | None = None) -> Tensor:
        """Chunks [B, k, A] of normalised actions; grippers as probabilities of being open."""
        out_BkA = self.vae.decode(seen_BCW, z_BZ)
        grippers = list(self.shape.grippers)
        out_BkA[..., grippers] = out_BkA[..., grippers].sigmoid()
        return out_BkA

    def hidden_codes(self, inputs: Inputs) -> tuple[Tensor | None, Tensor | None]:
        """Which codes may be looked at, bool [B, n] or None for all; what states add to them."""
        each = self.shape.trunk.rows * self.shape.trunk.cols
        seen_Bn = None
        if not bool(inputs.seen_BFV.all()):
            seen_Bn = inputs.seen_BFV.flatten(1).repeat_interleave(each, 1)
        if not self.shape.head.state_to_images:
            return seen_Bn, None
        moved_BhD = self.state_to_images(inputs.state_BhS) * inputs.state_seen_Bh[..., None]
        moved_BFD = F.pad(moved_BhD, (0, 0, 0, 1))  # the next state is not known
        return seen_Bn, moved_BFD.repeat_interleave(self.shape.trunk.codes_per_frame, 1)

    def _run_with_next_frame(self, inputs: Inputs) -> tuple[list[Tensor], Tensor]:
        seen_Bn, extra_BnD = self.hidden_codes(inputs)
        codes_Bn = inputs.codes_Bn
        stream = self.trunk.hidden(
            codes_Bn[:, :-1],
            inputs.text_BLE,
            None if seen_Bn is None else seen_Bn[:, :-1],
            None if extra_BnD is None else extra_BnD[:, :-1],
        )
        # Only the next frame is to be predicted: logits of the frames seen would double the cost.
        logits_BmK = self.trunk.predict_last_frame(stream[-1], codes_Bn).float()
        true_Bm = codes_Bn[:, self.shape.given :]
        loss = F.cross_entropy(logits_BmK.flatten(0, 1), true_Bm.flatten(), reduction="none")
        loss_BV = loss.view(len(codes_Bn), self.shape.trunk.views, -1).mean(-1)
        return stream, loss_BV

    def _features(self, stream: list[Tensor]) -> Tensor:
        start, shape = self.shape.trunk.text_length, self.shape
        found = torch.cat([stream[layer] for layer in shape.layers], dim=-1)
        found_BnX, pool = found[:, start : start + shape.given], shape.head.pool
        h, views, rows, cols = shape.grid
        tiles = found_BnX.reshape(len(found), h * views * rows, pool, cols, pool, -1)
        features_BMX: Tensor = tiles.mean((2, 4)).flatten(1, 2)
        return features_BMX

    def _posterior(self, inputs: Inputs) -> Posterior | None:
        if not self.shape.head.latent:
            return None
        now_BS = inputs.state_BhS[:, -1]
        return self.vae.posterior(inputs.action_BkA, inputs.action_seen_Bk, now_BS)

    def _losses(
        self,
        out_BkA: Tensor,
        posterior: Posterior | None,
        video_BV: Tensor,
        inputs: Inputs,
        free_bits: float,
    ) -> Losses:
        arm_BkA, gripper_BkA = action_errors(out_BkA, inputs.action_BkA, self.shape.grippers)
        next_BV = inputs.seen_BFV[:, -1]
        zero = out_BkA.new_zeros(())
        kl_BZ = posterior.kl() if posterior is not None else out_BkA.new_zeros(1, 1)
        return Losses(
            video=_mean_of_each(video_BV[..., None], next_BV),
            video_BV=video_BV.detach().where(next_BV, torch.nan),
            arm=_mean_of_each(arm_BkA, inputs.action_seen_Bk),
            gripper=_mean_of_each(gripper_BkA, inputs.action_seen_Bk),
            kl=kl_BZ.sum(-1).mean(),
            # Means over the batch are compared with the free bits (Kingma et al. 1606.04934).
            kl_paid=kl_BZ.mean(0).clamp(min=free_bits).sum() if posterior is not None else zero,
        )


def _mean_of_each(values_BnM: Tensor, counts_Bn: Tensor) -> Tensor:
    """The mean of each window over what counts in it, then of all windows.

    So windows weigh the same however they are split into parts; what counts nowhere is 0.
    """
    if not values_BnM.shape[-1]:
        return values_BnM.new_zeros(())
    sums_B = (values_BnM.mean(-1) * counts_Bn).sum(-1)
    return (sums_B / counts_Bn.sum(-1).clamp(min=1)).mean()


def action_errors(
    out_BkA: Tensor, true_BkA: Tensor, grippers: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Smooth L1 of arm numbers [B, k, arm] and cross entropy of grippers [B, k, grippers].

    Args:
        out_BkA: decoded; logits where the grippers are.
        true_BkA: normalised.
        grippers: columns.
    """
    columns = list(grippers)
    arms = [i for i in range(true_BkA.shape[-1]) if i not in grippers]
    arm = F.smooth_l1_loss(out_BkA[..., arms], true_BkA[..., arms], reduction="none")
    gripper = F.binary_cross_entropy_with_logits(
        out_BkA[..., columns], true_BkA[..., columns], reduction="none"
    )
    return arm, gripper


def codes_of(codes_BFVRC: Any, device: torch.device) -> Tensor:
    """Codes of windows, uint16 [B, F, V, R, C] of numpy, as the model takes them: int64 [B, n]."""
    codes_BVFRC = torch.from_numpy(codes_BFVRC.astype("int32")).transpose(1, 2)
    return to_sequence(codes_BVFRC).to(device)
