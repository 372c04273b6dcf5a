"""Any folder of videos: all that lie in it, or those that a list names.

Without a list, and where a row of one says no times, a video is cut on the workers
(`stages/ingest/folder.py`). A large file is cut in parts, each a unit of its own: what a worker
does at a time, and what is done again after a crash, is bounded by bytes.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from handloom.errors import UserError
from handloom.stages.datasets.media import VIDEO_SUFFIXES, contents, files_below
from handloom.stages.datasets.source import TO_THE_END, Adapter, CutRule, SourceVideo, Span
from handloom.stages.datasets.spool import Spool
from handloom.stages.datasets.video_list import ListedRow, folder_list, read_list

SUFFIXES = (
    *sorted(VIDEO_SUFFIXES), ".mpeg", ".mts", ".m2ts", ".ts", ".3gp", ".3g2", ".wmv", ".asf",
    ".flv", ".f4v", ".ogv", ".vob", ".mxf", ".divx", ".gif",
)  # fmt: skip
PART_BYTES = 256 << 20  # two minutes of a phone's 1080p, half an hour of a web video
CLIP_BYTES = 3 << 20  # of a clip of 5 s, roughly, to tell how many to expect


@dataclass(frozen=True)
class Uncut:
    """A file, or a part of one, that is still to be cut.

    Attributes:
        part: number of the part, from 0.
        parts: into which the file's time is divided.
        text: of the whole file, or empty.
        other_texts: further ones.
    """

    part: int = 0
    parts: int = 1
    text: str = ""
    other_texts: tuple[str, ...] = ()


@dataclass
class Survey:
    """What a folder and its list hold, counted while they are read."""

    videos: int = 0
    others: int = 0
    """Files that are no videos by their names."""
    unlisted: int = 0
    rows: int = 0
    texts: int = 0
    """Rows with a text."""
    first: dict[str, str] = field(default_factory=dict)
    """By reason, the first row that has it."""
    counts: Counter[str] = field(default_factory=Counter)
    """Rows by the reason for which they are left out, and `repeated` for those that add nothing."""

    def note(self, reason: str, row: ListedRow) -> None:
        """Count a row."""
        self.counts[reason] += 1
        self.first.setdefault(reason, f"row {row.number}, {row.path}")


def videos_of(root: Path, listed: Path | None, survey: Survey) -> Iterator[SourceVideo]:
    """Stream a folder's videos, or those of a list.

    Args:
        root: the folder.
        listed: the list; None takes all videos of the folder.
        survey: counts what is passed over.
    """
    if listed is None:
        for path in _present(root, survey):
            yield from _uncut(root, path, "", Uncut())
        return
    with Spool() as spool:
        for path in _present(root, survey):
            spool.add(path, None)
        for row in read_list(listed):
            survey.rows += 1
            survey.texts += bool(row.text)
            spool.add(_below(root, row.path), row)
        for path, found in spool.groups():
            rows = [row for row in found if row is not None]
            if not rows:
                survey.unlisted += 1
            else:
                yield from _listed(root, path, rows, len(rows) < len(found), survey)


def _present(root: Path, survey: Survey) -> Iterator[str]:
    """Paths of the videos below a folder; counts them and the other files."""
    for path in files_below(root, root, [""]):
        if path.lower().endswith(SUFFIXES):
            survey.videos += 1
            yield path
        else:
            survey.others += 1


def _below(root: Path, path: str) -> str:
    """A row's path relative to the folder, where it is written in full."""
    whole = f"{root.as_posix().rstrip('/')}/"
    return path.removeprefix(whole) if path.startswith(whole) else path


def _listed(
    root: Path, path: str, rows: list[ListedRow], is_there: bool, survey: Survey
) -> Iterator[SourceVideo]:
    """A listed file: its rows with times as spans, and one without as a file to be cut."""
    splits = {row.split for row in rows} - {""}
    split = next((name for name in ("test", "val", "train") if name in splits), "")
    is_outside = path.startswith(("/", "../")) or path == ".." or "\0" in path
    reason = "outside_folder" if is_outside else "" if is_there else "missing_file"
    reason = reason or ("benchmark_test" if split == "test" else "")
    for row in rows if reason else ():
        survey.note(reason, row)
    timed = [row for row in rows if (row.start_s, row.end_s) != (None, None)]
    whole = [row for row in rows if (row.start_s, row.end_s) == (None, None)]
    media_path = path if is_there else ""
    if timed:
        spans = tuple(_spans(timed, survey))
        # As a part of its own: the file may also be listed whole.
        part = "spans" if whole else ""
        yield SourceVideo(path, media_path, split, "1", spans, part=part, reason=reason)
    if not whole:
        return
    texts = list(dict.fromkeys(row.text for row in whole if row.text)) or [""]
    for row in whole[1:]:
        survey.note("repeated", row)
    uncut = Uncut(text=texts[0], other_texts=tuple(texts[1:]))
    if reason:
        span = Span(0.0, TO_THE_END, texts[0], tuple(texts[1:]))
        yield SourceVideo(path, media_path, split, "1", (span,), reason=reason)
    else:
        yield from _uncut(root, path, split, uncut)


