"""The rules of the data model, on whole runs: resume, isolation, sameness, totals, no leakage."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from handloom.stages.pack.fidelity import measure
from handloom.stages.tables import funnel
from handloom.stages.tables.parts import open_tables
from handloom.stages.tables.rows import Clip
from handloom.stages.tokens import TokenRow
from handloom.tokenize.shards import ShardDataset, verify
from tests.helpers.folders import CHECKOUT

Copy = Callable[[Path, str], Path]
Cli = Callable[..., subprocess.CompletedProcess[str]]

STAGES = ("ingest", "hands", "duplicates", "select", "caption", "tokens")


def options(data: Path, out: Path, vqgan: Path) -> list[object]:
    """`handloom curate` on the miniature, with small pictures and few processes to be quick."""
    small = ["--tokens.model", vqgan, "--tokens.resolution", 64, "--tokens.frames", 3]
    small += ["--run.workers", 1]
    return ["curate", "sample", "--data", data, "--out", out, *small]


@pytest.fixture(scope="module")
def finished(
    miniature: Path, tiny_vqgan: Path, here: Cli, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of one whole run; two workers a stage."""
    out = tmp_path_factory.mktemp("run") / "out"
    run = here(*options(miniature, out, tiny_vqgan), "--run.workers", 2)
    assert run.returncode == 0, run.stdout + run.stderr
    return out


def shard_bytes(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "shards").glob("*/*.*"))}


def tokenizer_of(out: Path) -> dict[str, Any]:
    """What the shards' manifest says of the tokenizer, with what was measured of it."""
    told: dict[str, Any] = json.loads((out / "shards/manifest.json").read_text())["tokenizer"]
    return told


def parts(out: Path, *stages: str) -> dict[str, tuple[int, bytes]]:
    """Name, modification time and content of the stages' parts."""
    found = [p for s in stages for p in sorted((out / "tables" / s).glob("*.parquet"))]
    return {f"{p.parent.name}/{p.name}": (p.stat().st_mtime_ns, p.read_bytes()) for p in found}


def test_every_clip_comes_to_an_end_and_is_counted(finished: Path) -> None:
    tables = open_tables(finished)
    result = funnel.count(tables)
    assert result.ingested == result.kept + result.rejected + result.failed
    assert result.ingested == len(list(tables["ingest"].read(Clip)))
    assert result.kept >= 4
    assert result.failed >= 1
    assert {"other_person", "stereo", "redacted", "past_end"} <= set(
        result.stages["ingest"].rejected
    )
    assert {"no_hands", "dark"} <= set(result.stages["select"].rejected)
    splits = json.loads((finished / "shards/manifest.json").read_text())["splits"]
    assert sum(split["samples"] for split in splits.values()) == result.kept


def test_the_truncated_file_fails_alone(finished: Path) -> None:
    failed = [
        clip for clip in open_tables(finished)["ingest"].read(Clip) if clip.status == "failed"
    ]
    assert len({clip.video_id for clip in failed}) == 1
    assert all("not a readable video file" in clip.error for clip in failed)
    assert all(clip.attempts == 1 for clip in failed)


def test_shards_hold_what_the_tables_say(finished: Path) -> None:
    assert verify(finished / "shards") == []
    codes = {row.clip_id: row for row in open_tables(finished)["tokens"].read(TokenRow)}
    clips = {clip.clip_id: clip for clip in open_tables(finished)["ingest"].read(Clip)}
    for split in ("train", "val"):
        dataset = ShardDataset(finished / "shards", split)
        assert len(dataset) > 0
        for i in range(len(dataset)):
            sample, clip = dataset[i], clips[dataset[i]["clip_id"]]
            assert sample["tokens"].tobytes() == codes[clip.clip_id].codes
            assert sample["split"] == split == clip.split
            assert sample["source_id"] == clip.video_id
            assert sample["licence"] == "apache-2.0-synthetic"
            assert sample["caption"]
            assert not sample["caption"].startswith("#")


def test_no_video_is_in_both_splits(finished: Path) -> None:
    videos = {}
    for split in ("train", "val"):
        dataset = ShardDataset(finished / "shards", split)
        videos[split] = {dataset[i]["source_id"] for i in range(len(dataset))}
    assert videos["train"]
    assert videos["val"]
    assert not videos["train"] & videos["val"]


