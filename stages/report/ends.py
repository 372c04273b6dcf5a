"""The report's sections on clips that were not kept: random ones of each reason, with scores."""

import html
import typing
from collections.abc import Iterator, Mapping

from handloom import svg
from handloom.stages.report.gallery import End, Ended
from handloom.stages.report.pictures import Pictures
from handloom.stages.report.sample import Sample
from handloom.stages.report.scores import limit_of, score
from handloom.stages.select import Select
from handloom.stages.stage import Stage
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Clip


def sections(
    pictures: Pictures, stages: Mapping[str, Stage], ends: list[tuple[End, Sample[Ended]]]
) -> Iterator[svg.Section]:
    """HTML of each reason, with an anchor.

    Args:
        pictures: makes the cards.
        stages: the run's stages, which know their scores and thresholds.
        ends: what `Gallery.ends` gives.
    """
    for end, clips in ends:
        stage = stages.get(end.stage)
        cards = [
            pictures.uncut_card(one.clip, _note(pictures, stage, end, one), named=True)
            for one in clips.values()
        ]
        is_rejection = end.status == "rejected"
        title = f"Rejected: {end.reason} ({end.stage})" if is_rejection else f"Failed: {end.stage}"
        reason = end.reason if is_rejection else "failed"
        yield svg.section(
            f"{end.stage}-{reason}",
            f"{reason if is_rejection else f'failed: {end.stage}'} ({clips.total:,})",
            f"<h2>{html.escape(title)}</h2><p>{how_many(len(cards), clips.total)}</p>"
            f"<div class=cards>{''.join(cards)}</div>",
        )


def how_many(shown: int, total: int) -> str:
    """Which part of some clips is shown."""
    if shown == total:
        return f"All {total:,} clips." if total != 1 else "One clip."
    return f"{shown:,} of {total:,} clips, drawn at random."


def _note(pictures: Pictures, stage: Stage | None, end: End, one: Ended) -> str:
    parts = [_scores(pictures.tables[end.stage], stage, end, one.clip), one.error]
    return " · ".join(part for part in parts if part)


def _scores(table: Table, stage: Stage | None, end: End, clip: Clip) -> str:
    """The score that a clip was rejected for, with its limit; of other filters all numbers."""
    if stage is None or end.status != "rejected":
        return ""
    if isinstance(stage, Select):
        found = (one for one in stage.criteria() if one.reason == end.reason)
        criterion = next(found, None)
        if criterion is None:  # thresholds have been moved since
            return ""
        value = score(table, clip.bucket, clip.clip_id, criterion.score)
        return f"{criterion.score} {value:.3f}, kept with {limit_of(criterion)}"
    hints = typing.get_type_hints(stage.row_type).items()
    names = [name for name, hint in hints if hint is float and name not in Clip.__annotations__]
    return ", ".join(f"{n} {score(table, clip.bucket, clip.clip_id, n):.3g}" for n in names)
