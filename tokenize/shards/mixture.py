"""Several datasets mixed by weight, under the same guarantees as one.

Positions come in blocks of 4,096. In every block each source has the same number of places, and
which ones is a permutation keyed by (seed, block). So the source of a position, and how often that
source came before, need nothing but the position.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from handloom.errors import UserError
from handloom.tokenize.shards.batches import Selection, Stream, groups
from handloom.tokenize.shards.dataset import ShardDataset
from handloom.tokenize.shards.format import Integers
from handloom.tokenize.shards.order import order, permute_many
from handloom.tokenize.shards.windows import ClipWindows

Source = ShardDataset | ClipWindows
BLOCK = 4096  # positions; weights are rounded to 1 / BLOCK


class Mixture(Stream):
    """Endless batches drawn from several datasets, or from windows of their clips.

    Each source advances through its own permutations, and shows every sample once in each epoch of
    its own. The batches are those of `ShardDataset.batches`, with the same arguments; all sources
    must give codes of one shape.

    Args:
        sources: datasets, or windows of them, by name.
        weights: share of the samples that come from each source, by the same names; they are scaled
            to add up to one and rounded to 1/4,096.

    Raises:
        UserError: names differ, a weight is not positive or too small, a source is empty, or two
            sources have codes of different tokenizers.
    """

    def __init__(self, sources: Mapping[str, Source], weights: Mapping[str, float]) -> None:
        if not sources or sources.keys() != weights.keys():
            raise UserError(
                f"the sources are {sorted(sources)} and the weights name {sorted(weights)}; every "
                "source needs one weight, and there must be at least one."
            )
        self.names, self.datasets = tuple(sources), tuple(sources.values())
        for name, dataset in sources.items():
            if not len(dataset):
                raise UserError(f"source {name!r} ({dataset.path}/{dataset.split}) is empty.")
        _check_tokenizers(sources)
        self.path, self.split = " + ".join(self.names), "mixture"
        self._quotas = _quotas([weights[name] for name in self.names], self.names)

    def __len__(self) -> int:
        """Samples of all sources together; an epoch of the mixture has no other meaning."""
        return sum(map(len, self.datasets))

    def places(self, positions: Integers, seed: int) -> tuple[Integers, Integers]:
        """The source of each position, and how many samples it gave before; int64 [B] each."""
        blocks, at = np.divmod(positions, BLOCK)
        sources, before = np.empty_like(at), np.empty_like(at)
        for block in np.unique(blocks).tolist():
            here = blocks == block
            block_sources, counts = _block(block, seed, tuple(self._quotas))
            sources[here] = block_sources[at[here]]
            before[here] = counts[at[here]] + block * self._quotas[sources[here]]
        return sources, before

    def select(self, positions: Integers, seed: int, fields: Sequence[str]) -> Selection:
        """Find the samples at positions of the endless stream, without reading their codes."""
        sources, before = self.places(positions, seed)
        selection = Selection.empty(len(positions), fields, self.datasets)
        for source, here in groups(sources):
            dataset = self.datasets[source]
            indices = order(before[here], len(dataset), seed)
            selection.put(here, dataset.find(indices, fields), source)
        return selection


@lru_cache(maxsize=64)
def _block(block: int, seed: int, quotas: tuple[int, ...]) -> tuple[Integers, Integers]:
    """The source at every place of a block, and how often it came before in the block."""
    slots = np.repeat(np.arange(len(quotas)), quotas)
    sources = slots[permute_many(np.arange(BLOCK), BLOCK, f"mixture/{seed}/{block}")]
    before = np.empty(BLOCK, np.int64)
    for source, quota in enumerate(quotas):
        before[sources == source] = np.arange(quota)
    return sources, before


def _quotas(weights: Sequence[float], names: Sequence[str]) -> Integers:
    """Places of each source in a block: the largest remainders are rounded up."""
    if not all(0 < weight < float("inf") for weight in weights):
        raise UserError(f"the weights {dict(zip(names, weights, strict=True))} must be positive.")
    shares = np.array(weights, np.float64) / sum(weights) * BLOCK
    quotas = np.floor(shares).astype(np.int64)
    short = BLOCK - int(quotas.sum())
    quotas[np.argsort(quotas - shares, kind="stable")[:short]] += 1
    if not quotas.all():
        raise UserError(
            f"the weight of {names[int(quotas.argmin())]!r} is below 1/{BLOCK:,} of the whole; "
            "raise it or leave the source out."
        )
    return quotas


def _check_tokenizers(sources: Mapping[str, Source]) -> None:
    hashes = {n: d.manifest.get("tokenizer", {}).get("weights_sha256") for n, d in sources.items()}
    if len(set(hashes.values())) > 1:
        raise UserError(
            f"the sources were encoded by different tokenizers ({hashes}); their codes do not mean "
            "the same, so encode all with one."
        )
