"""HowTo100M: 1.2 million narrated how-to videos, whose text is their recognised speech.

The captions are one JSON object of about ten gigabytes, `{video id: {"start": [...], "end": [...],
"text": [...]}}`, in three variants, or one CSV file for each video. The first of these that exists
is read: `raw_caption.json`, `raw_caption_superclean.json`, `caption.json` (stop words removed: "add
oil pan"), a folder of `<video id>.csv`. `HowTo100M_v1.csv`, which lists the tasks of each video, is
not needed.

Videos lie anywhere below the data folder, often without those that are gone from the site. They are
found by the id at the end of their names; ids are opaque and may begin with `-` or `_`.

A video that is left out (without a file, or held out for a benchmark) has one span of no length, so
that it is counted once: its lines are not cut. Spans of the others are cut on the workers.
"""

import csv
import io
import os
import re
from collections.abc import Container, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from handloom.errors import UserError
from handloom.places import scandir
from handloom.stages.datasets.formats.json_stream import MAX_VALUE, load_value, stream_values
from handloom.stages.datasets.howto100m.speech import cut_speech
from handloom.stages.datasets.media import VIDEO_SUFFIXES, files_below
from handloom.stages.datasets.source import Adapter, CutRule, SourceVideo, Span

HOW_TO_GET = (
    "HowTo100M's captions are open to all at https://www.di.ens.fr/willow/research/howto100m/ "
    "(raw_caption.zip, 10 GB unpacked: unpack raw_caption.json into the data folder). The videos, "
    "about 12 TB, come with the user name and password that the request form there gives for "
    "research, or are downloaded by their ids from the video site, as many as are still there."
)
CAPTIONS = ("raw_caption.json", "raw_caption_superclean.json", "caption.json")
COLUMNS = ("start", "end", "text")
HELD_OUT = ("htm_align.json", "htm_holdout_vid.txt")  # HTM-Align, a benchmark made from HowTo100M
RELEASE = "v1"  # the only one

_WITHOUT_STOP_WORDS = f"{RELEASE}-caption"
_PLACEHOLDER = (Span(0.0, 0.0, ""),)  # of a video that is left out
_CSV = f"{RELEASE}-csv"
_CSV_NAME = re.compile(r"[A-Za-z0-9_-]{11}\.csv")
# `<id>.mp4`, `<title>-<id>.mp4`, `<title> [<id>].webm`. Parts of an unfinished download, such as
# `<id>.f137.mp4` and `<id>.temp.mp4`, do not match.
_MEDIA_NAME = re.compile(r"([A-Za-z0-9_-]{11})\]?\.[A-Za-z0-9]+$")
_PREFERRED = (".mp4", ".mkv", ".webm")  # a .webm may be left over from a merge into the others


def videos(root: Path, rule: CutRule) -> Iterator[SourceVideo]:
    """Stream the captioned videos, each once; those with a file have their captions in `raw`.

    An empty file counts as a file: probing it fails with a message to download it again.
    """
    captions = _find_captions(root)
    held_out = set().union(*(_read_ids(path) for path in _held_out_files(root, captions)))
    media = _find_media(root)
    version = _CSV if captions.is_dir() else f"{RELEASE}-{captions.stem}"
    seen: set[str] = set()
    for video_id, raw in _read_captions(captions, media):
        if video_id in seen:
            continue
        seen.add(video_id)
        reason = "" if video_id in media else "missing_file"
        reason = "benchmark_test" if video_id in held_out else reason
        yield SourceVideo(
            video_id=video_id,
            media_path=media.get(video_id, ""),
            split="test" if video_id in held_out else "",
            version=version,
            spans=_PLACEHOLDER if reason else (),
            raw=None if reason else raw,
            reason=reason,
        )


def cut(video: SourceVideo, rule: CutRule) -> tuple[Span, ...]:
    """Make the spans of a video from its captions; see `speech.cut_speech`.

    Captions that cannot be read give one span rejected as `no_text`, flagged `damaged_captions`.
    """
    flags = ("stop_words_removed",) if video.version == _WITHOUT_STOP_WORDS else ()
    try:
        rows = _csv_rows(video.raw) if video.version == _CSV else _json_rows(video.raw)
    except (csv.Error, ValueError):
        return (Span(0.0, 0.0, "", flags=("damaged_captions",), reason="no_text"),)
    return cut_speech(rows, rule, flags)


def annotations(root: Path) -> list[Path]:
    """The caption file, or all of the caption tables, and the lists of held-out videos."""
    captions = _find_captions(root)
    files = _list_tables(captions) if captions.is_dir() else [captions]
    return files + _held_out_files(root, captions)


