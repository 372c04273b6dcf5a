"""Videos in tars: read where they lie, found without a listing, damaged ones named."""

import io
import json
import os
import shutil
import tarfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom import tars
from handloom.errors import MediaError, UserError
from handloom.files import whole
from handloom.pipeline.batches import forget_failed, readmit_missing, remaining
from handloom.pipeline.job import Job
from handloom.pipeline.recipes import egocentric10k as recipe
from handloom.pipeline.worker import work
from handloom.places import trust
from handloom.stages.camera import Camera, CameraRow
from handloom.stages.caption.stage import Caption
from handloom.stages.datasets import egocentric10k as adapter
from handloom.stages.datasets.source import CutRule, SourceVideo
from handloom.stages.datasets.videos import Uncut
from handloom.stages.ingest.tars import TarIngest
from handloom.stages.media.key_frames import SmallVideo
from handloom.stages.media.video import frames_once, probe
from handloom.stages.miniatures import egocentric10k as miniature
from handloom.stages.stage import run_isolated
from handloom.stages.tables.rows import Clip
from tests.helpers.miniatures import CLIPS, writer

PLAN = miniature.plan(CLIPS["egocentric10k"], 0)
FIRST = "factory_001/workers/worker_001/factory001_worker001_part00.tar"
CUT_OFF = "factory_002/workers/worker_001/factory002_worker001_part00.tar"
ZIPPED = "factory_002/workers/worker_002/factory002_worker002_part00.tar"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writer(tmp_path_factory)("egocentric10k")


def ingest(root: Path, **options: Any) -> TarIngest:
    usual = {"dataset": "egocentric10k", "format": "egocentric10k", "cut": "stride"}
    stage = TarIngest(**{**usual, **options})
    return stage.at(root).for_captions(False)


def rows(stage: TarIngest, sources: list[SourceVideo] | None = None) -> list[Clip]:
    listed = list(stage.sources()) if sources is None else sources
    assert len({one.unit for one in listed}) == len(listed)
    found = [row for one in listed for row in run_isolated(stage, (one,))]
    assert len({row.clip_id for row in found}) == len(found)
    return [row for row in found if isinstance(row, Clip)]


