"""Select: decide from stored numbers which clips are kept. Nothing is decoded here.

Every score is stored beside the decision, so that thresholds can be judged (`handloom report`) and
moved at no cost. A threshold of `None` switches its criterion off.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import tyro

from handloom.places import place
from handloom.stages.hands.rows import CONFIDENT
from handloom.stages.overrides import KEEP, MARKS, Overrides, read_marks
from handloom.stages.stage import TableStage
from handloom.stages.tables.columns import (
    Floats,
    Frames,
    bucket_groups,
    by_bucket,
    matched,
    numbered,
    rank_within,
)
from handloom.stages.tables.outcomes import passed
from handloom.stages.tables.parts import Tables, listed
from handloom.stages.tables.reading import columns_of
from handloom.stages.tables.rows import Row

Bools = npt.NDArray[np.bool_]
Verdicts = npt.NDArray[np.int8]

HAND_COLUMNS = (
    "clip_id", "status", "times_s", "detector_ran", "confidence", "brightness", "contrast",
    "sharpness", "flat_share", "change", "bar_share", "stereo_score", "shot_start_s", "shot_end_s",
)  # fmt: skip
GROUP_BYTES = 16 << 20  # of the hands table: some ten thousand clips, which fit into caches
CLIP_COLUMNS = ("clip_id", "bucket", "video_id", "text", "start_s", "end_s")
DUPLICATE_COLUMNS = ("clip_id", "similarity", "leak_similarity")


@dataclass(frozen=True, kw_only=True)
class SelectRow(Row):
    """A row of the `select` table: the decision and the numbers it was made from.

    Shares are of the sampled frames of the clip's longest shot, 0 to 1.
    """

    hand_share: float
    """Share of frames with a hand, among those that were searched for hands."""
    searched_frames: int
    """Frames that were searched for hands. A search ends early once a quarter of all frames shows
    one: `hand_share` is then that of the frames searched."""
    lone_hand: float
    """1 where a single one of four or more searched frames shows a hand, and that in a single
    search, else 0."""
    dark_share: float
    """Share of frames too dark to show anything."""
    blank_share: float
    """Share of frames of one flat colour."""
    flat_share: float
    """Share of frames of which most has one and the same luma: slides and title cards."""
    sharpness: float
    """Sharpness of the sharpest frame, 0 to 1."""
    change: float
    """Largest change of any part of the picture, 0 to 1."""
    bar_share: float
    """Share of the picture that is black bars."""
    stereo_score: float
    """Likeness of the picture's halves, high for one picture per eye, 0 to 1."""
    shot_share: float
    """Share of the clip that is its longest shot."""
    similarity: float
    """Similarity to the most similar clip that is kept instead, 0 to 1."""
    leak_similarity: float
    """Similarity of a clip of train to the most similar one held out, 0 to 1."""
    repeats: float
    """Clips of the same video with the same text that come before this one."""


@dataclass(frozen=True)
class Criterion:
    """A limit of a score; one of `at_least` and `at_most` is given, or none to switch it off."""

    reason: str
    """Reason of the clips that it rejects."""
    score: str
    """Column of the select table."""
    meaning: str
    """Description of the score, for the report."""
    at_least: float | None = None
    at_most: float | None = None

    def fails(self, scores: Floats) -> Bools:
        """Mask of the scores beyond the limit."""
        fails = np.zeros(len(scores), bool)
        if self.at_least is not None:
            fails |= scores < self.at_least
        if self.at_most is not None:
            fails |= scores > self.at_most
        return fails


