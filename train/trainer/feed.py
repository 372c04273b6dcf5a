"""Batches on their way to the device: page-locked, one ahead of the step that takes them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


def on_device(array: Any, device: torch.device) -> Tensor:
    """An array of numpy, or a tensor, on the device; the host waits for no copy."""
    tensor = array if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":  # from page-locked memory the copy makes nobody wait
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def prefetch(make: Callable[[], T], device: torch.device) -> Iterator[T]:
    """Endless results of `make`; for a GPU one is made ahead in a thread, while it computes."""
    if device.type != "cuda":
        while True:
            yield make()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(make)
        while True:
            made = following.result()
            following = pool.submit(make)
            yield made
