"""Ingest of whole datasets, without Ray: nothing is lost, nothing is read twice, ids are stable."""

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from handloom.errors import UserError
from handloom.pipeline.batches import forget_failed, readmit_missing, reject_duplicates, remaining
from handloom.pipeline.job import Job
from handloom.pipeline.recipes import RECIPES
from handloom.pipeline.worker import work
from handloom.stages.ingest import card
from handloom.stages.pack.stage import check_licences
from handloom.stages.tables.rows import Clip, EpisodeClip
from tests.helpers.miniatures import Written, marked, writer

DATASETS = ("ssv2", "kinetics700", "epic_kitchens", "howto100m", "rt1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return writer(tmp_path_factory)


def job_for(name: str, data: Path, out: Path, **options: Any) -> Job:
    config = RECIPES[name]()
    return Job(name, data, out, replace(config, ingest=replace(config.ingest, **options)))  # type: ignore[type-var, arg-type]


def ingest(job: Job, again: bool = False) -> list[Clip]:
    """What the stage's task does, in this process; returns the table's rows."""
    table, stage = job.tables["ingest"], job.stages["ingest"]
    table.clear_stale()
    attempts = forget_failed(job, "ingest") if again else {}
    readmit_missing(job)
    for batch in remaining(job, "ingest"):
        work(stage, table, batch, attempts)
    reject_duplicates(job)
    return sorted(table.read(Clip), key=lambda clip: clip.clip_id)


def statuses(clips: list[Clip]) -> Counter[str]:
    return Counter(clip.reason or clip.status for clip in clips)


@pytest.mark.parametrize("name", marked(DATASETS))
def test_every_source_comes_out_and_a_second_run_adds_nothing(
    name: str, data: Written, tmp_path: Path
) -> None:
    job = job_for(name, data(name), tmp_path / "out")
    clips = ingest(job)
    units = {source.unit for source in job.stages["ingest"].sources()}  # type: ignore[attr-defined]
    assert {clip.unit for clip in clips} == units
    assert len({clip.clip_id for clip in clips}) == len(clips)
    found = statuses(clips)
    assert found["ok"] >= 3
    assert found["failed"] >= (name != "ssv2")  # SSv2's damaged file opens and ends early
    parts = job.tables["ingest"].parts()
    assert ingest(job) == clips
    assert job.tables["ingest"].parts() == parts


def test_a_changed_setting_opens_no_file_again(data: Written, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data("kinetics700"), tmp_path / "data"))
    out = tmp_path / "out"
    before = statuses(ingest(job_for("kinetics700", copy, out)))
    for path in copy.rglob("*.mp4"):  # whoever opens one now finds nothing
        stat = path.stat()
        path.write_bytes(b"\0" * stat.st_size)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert statuses(ingest(job_for("kinetics700", copy, out, min_seconds=0.5))) == before
    touched = next(p for p in sorted(copy.rglob("train/*.mp4")) if p.stat().st_size)
    os.utime(touched)
    after = statuses(ingest(job_for("kinetics700", copy, out, min_seconds=0.6)))
    assert after["failed"] == before["failed"] + 1


def test_a_repaired_file_is_read_when_failures_are_tried_again(
    data: Written, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(data("kinetics700"), tmp_path / "data"))
    job = job_for("kinetics700", copy, tmp_path / "out")
    clips = ingest(job)
    broken = next(c for c in clips if c.status == "failed")
    good = next(c for c in clips if c.status == "ok")
    shutil.copy(copy / good.media_path, copy / broken.media_path)
    assert ingest(job) == clips
    repaired = {c.clip_id: c for c in ingest(job, again=True)}[broken.clip_id]
    assert (repaired.status, repaired.attempts) == ("ok", 2)


def test_links_out_of_the_folder_fail_by_name(data: Written, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data("kinetics700"), tmp_path / "data"))
    victim = next(p for p in sorted(copy.rglob("train/*.mp4")) if p.stat().st_size)
    shutil.move(victim, tmp_path / "outside.mp4")
    victim.symlink_to(tmp_path / "outside.mp4")
    errors = [c.error for c in ingest(job_for("kinetics700", copy, tmp_path / "out"))]
    assert any(f"{victim.name} leads out of the data folder" in error for error in errors)
    own = job_for("kinetics700", copy, tmp_path / "own", follow_links=True)
    assert not any("leads out" in clip.error for clip in ingest(own))