def test_tables_are_plain_parquet(finished: Path) -> None:
    table = pq.read_table(finished / "tables" / "hands")
    assert {"clip_id", "status", "times_s", "hand_counts", "detections"} <= set(table.column_names)
    hands = [hand for row in table["detections"].to_pylist() for hand in row]
    assert hands
    assert all(len(hand["landmarks_xyz"]) == len(hand["world_xyz"]) == 63 for hand in hands)


def test_the_report_is_one_offline_page(finished: Path) -> None:
    page = (finished / "report/index.html").read_text()
    assert page.count("data:image/jpeg;base64,") > 10
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page
    for reason in ("no_hands", "redacted", "other_person"):
        assert reason in page


def test_a_run_tells_how_much_its_codes_keep(finished: Path, here: Cli) -> None:
    measured = measure.read(open_tables(finished))["fidelity"]
    assert tokenizer_of(finished)["fidelity"] == measured
    assert measured["clips"] == funnel.count(open_tables(finished)).kept
    status, page = here("status", finished).stdout, (finished / "report/index.html").read_text()
    for where in (status, page):
        assert f"{measured['psnr_db']:.1f} dB" in where
        assert "handloom train vqgan --frames" in where  # the tiny one has learned nothing


def test_a_finished_run_does_nothing_again(
    finished: Path, miniature: Path, tiny_vqgan: Path, here: Cli
) -> None:
    page, numbers = finished / "report/index.html", finished / "tables/tokens/_fidelity.json"
    before = parts(finished, *STAGES), shard_bytes(finished), page.stat(), numbers.stat()
    run = here(*options(miniature, finished, tiny_vqgan))
    assert run.returncode == 0
    after = parts(finished, *STAGES), shard_bytes(finished), page.stat(), numbers.stat()
    assert after == before
    assert "tokenizer: " in run.stdout
    assert "tokens up to date | pack up to date | report up to date" in run.stdout


@pytest.mark.parametrize("stage", ["select", "duplicates", "tokens"])
def test_a_deleted_part_is_computed_again(
    stage: str, finished: Path, miniature: Path, tiny_vqgan: Path, here: Cli, copy_of: Copy
) -> None:
    out = copy_of(finished, "out")
    part = min((out / "tables" / stage).glob("*.parquet"))
    content = part.read_bytes()
    part.unlink()
    assert here(*options(miniature, out, tiny_vqgan)).returncode == 0
    assert part.read_bytes() == content
    assert shard_bytes(out) == shard_bytes(finished)


def test_a_damaged_part_is_named_by_the_run_too(
    finished: Path, miniature: Path, tiny_vqgan: Path, here: Cli, copy_of: Copy
) -> None:
    out = copy_of(finished, "out")
    part = min((out / "tables/select").glob("*.parquet"))
    os.truncate(part, 100)
    run = here(*options(miniature, out, tiny_vqgan))
    assert run.returncode == 1
    assert f"{part} is damaged (Parquet magic bytes not found" in run.stderr


def test_a_changed_setting_recomputes_its_stage_and_what_depends_on_it(
    finished: Path, miniature: Path, tiny_vqgan: Path, here: Cli, copy_of: Copy
) -> None:
    out = copy_of(finished, "out")
    above = parts(out, "ingest", "hands", "caption", "tokens")
    run = here(*options(miniature, out, tiny_vqgan), "--select.min-hand-share", 0.9)
    assert run.returncode == 0
    assert "select: computing again, since min_hand_share 0.1 -> 0.9" in run.stdout
    assert not parts(out, "select").keys() & parts(finished, "select").keys()
    assert parts(out, "ingest", "hands", "caption", "tokens") == above

    run = here(*options(miniature, out, tiny_vqgan), "--tokens.frames", 4)
    assert run.returncode == 0
    assert "tokens: computing again, since frames 3 -> 4" in run.stdout
    unchanged = ("ingest", "hands", "caption")
    assert parts(out, *unchanged) == {k: v for k, v in above.items() if "tokens" not in k}
    assert ShardDataset(out / "shards")[0]["tokens"].shape[1] == 4


