"""Surgery on finished shards: drop, relabel and move clips by a file of ids, and join folders.

A new folder is written. Shards that do not change are linked into it, or copied where that cannot
be, and are not written again; a shard that changes is, without the clips that go. Clips that move
to another split are in shards of their own behind those of that split.
"""

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from handloom.errors import UserError
from handloom.files import file_digest, whole
from handloom.lease import Lease
from handloom.stages.pack.edits import Edit, in_common, read_edits
from handloom.stages.pack.stage import check_licences
from handloom.stages.pack.statistics import Trajectories, shard_trajectories
from handloom.tokenize.shards import (
    SPLITS,
    Layout,
    ShardInfo,
    sha256_file,
    shard_path,
    write_manifest,
)
from handloom.tokenize.shards.dataset import ShardDataset
from handloom.tokenize.shards.files import index_of
from handloom.tokenize.shards.format import ARRAYS, Sample
from handloom.tokenize.shards.manifest import read_manifest
from handloom.tokenize.shards.write import write_shard

BEGUN = ".edit"  # a file that is there until the edit is done
EDITED = "edit"  # the `caption_source` of a caption that was changed here
MANIFEST_OWN = {"format", "version", "splits", "tokenizer", "trajectories", "edited"}


@dataclass
class Source:
    """One folder of shards.

    Attributes:
        root: the folder.
        manifest: its manifest.
        splits: its shards, opened.
    """

    root: Path
    manifest: dict[str, Any]
    splits: dict[str, ShardDataset]

    @classmethod
    def at(cls, root: Path) -> "Source":
        """Open a folder; raises UserError where it is no finished one."""
        manifest = read_manifest(root)
        names = [split for split in SPLITS if split in manifest["splits"]]
        return cls(root, manifest, {split: ShardDataset(root, split) for split in names})

    def shards(self, split: str) -> Iterator["Shard"]:
        """The shards of a split, in order."""
        start = 0
        for entry in self.manifest["splits"].get(split, {"shards": []})["shards"]:
            yield Shard(self, split, entry, start)
            start += entry["samples"]


@dataclass
class Shard:
    """One shard of a source, and the number of its first sample in its split."""

    source: Source
    split: str
    entry: dict[str, Any]
    start: int

    @property
    def path(self) -> Path:
        """Its tar."""
        name: str = self.entry["name"]
        return self.source.root / self.split / name

    def clip_ids(self) -> list[str]:
        """Clip ids in order."""
        rows = np.arange(self.start, self.start + self.entry["samples"])
        found = self.source.splits[self.split].find(rows, ("clip_id",))
        return list(found.columns["clip_id"])

    def sample(self, row: int) -> dict[str, Any]:
        """All of one sample."""
        return self.source.splits[self.split][self.start + row]


@dataclass
class Outcome:
    """What an edit did: numbers of clips, and of shards that were linked or copied, and written."""

    clips: Counter[str] = field(default_factory=Counter)
    same: int = 0
    written: int = 0


def edit_by_file(
    roots: list[Path], out: Path, path: Path | None, licences: tuple[str, ...] = ()
) -> Outcome:
    """As `edit`, with the edits of a file, or none."""
    if path is None:
        return edit(roots, out, {}, licences)
    return edit(roots, out, read_edits(path), licences, {"edits_digest": file_digest(path)})


def edit(
    roots: list[Path],
    out: Path,
    edits: dict[str, Edit],
    licences: tuple[str, ...] = (),
    facts: dict[str, Any] | None = None,
) -> Outcome:
    """Write a folder of shards from one or several, with edits.

    Args:
        roots: finished folders of shards; what is in them stays as it is.
        out: the new folder.
        edits: by clip id.
        licences: classes that may go together, as for `curate`.
        facts: further values for the manifest's entry `edited`.

    Raises:
        UserError: the folders do not fit together, a clip is there twice, an edit names no clip of
            theirs, or splits one video; or `out` is finished, or being written.
    """
    _check_places(roots, out)
    sources = [Source.at(root) for root in roots]
    _check(sources, licences)
    _check_clips(sources, edits)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror
        raise UserError(f"{out} cannot be made ({why}); name another with --out.") from None
    with Lease(out / ".lease", uuid4().hex).held():
        (out / BEGUN).touch()
        for path in out.glob("*/*.*"):  # of an edit that was stopped
            path.unlink()
        outcome = _write(sources, out, edits, facts or {})
        (out / BEGUN).unlink()
    return outcome