def test_episodes_keep_their_ids_when_shards_are_shuffled(data: Written, tmp_path: Path) -> None:
    whole = ingest(job_for("rt1", data("rt1"), tmp_path / "a"))
    copy = Path(shutil.copytree(data("rt1"), tmp_path / "data"))
    shards = sorted(copy.rglob("*.tfrecord*"))
    for path, number in zip(shards, (900, 3, 17), strict=False):
        path.rename(path.with_name(path.name.replace(path.name[-14:-9], f"{number:05d}")))
    shuffled = ingest(job_for("rt1", copy, tmp_path / "b"))
    kept = {c.clip_id: c.text for c in whole if c.status == "ok"}
    assert kept == {c.clip_id: c.text for c in shuffled if c.status == "ok"}
    assert {c.split for c in whole if c.status == "ok"} <= {"train", "val"}


def test_the_same_episode_in_two_shards_counts_once(data: Written, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data("rt1"), tmp_path / "data"))
    job = job_for("rt1", copy, tmp_path / "out")
    once = statuses(ingest(job))
    shard = sorted(copy.rglob("*.tfrecord*"))[0]
    shutil.copy(shard, shard.with_name(shard.name.replace("-00000-", "-00999-")))
    twice = statuses(ingest(job))
    assert twice["ok"] == once["ok"]
    assert twice["duplicate"] > once["duplicate"]
    assert statuses(ingest(job)) == twice


def test_a_truncated_shard_costs_its_last_record(data: Written, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data("rt1"), tmp_path / "data"))
    shard = sorted(copy.rglob("*.tfrecord*"))[0]
    before = ingest(job_for("rt1", copy, tmp_path / "a"))
    whole = shard.read_bytes()
    os.truncate(shard, len(whole) - 100)
    job = job_for("rt1", copy, tmp_path / "b")
    clips = ingest(job)
    assert statuses(clips)["failed"] == statuses(before)["failed"] + 1
    assert any("breaks off inside record" in clip.error for clip in clips)
    shard.write_bytes(whole)
    repaired = {c.clip_id for c in ingest(job, again=True) if c.status == "ok"}
    assert repaired == {c.clip_id for c in before if c.status == "ok"}


def test_the_card_counts_what_the_table_holds(data: Written, tmp_path: Path) -> None:
    job = job_for("kinetics700", data("kinetics700"), tmp_path / "out")
    clips = ingest(job)
    card.write(job.tables["ingest"], job.config.ingest, job.cache)
    told = json.loads((tmp_path / "out/tables/ingest/card.json").read_text())
    assert told["units"]["annotated"] == len({clip.unit for clip in clips})
    assert told["units"]["missing"] == len({c.unit for c in clips if not c.media_path})
    assert sum(sum(split.values()) for split in told["rows"].values()) == len(clips)
    hours = sum(c.end_s - c.start_s for c in clips if c.status == "ok") / 3600
    assert sum(told["usable_hours"].values()) == pytest.approx(hours, abs=1e-3)
    assert told["licences"] == {"annotations-cc-by-4.0_video-youtube-terms": len(clips)}
    assert told["terms"]


def test_trajectories_travel_with_their_episodes(data: Written, tmp_path: Path) -> None:
    job = job_for("rt1", data("rt1"), tmp_path / "out")
    ingest(job)
    for clip in job.tables["ingest"].read(EpisodeClip):
        if clip.status == "ok":
            assert len(clip.state) == len(clip.action) == clip.steps
            assert {len(row) for row in clip.state + clip.action} == {7}
            assert clip.end_s == pytest.approx(clip.steps / 3)
            assert clip.views == ["image"]


@pytest.mark.parametrize(
    ("found", "allowed", "refused"),
    [
        (["a"], (), False), (["a", "b"], (), True), (["a", "b"], ("a", "b"), False),
        (["a"], ("b",), True), (["a", "b"], ("a",), True), ([], (), False),
    ],
)  # fmt: skip
def test_licences_are_mixed_only_when_asked(
    found: list[str], allowed: tuple[str, ...], refused: bool
) -> None:
    if refused:
        with pytest.raises(UserError, match=r"--pack\.licences"):
            check_licences(found, allowed)
    else:
        check_licences(found, allowed)
