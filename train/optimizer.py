"""AdamW, its learning rate, and steps that are skipped where the gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from handloom.train.distributed import whole
from handloom.train.pretrain import PretrainConfig


def make_optimizer(model: nn.Module, config: PretrainConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices only; it has its state at once, for checkpoints to fill."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True)
    for p in model.parameters():
        step = torch.zeros((), dtype=torch.float32, device=p.device)
        moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p] = {"step": step, **moments}
    return optimizer


def schedule(step: int, config: PretrainConfig) -> float:
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
        for part, tensor in optimizer.state[p].items():
            yield f"{name}.{part}", tensor
