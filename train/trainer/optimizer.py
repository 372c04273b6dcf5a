"""AdamW, its learning rate, and steps that are skipped where the gradient is not finite."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from handloom.train.trainer.distributed import gradient_sync, whole
from handloom.train.trainer.options import GPTOptions


def make_optimizer(
    model: nn.Module, config: GPTOptions, share: Callable[[str], float] = lambda name: 1.0
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
    begin_state(optimizer)
    return optimizer


def begin_state(optimizer: torch.optim.Optimizer) -> None:
    """Give Adam its state before the first step, for checkpoints to fill."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            # The fused kernel counts steps on the device, the others on the host.
            device = p.device if group.get("fused") else "cpu"
            step = torch.zeros((), dtype=torch.float32, device=device)
            moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p] = {"step": step, **moments}


def set_rate(optimizer: torch.optim.Optimizer, peak: float, factor: float = 1.0) -> None:
    """Set a step's learning rate to `factor` of the peak; each group gets its own share of it."""
    for group in optimizer.param_groups:
        group["lr"] = peak * group["share"] * factor


def schedule(step: int, config: GPTOptions) -> float:
    """The share of the peak learning rate at a step.

    A linear warm-up, then a cosine to 5 %; or the peak and at its end 1 - sqrt to 5 %, which ended
    lower than a line in arXiv 2405.18392.
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "wsd":
        first = falls_from(config)
        fallen = max(0, step - first) / max(1, config.steps - first)
        return 0.05 + 0.95 * (1 - math.sqrt(fallen))
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def falls_from(config: GPTOptions) -> int:
    """The step from which the rate of `wsd` falls."""
    decay = config.steps // 10 if config.decay_steps is None else config.decay_steps
    return max(config.warmup, config.steps - decay)


def accumulate(
    objective: nn.Module,
    size: int,
    micro: int,
    loss_of: Callable[[slice], tuple[Tensor, dict[str, Tensor]]],
) -> list[dict[str, Tensor]]:
    """Backward passes over a batch in parts, whose gradients add up to those of the whole.

    Args:
        objective: as `distribute` returns it.
        size: samples of this process.
        micro: samples at a time, a divisor of `size`.
        loss_of: computes the mean loss of a part of the samples, and values for the log.

    Returns:
        The values of each part.
    """
    logged = []
    for start in range(0, size, micro):
        with gradient_sync(objective, sync=start + micro >= size):
            loss, values = loss_of(slice(start, start + micro))
            # A loss that is not finite can have a finite gradient; NaN here reaches the norm, and
            # by it all processes, with no message of its own.
            poison = torch.where(loss.isfinite(), micro / size, torch.nan)
            loss.backward(poison)  # type: ignore[no-untyped-call]
        logged.append(values)
    return logged


def update(
    parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, largest_norm: float
) -> Tensor:
    """Clip the gradient and take a step, or none at all if the gradient is not finite.

    With a fused AdamW the device decides, so that the host need not wait for it: parameters,
    moments and its count of steps stay as they are where `found_inf` is 1, as for a GradScaler.

    Returns:
        The norm of the gradient before clipping, a scalar on the device.
    """
    norm = whole(nn.utils.clip_grad_norm_(parameters, largest_norm))
    if optimizer.defaults.get("fused"):
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif norm.isfinite():  # on the host, which is the device
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def named_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The optimiser's tensors, named after the parameters that they belong to."""
    for name, p in model.named_parameters():
        for part, tensor in optimizer.state.get(p, {}).items():
            yield f"{name}.{part}", tensor
