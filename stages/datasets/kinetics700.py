"""Kinetics-700 and -700-2020 (-400 and -600 are read too): web clips of ten seconds with a label.

A row of `train.csv`, `validate.csv` (or `val.csv`) and `test.csv` names a web video and seconds of
it. The official mirror and the crawlers store each row as a trimmed file, whose name is
`<youtube_id>_<start>_<end>.mp4` with six digits each (`---QUuC4vJs_000084_000094.mp4`), flat or in
folders by label: files are found by name alone, wherever they lie below the data folder. So the
clip is the whole file, and its length is what the file has, often less than ten seconds.

Copies called `<youtube_id>.mp4` do not tell whether they are trimmed. The seconds are cut out of
them, unless only one row names the video and the file is no longer than those seconds. Several
rows of one such file become several SourceVideos that differ in `part`.

Where several releases lie below the folder the newest is read: a large part of the 400 and 600
validation sets is in the training set of 700. Official lists share videos, too: rows of train whose
video is in val or test are rejected.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from handloom.errors import UserError
from handloom.stages.datasets.media import VIDEO_SUFFIXES, contents, files_below, read_rows
from handloom.stages.datasets.source import TO_THE_END, Adapter, CutRule, SourceVideo, Span

HOW_TO_GET = (
    "Kinetics-700-2020 needs no form: `bash k700_2020_downloader.sh` and `bash "
    "k700_2020_extractor.sh` of https://github.com/cvdfoundation/kinetics-dataset fetch videos and "
    "lists (about 700 GB)."
)
# A train row whose video is in val is rejected, so val is read first.
SPLITS = {"val": "val", "validate": "val", "validation": "val", "train": "train", "test": "test"}
VERSIONS = ("unknown", "400", "600", "700", "700-2020")  # the newest last
SKIPPED_FOLDERS = frozenset({"rawframes_train", "rawframes_val", "rawframes_test"})

# "train.csv", "kinetics-400_val.csv", "k700-2020_test.csv"
_LIST = re.compile(r"(?:k(?:inetics)?[-_]?\d{3}(?:[-_]2020)?[-_])?([a-z]+)\.csv", re.IGNORECASE)
_VERSION = re.compile(r"(?<!\d)([467]00)(?!\d)(?:[-_]?(2020))?")
_PART = re.compile(r"_[0-9]{6}_[0-9]{6}")

Row = tuple[str, str, str]  # youtube id, part ("000084_000094", empty if unusable), label


@dataclass(frozen=True)
class _Media:
    """Paths below the data folder, by name."""

    trimmed: dict[str, str] = field(default_factory=dict)  # by "<youtube_id>_000084_000094"
    plain: dict[str, str] = field(default_factory=dict)  # by youtube id


@dataclass(frozen=True)
class _Survey:
    """What must be known of all rows before the first one is yielded."""

    held_out: dict[str, str] = field(default_factory=dict)  # youtube id: why not to train on it
    repeats: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # labels of later rows
    several: set[str] = field(default_factory=set)  # ids of plain files with more than one row


def videos(root: Path, rule: CutRule) -> Iterator[SourceVideo]:
    """Stream the rows of the lists: val, then train, then test.

    Rows of the same seconds count once: the first gives the text, others further texts.
    """
    version, lists = _lists(root)
    media = _media(root)
    survey = _surveyed(lists, media)
    yielded: set[tuple[str, str]] = set()
    for split, path in lists.items():
        for video_id, part, label in _rows(path, split):
            texts: tuple[str, ...] = (label,)
            if repeats := survey.repeats.get((video_id, part)):
                if (video_id, part) in yielded:
                    continue
                yielded.add((video_id, part))
                texts = tuple(t for t in dict.fromkeys((label, *repeats)) if t) or ("",)
            found = media.trimmed.get(f"{video_id}_{part}", "")
            spans, whole_if_shorter_s = _whole(texts), 0.0
            if not found and part and video_id in media.plain:
                found = media.plain[video_id]
                spans, whole_if_shorter_s = _seconds(part, texts, video_id in survey.several)
            reason = _left_out(video_id, part, texts[0], split, survey.held_out)
            yield SourceVideo(
                video_id=video_id,
                media_path=found,
                split=split,
                version=version,
                spans=spans,
                part=part,
                whole_if_shorter_s=whole_if_shorter_s,
                reason=reason or ("" if found else "missing_file"),
            )


def annotations(root: Path) -> list[Path]:
    """The lists of the release."""
    return list(_lists(root)[1].values())


@lru_cache(maxsize=4096)  # one object for each label, not one for each of 650,000 rows
def _whole(texts: tuple[str, ...]) -> tuple[Span, ...]:
    return (Span(0.0, TO_THE_END, texts[0], texts[1:]),)


def _seconds(part: str, texts: tuple[str, ...], several: bool) -> tuple[tuple[Span, ...], float]:
    """The seconds of a plain file, and up to which length it holds nothing but these.

    A trimmed file is a little longer than its row. Where several rows share a file its length tells
    nothing: only one of them can be what it was trimmed to.
    """
    start_s, end_s = float(part[:6]), float(part[7:])
    spans = (Span(start_s, end_s, texts[0], texts[1:]),)
    return spans, 0.0 if several else end_s - start_s + 1.5


def _left_out(video_id: str, part: str, text: str, split: str, held_out: dict[str, str]) -> str:
    if split == "test":
        return "benchmark_test"
    if split == "train" and video_id in held_out:
        return held_out[video_id]
    if not part:
        return "no_time"
    return "" if text else "no_text"


def _surveyed(lists: dict[str, Path], media: _Media) -> _Survey:
    """Read all lists once. Of each row only a hash is kept: 64 bits, about 60 MB for 700,000.

    Two rows with the same hash by chance are noted as repeats of each other, which does no harm:
    each is looked up by its own key later, and finds its own label.
    """
    survey = _Survey()
    seen: set[int] = set()
    parts: dict[str, str] = {}
    for split, path in lists.items():
        for video_id, part, label in _rows(path, split):
            key = hash((video_id, part))
            if key in seen:
                survey.repeats.setdefault((video_id, part), []).append(label)
            seen.add(key)
            if split != "train":
                survey.held_out.setdefault(video_id, f"video_in_{split}")
            if video_id in media.plain and parts.setdefault(video_id, part) != part:
                survey.several.add(video_id)
    return survey


def _rows(path: Path, split: str) -> Iterator[Row]:
    """Rows of a list. Columns go by name: test lists mostly have no label, 400 has `is_cc`."""
    needed = ["youtube_id", "time_start", "time_end"] + ["label"] * (split != "test")
    for row in read_rows(path, needed):
        if not (video_id := row["youtube_id"].strip()):
            raise UserError(f"{path} has a row without youtube_id; download it again.")
        part = _part(row["time_start"], row["time_end"])
        yield video_id, part, row.get("label", "").strip()


def _part(start: str, end: str) -> str:
    """The seconds as in the names of files; empty if they are no times. Some lists have `84.0`."""
    try:
        start_s, end_s = int(float(start)), int(float(end))
    except (ValueError, OverflowError):
        return ""
    return f"{start_s:06d}_{end_s:06d}" if 0 <= start_s <= end_s < 1_000_000 else ""


def _media(root: Path) -> _Media:
    """Index the files by name. An id may hold `_` and `-`, so names are read from the right.

    Of several files of one name the first listed counts, unless one lies in a folder
    `replacement...`: that is where the mirror puts new copies of damaged files.
    """
    media = _Media()
    for path in files_below(root, root, VIDEO_SUFFIXES, SKIPPED_FOLDERS):
        stem = path.rpartition("/")[2].rpartition(".")[0]
        if len(stem) == 11:
            media.plain.setdefault(stem, path)
        elif _PART.fullmatch(stem[-14:]):
            name = stem[-25:]
            if name not in media.trimmed or "replacement" in path:
                media.trimmed[name] = path
    return media


def _lists(root: Path) -> tuple[str, dict[str, Path]]:
    """The version and the lists, by split, of the newest release below root."""
    found: dict[tuple[int, int], dict[str, Path]] = {}
    for order, folder in enumerate(_folders(root)):
        for name in sorted(os.listdir(folder)):
            match = _LIST.fullmatch(name)
            if match and match.group(1).lower() in SPLITS and (folder / name).is_file():
                rank = VERSIONS.index(_version(root, folder / name))
                lists = found.setdefault((rank, -order), {})
                lists.setdefault(SPLITS[match.group(1).lower()], folder / name)
    usable = [key for key, lists in found.items() if "train" in lists or "val" in lists]
    if not usable:
        raise UserError(
            f"{root} holds {_found_instead(root)}; expected train.csv or validate.csv in it, in "
            f"annotations/ or in a folder such as kinetics700_2020/. {HOW_TO_GET}"
        )
    best = max(usable)
    in_order = {split: found[best][split] for split in SPLITS.values() if split in found[best]}
    return VERSIONS[best[0]], in_order


def _found_instead(root: Path) -> str:
    for folder in _folders(root):
        if any((folder / f"{name}.json").is_file() for name in SPLITS):
            return "lists as JSON, which has one entry a video and loses every second clip of one"
    return contents(root)


def _folders(root: Path) -> Iterator[Path]:
    """Where lists may lie: the folder, those named after a release, and `annotations` in each.

    `kinetics700_2020_delta` only lists what is new since 700.
    """
    names = sorted(os.listdir(root)) if root.is_dir() else []
    releases = [name for name in names if _VERSION.search(name) and "delta" not in name.lower()]
    for base in (root, *(root / name for name in releases)):
        for folder in (base, base / "annotations"):
            if folder.is_dir():
                yield folder


def _version(root: Path, path: Path) -> str:
    """The release that a list is of: told by its name, or by the nearest folder that tells."""
    for name in (*reversed(path.relative_to(root).parts), root.absolute().name):
        if match := _VERSION.search(name):
            known = "-".join(part for part in match.groups() if part)
            return known if known in VERSIONS else match.group(1)
    return "unknown"


ADAPTER = Adapter(
    videos=videos,
    annotations=annotations,
    text_kind="label",
    licence="annotations-cc-by-4.0_video-youtube-terms",
    terms="Labels CC BY 4.0; videos under YouTube's terms and their uploaders' rights, research.",
    how_to_get=HOW_TO_GET,
)
