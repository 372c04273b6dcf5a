"""Shards written stretch by stretch are those of all samples in order, whatever is killed."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from handloom.stages.caption.rows import CaptionRow
from handloom.stages.hands.rows import Framing
from handloom.stages.pack.stage import Pack, kept_clips, kept_counts, plan_shards
from handloom.stages.pack.stretches import (
    PIECES,
    clear_pieces,
    plan_stretches,
    seams,
    write_seam,
    write_stretch,
)
from handloom.stages.tables.parts import Table, Tables
from handloom.stages.tables.rows import Clip, Row
from handloom.stages.tokens import TokenRow
from handloom.tokenize.shards import SPLITS, Layout, Sample, shard_path, write_shard
from tests.helpers.random_tables import BUCKETS, random_run

LAYOUT: Layout = "samples"


def last(table: Table, kind: type[Row], bucket: str) -> dict[str, Any]:
    """The last row of each clip."""
    return {row.clip_id: row for row in table.read(kind, bucket)}


def one_sample(clip: Clip, caption: CaptionRow, tokens: TokenRow, framing: Framing) -> Sample:
    """A sample as docs/shard-format.md describes it."""
    meta = {
        "caption": caption.caption, "caption_source": caption.source,
        "caption_flags": caption.flags, "text": clip.text, "text_kind": clip.text_kind,
        "dataset": clip.dataset, "version": clip.version, "split": clip.split,
        "licence": clip.licence, "source_id": clip.video_id,
        "annotation_id": clip.annotation_id, "start_s": framing.shot_start_s,
        "end_s": framing.shot_end_s, "fps": clip.fps, "frame_times_s": tokens.times_s,
        "views": ["main"],
    }  # fmt: skip
    codes = np.frombuffer(tokens.codes, "<u2").reshape(tokens.shape)
    return Sample(clip.clip_id, codes.astype(np.uint16), meta)


def expected_shards(tables: Tables, root: Path, per_shard: int) -> list[Path]:
    """The shards of all samples, row by row."""
    for split in SPLITS:
        samples = iter([
            one_sample(clip, *(rows[clip.clip_id] for rows in by_id))
            for bucket in BUCKETS
            for by_id in [[last(tables["caption"], CaptionRow, bucket),
                           last(tables["tokens"], TokenRow, bucket),
                           last(tables["hands"], Framing, bucket)]]
            for clip in kept_clips(tables, bucket)
            if clip.split == split
        ])  # fmt: skip
        number = 0
        while some := list(islice(samples, per_shard)):
            write_shard(shard_path(root, split, number), some, LAYOUT)
            number += 1
    return files(root)


def files(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*.*"))


def write_all(tables: Tables, root: Path, per_shard: int, only: int | None = None) -> None:
    """Write all stretches, or the first few, and then what lies across them."""
    pack = Pack(samples_per_shard=per_shard)
    stretches = plan_stretches(kept_counts(tables, pack), per_shard, LAYOUT)
    for stretch in stretches[:only]:
        write_stretch(tables, stretch, root)
    if only is None:
        for pieces in seams(stretches).values():
            write_seam(pieces, root)


def contents(root: Path) -> dict[Path, bytes]:
    return {path: (root / path).read_bytes() for path in files(root)}


@pytest.mark.parametrize(("seed", "per_shard"), [(0, 1), (1, 3), (2, 4), (3, 7), (4, 1000)])
def test_the_bytes_are_those_of_all_samples_in_order(
    tmp_path: Path, seed: int, per_shard: int
) -> None:
    tables = random_run(tmp_path, seed)
    names = expected_shards(tables, tmp_path / "expected", per_shard)
    assert len(names) >= 4
    write_all(tables, tmp_path / "found", per_shard)
    clear_pieces(tmp_path / "found")
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["train", "val"]
    assert contents(tmp_path / "found") == contents(tmp_path / "expected")


def test_a_killed_run_goes_on_to_the_same_shards(tmp_path: Path) -> None:
    tables, root, per_shard = random_run(tmp_path, 5), tmp_path / "found", 3
    expected_shards(tables, tmp_path / "expected", per_shard)
    write_all(tables, root, per_shard, only=2)
    written = contents(root)
    assert any(PIECES in path.parts for path in written)
    rng = np.random.default_rng(0)
    for path in written:  # as if it had been killed before these were written
        if rng.random() < 0.5:
            (root / path).unlink()
    write_all(tables, root, per_shard)
    clear_pieces(root)
    assert contents(root) == contents(tmp_path / "expected")


@dataclass(frozen=True)
class Watched(Table):
    """A table that counts how often each bucket is read, by the columns asked for."""

    asked: Counter[tuple[str, str]] = field(default_factory=Counter, compare=False)

    def listed(self) -> Table:
        """The table itself, which goes on counting."""
        return self

    def columns(self, names: Any, buckets: Iterable[str] | None = None) -> pa.Table:
        """As of `Table`."""
        wanted = list(buckets or [])
        self.asked.update((name, bucket) for name in names for bucket in wanted)
        return super().columns(names, wanted)


@pytest.mark.parametrize("per_shard", [2, 5, 40])
def test_codes_are_read_once_however_shards_and_buckets_lie(tmp_path: Path, per_shard: int) -> None:
    plain = random_run(tmp_path, 6)
    tables = {n: Watched(t.folder, t.fingerprint, t.gate) for n, t in plain.items()}
    pack = Pack(samples_per_shard=per_shard)
    stretches = plan_stretches(kept_counts(plain, pack), per_shard, LAYOUT)
    for stretch in stretches:
        write_stretch(tables, stretch, tmp_path / "found")
    asked = {bucket: tables["tokens"].asked["codes", bucket] for bucket in BUCKETS}
    assert asked == dict.fromkeys(BUCKETS, 1)
    for stretch in stretches:  # all is there: nothing is read again
        write_stretch(tables, stretch, tmp_path / "found")
    assert tables["tokens"].asked.total() == 5 * len(BUCKETS)


def test_shares_add_up_to_the_planned_shards(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        per_shard = int(rng.integers(1, 30))
        counts = {
            split: {f"{b:02x}": int(rng.integers(1, 40)) for b in range(20) if rng.random() < share}
            for split, share in (("train", 0.9), ("val", 0.3))
        }
        plans = plan_shards(counts, Pack(samples_per_shard=per_shard))
        stretches = plan_stretches(counts, per_shard, LAYOUT)
        held = Counter[tuple[str, int]]()
        for stretch in stretches:
            for share in stretch.shares:
                held[share.split, share.shard] += share.count
        assert held == {(plan.split, plan.number): plan.count for plan in plans}
        whole = {(s.split, s.shard) for stretch in stretches for s in stretch.written()}
        assert whole | seams(stretches).keys() == held.keys()
        assert not whole & seams(stretches).keys()