def _check_places(roots: list[Path], out: Path) -> None:
    """Refuse a folder that is named twice, and a new one that is none or lies in an old one."""
    here = [root.resolve() for root in roots]
    if len(set(here)) < len(here):
        twice = next(root for root in roots if here.count(root.resolve()) > 1)
        raise UserError(f"{twice} is named twice; every clip may be there once.")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out takes a folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / BEGUN).is_file():
        raise UserError(f"{out} is not empty; name a new folder with --out.")
    if inside := [root for root in here if root in out.resolve().parents]:
        raise UserError(f"--out {out} lies in {inside[0]}, which is read; name another folder.")


def _write(
    sources: list[Source], out: Path, edits: dict[str, Edit], facts: dict[str, Any]
) -> Outcome:
    outcome, moved = Outcome(), defaultdict[str, list[tuple[Shard, int]]](list)
    infos: dict[str, list[ShardInfo]] = {}
    layout = _layout(sources)
    for split in SPLITS:
        (out / split).mkdir(exist_ok=True)
        infos[split] = []
        for shard in (one for source in sources for one in source.shards(split)):
            target = shard_path(out, split, len(infos[split]))
            keys = shard.clip_ids()
            stay = _stay(shard, keys, edits, moved, outcome)
            info = _put(shard, keys, stay, edits, target, layout, outcome)
            infos[split] += [info] if info else []
    size = max(one.entry["samples"] for one in _shards(sources))
    for split, rows in moved.items():
        for start in range(0, len(rows), size):
            target = shard_path(out, split, len(infos[split]))
            samples = (_edited(shard, row, edits) for shard, row in rows[start : start + size])
            infos[split].append(write_shard(target, samples, layout))
            outcome.written += 1
    if not any(infos.values()):
        raise UserError("the edits drop every clip, so there is nothing to write.")
    manifest = in_common([source.manifest for source in sources])
    own = {"edited": _history(sources, outcome, facts)}
    if any("trajectories" in source.manifest for source in sources):
        own["trajectories"] = _trajectories(out, infos)
    kept = {name: value for name, value in manifest.items() if name not in MANIFEST_OWN}
    write_manifest(out, infos, manifest["tokenizer"], **kept | own)
    return outcome


def _shards(sources: list[Source]) -> Iterator[Shard]:
    return (one for source in sources for split in SPLITS for one in source.shards(split))


def _stay(
    shard: Shard,
    keys: list[str],
    edits: dict[str, Edit],
    moved: dict[str, list[tuple[Shard, int]]],
    outcome: Outcome,
) -> list[int]:
    """Rows of a shard that stay in it; those that move are noted."""
    stay = []
    for row, key in enumerate(keys):
        one = edits.get(key, Edit())
        if one.drop:
            outcome.clips["dropped"] += 1
            continue
        outcome.clips["relabelled"] += one.caption is not None
        if one.split not in (None, shard.split):
            outcome.clips["moved"] += 1
            moved[str(one.split)].append((shard, row))
        else:
            stay.append(row)
    return stay


def _put(
    shard: Shard,
    keys: list[str],
    stay: list[int],
    edits: dict[str, Edit],
    target: Path,
    layout: Layout,
    outcome: Outcome,
) -> ShardInfo | None:
    """Link a shard that stays as it is, or write what is left of it."""
    is_same = len(stay) == len(keys) and not any(
        key in edits and edits[key].caption is not None for key in keys
    )
    if is_same:
        for here, there in ((shard.path, target), (index_of(shard.path), index_of(target))):
            _link(here, there)
        outcome.same += 1
        return ShardInfo(**shard.entry | {"name": target.name})
    if sha256_file(shard.path) != shard.entry["sha256"]:  # a copy would get checksums of its own
        raise UserError(
            f"{shard.path} does not have the SHA-256 that its manifest records; `handloom inspect "
            f"{shard.source.root} --verify` names the damaged samples: copy the shard again."
        )
    if not stay:
        return None
    outcome.written += 1
    return write_shard(target, (_edited(shard, row, edits) for row in stay), layout)


def _link(source: Path, target: Path) -> None:
    """Make a file be there under another name: a hard link, or else a copy."""
    with whole(target, sync=False) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, temporary)


def _edited(shard: Shard, row: int, edits: dict[str, Edit]) -> Sample:
    found = shard.sample(row)
    clip_id, codes = found.pop("clip_id"), found.pop("tokens")
    arrays = {name: found.pop(name) for name in ARRAYS if name in found}
    one = edits.get(clip_id, Edit())
    if one.caption is not None:
        found |= {"caption": one.caption, "caption_source": EDITED, "caption_flags": []}
    if one.split is not None:
        found |= {"split": one.split}
    return Sample(clip_id, np.array(codes), found, arrays)