def _read_captions(captions: Path, media: Container[str]) -> Iterator[tuple[str, bytes]]:
    """Stream (video id, captions as stored); tables of videos without a file are not opened."""
    if captions.is_dir():
        for path in _list_tables(captions):
            yield path.stem, _read_table(path) if path.stem in media else b""
        return
    for video_id, raw, value in stream_values(captions):
        if not all(isinstance(value.get(column), list) for column in COLUMNS):
            keys = ", ".join(map(repr, list(value)[:4])) or "nothing"
            raise UserError(
                f"{captions} has {keys} for {video_id!r}, expected the lists start, end and text; "
                "this is not one of HowTo100M's caption files."
            )
        yield video_id, raw


def _json_rows(raw: bytes) -> list[tuple[Any, Any, Any]]:
    """The lines (start, end, text) of a video; None where a list is shorter than the others."""
    value = load_value(raw)
    return list(zip_longest(*(value[column] for column in COLUMNS)))


def _csv_rows(raw: bytes) -> list[tuple[Any, Any, Any]]:
    """The lines (start, end, text) of a video. Raises ValueError if a column is missing."""
    text = raw.decode("utf-8-sig", errors="replace")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if not set(COLUMNS) <= set(rows.fieldnames or ()):
        raise ValueError("a column is missing")
    return [(row["start"], row["end"], row["text"]) for row in rows]


def _read_table(path: Path) -> bytes:
    with path.open("rb") as file:
        raw = file.read(MAX_VALUE + 1)
    if len(raw) > MAX_VALUE:
        raise UserError(
            f"{path} has more than {MAX_VALUE >> 20} MB, expected the captions of one video; "
            "download it again."
        )
    return raw


def _list_tables(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _CSV_NAME.fullmatch(path.name))


def _find_media(root: Path) -> dict[str, str]:
    """Paths below the root by video id; of several files the preferred one."""
    paths: dict[str, str] = {}
    for path in files_below(root, root, VIDEO_SUFFIXES):
        match = _MEDIA_NAME.search(path)
        if match:
            other = paths.get(match[1])
            paths[match[1]] = path if other is None else _preferred(root, path, other)
    return paths


def _preferred(root: Path, *paths: str) -> str:
    """The file that is not empty, then by the order of _PREFERRED, then by name."""

    def rank(path: str) -> tuple[bool, int, str]:
        suffix = os.path.splitext(path)[1].lower()
        order = _PREFERRED.index(suffix) if suffix in _PREFERRED else len(_PREFERRED)
        return (root / path).stat().st_size == 0, order, path

    return min(paths, key=rank)


def _find_captions(root: Path) -> Path:
    """The caption file, or the folder of caption tables."""
    folders = _list_folders(root)
    for name in CAPTIONS:
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
    for folder in folders:
        if _holds_tables(folder):
            return folder
    raise UserError(
        f"{root} is not a HowTo100M folder: expected raw_caption.json in it or in a folder of it "
        f"(or {CAPTIONS[1]}, {CAPTIONS[2]}, or tables named <video id>.csv). {HOW_TO_GET}"
    )


def _list_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise UserError(f"{root} is no folder, expected HowTo100M in it. {HOW_TO_GET}")
    with scandir(root) as entries:
        below = sorted(entry.name for entry in entries if entry.is_dir())
    below.sort(key=lambda name: name != "annotations")  # stable: that one first, others by name
    return [root, *(root / name for name in below)]


def _holds_tables(folder: Path) -> bool:
    """Whether a folder holds a caption table; `annotations.csv` has a matching name, too."""
    with scandir(folder) as entries:
        names = [entry.name for entry in entries if _CSV_NAME.fullmatch(entry.name)]
    return any(_is_table(folder / name) for name in names)


def _is_table(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.readline(1000).decode("utf-8-sig", errors="replace")
    return set(COLUMNS) <= {name.strip().strip('"') for name in header.split(",")}


def _held_out_files(root: Path, captions: Path) -> list[Path]:
    beside = captions if captions.is_dir() else captions.parent
    folders = dict.fromkeys((beside, root))
    return [folder / name for folder in folders for name in HELD_OUT if (folder / name).is_file()]


def _read_ids(path: Path) -> set[str]:
    """The ids of a held-out list: keys or items of a JSON file, or words of a text file."""
    if path.suffix != ".json":
        return set(path.read_text(encoding="utf-8-sig", errors="replace").split())
    try:
        ids = load_value(path.read_bytes())
    except ValueError:
        ids = None
    if not isinstance(ids, dict | list) or not all(isinstance(name, str) for name in ids):
        raise UserError(
            f"{path} is neither a JSON object by video id nor a list of ids; download it again, "
            "or take it away to keep HTM-Align's videos in."
        )
    return set(ids)


ADAPTER = Adapter(
    videos=videos,
    annotations=annotations,
    text_kind="asr",
    licence="youtube-terms-research-only",
    terms=(
        "Videos stay under the terms of the video site and of their owners: research alone, by "
        "request form, and no redistribution of frames or clips."
    ),
    how_to_get=HOW_TO_GET,
    cut=cut,
)
