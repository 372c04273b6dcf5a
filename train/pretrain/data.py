"""Windows of clips and robot episodes for training: from several folders, as tensors on the device.

A clip, for training, is a window: a whole clip of a few frames, or F frames of a longer one.
Shapes: B windows of this process, V views, F frames, R rows, C columns, N = F*V*R*C codes a window,
L text length, E text width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from handloom.errors import UserError
from handloom.tokenize.shards import Mixture, ShardDataset
from handloom.tokenize.shards.facts import spacing_of
from handloom.tokenize.shards.order import permute
from handloom.tokenize.shards.window_scan import Cut, dense_s
from handloom.tokenize.shards.windows import ClipWindows
from handloom.train.model.gpt import to_sequence
from handloom.train.pretrain import refusals
from handloom.train.trainer.feed import on_device, prefetch
from handloom.train.trainer.options import place_and_weight
from handloom.train.trainer.task import Batch

FIELDS = ("tokens", "caption", "clip_id", "dataset")  # metadata take longer than all of these
FRAMES = 5  # of a window where no clip says how many


class Clips:
    """The windows of a split of one folder or several.

    Random access goes through the folders in turn, and jumps through the windows of long clips, so
    that any first part of it shows all folders and many clips. Batches are mixed by weight.

    Args:
        sources: by folder, none of them empty.
        weights: of the folders, in the same order.
    """

    def __init__(self, sources: dict[str, ClipWindows], weights: Sequence[float]) -> None:
        self.sources, self.weights = list(sources.values()), list(weights)
        self._stream: ClipWindows | Mixture = self.sources[0]
        if len(self.sources) > 1:
            self._stream = Mixture(sources, dict(zip(sources, weights, strict=True)))
        self.path, self.split = " + ".join(sources), self.sources[0].split
        self.manifest = self.sources[0].manifest  # the tokenizer is that of all
        self._sizes = np.array([len(source) for source in self.sources])

    def __len__(self) -> int:
        """Windows of all folders."""
        return int(self._sizes.sum())

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Window i, the folders in turn; as `ClipWindows` gives it."""
        number, which = self._turn(i)
        source = self.sources[which]
        return source[number if source.whole else permute(number, len(source), "spread")]

    def batches(self, *args: Any, **options: Any) -> Iterator[dict[str, Any]]:
        """Endless batches; see `ShardDataset.batches`."""
        return self._stream.batches(*args, **options)

    def _turn(self, i: int) -> tuple[int, int]:
        """Number in its folder, and the folder, of window i: first the first one of each, then the
        second one of each that has so many."""
        if not 0 <= i < len(self):
            raise IndexError(f"window {i} of {len(self)}")
        done = rounds = 0
        for size in np.unique(self._sizes).tolist():
            there = np.flatnonzero(self._sizes >= size)
            if i < done + (size - rounds) * len(there):
                more, turn = divmod(i - done, len(there))
                return rounds + more, int(there[turn])
            done, rounds = done + (size - rounds) * len(there), size
        raise AssertionError("the sizes add up to the length")


@dataclass(frozen=True)
class Wanted:
    """How windows are to be cut; the fields are those of `Cut`.

    `frames` of None is the number of the first clips that hold a few frames spread over their
    length, or five where there are none.
    """

    frames: int | None = None
    spacing_s: float | None = None
    views: tuple[str, ...] = ()
    joint: bool = False

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Self:
        """As an export's config.json holds them; those of models of whole clips hold none."""
        kept = facts.get("windows", {})
        return cls(**kept | {"views": tuple(kept.get("views", ()))})

    def cut(self, datasets: Iterable[ShardDataset]) -> Cut:
        """The cut of windows of some folders together."""
        frames = self.frames
        if frames is None:
            spread = (data for data in datasets if len(data) and not _at_a_rate(data))
            first = next(spread, None)
            frames = FRAMES if first is None else first[0]["tokens"].shape[1]
        return Cut(frames, self.spacing_s, self.views, self.joint)


WANTED = Wanted()


