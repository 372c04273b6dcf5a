"""AdamW, its learning rate, and steps that are skipped where the gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from handloom.train.trainer.distributed import whole


class Learning(Protocol):
    """What a configuration says about how fast to learn."""

    @property
    def steps(self) -> int:
        """Of the whole run."""

    @property
    def lr(self) -> float:
        """At the peak."""

    @property
    def warmup(self) -> int:
        """Steps to the peak."""

    @property
    def weight_decay(self) -> float:
        """Of matrices."""


def make_optimizer(
    model: nn.Module, config: Learning, share: Callable[[str], float] = lambda name: 1.0
) -> torch.optim.AdamW:
    """AdamW that decays matrices only; it has its state at once, for checkpoints to fill.

    Args:
        model: its frozen parameters have no state.
        config: of the run.
        share: of the learning rate that a parameter of this name gets; `set_rate` heeds it.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            groups.setdefault((p.ndim >= 2, share(name)), []).append(p)
    optimizer = torch.optim.AdamW(
        [
            {
                "params": params,
                "weight_decay": config.weight_decay if is_matrix else 0.0,
                "share": of_lr,
            }
            for (is_matrix, of_lr), params in sorted(groups.items(), reverse=True)
        ],
        lr=config.lr,
        betas=(0.9, 0.95),
        fused=True,
    )
    for params in groups.values():
        for p in params:
            step = torch.zeros((), dtype=torch.float32, device=p.device)
            moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p] = {"step": step, **moments}
    return optimizer


def set_rate(optimizer: torch.optim.AdamW, step: int, config: Learning) -> None:
    """Set the learning rate of a step."""
    for group in optimizer.param_groups:
        group["lr"] = config.lr * group["share"] * schedule(step, config)


def schedule(step: int, config: Learning) -> float:
    """The share of the peak learning rate at a step: linear warm-up, then a cosine to 5 %."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def update(model: nn.Module, optimizer: torch.optim.AdamW, largest_norm: float) -> Tensor:
    """Clip the gradient and take a step, or none at all if the gradient is not finite.

    The device decides, so that the host need not wait for it: the fused AdamW leaves parameters,
    moments and its count of steps as they are where `found_inf` is 1, as for a GradScaler.

    Returns:
        The norm of the gradient before clipping, a scalar on the device.
    """
    norm = whole(nn.utils.clip_grad_norm_(model.parameters(), largest_norm))
    optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def named_state(model: nn.Module, optimizer: torch.optim.AdamW) -> Iterator[tuple[str, Tensor]]:
    """The optimiser's tensors, named after the parameters that they belong to."""
    for name, p in model.named_parameters():
        if p.requires_grad:
            for part, tensor in optimizer.state[p].items():
                yield f"{name}.{part}", tensor
