"""Windows of episodes as the stage-2 model takes them.

Shape legend: B windows, h frames given (the current one last), F = h + 1 frames, V views, R rows,
C columns, n = F*V*R*C codes, L and E text length and width, S numbers of an encoded state, k
actions of a chunk, A numbers of an action, X numbers of a feature.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from handloom.train.finetune.space import Space
from handloom.train.finetune.windows.windows import WindowBatch
from handloom.train.model.gpt import to_sequence
from handloom.train.trainer.feed import on_device


class Inputs(NamedTuple):
    """Windows on the device of the model."""

    codes_Bn: Tensor
    """int64, those of the frame to predict included."""
    visible_BFV: Tensor
    """bool: pictures that there are."""
    text_BLE: Tensor
    state_BhS: Tensor
    """Encoded (`Space.encode_state`)."""
    state_known_Bh: Tensor
    action_BkA: Tensor
    """Normalised (`Space.normalise`)."""
    action_valid_Bk: Tensor
    """bool: actions that count."""
    features_BMX: Tensor | None = None
    """Features of the GPT, if they were computed before."""
    all_visible: bool = False
    """True where attention needs no mask, which is faster: see `needs_no_mask`. The host decides,
    so that a step need not wait for the device."""
    masked: "Masked | None" = None
    """The windows that need a mask, if only some do: see `DeviceWindows.part`."""

    def visible_codes(self) -> Tensor | None:
        """Mask of the codes that may be attended to, bool [B, n]; None for all."""
        if self.all_visible:
            return None
        each = self.codes_Bn.shape[1] // self.visible_BFV[0].numel()
        return self.visible_BFV.flatten(1).repeat_interleave(each, 1)


class Masked(NamedTuple):
    """The order in which the GPT takes the windows, those that need a mask last; and the mask."""

    order_B: Tensor
    """int64: window of each row."""
    row_B: Tensor
    """int64: row of each window."""
    visible_bn: Tensor
    """bool: codes of the last b windows that may be attended to."""


def joined(parts: Sequence[Inputs]) -> Inputs:
    """Windows of several inputs as one; all of them with features, or none."""
    values = parts[0]._asdict()
    for name, first in values.items():
        if isinstance(first, Tensor):
            values[name] = torch.cat([getattr(part, name) for part in parts])
    visible = all(part.all_visible for part in parts)
    return Inputs(**values)._replace(all_visible=visible, masked=None)


class DeviceWindows(NamedTuple):
    """Inputs of a batch, and what the host knows of each window."""

    inputs: Inputs
    complete: list[bool]
    """For each window, True where it needs no mask."""
    missing: tuple[int, ...] = ()
    """Windows whose stored features are zeros, for they are not stored: see `completed`."""

    @classmethod
    def of(cls, inputs: Inputs, visible_BFV: Any) -> "DeviceWindows":
        """Inputs of which the host knows `visible_BFV`, bool of numpy."""
        complete = needs_no_mask(visible_BFV)
        return cls(inputs._replace(all_visible=bool(complete.all())), complete.tolist())

    def completed(self, compute: Callable[[Inputs], Tensor]) -> "DeviceWindows":
        """With the features that are missing computed: [b, M, X] of some windows."""
        stored_BMX = self.inputs.features_BMX
        if not self.missing or stored_BMX is None:
            return self
        rows = list(self.missing)
        rows_b = on_device(np.array(rows), stored_BMX.device)
        values = self.inputs._asdict()
        values |= {n: v[rows_b] for n, v in values.items() if isinstance(v, Tensor)}
        some = DeviceWindows(Inputs(**values), [self.complete[row] for row in rows])
        found_bMX = compute(some.part(slice(None))).to(stored_BMX.dtype)
        features_BMX = stored_BMX.index_copy(0, rows_b, found_bMX)
        return DeviceWindows(self.inputs._replace(features_BMX=features_BMX), self.complete)

    def part(self, part: slice) -> Inputs:
        """Some of the windows."""
        values = self.inputs._asdict()
        values |= {n: v[part] for n, v in values.items() if isinstance(v, Tensor)}
        complete = np.array(self.complete[part])
        values["all_visible"] = bool(complete.all())
        inputs = Inputs(**values)
        # Outside of what is compiled: inductor's CPU code (torch 2.13) masks wrongly if it is fused
        # into attention, without an error.
        visible_Bn = inputs.visible_codes()
        if visible_Bn is None:
            return inputs
        device = visible_Bn.device
        order = np.argsort(~complete, kind="stable")
        order_B, row_B = (on_device(found, device) for found in (order, np.argsort(order)))
        first = len(order) - _rounded(int((~complete).sum()), len(order))
        return inputs._replace(masked=Masked(order_B, row_B, visible_Bn[order_B[first:]]))


def needs_no_mask(visible_BFV: Any) -> Any:
    """The windows that no mask changes, bool [B] of numpy.

    They have all pictures of the frames given. Of the frame to predict they have all or none: where
    none is there nothing is asked of it, and nothing comes after it.
    """
    given, to_come = visible_BFV[:, :-1], visible_BFV[:, -1]
    return given.all((1, 2)) & (to_come.all(1) | ~to_come.any(1))


def _rounded(count: int, batch: int) -> int:
    """A number of windows, rounded up to few different ones: each is compiled for itself."""
    return next(some for some in (-(-batch // 4), -(-batch // 2), batch) if some >= count)


def windows_of(
    batch: WindowBatch,
    space: Space,
    encode_text: Callable[[list[str]], Tensor],
    device: torch.device,
    features: tuple[Any, list[int]] | None = None,
) -> DeviceWindows:
    """Windows as they are read, on the device.

    Args:
        batch: of numpy arrays, physical units.
        space: that normalises states and actions.
        encode_text: instructions to features [B, L, E].
        device: of the model.
        features: stored ones of these windows, and the places of those that are not stored.
    """
    inputs = Inputs(
        codes_Bn=codes_of(batch.codes, device),
        visible_BFV=on_device(batch.visible, device),
        text_BLE=encode_text(batch.caption),
        state_BhS=space.encode_state(on_device(batch.state, device)),
        state_known_Bh=on_device(batch.state_known, device),
        action_BkA=space.normalise(on_device(batch.action, device)),
        action_valid_Bk=on_device(batch.action_valid, device),
        features_BMX=None if features is None else on_device(features[0], device),
    )
    missing = () if features is None else tuple(features[1])
    return DeviceWindows.of(inputs, batch.visible)._replace(missing=missing)


def codes_of(codes_BFVRC: Any, device: torch.device) -> Tensor:
    """Codes of windows, uint16 [B, F, V, R, C] of numpy, as the model takes them: int64 [B, n]."""
    # torch computes hardly anything in uint16
    codes_BVFRC = torch.from_numpy(codes_BFVRC.astype("int32")).transpose(1, 2)
    return on_device(to_sequence(codes_BVFRC), device)
