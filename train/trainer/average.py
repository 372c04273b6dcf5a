"""A running average of the weights while they are learned (EMA): what is validated and exported."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from handloom.train.trainer.distributed import reshard


class Average:
    """Exponential moving average of the parameters that learn; frozen ones are their own average.

    Args:
        model: on its device; under FSDP each process averages its parts.
        decay: weight of the average before, below 1. The first steps weigh more, or the average
            would hold the initial weights for 1 / (1 - decay) steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._model = model
        self.tensors: dict[str, Tensor] = {
            name: p.detach().clone() for name, p in self._learning.items()
        }
        """By name of the parameter; a checkpoint holds them."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step.

        Args:
            step: steps done before this one.
        """
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        weights: list[Tensor] = list(self._learning.values())
        torch._foreach_lerp_(list(self.tensors.values()), weights, weight)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within it the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        reshard(self._model)  # FSDP may still hold whole copies of the weights before
        for name, p in self._learning.items():
            kept = p.detach().clone()
            p.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)
