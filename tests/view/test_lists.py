"""What the page lists and counts is what the tables say."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from benchmarks.scale_tables import write_run
from handloom.stages.select import SelectRow
from handloom.stages.tables import funnel
from handloom.stages.tables.parts import open_tables
from handloom.stages.tables.rows import Clip
from handloom.view import run
from tests.helpers.random_tables import random_run
from tests.view.viewed import BUCKETS, CLIPS, all_clips, client, generated, get, opened


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generated(tmp_path_factory.mktemp("run") / "out")


@pytest.fixture(scope="module")
def page(out: Path) -> TestClient:
    return client(opened(out))


@pytest.mark.parametrize("seed", range(4))
def test_ends_are_those_of_the_funnel_whatever_state_the_tables_are_in(
    seed: int, tmp_path: Path
) -> None:
    tables = random_run(tmp_path, seed)
    told = funnel.count(tables, complete=False)
    index = opened(tmp_path).run.index
    found = dict(index.words["status"].counts(np.ones(len(index), bool)))
    assert len(index) == told.ingested
    assert found.pop("kept", 0) == told.kept
    assert found.pop("rejected", 0) == told.rejected
    assert found.pop("failed", 0) == told.failed
    assert found.keys() <= {"waiting"}


def test_a_list_read_in_pieces_has_every_clip_once(page: TestClient) -> None:
    rows = all_clips(page, piece=97)
    assert len({row["id"] for row in rows}) == len(rows) == CLIPS


def test_filters_give_the_clips_whose_rows_meet_them(out: Path, page: TestClient) -> None:
    clips = {clip.clip_id: clip for clip in open_tables(out)["ingest"].read(Clip)}
    scores = {row.clip_id: row for row in open_tables(out)["select"].read(SelectRow)}
    found = all_clips(page, reason=["blurred", "no_hands"], min__bar_share=0.05, text="THE CUP")
    wanted = {
        clip_id
        for clip_id, row in scores.items()
        if row.reason in ("blurred", "no_hands") and row.bar_share >= 0.05
        and "the" in clips[clip_id].text and "cup" in clips[clip_id].text
    }  # fmt: skip
    assert {row["id"] for row in found} == wanted
    assert wanted


def test_facets_count_what_choosing_a_word_would_list(page: TestClient) -> None:
    facets = get(page, "/api/facets", split="val", reason="still")["facets"]
    for name, words in facets.items():
        for word, count in words[:3]:
            params: dict[str, Any] = {"split": "val", "reason": "still", name: word}
            assert get(page, "/api/clips", limit=0, **params)["total"] == count, (name, word)
    assert len(facets["reason"]) > 3  # its own condition does not hide the others


@pytest.mark.parametrize("sort", ["sharpness", "-sharpness", "-length_s"])
def test_sorted_lists_ascend_or_descend_and_clips_without_a_score_come_last(
    page: TestClient, sort: str
) -> None:
    found = [row["sorted"] for row in all_clips(page, sort=sort)]
    values = [value for value in found if value is not None]
    assert found[: len(values)] == values
    assert values == sorted(values, reverse=sort.startswith("-"))
    assert len(set(values)) > 100


def test_a_sample_is_the_same_for_a_seed_and_a_part_of_the_list(page: TestClient) -> None:
    drawn = [
        {row["id"] for row in all_clips(page, status="kept", sample=50, seed=seed)}
        for seed in (1, 1, 2)
    ]
    kept = {row["id"] for row in all_clips(page, status="kept")}
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(some) == 50 and some < kept for some in drawn)


def test_histograms_count_every_clip_that_has_the_score_once(page: TestClient, out: Path) -> None:
    found = get(page, "/api/histogram", score="sharpness", status="kept", min__sharpness=0.9)
    decisions = list(open_tables(out)["select"].read(SelectRow))
    assert sum(found["all"]) == len(decisions)
    assert sum(found["some"]) == get(page, "/api/clips", status="kept", limit=0)["total"]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/clips?colour=red", 400, "'colour' is no filter"),
        ("/api/clips?min.sharpness=high", 400, "expected a number"),
        ("/api/clips?sort=beauty", 400, "'beauty' is no score of this run"),
        ("/api/clips?sample=-3", 400, "whole number"),
        ("/api/clips?select.min_hand_share=7", 400, "--select.min-hand-share is 7.0, expected"),
        ("/api/clips?select.min_luck=1", 400, "select has no threshold 'min_luck'"),
        ("/api/rows/nobody", 404, "holds no clip 'nobody'"),
        ("/api/nothing", 404, "Not Found"),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_sentence(
    page: TestClient, path: str, status: int, words: str
) -> None:
    answer = page.get(path)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_rows_of_a_clip_are_shown_from_every_table(page: TestClient) -> None:
    clip_id = all_clips(page, status="kept")[0]["id"]
    rows = get(page, f"/api/rows/{clip_id}")["rows"]
    assert set(rows) == {"ingest", "hands", "duplicates", "select", "caption", "tokens"}
    assert all(row["clip_id"] == clip_id for row in rows.values())


def test_a_run_deleted_under_the_viewer_costs_a_sentence(tmp_path: Path) -> None:
    out = generated(tmp_path / "out", clips=60)
    page = client(opened(out))
    clip_id = all_clips(page)[0]["id"]
    shutil.rmtree(out)
    answer = page.get(f"/api/rows/{clip_id}")
    assert answer.status_code == 409
    assert "deleted" in answer.json()["error"]
    assert len(all_clips(page)) == 60  # what was read is still shown
    for path in ("", "/thumb", "/source", "/span.webm", "/curves", "/encoded/0/0.png"):
        answer = page.get(f"/api/clip/{clip_id}{path}")
        assert (answer.status_code, "moved or deleted" in answer.text) == (409, True), path
    marked = page.post("/api/marks", json={"ids": [clip_id], "note": "x"})
    assert marked.status_code == 409
    assert "moved or deleted" in marked.json()["error"]
    assert not out.exists()
    page.post("/api/reload")


def test_a_fault_of_ours_is_a_sentence_too(tmp_path: Path) -> None:
    shown = opened(generated(tmp_path / "out", clips=30))
    shown.run._index = object()  # type: ignore[assignment]
    page = client(shown, raises=False)
    for path in ("/api/clips", "/api/clip/x"):
        answer = page.get(path)
        assert answer.status_code == 500
        assert answer.json()["error"].startswith("handloom view has a fault here (")
        assert "Traceback" not in answer.text
        assert "content-security-policy" in answer.headers


def test_clips_of_a_run_that_goes_on_wait_for_the_next_stage(tmp_path: Path) -> None:
    out = generated(tmp_path / "out", clips=200)
    for stage in ("duplicates", "select", "caption", "tokens"):
        shutil.rmtree(out / "tables" / stage)
    page = client(opened(out))
    facets = get(page, "/api/facets", status="waiting")["facets"]
    assert [word for word, _ in facets["stage"]] == ["duplicates"]
    assert {word for word, _ in facets["status"]} == {"waiting", "rejected", "failed"}
    state = get(page, "/api/run")
    assert {"select", "caption", "tokens"} <= set(state["unfinished"])


def test_a_run_that_has_finished_no_stage_says_so_and_is_read_once_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "AGAIN_AFTER_S", 0.0)
    out = generated(tmp_path / "out", clips=30)
    (out / "tables").rename(tmp_path / "tables")
    page = client(opened(out))
    state = get(page, "/api/run")
    assert state["ready"] is False
    assert "finished no stage yet" in state["error"]
    (tmp_path / "tables").rename(out / "tables")
    wait_until(lambda: get(page, "/api/run")["ready"])
    assert len(all_clips(page)) == 30


def test_new_rows_are_told_and_taken_in_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "CHECKED_AFTER_S", 0.0)
    out = generated(tmp_path / "out", clips=200)
    page = client(opened(out))
    assert get(page, "/api/run")["changed"] is False
    write_run(out, 400, codes=4, seed=1, buckets=BUCKETS)  # other parts beside those of before
    assert get(page, "/api/run")["changed"] is True
    assert len(all_clips(page)) == 200
    before = get(page, "/api/run")["generation"]
    page.post("/api/reload")
    while (state := get(page, "/api/run"))["reading"]:
        time.sleep(0.01)
    assert state["generation"] == before + 1
    assert get(page, "/api/clips")["total"] == 600
    assert get(page, "/api/run")["changed"] is False


def test_tables_that_cannot_be_read_again_end_the_reading_and_stay_shown(tmp_path: Path) -> None:
    out = generated(tmp_path / "out", clips=60)
    page = client(opened(out))
    before = get(page, "/api/run")["generation"]
    shutil.rmtree(out)
    page.post("/api/reload")
    wait_until(lambda: not get(page, "/api/run")["reading"])
    state = get(page, "/api/run")
    assert (state["generation"], state["ready"]) == (before, True)
    assert str(out) in state["error"]


def wait_until(holds: Callable[[], bool], most_s: float = 20.0) -> None:
    until = time.monotonic() + most_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)