def _trajectories(out: Path, infos: dict[str, list[ShardInfo]]) -> dict[str, Any]:
    merged = Trajectories()
    for split, shards in infos.items():
        for info in shards:
            merged = merged.merged(shard_trajectories(out / split / info.name, split))
    return merged.facts()


def _check(sources: list[Source], licences: tuple[str, ...]) -> None:
    """Refuse folders whose codes, layouts or licences do not go together."""
    first = sources[0]
    for other in sources[1:]:
        for name in ("weights_sha256", "codebook_size", "resolution"):
            a, b = (s.manifest["tokenizer"].get(name) for s in (first, other))
            if a != b:
                raise UserError(
                    f"{other.root} was encoded by another tokenizer than {first.root} ({name} {b}, "
                    f"not {a}); codes of both cannot be in one folder: encode one of them again."
                )
    _layout(sources)
    samples = (one for source in sources for one in _first_samples(source))
    classes = {one["licence"] for one in samples if "licence" in one}
    check_licences(classes, licences, "--licences")


def _first_samples(source: Source) -> Iterator[dict[str, Any]]:
    return (data[0] for data in source.splits.values() if len(data))


def _layout(sources: list[Source]) -> Layout:
    """The layout of all shards."""
    found: dict[Layout, Path] = {}
    for shard in _shards(sources):
        found.setdefault(_layout_of(shard), shard.source.root)
    if len(found) > 1:
        (a, one), (b, two) = found.items()
        raise UserError(f"{one} has the layout {a} and {two} {b}; expected one layout.")
    return next(iter(found), "samples")


def _layout_of(shard: Shard) -> Layout:
    with pa.memory_map(str(index_of(shard.path))) as file:
        stored = (pa.ipc.open_file(file).schema.metadata or {}).get(b"layout", b"samples")
    return "packed" if stored == b"packed" else "samples"


def _check_clips(sources: list[Source], edits: dict[str, Edit]) -> None:
    """Refuse clips that are there twice, edits of clips that are not, and videos in two splits."""
    unseen, hashes = set(edits), list[Any]()
    for shard in _shards(sources):
        clip_ids = shard.clip_ids()
        unseen.difference_update(clip_ids)
        if len(sources) > 1:  # one run has each clip once; 8 bytes for each of millions
            hashes.append(np.fromiter(map(hash, clip_ids), np.int64, len(clip_ids)))
    if hashes:
        _check_repeats(sources, np.concatenate(hashes))
    if unseen:
        where = " or ".join(str(source.root) for source in sources)
        raise UserError(
            f"{len(unseen):,} of the edited clips are not in {where}, the first is {min(unseen)}; "
            "leave them out."
        )
    if any(one.split for one in edits.values()) or len(sources) > 1:
        _check_leaks(sources, edits)


def _check_repeats(sources: list[Source], hashes: NDArray[np.int64]) -> None:
    hashes.sort()
    alike = {*hashes[1:][hashes[1:] == hashes[:-1]].tolist()}
    seen: dict[str, Path] = {}
    for shard in _shards(sources) if alike else ():
        for key in filter(lambda key: hash(key) in alike, shard.clip_ids()):
            if key in seen:
                raise UserError(
                    f"clip {key} is in {seen[key]} and in {shard.source.root}; every clip may be "
                    "there once: drop it from one of them first."
                )
            seen[key] = shard.source.root


def _check_leaks(sources: list[Source], edits: dict[str, Edit]) -> None:
    """Refuse a video in both splits: what is learned from one clip would be tested on the next."""
    splits: dict[tuple[str, str], str] = {}
    for shard in _shards(sources):
        for row, key in enumerate(shard.clip_ids()):
            one = edits.get(key, Edit())
            meta = shard.sample(row)
            if one.drop or "source_id" not in meta:
                continue
            video = str(meta.get("dataset")), str(meta["source_id"])
            split = one.split or shard.split
            if splits.setdefault(video, split) != split:
                raise UserError(
                    f"video {video[1]} would have clips in train and in val; move all of its "
                    "clips, or none."
                )


def _history(sources: list[Source], outcome: Outcome, facts: dict[str, Any]) -> dict[str, Any]:
    """Where the folder comes from: digests of manifests, and what earlier edits did."""
    return {
        "manifest_digests": [file_digest(source.root / "manifest.json") for source in sources],
        "before": [s.manifest["edited"] for s in sources if "edited" in s.manifest],
        **{name: outcome.clips[name] for name in ("dropped", "relabelled", "moved")},
        **facts,
    }