def open_split(shards: Sequence[str], split: str, need: int, wanted: Wanted = WANTED) -> Clips:
    """Open a split of all folders and check that there is something to train or validate on.

    Args:
        shards: `FOLDER` or `FOLDER=WEIGHT`; without a weight it is the number of windows.
        split: `train` or `val`.
        need: windows that there have to be.
        wanted: cut of the windows.

    Raises:
        UserError: too few windows, a folder of train without any, several tokenizers, grids or
            views that do not go together, or a weight that is not above zero.
    """
    places = dict(place_and_weight(text) for text in shards)
    datasets = {folder: ShardDataset(folder, split=split) for folder in places}
    refusals.check_tokenizers(datasets)
    cut = wanted.cut(datasets.values())
    sources = {folder: ClipWindows(data, cut) for folder, data in datasets.items()}
    if split == "train":
        for folder, source in sources.items():
            refusals.check_windows(folder, source)
    found = sum(map(len, sources.values()))
    if found < need:
        raise UserError(
            f"{' + '.join(places)}/{split} holds {found} clips and at least {need} are needed "
            "(a batch never holds a clip twice): lower --batch-size or curate more videos"
            + (", or hold more of them out with --ingest.val-percent." if split == "val" else ".")
        )
    # A folder may hold nothing out.
    sources = {folder: source for folder, source in sources.items() if len(source)}
    refusals.check_grids(sources)
    weights = [places[folder] or len(source) for folder, source in sources.items()]
    return Clips(sources, weights)


def _at_a_rate(data: ShardDataset) -> bool:
    """True of robot episodes, and of clips that were sampled at a fixed rate."""
    return dense_s(data) is not None or "action_kind" in data[0]


def without_captions(clips: Clips) -> str:
    """A sentence where a run has left its captions empty, which its manifest tells; else empty."""
    empty = [
        str(source.path)
        for source in clips.sources
        if source.manifest.get("config", {}).get("caption", {}).get("route") == "none"
    ]
    if not empty:
        return ""
    return (
        f"{' and '.join(empty)}: captions are empty (curated with --caption.route none), so from "
        "these clips the model learns how pictures go on, and nothing of words"
    )


def fingerprint(clips: Clips) -> list[str]:
    """Everything that the order and the bytes of the batches depend on: shard hashes, weights."""
    lists = [_fingerprint(source) for source in clips.sources]
    if len(lists) == 1:
        return lists[0]
    pairs = zip(lists, clips.weights, strict=True)
    return [f"{name} x {weight:g}" for names, weight in pairs for name in names]


def _fingerprint(source: ClipWindows) -> list[str]:
    shards = source.manifest["splits"][source.split]["shards"]
    cut = [] if source.whole else [str(source.cut)]
    return [*(shard["sha256"][:12] for shard in shards), *cut]


class ClipInputs(NamedTuple):
    """A batch as the model takes it."""

    codes_BN: Tensor
    """int64, on the device."""
    text_BLE: Tensor
    """float32, on the device."""


EncodeText = Callable[[list[str], list[float | None]], Tensor]
"""Captions, and seconds between the frames of their clips, to features [B, L, E]."""


def codes_of(tokens_BVFRC: Any, device: torch.device) -> Tensor:
    """Codes uint16 of clips as the model takes them, int64 [B, N] on the device."""
    return on_device(to_sequence(torch.from_numpy(tokens_BVFRC.astype(np.int32))), device)


def inputs_of(
    samples: list[dict[str, Any]], device: torch.device, encode_text: EncodeText
) -> ClipInputs:
    """Clips, as `Clips[i]` gives them, as the model takes them."""
    tokens = np.stack([sample["tokens"] for sample in samples])
    captions = [sample["caption"] for sample in samples]
    text_BLE = encode_text(captions, [spacing_of(sample) for sample in samples])
    return ClipInputs(codes_of(tokens, device), text_BLE)


def make_batches(
    samples: Iterator[dict[str, Any]], device: torch.device, encode_text: EncodeText
) -> Iterator[Batch]:
    """Turn samples as `Clips.batches` gives them into batches on the device."""

    def prepare() -> Batch:
        read = next(samples)
        names = ["unnamed" if name is None else name for name in read["dataset"]]
        text_BLE = encode_text(read["caption"], read.get("spacing_s", [None] * len(names)))
        inputs = ClipInputs(codes_of(read["tokens"], device), text_BLE)
        return Batch(inputs, len(names), names, read["position"])

    return prefetch(prepare, device)