@dataclass(frozen=True)
class Select(TableStage):
    """Options of `select`."""

    name: ClassVar[str] = "select"
    row_type: ClassVar[type[Row]] = SelectRow
    code_version: ClassVar[int] = 3
    reads: ClassVar[dict[str, type[Row]]] = {"hands": Row, "duplicates": Row}
    filters: ClassVar[bool] = True
    foresees: ClassVar[str] = "hands"

    min_hand_share: float | None = 0.1
    """Reject a clip when a smaller share of its searched frames shows a hand, 0 to 1."""
    min_confidence: Annotated[float, tyro.conf.arg(aliases=["--select.min-trust"])] = field(
        default=CONFIDENT, metadata={"formerly": "min_trust"}
    )
    """Hands of a lower confidence are ignored, 0 to 1."""
    lone_hand: bool = False
    """Keep a clip that shows a hand in one frame alone, of four or more, in a single search of it:
    mostly something else."""
    dark_below: float = 0.04
    """A frame with a lower mean luma is dark, 0 to 1."""
    max_dark_share: float | None = 0.5
    """Reject a clip when a larger share of its frames is dark, 0 to 1."""
    blank_below: float = 0.03
    """A frame with a smaller range of luma is one flat colour: redacted, or a failed camera; 0 to
    1."""
    max_blank_share: float | None = 0.5
    """Reject a clip when a larger share of its frames is blank, 0 to 1."""
    flat_from: float = 0.8
    """A frame of which at least this share has one luma is a slide or a title card, 0 to 1."""
    max_flat_share: float | None = 0.5
    """Reject a clip when a larger share of its frames is slides or title cards, 0 to 1."""
    min_sharpness: float | None = 0.4
    """Reject a clip whose sharpest frame is less sharp, 0 to 1."""
    min_change: float | None = 0.05
    """Reject a clip whose largest change is smaller, 0 to 1: stills and frozen streams."""
    max_bar_share: float | None = 0.5
    """Reject a clip with a larger share of black bars, 0 to 1; smaller bars are cut off."""
    max_stereo: float | None = 0.45
    """Reject a clip whose halves are more alike, 0 to 1: one picture for each eye."""
    min_shot_share: float | None = 0.5
    """Reject a clip whose longest shot is a smaller share of it, 0 to 1; others are cut to that
    shot. Shots are detected where `hands.shots` is set."""
    max_similarity: float | None = 0.5
    """Reject a clip that is more similar to a better one, a near-duplicate, 0 to 1. A clip of train
    as similar to one of val is rejected as a leak."""
    max_repeats: int | None = None
    """Keep at most so many clips of one video with the same text."""
    overrides: Path | None = None
    """CSV or Parquet of marks (clip_id, mark, note), as `handloom view` writes it: clips marked
    keep are kept, those marked drop or wrong_caption rejected, whatever their scores."""

    def settings(self) -> dict[str, Any]:
        """The options; marks count by what they say, not by their path or notes."""
        settings = super().settings()
        del settings["overrides"]  # absent without them, as in runs before there were any
        return settings | ({"overrides": self.marks.digest} if self.marks else {})

    @cached_property
    def marks(self) -> Overrides | None:
        """The marks of `overrides`, read when first asked for: before the stage is sent away.

        Raises:
            UserError: the file cannot be used.
        """
        return Overrides.of(read_marks(place(self.overrides))) if self.overrides else None

    def rows(self, tables: Tables) -> Iterator[tuple[str, pa.Table]]:
        """Decide on all clips, some buckets at a time."""
        tables = listed(tables)
        for buckets in self.pieces(tables):
            yield from self.piece(tables, buckets)

    def pieces(self, tables: Tables) -> list[list[str]]:
        """All buckets, in groups that fit into caches.

        Raises:
            UserError: a mark of a clip that the run does not hold.
        """
        if self.marks:
            self.marks.check(tables["ingest"])
        return list(bucket_groups(tables["hands"], GROUP_BYTES))

    def piece(self, tables: Tables, buckets: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        """Decide on the clips of some buckets."""
        hands = passed(tables, "hands", buckets, HAND_COLUMNS)
        clips = matched(hands, tables["ingest"].columns(CLIP_COLUMNS, buckets))
        duplicates = matched(hands, tables["duplicates"].columns(DUPLICATE_COLUMNS, buckets))
        yield from by_bucket(self.decide(hands, clips, duplicates), clips["bucket"])

    def foresee(self, tables: Tables, bucket: str, parts: Sequence[Path]) -> set[str]:
        """Ids of the clips that pass by their own scores: as if nothing were like them."""
        alone = replace(self, max_repeats=None)
        vars(alone)["marks"] = self.marks  # the file may lie on the machine that started the run
        passing: set[str] = set()
        clips = tables["ingest"].columns(CLIP_COLUMNS, [bucket])
        for path in parts:
            hands = columns_of(path, HAND_COLUMNS)
            hands = hands.filter(pc.equal(hands["status"], "ok"))
            hands = hands.filter(pc.is_in(hands["clip_id"], value_set=clips["clip_id"]))
            unlike = dict.fromkeys(DUPLICATE_COLUMNS[1:], np.zeros(hands.num_rows))
            duplicates = pa.table({"clip_id": hands["clip_id"]} | unlike)
            decided = alone.decide(hands, matched(hands, clips), duplicates)
            passing.update(decided.filter(pc.equal(decided["status"], "ok"))["clip_id"].to_pylist())
        return passing

    def decide(self, hands: pa.Table, clips: pa.Table, duplicates: pa.Table) -> pa.Table:
        """The select table's rows.

        Args:
            hands: HAND_COLUMNS of clips, of whole videos.
            clips: CLIP_COLUMNS of the same clips, in the same order.
            duplicates: DUPLICATE_COLUMNS of the same clips, in the same order.
        """
        scores = self.scores(hands, clips, duplicates)
        marked = self.marks.of_clips(clips["clip_id"]) if self.marks else None
        verdict, scores["repeats"] = self.judge(scores, marked, partial(repeats, clips))
        status = pa.array(["ok", "rejected"]).take(pa.array(self.rejects(verdict).astype(np.int8)))
        reason = pa.array(self.reasons()).take(pa.array(verdict))
        columns = {name: pa.array(values) for name, values in scores.items()}
        decision = {"clip_id": hands["clip_id"], "status": status, "reason": reason}
        return pa.table(decision | columns)

    def judge(
        self,
        scores: Mapping[str, npt.NDArray[Any]],
        marked: pa.Array | None,
        repeated: Callable[[Bools], Floats],
    ) -> tuple[Verdicts, Floats]:
        """Verdicts by scores and marks; `handloom view` tries other options by it.

        Args:
            scores: by name, [clips], as `scores` gives them.
            marked: mark of each clip, empty or null without one; None where there are no marks.
            repeated: the score `repeats` among some of the clips, given as a mask of all.

        Returns:
            The place of each clip's reason in `reasons`, int8 [clips], and the score `repeats`.
        """
        count, criteria = len(scores["hand_share"]), self.criteria()
        is_marked, is_kept, reason = np.zeros((3, count), np.int8)
        if marked is not None:
            code = pc.fill_null(pc.index_in(marked, value_set=pa.array(list(MARKS))), -1).to_numpy()
            is_marked, is_kept = code >= 0, code == list(MARKS).index(KEEP)
            reason = (len(criteria) + 1 + code).astype(np.int8)
        counted, verdict = np.zeros(count), np.zeros(count, np.int8)
        for number, criterion in enumerate(criteria, 1):  # the first one failed; 0 for none
            score = scores[criterion.score]
            if criterion.score == "repeats":  # counted among the clips that are kept so far
                score = counted = repeated(np.where(is_marked, is_kept, verdict == 0).astype(bool))
            verdict[(verdict == 0) & criterion.fails(score)] = number
        return np.where(is_marked, reason, verdict), counted

    def reasons(self) -> list[str]:
        """Reasons by their number in a verdict: none, those of the criteria, those of marks."""
        return ["", *(one.reason for one in self.criteria()), *MARKS.values()]

    def rejects(self, verdict: Verdicts) -> Bools:
        """Whether a verdict rejects its clip, bool [clips]."""
        kept = len(self.criteria()) + 1 + list(MARKS).index(KEEP)
        return np.asarray((verdict != 0) & (verdict != kept))

    def criteria(self) -> list[Criterion]:
        """All criteria, in the order in which reasons are given."""
        lone, flat, bars = None if self.lone_hand else 0.5, self.max_flat_share, self.max_bar_share
        repeats = None if self.max_repeats is None else self.max_repeats - 1
        limits = (  # reason, score, meaning, at least, at most
            ("dark", "dark_share", "frames that are too dark", None, self.max_dark_share),
            ("blank", "blank_share", "frames of one flat colour", None, self.max_blank_share),
            ("stereo", "stereo_score", "likeness of the halves", None, self.max_stereo),
            ("too_little_picture", "bar_share", "black bars of the frame", None, bars),
            ("title_card", "flat_share", "frames that are slides or titles", None, flat),
            ("still", "change", "largest change", self.min_change, None),
            ("shot_change", "shot_share", "the longest shot", self.min_shot_share, None),
            ("blurred", "sharpness", "sharpness of the sharpest frame", self.min_sharpness, None),
            ("no_hands", "hand_share", "frames with a hand", self.min_hand_share, None),
            ("lone_hand", "lone_hand", "a hand in one frame alone", None, lone),
            ("leak", "leak_similarity", "to a held-out clip", None, self.max_similarity),
            ("duplicate", "similarity", "to a better clip", None, self.max_similarity),
            ("repeat", "repeats", "same text before it", None, repeats),
        )  # fmt: skip
        return [Criterion(*limit) for limit in limits]

    def scores(
        self, hands: pa.Table, clips: pa.Table, duplicates: pa.Table
    ) -> dict[str, npt.NDArray[Any]]:
        """Columns of `SelectRow`, [clips]; frames outside the clip's shot do not count."""
        frames = Frames(hands)
        start_s, end_s = (hands[name].to_numpy() for name in ("shot_start_s", "shot_end_s"))
        time_s, clip = frames.column("times_s"), frames.clip
        shown = (time_s >= start_s[clip]) & (time_s <= end_s[clip])
        searched = shown & (frames.column("detector_ran") > 0)
        dark = frames.column("brightness") < self.dark_below
        length_s = clips["end_s"].to_numpy() - clips["start_s"].to_numpy()
        hand = frames.column("confidence") >= self.min_confidence
        sure = frames.column("confidence") >= 1.0  # several frames or searches show it
        alone = (frames.count(searched & hand) == 1) & (frames.count(searched & sure) == 0)
        alone &= frames.count(searched) >= 4
        return {
            "hand_share": frames.share(hand, searched),
            "searched_frames": frames.count(searched).astype(np.int64),
            "lone_hand": alone.astype(np.float64),
            "dark_share": frames.share(dark, shown),
            "blank_share": frames.share(frames.column("contrast") < self.blank_below, shown),
            "flat_share": frames.share(frames.column("flat_share") >= self.flat_from, shown),
            "sharpness": frames.largest(frames.column("sharpness"), shown),
            "shot_share": np.minimum((end_s - start_s) / np.maximum(length_s, 1e-3), 1.0),
            **{name: hands[name].to_numpy() for name in ("change", "bar_share", "stereo_score")},
            **{name: duplicates[name].to_numpy() for name in DUPLICATE_COLUMNS[1:]},
            "repeats": np.zeros(hands.num_rows),
        }


def repeats(clips: pa.Table, counts: Bools) -> Floats:
    """Number of clips before each clip that have its video and its text.

    The order is that of the ids, which are hashes: a fair sample of the video. Clips that do not
    count come last.
    """
    text = numbered(pc.utf8_lower(pc.utf8_trim_whitespace(clips["text"])))
    group = text * clips.num_rows + numbered(clips["video_id"])
    some = group[counts]
    some.sort()
    rows = np.flatnonzero(counts & np.isin(group, some[1:][some[1:] == some[:-1]]))  # few
    order = numbered(clips["clip_id"].take(pa.array(rows)), ascending=True)
    found = np.zeros(clips.num_rows)
    found[rows] = rank_within([group[rows]], order)
    return found