def test_kills_workers_input_order_and_place_do_not_change_the_shards(
    finished: Path, miniature: Path, tiny_vqgan: Path, cli: Cli, copy_of: Copy, tmp_path: Path
) -> None:
    data, out = copy_of(miniature, "moved"), tmp_path / "out"
    reverse_annotations(data)
    # On one core the stages take turns: none may wait for the core that it holds.
    command = [*options(data, out, tiny_vqgan), "--run.num-cpus", 1, "--run.batch-clips", 1]
    kept: dict[str, tuple[int, bytes]] = {}
    for stage in ("hands", "tokens"):
        kill_when(lambda stage=stage: len(parts(out, stage)) >= 1, command)  # type: ignore[misc]
        assert kept.items() <= parts(out, *STAGES).items()
        kept = parts(out, *STAGES)
        assert not (out / "shards/manifest.json").exists()
    run = cli(*command)
    assert run.returncode == 0, run.stdout + run.stderr
    assert kept.items() <= parts(out, *STAGES).items()  # nothing was written again
    assert shard_bytes(out) == shard_bytes(finished)
    assert tokenizer_of(out) == tokenizer_of(finished)
    assert not list(out.rglob("*.tmp"))


def reverse_annotations(data: Path) -> None:
    path = data / "v2/annotations/narration.json"
    narrations = json.loads(path.read_text())
    for entry in narrations.values():
        for name in ("narration_pass_1", "narration_pass_2"):
            if name in entry:
                entry[name]["narrations"].reverse()
    path.write_text(json.dumps(dict(reversed(narrations.items()))))


def kill_when(ready: Callable[[], bool], args: list[object]) -> None:
    """Start a run and end it with SIGKILL as soon as `ready` says so."""
    command = [sys.executable, "-m", "handloom", *map(str, args)]
    process = subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 600
        while not ready():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_bad_and_missing_files_cost_their_clips_until_they_are_there(
    finished: Path, miniature: Path, tiny_vqgan: Path, here: Cli, copy_of: Copy, tmp_path: Path
) -> None:
    data, out = copy_of(miniature, "data"), tmp_path / "out"
    bad, late = (data / f"v2/full_scale/{video}.mp4" for video in packed_videos(finished)[:2])
    whole = bad.read_bytes()
    bad.write_bytes(b"")
    shutil.move(late, tmp_path)
    run = here(*options(data, out, tiny_vqgan))
    assert run.returncode == 0, run.stdout + run.stderr
    lines = [line for line in run.stdout.splitlines() if line.startswith("failed (")]
    (told,) = [line for line in lines if f"v2/full_scale/{bad.name}" in line]
    assert "the file is empty, expected a video" in told
    others = ingested(out)["ok"]
    assert others
    assert not {bad.stem, late.stem} & others.keys()

    # A file that comes later is taken in by the next run, one that failed is not tried again.
    shutil.move(tmp_path / late.name, late)
    run = here(*options(data, out, tiny_vqgan))
    assert run.returncode == 0, run.stdout + run.stderr
    assert ingested(out)["ok"].keys() - others.keys() == {late.stem}
    assert bad.stem in ingested(out)["failed"]

    bad.write_bytes(whole)
    before = parts(out, "hands", "tokens")
    run = here(*options(data, out, tiny_vqgan), "--retry-failed")
    assert run.returncode == 0, run.stdout + run.stderr
    assert before.items() <= parts(out, "hands", "tokens").items()
    assert shard_bytes(out) == shard_bytes(finished)
    assert ingested(out)["ok"][bad.stem] == {2}  # attempts
    assert set(ingested(out)["failed"].values()) == {frozenset({2})}  # the truncated one


def packed_videos(out: Path) -> list[str]:
    datasets = [ShardDataset(out / "shards", split) for split in ("train", "val")]
    return sorted({d[i]["source_id"] for d in datasets for i in range(len(d))})


def ingested(out: Path) -> dict[str, dict[str, frozenset[int]]]:
    """By status, the videos of the clips with it, each with its numbers of attempts."""
    found: dict[str, dict[str, frozenset[int]]] = defaultdict(dict)
    for clip in open_tables(out)["ingest"].read(Clip):
        before = found[clip.status].get(clip.video_id, frozenset())
        found[clip.status][clip.video_id] = before | {clip.attempts}
    return found


def test_one_run_at_a_time_writes_a_folder(
    finished: Path, miniature: Path, tiny_vqgan: Path, here: Cli
) -> None:
    import fcntl

    with (finished / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = here(*options(miniature, finished, tiny_vqgan))
    assert run.returncode == 2
    assert "another run is writing" in run.stderr


def test_status_and_inspect_tell_of_a_finished_run(finished: Path, here: Cli) -> None:
    status = here("status", finished)
    assert status.returncode == 0
    assert "clips ingested =" in status.stdout
    shown = here("inspect", finished / "shards", "--verify")
    assert shown.returncode == 0
    assert "every shard and index has the recorded SHA-256" in shown.stdout
    assert os.fspath(finished) in shown.stdout
