"""What changes is computed again, and nothing else; and what goes is said before."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pyarrow.parquet as pq
import pytest

Cli = Callable[..., CompletedProcess[str]]
Copy = Callable[[Path, str], Path]
BY_CLIP = ("hands", "caption", "tokens")


def options(command: str, data: Path, out: Path, vqgan: Path, *more: object) -> list[object]:
    small = ["--tokens.model", vqgan, "--tokens.resolution", 64, "--tokens.frames", 3]
    return [command, "sample", "--data", data, "--out", out, *small, "--run.workers", 1, *more]


@pytest.fixture(scope="module")
def finished(
    miniature: Path, tiny_vqgan: Path, here: Cli, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A data folder and the output of a whole run on it."""
    root = tmp_path_factory.mktemp("recompute")
    data, out = root / "data", root / "out"
    shutil.copytree(miniature, data)
    run = here(*options("curate", data, out, tiny_vqgan))
    assert run.returncode == 0, run.stdout + run.stderr
    return data, out


def rows(out: Path, stage: str) -> dict[str, object]:
    """All columns of each clip's row."""
    paths = (out / "tables" / stage).glob("*.parquet")
    return {row["clip_id"]: row for path in paths for row in pq.read_table(path).to_pylist()}


def files(out: Path, *stages: str) -> dict[str, tuple[int, bytes]]:
    found = [path for stage in stages for path in (out / "tables" / stage).glob("*.parquet")]
    return {str(p.relative_to(out)): (p.stat().st_mtime_ns, p.read_bytes()) for p in found}


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "shards").glob("*/*.*")}


def edit_caption(data: Path, out: Path, text: str) -> str:
    """Change the text of one captioned clip in the annotations; returns its id."""
    ingest, captions = rows(out, "ingest"), rows(out, "caption")
    path = data / "v2/annotations/narration.json"
    told = path.read_text()
    for clip_id in sorted(captions):
        old = json.dumps(ingest[clip_id]["text"])  # type: ignore[index]
        if told.count(old) == 1:
            path.write_text(told.replace(old, json.dumps(text)))
            return clip_id
    raise AssertionError("every text is told several times")


def test_an_edited_caption_costs_one_caption(
    finished: tuple[Path, Path], tiny_vqgan: Path, here: Cli, copy_of: Copy
) -> None:
    data, out = copy_of(finished[0], "data"), copy_of(finished[1], "out")
    clip_id = edit_caption(data, out, "#C C turns a large wooden wheel")
    before = {stage: rows(out, stage) for stage in BY_CLIP}

    planned = here(*options("plan", data, out, tiny_vqgan)).stdout
    assert re.search(
        r"^ingest: everything again, since annotations \(v2/annotations/narration.json\);",
        planned,
        re.M,
    ), planned
    assert "caption: 1 rows thrown away, since their clips have changed" in planned
    assert not re.search(r"^(hands|tokens): .*thrown away", planned, re.M), planned
    assert re.search(r"^ingest: 0 new clips$", planned, re.M), planned
    assert re.search(r"^  left to do of it: 0\.00\d? core-hours", planned, re.M), planned

    kept = files(out, "hands", "tokens")
    run = here(*options("curate", data, out, tiny_vqgan))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "caption: 1 rows are thrown away and computed again" in run.stdout
    assert files(out, "hands", "tokens") == kept
    after = rows(out, "caption")
    assert after.pop(clip_id)["caption"] == "turn a large wooden wheel"  # type: ignore[index]
    del before["caption"][clip_id]
    assert after == before["caption"]

    # The same as a run that begins with these annotations.
    fresh = out.with_name("fresh")
    assert here(*options("curate", data, fresh, tiny_vqgan)).returncode == 0
    assert shards(out) == shards(fresh)


def test_another_share_for_val_computes_nothing_by_clip(
    finished: tuple[Path, Path], tiny_vqgan: Path, here: Cli, copy_of: Copy
) -> None:
    data, out = finished[0], copy_of(finished[1], "out")
    kept = files(out, *BY_CLIP)
    run = here(*options("curate", data, out, tiny_vqgan, "--ingest.val-percent", 90))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "ingest: computing again, since val_percent 5.0 -> 90" in run.stdout
    assert files(out, *BY_CLIP) == kept
    splits = {row["split"] for row in rows(out, "ingest").values()}  # type: ignore[index]
    assert "val" in splits


