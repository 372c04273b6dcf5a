"""Surgery on shards: what is edited changes, and nothing else, not even its bytes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handloom.cli import main
from handloom.errors import UserError
from handloom.stages.pack.edit import edit
from handloom.stages.pack.edits import Edit, read_edits
from handloom.stages.pack.statistics import Trajectories, shard_trajectories
from handloom.tokenize.shards import Layout, Sample, write_manifest, write_shards
from handloom.tokenize.shards.dataset import ShardDataset
from handloom.tokenize.shards.verify import verify
from tests.helpers.robot_shards import write_robot_shards
from tests.helpers.small_disks import mounted

TOKENIZER = {"name": "t", "weights_sha256": "ab" * 32, "codebook_size": 64, "resolution": 64}


def sample(number: int, split: str, name: str = "clip", video: str = "") -> Sample:
    codes = np.random.default_rng(number).integers(0, 64, (1, 2, 4, 4)).astype(np.uint16)
    meta = {"caption": f"text {number}", "split": split, "source_id": video or f"v{number}",
            "dataset": name, "licence": "one", "frame_times_s": [0.5, number / 8]}  # fmt: skip
    return Sample(f"{name}{number:03d}", codes, meta)


def write(
    root: Path, train: range, val: range, name: str = "clip", layout: Layout = "samples",
    **tokenizer: Any,
) -> Path:  # fmt: skip
    """A finished folder, four samples a shard."""
    infos = {
        split: write_shards(root, split, [sample(n, split, name) for n in numbers], 4, layout)
        for split, numbers in (("train", train), ("val", val))
    }
    config = {"ingest": {"dataset": name}, "tokens": {"frames": 2}}
    write_manifest(root, infos, TOKENIZER | tokenizer, config=config)
    return root


def contents(root: Path) -> dict[str, dict[str, Any]]:
    """All samples by id, with the split whose folder they are in."""
    found = {}
    for split in ("train", "val"):
        for one in ShardDataset(root, split):
            assert one["split"] == split
            found[one["clip_id"]] = one | {"tokens": one["tokens"].tolist()}
    return found


def inodes(root: Path) -> set[int]:
    return {path.stat().st_ino for path in root.glob("*/*.*")}


@pytest.fixture(params=["samples", "packed"])
def shards(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path / "shards", range(10), range(20, 25), layout=request.param)


def test_what_is_edited_changes_and_nothing_else(shards: Path, tmp_path: Path) -> None:
    before = contents(shards)
    edits = {"clip001": Edit(drop=True), "clip022": Edit(caption="a new text"),
             "clip008": Edit(split="val"), "clip005": Edit()}  # fmt: skip
    done = edit([shards], tmp_path / "out", edits)
    after = contents(tmp_path / "out")
    assert verify(tmp_path / "out") == []
    assert after.keys() == before.keys() - {"clip001"}
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {"clip022", "clip008"}
    assert after["clip022"]["caption"] == "a new text"
    assert after["clip022"]["tokens"] == before["clip022"]["tokens"]
    assert after["clip008"] == before["clip008"] | {"split": "val"}
    assert contents(shards) == before
    assert (done.clips["dropped"], done.clips["relabelled"], done.clips["moved"]) == (1, 1, 1)
    # Two of five shards have no edited clip: they and their indexes are the same files.
    assert (done.same, done.written) == (2, 4)
    assert len(inodes(shards) & inodes(tmp_path / "out")) == 4


def test_without_edits_every_file_is_the_same(shards: Path, tmp_path: Path) -> None:
    done = edit([shards], tmp_path / "out", {})
    assert done.written == 0
    assert inodes(shards) == inodes(tmp_path / "out")
    old, new = (json.loads((p / "manifest.json").read_text()) for p in (shards, tmp_path / "out"))
    assert new.pop("edited")["dropped"] == 0
    assert new == old


def test_a_caption_to_and_fro_gives_the_same_tar(tmp_path: Path) -> None:
    root = write(tmp_path / "shards", range(4), range(0))
    edit([root], tmp_path / "one", {"clip002": Edit(caption="other")})
    edit([tmp_path / "one"], tmp_path / "two", {"clip002": Edit(caption="text 2")})
    first = ShardDataset(root)[2]
    again = ShardDataset(tmp_path / "two")[2]
    assert again["caption_source"] == "edit"
    assert {k: v for k, v in again.items() if k in first and k != "tokens"} == {
        k: v for k, v in first.items() if k != "tokens"
    }
    history = json.loads((tmp_path / "two/manifest.json").read_text())["edited"]
    assert history["before"][0]["relabelled"] == 1


def test_where_links_cannot_be_files_are_copied(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    edit([shards], tmp_path / "out", {})
    assert contents(tmp_path / "out") == contents(shards)
    assert not inodes(shards) & inodes(tmp_path / "out")


def test_several_folders_become_one(tmp_path: Path) -> None:
    one = write(tmp_path / "one", range(6), range(8, 9))
    two = write(tmp_path / "two", range(5), range(8, 10), name="other")
    edit([one, two], tmp_path / "out", {"other003": Edit(drop=True)})
    expected = contents(one) | contents(two)
    del expected["other003"]
    assert contents(tmp_path / "out") == expected
    assert verify(tmp_path / "out") == []
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["config"] == {"ingest": {}, "tokens": {"frames": 2}}
    batch = next(iter(ShardDataset(tmp_path / "out").batches(8, seed=0, fields=("dataset",))))
    assert set(batch["dataset"]) == {"clip", "other"}


def test_statistics_of_trajectories_are_those_of_what_is_there(tmp_path: Path) -> None:
    root = write_robot_shards(tmp_path / "shards", (5, 1), per_shard=2)
    first = ShardDataset(root)[0]["clip_id"]
    edit([root], tmp_path / "out", {first: Edit(drop=True)})
    expected = Trajectories()
    for path in sorted((tmp_path / "out/train").glob("*.tar")):
        expected = expected.merged(shard_trajectories(path, "train"))
    new, old = (
        json.loads((p / "manifest.json").read_text())["trajectories"]
        for p in (tmp_path / "out", root)
    )
    assert new == json.loads(json.dumps(expected.facts()))
    assert new["state"]["count"] < old["state"]["count"]


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "one", range(3), range(8, 9))
    for n, (other, words) in enumerate(
        [
            (write(tmp_path / "a", range(3), range(0)), "clip clip000 is in"),
            (
                write(tmp_path / "b", range(3), range(0), "b", weights_sha256="cd"),
                "another tokenizer",
            ),
            (write(tmp_path / "c", range(3), range(0), "c", "packed"), "expected one layout"),
        ]
    ):
        with pytest.raises(UserError, match=words):
            edit([one, other], tmp_path / f"out{n}", {})
        assert not (tmp_path / f"out{n}").exists()


def test_a_video_is_not_put_into_both_splits(tmp_path: Path) -> None:
    samples = [sample(n, "train", video="same") for n in range(3)]
    infos = {"train": write_shards(tmp_path / "s", "train", samples), "val": []}
    write_manifest(tmp_path / "s", infos, TOKENIZER)
    with pytest.raises(UserError, match="video same would have clips in train and in val"):
        edit([tmp_path / "s"], tmp_path / "out", {"clip001": Edit(split="val")})
    moved = {f"clip{n:03d}": Edit(split="val") for n in range(3)}
    edit([tmp_path / "s"], tmp_path / "all", moved)
    assert len(ShardDataset(tmp_path / "all", "val")) == 3


def test_the_folder_is_new_and_an_edit_that_was_stopped_begins_again(
    shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is not empty; name a new folder"):
        edit([shards], shards, {})
    out = tmp_path / "out"
    (out / "train").mkdir(parents=True)
    (out / "train/000007.tar").write_bytes(b"half")
    with pytest.raises(UserError, match="is not empty"):
        edit([shards], out, {})
    (out / ".edit").touch()
    code = (
        "from handloom.lease import Lease; from pathlib import Path; import os\n"
        f"with Lease(Path({str(out / '.lease')!r}), 'stopped').held(): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    edit([shards], out, {})
    assert not (out / "train/000007.tar").exists()
    assert not (out / ".edit").exists()
    with pytest.raises(UserError, match="is not empty"):
        edit([shards], out, {})


def test_the_command_reads_files_of_edits(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        ("clip001", "true", "", ""),
        ("clip002", "", 'a "new", text', ""),
        ("clip003", "0", "", "val"),
    ]
    with (tmp_path / "edits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("clip_id", "drop", "caption", "split"), *rows])
    lines = [{"clip_id": a, "drop": b == "true", "caption": c, "split": d} for a, b, c, d in rows]
    (tmp_path / "edits.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pq.write_table(pa.Table.from_pylist(lines), tmp_path / "edits.parquet")
    read = [read_edits(tmp_path / f"edits.{kind}") for kind in ("csv", "jsonl", "parquet")]
    assert read[0] == read[1] == read[2]
    assert read[0]["clip002"] == Edit(caption='a "new", text')
    out = tmp_path / "out"
    assert (
        main(["edit", str(shards), "--out", str(out), "--edits", str(tmp_path / "edits.csv")]) == 0
    )
    assert "clips: 1 dropped, 1 relabelled, 1 moved" in capsys.readouterr().out
    assert contents(out)["clip003"]["split"] == "val"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,drop\na,1\n", "has the columns name, drop, expected"),
        ("clip_id,verdict\na,1\n", "has the columns clip_id, verdict, expected"),
        ("clip_id,drop\na,perhaps\n", "drop 'perhaps' in row 1, expected true or false"),
        ("clip_id,split\na,test\n", "the split 'test' in row 1, expected train or val"),
        ("clip_id,drop\n,1\n", "no clip_id in row 1"),
        ("clip_id,drop\na,1\na,0\n", "says of clip a in row 2 something else"),
        ("clip_id,drop\nclip000,1\nnowhere,1\n", "1 of the edited clips are not in"),
        ("", "cannot be read"),
    ],
)
def test_files_of_edits_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    shards = write(tmp_path / "shards", range(3), range(0))
    (tmp_path / "edits.csv").write_text(text)
    args = [
        "edit",
        str(shards),
        "--out",
        str(tmp_path / "out"),
        "--edits",
        str(tmp_path / "edits.csv"),
    ]
    assert main(args) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_nothing_left_is_said(tmp_path: Path) -> None:
    shards = write(tmp_path / "shards", range(3), range(0))
    with pytest.raises(UserError, match="drop every clip"):
        edit([shards], tmp_path / "out", {f"clip00{n}": Edit(drop=True) for n in range(3)})


def test_damage_is_not_copied_into_shards_with_checksums_of_their_own(
    shards: Path, tmp_path: Path
) -> None:
    path = shards / "train/000000.tar"
    damaged = bytearray(path.read_bytes())
    damaged[700] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="does not have the SHA-256 that its manifest records"):
        edit([shards], tmp_path / "out", {"clip001": Edit(drop=True)})
    assert not (tmp_path / "out/manifest.json").exists()


def test_places_that_cannot_be_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is named twice"):
        edit([shards, tmp_path / "shards/../shards"], tmp_path / "out", {})
    with pytest.raises(UserError, match="which is read; name another folder"):
        edit([shards], shards / "train/new", {})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; --out takes a folder"):
        edit([shards], tmp_path / "file", {})


def test_after_a_full_disk_the_same_command_goes_on(shards: Path, tmp_path: Path) -> None:
    with mounted(tmp_path, "2m,nr_inodes=64") as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes((2 << 20) - 24_576))
        with pytest.raises(OSError, match=r"disk is full|No space left"):
            edit([shards], disk / "out", {"clip001": Edit(drop=True)})
        filler.unlink()
        edit([shards], disk / "out", {"clip001": Edit(drop=True)})
        assert contents(disk / "out").keys() == contents(shards).keys() - {"clip001"}


def test_licences_are_asked_for_by_the_option_that_there_is(tmp_path: Path) -> None:
    roots = []
    for name in ("one", "two"):
        samples = [sample(n, "train", name) for n in range(2)]
        for number, one in enumerate(samples):
            samples[number] = Sample(one.clip_id, one.codes_vtij, one.meta | {"licence": name})
        infos = {"train": write_shards(tmp_path / name, "train", samples), "val": []}
        write_manifest(tmp_path / name, infos, TOKENIZER)
        roots.append(tmp_path / name)
    with pytest.raises(UserError, match="say so with --licences one two"):
        edit(roots, tmp_path / "out", {})
    edit(roots, tmp_path / "out", {}, ("one", "two"))
