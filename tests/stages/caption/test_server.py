"""Captions from a server: every one belongs to its clip, and none is paid for twice."""

import math
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from handloom.errors import RunError, UserError
from handloom.stages.caption.journal import Journal
from handloom.stages.caption.requests import Answer
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.caption.stage import Caption
from tests.helpers.caption_run import caption_all, table_of
from tests.helpers.caption_server import (
    FAULTS,
    MODEL,
    REFUSED_ALWAYS,
    REFUSED_ONCE,
    fake_server,
    tally,
)
from tests.helpers.folders import CHECKOUT
from tests.helpers.numbered_clips import clip, number_told, write_videos
from tests.helpers.whole_clip import whole

FEW = 600


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    write_videos(folder, FEW)
    return folder


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with fake_server(latency_s=0.01) as address:
        yield address


def stage(videos: Path, url: str, **options: float) -> Caption:
    settings = {"frames": 4, "timeout_s": 60.0} | options
    return Caption(route="server", model=MODEL, url=url, **settings).at(videos)  # type: ignore[arg-type]


def assert_bound(rows: list[CaptionRow], clips: int) -> None:
    """Every caption spells the number that its clip shows, or is the clip's own text."""
    by_id = {row.clip_id: row for row in rows}
    assert len(by_id) == len(rows) == clips
    for number in range(clips):
        row = by_id[clip(number).clip_id]
        assert row.status == "ok", row.error
        if number % 100 == REFUSED_ALWAYS:
            assert (row.source, row.caption, row.flags) == ("source", "move things", ["refusal"])
        else:
            assert (row.source, number_told(row.caption)) == ("server", number)
        was_flagged = number % 100 in (REFUSED_ONCE, REFUSED_ALWAYS)
        assert row.answer_flags[0] == ("refusal" if was_flagged else "")
        assert len(row.answers) == 1 + was_flagged


def faulty_run(videos: Path, out: Path, clips: int) -> None:
    with fake_server(latency_s=0.02, slots=64, faults=0.2) as url:
        patient = {"in_flight": 128, "timeout_s": 2.0, "give_up_s": 600.0}
        table = caption_all(videos, out, url, clips, batch=300, **patient)
        met = tally(url)["met"]
    assert all(met[fault] for fault in FAULTS)
    assert_bound(list(table.read(CaptionRow)), clips)


@pytest.mark.slow
def test_faults_put_no_caption_on_another_clip(videos: Path, tmp_path: Path) -> None:
    faulty_run(videos, tmp_path, FEW)


