"""Clips for training: from one folder of shards or a mixture, as tensors on the device.

Shapes: B clips of this process, V views, F frames, R rows, C columns, N = F*V*R*C codes a clip,
L text length, E text width.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from handloom.errors import UserError
from handloom.tokenize.shards import Mixture, ShardDataset
from handloom.train.model.gpt import to_sequence
from handloom.train.trainer.feed import on_device, prefetch
from handloom.train.trainer.options import place_and_weight
from handloom.train.trainer.task import Batch

FIELDS = ("tokens", "caption", "clip_id", "meta")


class Several:
    """A split of several folders: random access to all in turn, batches mixed by weight.

    Args:
        datasets: by folder, none of them empty.
        weights: of the folders, in the same order.
    """

    def __init__(self, datasets: dict[str, ShardDataset], weights: Sequence[float]) -> None:
        self.datasets = list(datasets.values())
        self.weights = list(weights)
        self.mixture = Mixture(datasets, dict(zip(datasets, weights, strict=True)))
        self.path, self.split = self.mixture.path, self.datasets[0].split
        self.manifest = self.datasets[0].manifest  # the tokenizer is that of all
        # The first clip of each, then the second of each, …: any prefix shows all datasets.
        sizes = [len(dataset) for dataset in self.datasets]
        numbers = np.concatenate([np.arange(size) for size in sizes])
        sources = np.repeat(np.arange(len(sizes)), sizes)
        by_turn = np.lexsort((sources, numbers))
        self._places = np.stack([sources, numbers], axis=1)[by_turn]

    def __len__(self) -> int:
        """Clips of all folders."""
        return len(self._places)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Clip i, the folders in turn; as `ShardDataset` gives it."""
        source, number = self._places[i].tolist()
        sample: dict[str, Any] = self.datasets[source][number]
        return sample

    def batches(self, *args: Any, **options: Any) -> Iterator[dict[str, Any]]:
        """Endless batches; see `ShardDataset.batches`."""
        return self.mixture.batches(*args, **options)


Clips = ShardDataset | Several


def open_split(shards: Sequence[str], split: str, need: int) -> Clips:
    """Open a split of all folders and check that there is something to train or validate on.

    Args:
        shards: `FOLDER` or `FOLDER=WEIGHT`; without a weight it is the number of clips.
        split: `train` or `val`.
        need: clips that there have to be.

    Raises:
        UserError: too few clips, several tokenizers, or codes of several shapes.
    """
    places = dict(place_and_weight(text) for text in shards)
    datasets = {folder: ShardDataset(folder, split=split) for folder in places}
    found = sum(map(len, datasets.values()))
    if found < need:
        raise UserError(
            f"{' + '.join(places)}/{split} holds {found} clips and at least {need} are needed "
            "(a batch never holds a clip twice): lower --batch-size or curate more videos."
        )
    if split == "val":  # a dataset may hold nothing out
        datasets = {folder: data for folder, data in datasets.items() if len(data)}
    _check_shapes(datasets)
    if len(datasets) == 1:
        return next(iter(datasets.values()))
    weights = [places[folder] or len(data) for folder, data in datasets.items()]
    return Several(datasets, weights)


def fingerprint(clips: Clips) -> list[str]:
    """Everything that the order and the bytes of the batches depend on: shard hashes, weights."""
    if isinstance(clips, ShardDataset):
        return [shard["sha256"][:12] for shard in clips.manifest["splits"][clips.split]["shards"]]
    parts = zip(clips.datasets, clips.weights, strict=True)
    return [f"{name} x {weight:g}" for data, weight in parts for name in fingerprint(data)]


def _check_shapes(datasets: dict[str, ShardDataset]) -> None:
    shapes = {name: list(data[0]["tokens"].shape) for name, data in datasets.items() if len(data)}
    if len(set(map(tuple, shapes.values()))) > 1:
        listed = ", ".join(f"{name}: {shape}" for name, shape in shapes.items())
        raise UserError(
            f"the clips have codes of several shapes [views, frames, rows, columns]: {listed}; "
            "one model takes one. Curate all with the same --tokens options."
        )


class ClipInputs(NamedTuple):
    """A batch as the model takes it."""

    codes_BN: Tensor
    """int64, on the device."""
    text_BLE: Tensor
    """float32, on the device."""


def codes_of(tokens_BVFRC: Any, device: torch.device) -> Tensor:
    """Codes uint16 of clips as the model takes them, int64 [B, N] on the device."""
    return on_device(to_sequence(torch.from_numpy(tokens_BVFRC.astype(np.int32))), device)


def inputs_of(
    samples: list[dict[str, Any]], device: torch.device, encode_text: Callable[[list[str]], Tensor]
) -> ClipInputs:
    """Clips, as `Clips[i]` gives them, as the model takes them."""
    tokens = np.stack([sample["tokens"] for sample in samples])
    captions = [sample["caption"] for sample in samples]
    return ClipInputs(codes_of(tokens, device), encode_text(captions))


def make_batches(
    samples: Iterator[dict[str, Any]],
    device: torch.device,
    encode_text: Callable[[list[str]], Tensor],
) -> Iterator[Batch]:
    """Turn samples as `Clips.batches` gives them into batches on the device."""

    def prepare() -> Batch:
        read = next(samples)
        names = [str(meta.get("dataset", "unnamed")) for meta in read["meta"]]
        inputs = ClipInputs(codes_of(read["tokens"], device), encode_text(read["caption"]))
        return Batch(inputs, len(names), names, read["position"])

    return prefetch(prepare, device)