def _spans(rows: list[ListedRow], survey: Survey) -> Iterator[Span]:
    """Spans in the order of time, each once: further rows of the same seconds add their texts."""
    texts: dict[tuple[float, float, str], list[str]] = {}
    for row in rows:
        start_s = 0.0 if row.start_s is None else row.start_s
        end_s = TO_THE_END if row.end_s is None else row.end_s
        reason = ""
        if math.isnan(start_s) or math.isnan(end_s) or math.isinf(start_s):
            start_s, end_s, reason = 0.0, 0.0, "no_time"
        elif end_s <= start_s:
            reason = "ends_before_start"
        if reason:
            survey.note(reason, row)
        known = texts.setdefault((start_s, end_s, reason), [])
        if known and row.text in ("", *known):
            survey.note("repeated", row)
        if row.text not in known:
            known.append(row.text)
    for (start_s, end_s, reason), found in sorted(texts.items()):
        own = [text for text in found if text] or [""]
        yield Span(start_s, end_s, own[0], tuple(own[1:]), reason=reason)


def _uncut(root: Path, path: str, split: str, uncut: Uncut) -> Iterator[SourceVideo]:
    """The parts of a file that is to be cut."""
    try:
        size = (root / path).stat().st_size
    except OSError:  # a link that leads nowhere, or a name that is not UTF-8: ingest says so
        size = 0
    parts = max(1, math.ceil(size / PART_BYTES))
    for part in range(parts):
        yield SourceVideo(
            video_id=path,
            media_path=path,
            split=split,
            version="1",
            part=f"part {part + 1} of {parts}" if parts > 1 else "",
            raw=Uncut(part, parts, uncut.text, uncut.other_texts),
            raw_clips=max(1, size // parts // CLIP_BYTES),
        )


def survey_of(root: Path, listed: Path | None) -> tuple[Survey, int]:
    """What a folder and its list hold, and the number of clips that may come of it: texts apart,
    whose files are there.

    Raises:
        UserError: there is nothing to take in.
    """
    survey, usable = Survey(), 0
    for video in videos_of(root, listed, survey):
        usable += not video.reason
    if listed is None and not survey.videos:
        raise UserError(
            f"{root} holds no video ({survey.others:,} other files; it has {contents(root)}), "
            f"expected files such as .mp4, .mov or .mkv in it or in folders below."
        )
    if listed is not None and not survey.rows:
        raise UserError(f"{listed} has no rows, expected one for each clip or video.")
    if not usable:
        why = "; ".join(f"{n:,} {name} ({survey.first[name]})" for name, n in
                        survey.counts.most_common() if name != "repeated")  # fmt: skip
        raise UserError(
            f"none of the {survey.rows:,} rows of {listed} can be used with {root}: {why}; paths "
            "are relative to the folder given as --data."
        )
    return survey, usable


def lines(survey: Survey, listed: Path | None) -> Iterator[str]:
    """What was passed over and what is left out, in sentences."""
    if survey.others - (listed is not None) > 0:
        yield f"ingest: {survey.videos:,} videos, and {survey.others:,} other files passed over"
    if survey.unlisted:
        yield f"ingest: {survey.unlisted:,} videos are not in {listed} and are passed over"
    for reason, count in survey.counts.most_common():
        what = MEANINGS.get(reason, reason)
        yield f"ingest: {count:,} rows of {listed} {what}; the first: {survey.first[reason]}"


MEANINGS = {
    "missing_file": "name a file that is not there (missing_file)",
    "outside_folder": "lead out of the data folder and are refused (outside_folder)",
    "ends_before_start": "end before they start (ends_before_start)",
    "no_time": "have a start or end that is no number (no_time)",
    "benchmark_test": "are of a file of the test split and are left out (benchmark_test)",
    "repeated": "repeat another one and add nothing",
}


def _videos(root: Path, rule: CutRule) -> Iterator[SourceVideo]:
    return videos_of(root, folder_list(root), Survey())


def _annotations(root: Path) -> list[Path]:
    listed = folder_list(root)
    return [listed] if listed else []


ADAPTER = Adapter(
    videos=_videos,
    annotations=_annotations,
    text_kind="narration",
    licence="unknown",
    terms="Not told: pass --ingest.licence.",
    how_to_get="Any folder with videos in it, or in folders below it.",
)
