"""The dataset's name and the spacing of frames, read without the rest of the metadata."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.errors import UserError
from handloom.tokenize.shards import (
    Layout,
    Sample,
    ShardDataset,
    shard_path,
    write_manifest,
    write_shard,
    write_shards,
)
from handloom.tokenize.shards.facts import fact_of
from handloom.tokenize.shards.window_scan import Cut
from handloom.tokenize.shards.windows import ClipWindows

TOKENIZER = {"name": "t", "weights_sha256": "0" * 64, "codebook_size": 9}
COUNT = 5000  # more than a block of metadata
STEPS = [0.5, 0.25, 0.333, 0.1]


def meta_of(number: int, kind: str) -> dict[str, Any]:
    step_s = STEPS[number % 4]
    times_s = [round(number * 0.071 + i * step_s, 3) for i in range(3)]
    facts: dict[str, Any] = {"dataset": "ab"[number % 2], "frame_times_s": times_s}
    if kind == "ragged":
        facts["frame_times_s"] = times_s[: number % 3 + 1]
    if kind == "fine":
        facts["frame_times_s"] = [time_s + 1e-7 for time_s in times_s]
    if kind == "absent" and number % 7 == 0:
        del facts["frame_times_s"], facts["dataset"]
    if kind == "named":
        facts["spacing_s"] = 2.0
    return facts | {"caption": str(number), "split": "train"}


def write(root: Path, layout: Layout, kind: str, **facts: Any) -> ShardDataset:
    codes = np.zeros((1, 3, 1, 1), np.uint16)
    clips = (Sample(f"c{i}", codes, meta_of(i, kind)) for i in range(COUNT))
    infos = write_shards(root, "train", clips, 4500, layout=layout)
    write_manifest(root, {"train": infos}, TOKENIZER, **facts)
    return ShardDataset(root)


@pytest.mark.parametrize("layout", ["samples", "packed"])
@pytest.mark.parametrize("kind", ["even", "ragged", "fine", "absent", "named"])
def test_facts_are_those_of_the_metadata(tmp_path: Path, layout: Layout, kind: str) -> None:
    data = write(tmp_path, layout, kind)
    batch = next(data.batches(COUNT, 0, fields=("meta", "dataset", "spacing_s")))
    assert len(batch["meta"]) == COUNT
    for name in ("dataset", "spacing_s"):
        assert batch[name] == [fact_of(name, meta) for meta in batch["meta"]]
        assert {type(value) for value in batch[name]} <= {str, float, type(None)}


@pytest.mark.parametrize("layout", ["samples", "packed"])
def test_windows_have_the_spacing_of_their_metadata(tmp_path: Path, layout: Layout) -> None:
    data = write(tmp_path, layout, "even")
    for cut in (Cut(2), Cut(2, 0.5)):
        windows = ClipWindows(data, cut)
        batch = next(windows.batches(64, 0, fields=("meta", "dataset", "spacing_s")))
        assert batch["spacing_s"] == [fact_of("spacing_s", meta) for meta in batch["meta"]]
        assert batch["dataset"] == [meta["dataset"] for meta in batch["meta"]]


def test_a_dataset_that_the_manifest_names_is_read_from_no_shard(tmp_path: Path) -> None:
    data = write(tmp_path, "packed", "even", config={"ingest": {"dataset": "mine"}})
    for tar in tmp_path.glob("train/*.tar"):  # neither captions nor metadata can be unpacked
        content = tar.read_bytes()
        at = content.index(b"captions.zst")
        tar.write_bytes(content[: at + 1024] + bytes(len(content) - at - 1024))
    assert next(data.batches(9, 0, fields=("tokens", "dataset")))["dataset"] == ["mine"] * 9
    with pytest.raises(UserError, match="damaged"):
        next(data.batches(9, 0, fields=("tokens", "meta")))


@pytest.mark.parametrize("layout", ["samples", "packed"])
def test_windows_are_counted_over_shards_of_one_shape_and_of_several(
    tmp_path: Path, layout: Layout
) -> None:
    """Shards of three clips: of 2, of 4, and in the layout `samples` of 1 to 5 frames."""
    lengths = [2, 2, 2, 4, 4, 4] + [1, 3, 5] * (layout == "samples")
    codes = [np.arange(i * 9, i * 9 + n, dtype=np.uint16) for i, n in enumerate(lengths)]
    infos = []
    for start in range(0, len(lengths), 3):
        clips = [
            Sample(f"c{i}", codes[i].reshape(1, -1, 1, 1), {"caption": "", "split": "train"})
            for i in range(start, start + 3)
        ]
        infos.append(write_shard(shard_path(tmp_path, "train", start), clips, layout=layout))
    write_manifest(tmp_path, {"train": infos}, TOKENIZER)
    windows = ClipWindows(ShardDataset(tmp_path), Cut(3))
    expected = [code[at : at + 3].tolist() for code in codes for at in range(len(code) - 2)]
    assert [window["tokens"].ravel().tolist() for window in windows] == expected
    assert windows.counts.clips == len(lengths)
    assert windows.counts.too_short == sum(length < 3 for length in lengths)
    assert windows.counts.used == sum(length >= 3 for length in lengths)
