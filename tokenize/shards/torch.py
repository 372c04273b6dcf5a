"""The shards as a `torch.utils.data` dataset; torch is imported when this module is."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from handloom.tokenize.shards.batches import FIELDS, Batch
from handloom.tokenize.shards.dataset import ShardDataset
from handloom.tokenize.shards.mixture import Mixture


class TorchBatches(IterableDataset[Batch]):
    """Batches for a `DataLoader(…, batch_size=None, num_workers=n)`.

    Worker w of n makes the batches w, w + n, w + 2n, …; the loader takes them in turn, so that the
    order is that of `ShardDataset.batches` whatever n is. To resume, give the `position` of the
    last batch that was used as `start`, not of the last that was loaded ahead.

    Args:
        source: a ShardDataset or a Mixture.
        options: those of `ShardDataset.batches`, without worker, workers and pin: the loader's
            `pin_memory=True` pins.

    Yields:
        The batches, with `tokens`, `state` and `action` as torch tensors, `tokens` uint16.
    """

    def __init__(self, source: ShardDataset | Mixture, **options: Any) -> None:
        super().__init__()
        self.source, self.options = source, {"fields": FIELDS} | options

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for batch in self.source.batches(**self.options, worker=worker, workers=workers):
            yield {name: _tensor(value) for name, value in batch.items()}


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if hasattr(value, "dtype") else value