@pytest.mark.slow
def test_ten_thousand_captions_belong_to_their_clips(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos", 10_000)
    faulty_run(tmp_path / "videos", tmp_path, 10_000)


def killed_run(videos: Path, out: Path, clips: int, kills: int, every_s: float) -> int:
    """Kill a run some times, finish it, and return how many answers were paid for again.

    What the server had sent to a process that died before it read it was given to nobody. A busy
    machine reads late, so the server notes when its client hangs up: then the answer is read.
    """
    chance = random.Random(0)
    killed_s: list[float] = []
    with fake_server(latency_s=0.3, slots=64) as url:
        command = [sys.executable, "-m", "tests.helpers.caption_run", videos, out, url, str(clips)]
        for _ in range(kills):
            before = len(tally(url)["read"])
            process = subprocess.Popen(command, cwd=CHECKOUT)
            while len(tally(url)["read"]) < before + 10:  # it has begun
                assert process.poll() is None
                time.sleep(0.2)
            time.sleep(every_s * chance.uniform(0.5, 1.5))
            assert process.poll() is None, "the run ended before it could be killed"
            killed_s.append(time.monotonic())
            process.kill()
            process.wait()
        subprocess.run(command, cwd=CHECKOUT, check=True)
        counted = tally(url)
    assert_bound(list(table_of(out).read(CaptionRow)), clips)
    told = counted["told"]
    assert len(told) == clips + 2 * (clips // 100)
    heard_s = {
        key: min(
            (at for asked, at in times if not any(asked < k < at for k in killed_s)),
            default=math.inf,
        )
        for key, times in counted["read"].items()
    }
    return sum(asked_s > heard_s.get(key, math.inf) for key in told for asked_s in told[key])


@pytest.mark.long
def test_a_killed_run_pays_for_no_answer_twice(videos: Path, tmp_path: Path) -> None:
    # A kill may come between reading an answer and writing it down.
    assert killed_run(videos, tmp_path, FEW, kills=1, every_s=0.5) <= 4


@pytest.mark.slow
def test_of_ten_thousand_answers_a_thousandth_is_paid_for_twice(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos", 10_000)
    assert killed_run(tmp_path / "videos", tmp_path, 10_000, kills=5, every_s=4.0) <= 10


def test_answers_outlive_rules_for_using_them(videos: Path, url: str, tmp_path: Path) -> None:
    before = {name: len(times) for name, times in tally(url)["told"].items()}
    for words in (30, 5):
        one = stage(videos, url, max_words=words).at(videos, tmp_path)
        rows = one.batch([whole(clip(number)) for number in range(20)])
        used = {row.source for row in rows if isinstance(row, CaptionRow)}
        assert used == ({"server"} if words == 30 else {"source"})
    told = tally(url)["told"]
    assert [len(told[f"{n}/0"]) - before.get(f"{n}/0", 0) for n in range(20)] == [1] * 20


def test_a_clip_without_pictures_costs_itself(videos: Path, url: str) -> None:
    from dataclasses import replace

    gone = replace(clip(3), media_path="gone.mp4")
    rows = stage(videos, url).batch([whole(clip(2)), whole(gone), whole(clip(4))])
    assert [row.status for row in rows] == ["ok", "failed", "ok"]
    assert "gone.mp4" in rows[1].error


def test_a_server_that_is_not_there_ends_the_run(videos: Path) -> None:
    absent = stage(videos, "http://127.0.0.1:9/v1", give_up_s=0.5)
    with pytest.raises(RunError, match=r"cannot be reached .*start the server"):
        absent.setup()
    with pytest.raises(RunError, match="answers that have arrived are kept"):
        absent.batch([whole(clip(0))])


def test_a_server_with_other_models_is_told_of(videos: Path, url: str) -> None:
    other = Caption(route="server", model="qwen", url=url).at(videos)
    with pytest.raises(UserError, match=f"serves {MODEL}, expected 'qwen'"):
        other.setup()


def test_a_line_cut_off_by_a_kill_is_not_read(tmp_path: Path) -> None:
    answer = Answer("pick up a cup", True, 10, 4, 0.5)
    journal = Journal(tmp_path)
    for key in ("first", "second"):
        journal.put("0a", key, answer)
    (file,) = (tmp_path / "0a").glob("*.jsonl")
    (tmp_path / "0a" / "killed.jsonl").write_bytes(file.read_bytes()[:-9])
    file.unlink()
    later = Journal(tmp_path)
    assert later.get("0a", "first") == answer
    assert later.get("0a", "second") is None
    later.put("0a", "second", answer)
    assert Journal(tmp_path).get("0a", "second") == answer


def test_answers_of_other_processes_are_taken_in(tmp_path: Path) -> None:
    answer = Answer("pick up a cup", True, 10, 4, 0.5)
    one, other = Journal(tmp_path), Journal(tmp_path)
    assert one.get("0a", "key") is None
    other.put("0a", "key", answer)
    one.refresh("0a")
    assert one.get("0a", "key") == answer


def test_only_what_answers_depend_on_is_in_the_fingerprint(videos: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("Say what the hands do.\n")
    base = Caption(route="server", model="qwen", url="http://a/v1")
    same = {"url": "http://b/v1", "in_flight": 3, "timeout_s": 5.0, "give_up_s": 9.0}
    other = {"model": "b", "frames": 4, "seed": 1, "hint": False, "prompt": str(own)}
    options = {"route": "server", "model": "qwen", "url": "http://a/v1"}
    for name, value in same.items():
        assert Caption(**options | {name: value}).settings() == base.settings()  # type: ignore[arg-type]
    for name, value in other.items():
        assert Caption(**options | {name: value}).settings() != base.settings()  # type: ignore[arg-type]
    before = Caption(**options | {"prompt": str(own)}).settings()  # type: ignore[arg-type]
    from handloom.stages.caption import prompt

    own.write_text("Say what the hands hold.\n")
    prompt.read_prompt.cache_clear()
    assert Caption(**options | {"prompt": str(own)}).settings() != before  # type: ignore[arg-type]