def written(path: Path, files: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_pythons_tarfile_unpacks(form: int, tmp_path: Path) -> None:
    long = "é" * 60 if form != tarfile.USTAR_FORMAT else "e" * 60
    files = {"a.mp4": b"x" * 1000, f"{long}/b.mp4": b"y" * 513, "empty.json": b"", "c d.mp4": b"z"}
    tar = written(tmp_path / "t.tar", files, form)
    raw, found = tar.read_bytes(), tars.contents(tar)
    assert {m.name: raw[m.offset : m.offset + m.size] for m in found.members} == files
    assert found.error == ""


@pytest.mark.long
def test_a_member_shows_the_frames_of_the_unpacked_file(data: Path, tmp_path: Path) -> None:
    with tarfile.open(data / FIRST) as tar:
        names = [name for name in tar.getnames() if name.endswith(".mp4")]
        tar.extractall(tmp_path, filter="data")
    assert len(names) == 2
    for name in names:
        inside, outside = data / FIRST / name, tmp_path / name
        assert probe(inside) == probe(outside)
        times_s = np.array([0.0, 0.5, 3.3, 9.9])
        for a, b in zip(frames_once(inside, times_s), frames_once(outside, times_s), strict=True):
            np.testing.assert_array_equal(a, b)
        small = [SmallVideo(path, 96) for path in (inside, outside)]
        shown = [(v.keys_around(2.0, 5.0), v.frame_at(4.2).picture_hwc) for v in small]
        np.testing.assert_array_equal(shown[0][0], shown[1][0])
        np.testing.assert_array_equal(shown[0][1], shown[1][1])
        for video in small:
            video.close()


def test_wherever_a_tar_breaks_off_no_file_is_lost_in_silence(tmp_path: Path) -> None:
    files = {f"{i}.mp4": bytes([i]) * (700 * i + 1) for i in range(1, 5)}
    complete = written(tmp_path / "t.tar", files)
    raw, members = complete.read_bytes(), tars.contents(complete).members
    end = members[-1].offset + 512 * -(-members[-1].size // 512)
    for length in [*range(1, end, 173), 512, 1024, end, end + 511, end + 512]:
        cut = tmp_path / f"{length}.tar"
        cut.write_bytes(raw[:length])
        if length < members[0].offset:
            with pytest.raises(MediaError, match=rf"{length}\.tar: no uncompressed tar"):
                tars.contents(cut)
            continue
        found = tars.contents(cut)
        assert found.members == members[: len(found.members)]
        kept = [m for m in found.members if m.offset + m.size <= length]
        broken = [m for m in found.members if m not in kept]
        assert len(broken) <= 1
        assert bool(found.error) == (not broken and length < end + 512)
        for member in broken:
            with pytest.raises(MediaError, match=r"breaks off in it, with .* of its"):
                tars.source_of(cut / member.name)


def test_what_is_no_tar_is_said_in_a_sentence(tmp_path: Path) -> None:
    for name, content in {"a.tar": b"", "b.tar": b"\x1f\x8b" * 600, "c.tar": b"text"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MediaError, match=rf"{name}: no uncompressed tar .*or unpack it"):
            tars.contents(tmp_path / name)
    with pytest.raises(MediaError, match=r"t\.tar holds no such file"):
        tars.source_of(written(tmp_path / "t.tar", {"a": b"1"}) / "b.mp4")


def test_damaged_headers_are_no_errors_of_our_own(tmp_path: Path) -> None:
    """Bytes changed at random, half of the time with checksums that are right all the same."""
    files = {f"{'é' * 60}/{i}.mp4": bytes(700 * i) for i in range(4)}
    raw = written(tmp_path / "t.tar", files, tarfile.PAX_FORMAT).read_bytes()
    rng, seen = np.random.default_rng(0), set()
    for number in range(400):
        damaged = bytearray(raw)
        for place in rng.integers(len(raw), size=1 + number % 40):
            damaged[place] = rng.choice([0, 255, ord("7"), rng.integers(256)])
        for start in range(0, len(raw) - 512, 512) if number % 2 else ():
            block = damaged[start : start + 512]
            if block[257:262] == b"ustar":
                total = sum(block[:148]) + 8 * 32 + sum(block[156:])
                damaged[start + 148 : start + 156] = b"%06o\0 " % total
        path = tmp_path / f"{number}.tar"
        path.write_bytes(damaged)
        try:
            found = tars.contents(path)
        except MediaError:
            seen.add("refused")
            continue
        seen.add("broken" if found.error else "whole")
        for member in found.members:
            assert member.offset >= 512
            assert member.size >= 0
    assert seen == {"refused", "broken", "whole"}


def test_names_of_names_without_an_end_are_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("././@LongLink")
    link.type, link.size = tarfile.GNUTYPE_LONGNAME, 4
    path = tmp_path / "t.tar"
    path.write_bytes((link.tobuf(tarfile.GNU_FORMAT) + b"abc\0" + bytes(508)) * 5000)
    with pytest.raises(MediaError, match=r"t\.tar: no uncompressed tar"):
        tars.contents(path)


def test_a_changed_tar_is_read_again(tmp_path: Path) -> None:
    tar = written(tmp_path / "t.tar", {"a.mp4": b"1" * 600})
    assert [m.name for m in tars.contents(tar).members] == ["a.mp4"]
    written(tar, {"b.mp4": b"1" * 600})
    os.utime(tar, ns=(1, 1))
    assert [m.name for m in tars.contents(tar).members] == ["b.mp4"]


def test_names_lead_to_files() -> None:
    assert tars.file_of("a/b.tar/c/d.mp4") == "a/b.tar"
    assert tars.file_of("a/b.tar") == "a/b.tar"
    assert tars.file_of("a/b.mp4") == "a/b.mp4"


@pytest.mark.long
def test_every_video_is_tiled_and_what_is_missing_is_counted(data: Path) -> None:
    by_stem = defaultdict(list)
    for row in rows(ingest(data)):
        by_stem[row.media_path.rpartition("/")[2].rpartition(".")[0]].append(row)
    broken = PLAN[3].stem
    for one in PLAN:
        if one.description == "alone" or one.stem == broken:
            continue
        clips = by_stem[one.stem]
        assert [a.end_s for a in clips[:-1]] == pytest.approx([b.start_s for b in clips[1:]])
        assert (clips[0].start_s, clips[-1].end_s) == (0, pytest.approx(one.seconds, abs=0.2))
        assert {(c.codec, c.width, c.height) for c in clips} == {("hevc", *miniature.SIZE)}
        assert {c.video_id for c in clips} == {f"factory_{one.factory:03d}/worker_{one.worker:03d}"}
    (cut,) = by_stem[broken]
    assert cut.status == "failed"
    assert "factory002_worker001_part00.tar breaks off in it" in cut.error
    (alone,) = by_stem[""]
    assert (alone.reason, alone.status) == ("no_video", "rejected")
    (zipped,) = list(by_stem[ZIPPED.rpartition("/")[2].rpartition(".")[0]])
    assert zipped.status == "failed"
    assert "no uncompressed tar" in zipped.error


@pytest.mark.long
def test_hands_decide_where_videos_in_tars_are_cut(data: Path) -> None:
    stage = ingest(data, cut="hands")
    stage.setup()
    found = rows(stage, [one for one in stage.sources() if one.media_path == FIRST])
    assert sum(row.reason == "no_hands" for row in found) >= 1
    assert sum(row.status == "ok" for row in found) >= 4


@pytest.mark.long
def test_shares_of_a_tar_make_the_clips_of_the_whole(data: Path) -> None:
    stage = ingest(data)
    whole_tars = list(stage.sources())
    shares = [
        replace(one, part=f"{one.part} {k}", raw=Uncut(k, 3))
        for one in whole_tars
        for k in range(3)
    ]
    expected = {row.clip_id for row in rows(stage) if row.media_path.endswith(".mp4")}
    found = rows(stage, shares)
    assert {row.clip_id for row in found if row.media_path.endswith(".mp4")} == expected
    assert sum(row.reason == "no_video" for row in found) == 1
    assert len({row.unit for row in found if row.status == "ok"}) > len(whole_tars) - 2


@pytest.mark.long
def test_a_clip_is_the_same_in_another_tar(data: Path, tmp_path: Path) -> None:
    with tarfile.open(data / FIRST) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if m.name.endswith(".mp4")}  # type: ignore[union-attr]
    written(tmp_path / "factory001/worker001/part000.tar", files)
    ours = {row.clip_id for row in rows(ingest(tmp_path))}
    assert len(ours) > 4
    assert ours == {r.clip_id for r in rows(ingest(data)) if r.media_path.startswith(FIRST)}


@pytest.mark.long
def test_a_workers_videos_share_a_split_and_a_bucket(data: Path) -> None:
    places = defaultdict(set)
    for row in rows(ingest(data, val_percent=50.0)):
        places[row.video_id].add((row.split, row.bucket))
    assert all(len(found) == 1 for found in places.values())


def test_names_in_a_tar_lead_nowhere_else(tmp_path: Path) -> None:
    written(tmp_path / "data/f/t.tar", {"../../../secret.mp4": b"1", "/etc/passwd.mp4": b"2"})
    (tmp_path / "secret.mp4").write_bytes(b"not ours")
    found = rows(ingest(tmp_path / "data"))
    assert {row.status for row in found} == {"failed"}
    assert len(found) == 2


def job_for(data: Path, out: Path) -> Job:
    config = recipe()
    stage = replace(config.ingest, cut="stride")
    return Job("egocentric10k", data, out, replace(config, ingest=stage, caption=Caption("none")))


def ingested(job: Job) -> int:
    """Do what is left to do in this process; the number of units."""
    stage, units = job.stages["ingest"], 0
    readmit_missing(job)
    for batch in remaining(job, "ingest"):
        work(stage, job.tables["ingest"], batch, {})
        units += len(batch.inputs)
    return units


@pytest.mark.long
def test_a_finished_run_has_nothing_to_do_and_a_repaired_tar_is_tried_again(
    data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    job = job_for(tmp_path / "data", tmp_path / "out")
    assert ingested(job) == len(list(job.stages["ingest"].sources()))  # type: ignore[attr-defined]
    before = {row.clip_id: row for row in job.tables["ingest"].read(Clip)}
    assert ingested(job_for(tmp_path / "data", tmp_path / "out")) == 0
    with tarfile.open(data / FIRST) as tar:  # downloaded again, here another one
        files = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    written(tmp_path / "data" / CUT_OFF, {f"again_{name}": files[name] for name in files})
    again = job_for(tmp_path / "data", tmp_path / "out")
    assert forget_failed(again, "ingest")
    assert ingested(again) == 2  # this one, and the compressed one
    after = {row.clip_id: row for row in again.tables["ingest"].read(Clip)}
    repaired = [row for row in after.values() if row.media_path.startswith(CUT_OFF)]
    assert {row.status for row in repaired} == {"ok"}
    kept = {k: row for k, row in before.items() if not row.media_path.startswith(CUT_OFF)}
    assert kept.items() <= after.items()


def tracked(root: Path, clip: Clip) -> CameraRow:
    stage = Camera().at(root, source=ingest(root))
    (row,) = run_isolated(stage, (clip,))
    assert isinstance(row, CameraRow)
    return row


@pytest.mark.long
def test_the_camera_is_that_of_the_worker(data: Path, tmp_path: Path) -> None:
    clips = {row.video_id: row for row in rows(ingest(data)) if row.status == "ok"}
    row, told = tracked(data, clips["factory_001/worker_001"]), miniature.INTRINSICS
    assert (row.status, row.model, row.times_s, row.camera) == ("ok", "fisheye", [], [])
    assert row.intrinsics == [told["fx"], told["fy"], told["cx"], told["cy"]]
    assert row.distortion == [told[f"k{i}"] for i in range(1, 5)]
    assert (row.width, row.height) == miniature.SIZE
    unknown = tracked(data, clips["factory_001/worker_002"])
    assert (unknown.status, unknown.model, unknown.intrinsics) == ("ok", "", [])
    path = tmp_path / FIRST
    path.parent.mkdir(parents=True)
    clip = clips["factory_001/worker_001"]
    for wrong in ("{", "[]", json.dumps(told | {"fx": "NaN"}), json.dumps(told | {"model": "x"})):
        (path.parent / "intrinsics.json").write_text(wrong)
        broken = tracked(tmp_path, clip)
        assert broken.status == "failed"
        assert "worker_001/intrinsics.json" in broken.error


@pytest.mark.long
def test_clips_without_a_word_need_a_model_or_leave(data: Path) -> None:
    stage = TarIngest(dataset="egocentric10k", format="egocentric10k").at(data)
    with pytest.raises(UserError, match=r"no texts.*--caption\.model.*--caption\.route none"):
        stage.survey()
    assert list(stage.for_captions(False).survey()) == []
    assert isinstance(recipe().ingest, TarIngest)


def test_a_folder_without_tars_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing; expected tars.*builddotai"):
        list(adapter.videos(tmp_path, CutRule()))


@pytest.mark.long
def test_tars_in_a_store_give_the_rows_of_the_disk(data: Path, folder: Path) -> None:
    remote = folder / "data"
    with whole(remote) as target:
        shutil.copytree(data, target)
    trust(remote)
    expected = {row.clip_id: row for row in rows(ingest(data))}
    found = {row.clip_id: row for row in rows(ingest(remote))}
    assert found == expected
    clip = next(row for row in found.values() if row.media_path.startswith(FIRST))
    assert tracked(remote, clip) == tracked(data, clip)