@pytest.mark.slow
def test_a_moved_span_is_searched_and_encoded_again_alone(
    finished: tuple[Path, Path], tiny_vqgan: Path, here: Cli, copy_of: Copy
) -> None:
    """With shorter clips those that were longer change; the others keep their rows."""
    data, out = finished[0], copy_of(finished[1], "out")
    before = {stage: rows(out, stage) for stage in ("ingest", *BY_CLIP)}
    ends = {i: row["end_s"] - row["start_s"] for i, row in before["ingest"].items()}  # type: ignore[index]
    limit = sorted(ends[i] for i in before["tokens"])[-2] - 0.01
    changed = ["--ingest.max-seconds", round(limit, 3)]

    planned = here(*options("plan", data, out, tiny_vqgan, *changed)).stdout
    told = {s: int(n) for s, n in re.findall(r"^(\w+): (\d+) rows thrown away", planned, re.M)}
    run = here(*options("curate", data, out, tiny_vqgan, *changed))
    assert run.returncode == 0, run.stdout + run.stderr
    now = rows(out, "ingest").keys()
    new, gone = now - before["ingest"].keys(), before["ingest"].keys() - now
    missing = f", {len(gone)} stored ones not listed any more" if gone else ""
    assert f"ingest: {len(new)} new clips{missing}\n" in planned
    for stage in BY_CLIP:
        after = rows(out, stage)
        same = {i for i, row in before[stage].items() if after.get(i) == row}
        gone = before[stage].keys() - same
        assert len(gone) == told.get(stage, 0), (stage, planned)
        assert same, stage


@pytest.mark.slow
def test_rows_of_clips_that_are_gone_for_a_while_come_back(
    finished: tuple[Path, Path], tiny_vqgan: Path, here: Cli, copy_of: Copy
) -> None:
    """As where a disk was not mounted while the annotations changed."""
    data, out = copy_of(finished[0], "data"), copy_of(finished[1], "out")
    kept = files(out, *BY_CLIP)
    media = data / "v2/full_scale"
    encoded = rows(out, "tokens")
    paths = {i: row["media_path"] for i, row in rows(out, "ingest").items()}  # type: ignore[index]
    away = data / min(path for i, path in paths.items() if i in encoded)
    assert away.parent == media
    shutil.move(away, out.with_name("away"))
    one = ["--ingest.val-percent", 6]
    run = here(*options("curate", data, out, tiny_vqgan, *one))
    assert run.returncode == 0, run.stdout + run.stderr
    assert files(out, *BY_CLIP) == kept
    shutil.move(out.with_name("away"), away)
    assert here(*options("curate", data, out, tiny_vqgan)).returncode == 0
    assert files(out, *BY_CLIP) == kept
    assert shards(out) == shards(finished[1])


def test_plan_where_files_changed_and_whole_buckets_cannot_be_known(
    finished: tuple[Path, Path], tiny_vqgan: Path, here: Cli, copy_of: Copy
) -> None:
    data, out = copy_of(finished[0], "data"), copy_of(finished[1], "out")
    edit_caption(data, out, "#C C turns a large wooden wheel")
    for path in (data / "v2/full_scale").iterdir():
        path.touch()  # not as it was probed: what its clips would be is not known
    (out / "tables/hands" / min(p.name for p in (out / "tables/hands").glob("*.parquet"))).unlink()
    planned = here(*options("plan", data, out, tiny_vqgan))
    assert planned.returncode == 0, planned.stderr
    assert not re.search(r"^(hands|tokens): .*thrown away", planned.stdout, re.M), planned.stdout


@pytest.mark.parametrize("content", ["", "garbage", "[]", "[1]", "{}", '{"x": 3}'])
@pytest.mark.parametrize("name", ["_stage.json", "_rows.json", "_replaced.json"])
def test_damaged_facts_of_a_table_cost_no_count(
    finished: tuple[Path, Path], here: Cli, copy_of: Copy, name: str, content: str
) -> None:
    out = copy_of(finished[1], "out")
    (out / "tables/hands" / name).write_text(content)
    told = here("status", out)
    assert told.returncode == 0, told.stderr
    if name == "_stage.json":
        assert "not finished: hands" in told.stdout
    else:
        assert told.stdout == here("status", finished[1]).stdout.replace(str(finished[1]), str(out))


def test_a_run_to_compare_with_that_selected_nothing_yet(
    finished: tuple[Path, Path], tiny_vqgan: Path, here: Cli, copy_of: Copy
) -> None:
    other = copy_of(finished[1], "other")
    shutil.rmtree(other / "tables/select")
    against = ["--duplicates.against", other]
    run = here(*options("plan", finished[0], other.with_name("new"), tiny_vqgan, *against))
    assert run.returncode == 2
    assert f"--duplicates.against {other} is a run without a `select` table" in run.stderr
