"""What the report counts by columns is what a loop over the rows counts, order and sample too."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.stages.caption.rows import CaptionRow
from handloom.stages.caption.stage import instruction
from handloom.stages.pack.stage import kept_clips
from handloom.stages.report.captions import EXAMPLES_SHOWN, PAIRS_SHOWN, tally
from handloom.stages.report.gallery import SHOWN, End, Gallery, gather, gather_some
from handloom.stages.report.sample import Sample
from handloom.stages.report.scores import nearest
from handloom.stages.report.words import verb_and_noun
from handloom.stages.select import Select
from handloom.stages.tables.outcomes import outcomes
from handloom.stages.tables.parts import Tables
from handloom.stages.tables.rows import Clip, Row
from tests.helpers.random_tables import BUCKETS, random_run

SEEDS = range(4)


def came(tables: Tables, stage: str, bucket: str) -> set[str]:
    """Ids of the clips that came to a stage and have a row there."""
    found = outcomes(tables, bucket, {})
    return set(np.asarray(found.clip_ids)[found.stages[stage].came])


@pytest.mark.parametrize("seed", SEEDS)
def test_clips_words_and_hours_are_counted(tmp_path: Path, seed: int) -> None:
    tables, lengths = random_run(tmp_path, seed, clips=200), list[float]()
    verbs, nouns = (Counter[str](), Counter[str]()), (Counter[str](), Counter[str]())
    kept = Sample[Clip](SHOWN)
    found = gather(tables)
    for bucket in BUCKETS:
        clips = {clip.clip_id: clip for clip in tables["ingest"].read(Clip, bucket)}
        kept_here = kept_clips(tables, bucket)
        entered = [clip for clip in clips.values() if clip.status == "ok"]
        for selected, some in enumerate((entered, kept_here)):
            for clip in some:
                verb, noun = verb_and_noun(instruction(clip.text, clip.text_kind))
                verbs[selected].update([verb] if verb else [])
                nouns[selected].update([noun] if noun else [])
        for clip in kept_here:
            kept.add(clip.clip_id, clip)
            lengths.append(clip.end_s - clip.start_s)
    for words, expected in ((found.words.verbs, verbs), (found.words.nouns, nouns)):
        assert words[0].most_common() == expected[0].most_common()
        assert +words[1] == expected[1]
    assert float(found.seconds) == math.fsum(lengths)
    assert (found.kept.total, found.kept.values()) == (kept.total, kept.values())
    assert found.splits.total() == found.licences.total() == kept.total > SHOWN


@pytest.mark.parametrize("seed", SEEDS)
def test_clips_that_were_not_kept_are_drawn_by_reason(tmp_path: Path, seed: int) -> None:
    tables, expected = random_run(tmp_path, seed, clips=200), dict[End, Sample[tuple[str, str]]]()
    for bucket in BUCKETS:
        for name, table in tables.items():
            here = came(tables, name, bucket)
            for row in {row.clip_id: row for row in table.read(Row, bucket)}.values():
                if row.clip_id in here and row.status != "ok":
                    sample = expected.setdefault(End(row.status, name, row.reason), Sample(SHOWN))
                    sample.add(row.clip_id, (row.clip_id, row.error))
    found = gather(tables)
    assert found.ended.keys() == expected.keys()
    for end, sample in found.ended.items():
        shown = [(one.clip.clip_id, one.error) for one in sample.values()]
        assert (sample.total, shown) == (expected[end].total, expected[end].values())
    assert found.funnel.stages["ingest"].entered == 200 * len(BUCKETS)


@pytest.mark.parametrize("seed", SEEDS)
def test_captions_are_counted(tmp_path: Path, seed: int) -> None:
    tables = random_run(tmp_path, seed, clips=200)
    rows = [
        (bucket, row)
        for bucket in BUCKETS
        for here in [came(tables, "caption", bucket)]
        for row in tables["caption"].read(CaptionRow, bucket)
        if row.clip_id in here
    ]
    found, every = tally(tables), [row for _, row in rows]
    assert found.flags == Counter(flag for row in every for flag in row.flags)
    assert found.answer_flags == Counter(
        flag for row in every for answer in row.answer_flags for flag in answer.split()
    )
    sources = Counter(row.source for row in every if row.status == "ok")
    reasons = Counter(row.reason or row.status for row in every if row.status != "ok")
    assert found.sources.most_common() == sources.most_common()
    assert found.reasons.most_common() == reasons.most_common()
    asked = [row for row in every if row.answer_flags]
    assert (found.asked, found.requests) == (len(asked), sum(len(r.answer_flags) for r in asked))
    assert found.fell_back == sum(row.source == "source" for row in asked)
    assert found.prompt_tokens == sum(row.prompt_tokens for row in every)
    assert found.completion_tokens == sum(row.completion_tokens for row in every)
    assert float(found.answer_s) == math.fsum(row.seconds for row in every)
    agreements = [row.agreement for row in every if row.agreement is not None]
    assert np.concatenate(found.agreements).tolist() == agreements
    shown = {row.clip_id: bucket for bucket, row in rows if row.status == "ok"}
    assert found.shown == {i: shown[i] for i in sorted(shown)[:PAIRS_SHOWN]}
    for flag, examples in found.examples.items():
        of_flag = {
            r.clip_id: b for b, r in rows if flag in " ".join(r.flags + r.answer_flags).split()
        }
        assert examples == {i: of_flag[i] for i in sorted(of_flag)[:EXAMPLES_SHOWN]}
    assert found.examples.keys() == {*found.flags, *found.answer_flags}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_merge_of_buckets_is_all_of_them(tmp_path: Path, seed: int) -> None:
    tables, select = random_run(tmp_path, seed, clips=200), Select()
    whole, merged = gather(tables, select), Gallery.of(tables, select)
    for bucket in BUCKETS:
        merged.merge(gather_some(tables, select, [bucket]))
    assert counted(merged) == counted(whole)


def test_a_bucket_of_which_nothing_came_to_select(tmp_path: Path) -> None:
    tables, select = random_run(tmp_path, SEEDS[0]), Select()
    for name in list(tables)[1:]:
        for path in tables[name].parts(BUCKETS[1]):
            path.unlink()
    found = gather(tables, select)
    assert found.funnel.stages["select"].entered == sum(
        len(came(tables, "select", bucket)) for bucket in (BUCKETS[0], BUCKETS[2])
    )
    assert sum(one.counts.sum() for one in found.scores) > 0


def counted(found: Gallery) -> list[Any]:
    """All that a gallery holds; equal sums of floats need not have come in one order."""
    thresholds = found.thresholds.found if found.thresholds else []
    steps = [(one.option, s.value, s.clips) for one in thresholds for s in one.steps]
    seconds = [pytest.approx(s.seconds) for one in thresholds for s in one.steps]
    scores = [(one.counts.tolist(), one.passed, one.failed) for one in found.scores]
    ended = [(end, one.total, one.values()) for end, one in found.ended.items()]
    words = [one.most_common() for one in (*found.words.verbs, *found.words.nouns)]
    tally, agreements = found.captions, np.concatenate(found.captions.agreements).tolist()
    kept = found.kept.total, found.kept.values(), found.seconds, found.licences, found.splits
    plain = replace(tally, agreements=[])
    return [found.funnel, steps, seconds, scores, ended, words, plain, agreements, kept]


@pytest.mark.parametrize("most", [1, 4, 16])
def test_the_nearest_are_the_first_of_a_stable_sort(most: int) -> None:
    rng = np.random.default_rng(most)
    for _ in range(200):
        values = rng.choice([0.0, 0.1, 0.2, 0.5, np.nan], int(rng.integers(0, 40)))
        expected = np.argsort(values, kind="stable")[:most]
        assert nearest(values, most).tolist() == expected.tolist()
