"""Ingest of any folder of videos: files are tiled by clips, hands are in them, nothing is lost."""

import os
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.cli import main
from handloom.pipeline.batches import readmit_missing, remaining
from handloom.pipeline.job import Job
from handloom.pipeline.recipes import CurateConfig, folder
from handloom.pipeline.worker import work
from handloom.stages.caption.stage import Caption
from handloom.stages.datasets import videos
from handloom.stages.miniatures import videos as miniature
from handloom.stages.tables.rows import Clip
from tests.helpers.miniatures import once
from tests.helpers.videos import write_grey_video

NONE = Caption(route="none")
RECORDINGS = 3


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings of stretches with and without hands, and their list."""
    return once(tmp_path_factory, "videos", lambda out: miniature.write(out, clips=2 * RECORDINGS))


def job_for(data: Path, out: Path, caption: Caption = NONE, **options: Any) -> Job:
    config = folder()
    ingest = replace(config.ingest, **options)
    return Job("videos", data, out, replace(config, ingest=ingest, caption=caption))


def ingest(job: Job) -> list[Clip]:
    """What the stage's task does, in this process; returns the table's rows."""
    table, stage = job.tables["ingest"], job.stages["ingest"]
    readmit_missing(job)
    stage.setup()
    for batch in remaining(job, "ingest"):
        work(stage, table, batch, {})
    rows = list(table.read(Clip))
    assert len({row.clip_id for row in rows}) == len(rows)
    return sorted(rows, key=lambda row: (row.video_id, row.start_s))


def by_video(clips: list[Clip]) -> dict[str, list[Clip]]:
    found = defaultdict(list)
    for clip in clips:
        found[clip.video_id].append(clip)
    return found


def link_videos(source: Path, target: Path) -> Path:
    """The videos of a folder in another, without its list."""
    target.mkdir()
    for path in source.rglob("*.*"):
        if path.suffix.lower() in videos.SUFFIXES:
            os.link(path, target / path.name)
    return target


@pytest.mark.long
@pytest.mark.parametrize("cut", ["hands", "shots", "stride"])
def test_clips_tile_every_file_and_hold_its_hands(
    cut: str, recordings: Path, tmp_path: Path
) -> None:
    data = link_videos(recordings, tmp_path / "data")
    clips = by_video(ingest(job_for(data, tmp_path / "out", cut=cut)))
    assert len(clips) == RECORDINGS
    for number in range(RECORDINGS):
        recording = miniature._recording(0, number)
        edges = recording.edges_s
        found = clips[Path(recording.path).name]
        assert found[0].start_s == pytest.approx(0.0, abs=0.1)
        assert found[-1].end_s == pytest.approx(edges[-1], abs=0.15)
        assert all(a.end_s == b.start_s for a, b in pairwise(found))
        hands_s = [*np.arange(edges[0], edges[1], 0.1), *np.arange(edges[2], edges[3], 0.1)]
        kept = [one for one in found if one.status == "ok"]
        inside = [any(one.start_s <= t < one.end_s for one in kept) for t in hands_s]
        assert sum(inside) >= 0.8 * len(inside)
        if cut == "hands":
            assert max(one.end_s - one.start_s for one in kept) <= 8.0
            without_s = sum(one.end_s - one.start_s for one in found if one.reason == "no_hands")
            assert without_s >= 2.0  # of the seven between


@pytest.mark.long
def test_what_was_cut_is_not_opened_again(recordings: Path, tmp_path: Path) -> None:
    data = link_videos(recordings, tmp_path / "data")
    before = ingest(job_for(data, tmp_path / "out"))
    for path in data.iterdir():  # other bytes, the same size and time
        stat = path.stat()
        path.unlink()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = ingest(job_for(data, tmp_path / "out", val_percent=100.0))
    assert {clip.split for clip in after} == {"val"}
    assert [replace(clip, split="") for clip in after] == [replace(c, split="") for c in before]


@pytest.mark.long
def test_parts_of_a_file_tile_it(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = link_videos(recordings, tmp_path / "data")
    largest = max(path.stat().st_size for path in data.iterdir())
    smallest = min(path.stat().st_size for path in data.iterdir())
    assert largest < 2 * smallest
    monkeypatch.setattr(videos, "PART_BYTES", 1 + largest // 2)
    clips = ingest(job_for(data, tmp_path / "out"))
    assert len({clip.unit for clip in clips}) == 2 * RECORDINGS
    assert len({clip.video_id for clip in clips}) == RECORDINGS
    for found in by_video(clips).values():
        assert all(a.end_s == pytest.approx(b.start_s) for a, b in pairwise(found))
        assert len({clip.split for clip in found}) == 1


@pytest.mark.long
def test_a_file_that_breaks_off_keeps_what_can_be_read(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (whole,) = recordings.rglob("*.mkv")
    content = whole.read_bytes()
    (tmp_path / "data/cut.mkv").write_bytes(content[: len(content) // 2])
    (tmp_path / "data/empty.mp4").touch()
    (tmp_path / "data/text.mp4").write_text("no video")
    found = by_video(ingest(job_for(tmp_path / "data", tmp_path / "out")))
    assert [clip.status for clip in found["empty.mp4"]] == ["failed"]
    assert [clip.status for clip in found["text.mp4"]] == ["failed"]
    cut = found["cut.mkv"]
    assert cut[0].status == "ok"
    assert all(a.end_s == pytest.approx(b.start_s) for a, b in pairwise(cut))


@pytest.mark.long
def test_a_listed_clip_keeps_its_times_and_text(recordings: Path, tmp_path: Path) -> None:
    clips = ingest(job_for(recordings, tmp_path / "out", Caption(route="auto")))
    reasons = Counter(clip.reason for clip in clips)
    assert reasons["missing_file"] == reasons["no_text"] == 1
    second = miniature._recording(0, 1)
    listed = [c for c in clips if c.video_id == second.path and c.status == "ok"]
    starts_s = second.edges_s
    assert [(c.start_s, c.end_s) for c in listed] == [
        (starts_s[0], starts_s[1]),
        (starts_s[2], pytest.approx(starts_s[3], abs=0.15)),
    ]
    assert all(c.text.startswith("picks up") for c in listed)
    cut = [c for c in clips if c.video_id == miniature._recording(0, 0).path]
    assert len({c.text for c in cut}) == 1
    assert {tuple(c.text_flags) for c in cut} == {("text_of_whole_file",)}


def test_without_texts_no_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "data" / name).write_bytes(b"no video")
    (tmp_path / "data/clips.csv").write_text("path,text\na.mp4,\nb.mp4,wave\n")
    own = by_video(ingest(job_for(tmp_path / "data", tmp_path / "own", Caption(route="source"))))
    assert [(c.status, c.reason) for c in own["a.mp4"]] == [("rejected", "no_text")]
    assert [c.status for c in own["b.mp4"]] == ["failed"]
    kept = by_video(ingest(job_for(tmp_path / "data", tmp_path / "none")))
    assert [c.status for c in kept["a.mp4"]] == ["failed"]


def test_a_link_out_of_the_folder_is_refused_and_followed_on_request(tmp_path: Path) -> None:
    write_grey_video(tmp_path / "own.mp4", list(range(60)), fps=10)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link.mp4").symlink_to(tmp_path / "own.mp4")
    ((clip,), *_) = by_video(ingest(job_for(tmp_path / "data", tmp_path / "out"))).values()
    assert clip.status == "failed"
    assert "leads out of the data folder" in clip.error
    again = ingest(job_for(tmp_path / "data", tmp_path / "again", follow_links=True))
    assert {c.reason for c in again} == {"no_hands"}


@pytest.mark.parametrize("command", ["curate", "plan"])
def test_a_folder_without_texts_or_model_is_refused_before_anything_runs(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_grey_video(tmp_path / "data/a.mp4", [9] * 30, fps=10)
    places = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert main([command, "videos", *places]) == 2
    told = capsys.readouterr().err
    assert all(way in told for way in ("--caption.model", "--ingest.list", "--caption.route none"))
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "out/tables").exists()


def test_empty_captions_are_rows_of_their_own() -> None:
    config = folder()
    assert isinstance(config, CurateConfig)
    assert config.caption.chosen == "source"
    assert NONE.settings() != Caption(route="source").settings()
    clip = Clip(
        clip_id="a", bucket="00", video_id="v", start_s=0.0, end_s=1.0, text="", text_kind="label",
        dataset="d", version="1", split="train", licence="x", unit="v",
    )  # fmt: skip
    (row,) = NONE(clip, None)  # type: ignore[arg-type]
    assert (row.status, row.caption, row.source) == ("ok", "", "none")  # type: ignore[attr-defined]
