"""Manifests and indexes that were tampered with are refused in a sentence, whatever they claim."""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from handloom.errors import UserError
from handloom.tokenize.shards import (
    LAYOUTS,
    Layout,
    Sample,
    ShardDataset,
    read_manifest,
    verify,
    write_manifest,
    write_shards,
)

TOKENIZER = {"name": "t", "weights_sha256": "0" * 64, "codebook_size": 1024}
WILD = [-1, -(2**63), 2**63 - 1, 2**62, 2**40, 1, 513]


def make(count: int) -> list[Sample]:
    rng = np.random.default_rng(count)
    return [
        Sample(
            f"clip{i:04d}",
            rng.integers(0, 1024, (1, 3, 4, 4)).astype(np.uint16),
            {"caption": f"caption {i}", "split": "train"},
            {name: rng.normal(size=(3, 7)).astype(np.float32) for name in ("state", "action")},
        )
        for i in range(count)
    ]


def write(root: Path, layout: Layout = "samples") -> Path:
    infos = write_shards(root, "train", make(8), 100, layout)
    write_manifest(root, {"train": infos}, TOKENIZER)
    return root


def change_shard(root: Path, **changes: Any) -> None:
    path = root / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["train"]["shards"][0] |= changes
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "name",
    ["../secret.tar", "/etc/secret.tar", "..", "", "a/b.tar", "a\\b.tar", "a\0.tar", 3, None],
)
def test_a_shard_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: Any) -> None:
    root = write(tmp_path / "shards")
    for suffix in ("tar", "index.arrow"):  # so that it would be found
        content = (root / f"train/000000.{suffix}").read_bytes()
        (tmp_path / f"shards/secret.{suffix}").write_bytes(content)
    change_shard(root, name=name)
    for use in (ShardDataset, read_manifest, verify):
        with pytest.raises(UserError, match=r"expected a plain name such as 000000\.tar"):
            use(root)


def test_a_split_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path)
    path = root / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["../train"] = manifest["splits"].pop("train")
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="expected a plain name"):
        ShardDataset(root, "../train")


@pytest.mark.parametrize(
    "changes",
    [{"samples": -1}, {"samples": "8"}, {"index_sha256": "../../x"}, {"index_sha256": None}],
)
def test_a_manifest_that_lies_about_a_shard_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    change_shard(write(tmp_path), **changes)
    with pytest.raises(UserError, match="does not list its shards as expected"):
        ShardDataset(tmp_path)


@pytest.mark.parametrize(
    "text", ['{"format": "handloom-token-shards", "version": 1}', "[" * 100_000]
)
def test_a_manifest_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError):
        ShardDataset(tmp_path)


def read_all(root: Path) -> list[dict[str, Any]]:
    dataset = ShardDataset(root)
    fields = ("tokens", "caption", "clip_id", "state", "action", "meta")
    next(iter(dataset.batches(8, seed=0, fields=fields)))
    return [dataset[i] for i in range(len(dataset))]


def rewrite(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def crafted(table: pa.Table) -> list[tuple[str, pa.Table]]:
    """The table with one number after the other replaced, or one column left out."""
    rows = table.to_pylist()
    found = [(f"without {name}", table.drop_columns(name)) for name in table.column_names]
    for name in table.column_names:
        last = rows[-1][name]
        values: list[Any] = [None]
        if isinstance(last, int):
            values += WILD
        elif isinstance(last, dict):
            values += [last | {key: value} for key in last for value in WILD]
        for value in values:
            try:
                changed = [*rows[:-1], rows[-1] | {name: value}]
                found.append((f"{name} = {value}", pa.Table.from_pylist(changed, table.schema)))
            except (pa.ArrowException, OverflowError):
                continue  # the column cannot hold it
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whatever_an_index_claims_nothing_but_a_sentence_comes_of_it(
    tmp_path: Path, layout: Layout
) -> None:
    root = write(tmp_path, layout)
    path = root / "train/000000.index.arrow"
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    said = []
    for _, other in crafted(table):
        rewrite(path, other)
        try:
            assert len(read_all(root)) == 8
        except UserError as error:
            said.append(str(error))
    assert len(said) > 15
    assert [x for x in said if not re.search("again|--verify|damaged|expected", x)] == []


@pytest.mark.parametrize("fact", ["samples", "shape"])
@pytest.mark.parametrize("value", ["-1", "x", "", "[]", "[1,2]", "99999999999", "[" * 50_000,
                                   "[-1,-3,4,4]", "[1,3,4,4611686018427387904]"])  # fmt: skip
def test_whatever_the_facts_of_a_packed_index_are(tmp_path: Path, fact: str, value: str) -> None:
    root = write(tmp_path, "packed")
    path = root / "train/000000.index.arrow"
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    facts = {**table.schema.metadata, fact.encode(): value.encode()}
    rewrite(path, table.replace_schema_metadata(facts))
    with pytest.raises(UserError, match="again"):
        read_all(root)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bytes_of_a_shard_that_are_overwritten(tmp_path: Path, layout: Layout) -> None:
    root = write(tmp_path, layout)
    path = root / "train/000000.tar"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        at = int(rng.integers(len(data) - 8))
        data[at : at + 8] = rng.integers(0, 256, 8, np.uint8).tobytes()
        path.write_bytes(data)
        with suppress(UserError):
            assert len(read_all(root)) == 8
