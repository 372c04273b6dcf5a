"""Spans of the same seconds are one clip, and none of their texts is lost."""

from dataclasses import replace
from pathlib import Path

import pytest

from handloom.errors import UserError
from handloom.pipeline.batches import refuse_repeated, remaining
from handloom.pipeline.job import Job
from handloom.pipeline.recipes import RECIPES
from handloom.pipeline.worker import work
from handloom.stages.datasets.source import Span
from handloom.stages.ingest.spans import once_each
from handloom.stages.tables.rows import Clip
from tests.helpers.miniatures import Written, writer


def times(span: Span) -> tuple[float, float]:
    return span.start_s, span.end_s


def test_what_differs_stays_as_it_is() -> None:
    spans = (Span(0, 2, "a"), Span(0, 3, "a"), Span(2, 3, "b"))
    assert once_each(spans, times) == spans


def test_further_texts_are_kept_once() -> None:
    spans = (Span(0, 2, "a", ("c",)), Span(5, 6, "x"), Span(0, 2, "b"), Span(0, 2, "a"))
    assert once_each(spans, times) == (Span(0, 2, "a", ("c", "b")), Span(5, 6, "x"))


def test_the_one_that_can_become_a_clip_stays() -> None:
    spans = (Span(0, 2, "a", reason="unsure"), Span(0, 2, "b"))
    assert once_each(spans, times) == (Span(0, 2, "b", ("a",)),)


def test_the_one_with_a_text_stays() -> None:
    assert once_each((Span(0, 2, "a"), Span(0, 2, "")), times) == (Span(0, 2, "a"),)
    assert once_each((Span(0, 2, ""), Span(0, 2, "a")), times) == (Span(0, 2, "a"),)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return writer(tmp_path_factory)


def ingested(job: Job, repeat_videos: bool) -> list[Clip]:
    """Rows of `ingest` where every span is listed twice, and if wanted every video."""
    stage = job.stages["ingest"]

    def doubled(video):  # type: ignore[no-untyped-def]
        again = [replace(s, text=s.text and f"{s.text}, told again") for s in video.spans]
        return replace(video, spans=(*video.spans, *again))

    object.__setattr__(stage, "only", doubled)
    for batch in remaining(job, "ingest"):
        work(stage, job.tables["ingest"], batch, {})
        if repeat_videos:
            work(stage, job.tables["ingest"], replace(batch, keys=(*batch.keys, "again")), {})
    return sorted(job.tables["ingest"].read(Clip), key=lambda clip: clip.clip_id)


def job_at(data: Path, out: Path) -> Job:
    return Job("epic_kitchens", data, out, RECIPES["epic_kitchens"]())


def test_a_dataset_that_tells_every_span_twice_has_each_clip_once(
    data: Written, tmp_path: Path
) -> None:
    once = job_at(data("epic_kitchens"), tmp_path / "once")
    for batch in remaining(once, "ingest"):
        work(once.stages["ingest"], once.tables["ingest"], batch, {})
    before = sorted(once.tables["ingest"].read(Clip), key=lambda clip: clip.clip_id)
    twice = job_at(data("epic_kitchens"), tmp_path / "twice")
    after = ingested(twice, repeat_videos=False)
    refuse_repeated(twice)
    assert [clip.clip_id for clip in after] == [clip.clip_id for clip in before]
    assert [clip.text for clip in after] == [clip.text for clip in before]
    with_text = [clip for clip in after if clip.text]
    assert with_text
    for clip in with_text:
        assert f"{clip.text}, told again" in clip.other_texts


def test_a_video_that_is_listed_twice_is_refused(data: Written, tmp_path: Path) -> None:
    job = job_at(data("epic_kitchens"), tmp_path / "out")
    ingested(job, repeat_videos=True)
    with pytest.raises(UserError, match=r"ingest has clip \w+ of video '\S+' 2 times: the adapter"):
        refuse_repeated(job)
