"""Kinetics-700 and -700-2020 (-400 and -600 are read too): web clips of ten seconds with a label.

A row of `train.csv`, `validate.csv` (or `val.csv`) and `test.csv` names a web video and a start and
end time. The official mirror and the crawlers store each row as a trimmed file, whose name is
`<youtube_id>_<start>_<end>.mp4` with six digits each (`---QUuC4vJs_000084_000094.mp4`), flat or in
folders by label: files are found by name alone, anywhere below the data folder. So the clip is the
whole file, often shorter than ten seconds.

A file `<youtube_id>.mp4` may be trimmed or not. The seconds of the row are cut out of it, unless it
has only one row and is no longer than those seconds. Several rows of such a file become several
SourceVideos that differ in `part`.

If several releases lie below the folder the newest is read: a large part of the validation sets of
400 and 600 is in the training set of 700. Official lists share videos, too: rows of train whose
video is in val or test are rejected.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from handloom.errors import UserError
from handloom.places import listdir
from handloom.stages.datasets.media import VIDEO_SUFFIXES, contents, files_below, read_columns
from handloom.stages.datasets.source import TO_THE_END, Adapter, CutRule, SourceVideo, Span

HOW_TO_GET = (
    "Kinetics-700-2020 needs no form: `bash k700_2020_downloader.sh` and `bash "
    "k700_2020_extractor.sh` of https://github.com/cvdfoundation/kinetics-dataset fetch videos and "
    "lists (about 700 GB)."
)
# A train row whose video is in val is rejected, so val is read first.
SPLITS = {"val": "val", "validate": "val", "validation": "val", "train": "train", "test": "test"}
VERSIONS = ("unknown", "400", "600", "700", "700-2020")  # newest last
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
    """Facts about all rows that are needed before the first one is yielded."""

    held_out: dict[str, str] = field(default_factory=dict)  # by youtube id: why not to train on it
    # Labels of later rows of the same id and part.
    repeats: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    shared_files: set[str] = field(default_factory=set)  # ids of plain files with more than one row


def videos(root: Path, rule: CutRule) -> Iterator[SourceVideo]:
    """Stream the rows of the lists: val, then train, then test.

    Rows of the same seconds count once: the first gives the text, others further texts.
    """
    version, lists = _find_lists(root)
    media = _index_media(root)
    survey = _survey_lists(lists, media)
    yielded: set[tuple[str, str]] = set()
    for split, list_file in lists.items():
        for video_id, part, label in _read_list(list_file, split):
            texts: tuple[str, ...] = (label,)
            if repeats := survey.repeats.get((video_id, part)):
                if (video_id, part) in yielded:
                    continue
                yielded.add((video_id, part))
                texts = tuple(t for t in dict.fromkeys((label, *repeats)) if t) or ("",)
            path = media.trimmed.get(f"{video_id}_{part}", "")
            spans, whole_if_shorter_s = _whole_file(texts), 0.0
            if not path and part and video_id in media.plain:
                path = media.plain[video_id]
                spans, whole_if_shorter_s = _cut_seconds(
                    part, texts, video_id in survey.shared_files
                )
            reason = _reason(video_id, part, texts[0], split, survey.held_out)
            yield SourceVideo(
                video_id=video_id,
                media_path=path,
                split=split,
                version=version,
                spans=spans,
                part=part,
                whole_if_shorter_s=whole_if_shorter_s,
                reason=reason or ("" if path else "missing_file"),
            )


def annotations(root: Path) -> list[Path]:
    """The lists of the release."""
    return list(_find_lists(root)[1].values())


@lru_cache(maxsize=4096)  # one object a label instead of one for each of 650,000 rows
def _whole_file(texts: tuple[str, ...]) -> tuple[Span, ...]:
    return (Span(0.0, TO_THE_END, texts[0], texts[1:]),)


def _cut_seconds(
    part: str, texts: tuple[str, ...], is_shared: bool
) -> tuple[tuple[Span, ...], float]:
    """The span to cut out of a plain file, and the length up to which the file is trimmed to it.

    A trimmed file is a little longer than its row. If several rows share a file its length shows
    nothing: it can be trimmed to one of them only.
    """
    start_s, end_s = float(part[:6]), float(part[7:])
    spans = (Span(start_s, end_s, texts[0], texts[1:]),)
    return spans, 0.0 if is_shared else end_s - start_s + 1.5


def _reason(video_id: str, part: str, text: str, split: str, held_out: dict[str, str]) -> str:
    if split == "test":
        return "benchmark_test"
    if split == "train" and video_id in held_out:
        return held_out[video_id]
    if not part:
        return "no_time"
    return "" if text else "no_text"


def _survey_lists(lists: dict[str, Path], media: _Media) -> _Survey:
    """Read all lists once. Only a hash of each row is kept: about 60 MB for 700,000 rows.

    A collision lists two rows as repeats of each other, which is harmless: each is looked up by its
    own key later, and finds its own label.
    """
    survey = _Survey()
    seen: set[int] = set()
    parts: dict[str, str] = {}
    for split, path in lists.items():
        for video_id, part, label in _read_list(path, split):
            key = hash((video_id, part))
            if key in seen:
                survey.repeats.setdefault((video_id, part), []).append(label)
            seen.add(key)
            if split != "train":
                survey.held_out.setdefault(video_id, f"video_in_{split}")
            if video_id in media.plain and parts.setdefault(video_id, part) != part:
                survey.shared_files.add(video_id)
    return survey


def _read_list(path: Path, split: str) -> Iterator[Row]:
    """Rows of a list, by column names: test lists mostly have no label, 400 has `is_cc`."""
    needed = ["youtube_id", "time_start", "time_end"]
    needed, optional = (needed, ["label"]) if split == "test" else ([*needed, "label"], [])
    for cell, start, end, label in read_columns(path, needed, optional):
        if not (video_id := cell.strip()):
            raise UserError(f"{path} has a row without youtube_id; download it again.")
        yield video_id, _part(start, end), label.strip()


@lru_cache(maxsize=1 << 14)  # most rows last ten seconds and start in the first ten minutes
def _part(start: str, end: str) -> str:
    """The times as in file names; empty if they are unusable. Some lists have `84.0`."""
    try:
        start_s, end_s = int(float(start)), int(float(end))
    except (ValueError, OverflowError):
        return ""
    return f"{start_s:06d}_{end_s:06d}" if 0 <= start_s <= end_s < 1_000_000 else ""


def _index_media(root: Path) -> _Media:
    """Paths by name. An id may contain `_` and `-`, so that names are parsed from the right.

    Of several files of one name the first listed counts, unless one lies in a folder
    `replacement...`, where the mirror puts new copies of damaged files.
    """
    media = _Media()
    for path in files_below(root, root, VIDEO_SUFFIXES, SKIPPED_FOLDERS):
        stem = path.rpartition("/")[2].rpartition(".")[0]
        if len(stem) == 11:  # a YouTube id alone
            media.plain.setdefault(stem, path)
        elif _PART.fullmatch(stem[-14:]):
            name = stem[-25:]  # 11 characters of the id, 14 of the times
            if name not in media.trimmed or "replacement" in path:
                media.trimmed[name] = path
    return media


def _find_lists(root: Path) -> tuple[str, dict[str, Path]]:
    """The version of the newest release below root, and its lists by split."""
    by_release: dict[tuple[int, int], dict[str, Path]] = {}
    for order, folder in enumerate(_list_folders(root)):
        for name in sorted(listdir(folder)):
            match = _LIST.fullmatch(name)
            if match and match.group(1).lower() in SPLITS and (folder / name).is_file():
                rank = VERSIONS.index(_release_of(root, folder / name))
                lists = by_release.setdefault((rank, -order), {})
                lists.setdefault(SPLITS[match.group(1).lower()], folder / name)
    usable = [key for key, lists in by_release.items() if "train" in lists or "val" in lists]
    if not usable:
        raise UserError(
            f"{root} holds {_describe_contents(root)}; expected train.csv or validate.csv in it, "
            f"in annotations/ or in a folder such as kinetics700_2020/. {HOW_TO_GET}"
        )
    best = max(usable)
    in_order = {
        split: by_release[best][split] for split in SPLITS.values() if split in by_release[best]
    }
    return VERSIONS[best[0]], in_order


def _describe_contents(root: Path) -> str:
    for folder in _list_folders(root):
        if any((folder / f"{name}.json").is_file() for name in SPLITS):
            return "lists as JSON, which has one entry a video and loses every second clip of one"
    return contents(root)


def _list_folders(root: Path) -> Iterator[Path]:
    """Folders that may hold lists: root, those named by a release, and `annotations` in each.

    `kinetics700_2020_delta` is left out: it only lists what is new since 700.
    """
    names = sorted(listdir(root)) if root.is_dir() else []
    releases = [name for name in names if _VERSION.search(name) and "delta" not in name.lower()]
    for base in (root, *(root / name for name in releases)):
        for folder in (base, base / "annotations"):
            if folder.is_dir():
                yield folder


def _release_of(root: Path, path: Path) -> str:
    """The release of a list, by its name or by the nearest folder that names one."""
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
