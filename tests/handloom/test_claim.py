import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from handloom.claim import scheduler
from handloom.claim.config import ClaimConfig
from handloom.claim.plan import Step, cells, steps
from handloom.claim.results import Count, collect, difference, verdict
from handloom.claim.run import claim
from handloom.errors import RunError, UserError


@pytest.mark.parametrize(
    ("done", "tried", "low", "high"),
    # Wilson's intervals as Newcombe prints them (Statistics in Medicine 17, 1998, table I).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
     (1, 29, 0.0061, 0.1718)],
)  # fmt: skip
def test_intervals_are_those_that_newcombe_prints(done, tried, low, high):
    assert Count(done, tried).interval == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    # Method 10 of Newcombe's second paper (17, 873 to 890, table II).
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090),
     ((10, 10), (0, 10), 0.6075, 1.0)],
)  # fmt: skip
def test_differences_are_those_that_newcombe_prints(one, other, low, high):
    apart, found_low, found_high = difference(Count(*one), Count(*other))
    assert apart == pytest.approx(one[0] / one[1] - other[0] / other[1])
    assert (found_low, found_high) == pytest.approx((low, high), abs=5e-5)


def test_no_attempt_has_no_rate():
    assert math.isnan(Count(0, 0).rate)
    assert all(map(math.isnan, Count(0, 0).interval))


def test_every_step_waits_for_steps_before_it_and_writes_a_folder_of_its_own():
    planned = steps(ClaimConfig())
    names = [step.name for step in planned]
    assert len(set(names)) == len(names)
    for number, step in enumerate(planned):
        assert set(step.after) <= set(names[:number])


def test_more_seeds_leave_the_first_ones_as_they_are():
    one = cells(ClaimConfig(seeds=1, full_seeds=0))
    every = cells(ClaimConfig(seeds=3, full_seeds=2))
    assert every[: len(one)] == one
    kinds = ("nothing", "people", "hands", "both")
    frozen = {(kind, "frozen") for kind in (*kinds, "robot", "blind")}
    assert {(c.kind, c.mode) for c in one} == frozen
    assert {(c.kind, c.mode) for c in every} == frozen | {(kind, "full") for kind in kinds}
    assert {c.seed for c in every if c.mode == "full"} == {0, 1}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"demonstrations": (50, 5)}, "ascending"), ({"seeds": 0}, "--seeds 0"),
     ({"demonstrations": ()}, "--demonstrations"), ({"workers": -1}, "--workers -1"),
     ({"full_seeds": -1}, "--full-seeds -1")],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        replace(ClaimConfig(), **changes).sized()


SCRIPT = "eval rollout --single --chains 3 --videos 0 --tasks touch_red_block --actor"


@pytest.mark.long
def test_steps_run_once_and_results_of_other_commands_stay(tmp_path: Path, capsys):
    first = Step("a", "rollout.json", (), f"{SCRIPT} oracle")
    second = Step("b", "rollout.json", ("a",), f"{SCRIPT} blind")
    scheduler.run([first, second], tmp_path, 2)
    times = [(tmp_path / name / "rollout.json").stat().st_mtime_ns for name in "ab"]
    scheduler.run([first, second], tmp_path, 2)
    assert times == [(tmp_path / name / "rollout.json").stat().st_mtime_ns for name in "ab"]
    assert "2 of 2 steps are done" in capsys.readouterr().out
    other = replace(first, line=f"{SCRIPT} random")
    with pytest.raises(UserError, match="other sizes: a was made by"):
        scheduler.run([other, second], tmp_path, 2)
    assert times == [(tmp_path / name / "rollout.json").stat().st_mtime_ns for name in "ab"]
    # A plan that leaves a step out does not forget it.
    (tmp_path / "a" / "rollout.json").unlink()
    scheduler.run([first], tmp_path, 2)
    capsys.readouterr()
    scheduler.run([first, second], tmp_path, 2)
    assert "2 of 2 steps are done" in capsys.readouterr().out
    # What uses a step that runs again runs again too.
    (tmp_path / "a" / "rollout.json").unlink()
    scheduler.run([first, second], tmp_path, 2)
    again = [(tmp_path / name / "rollout.json").stat().st_mtime_ns for name in "ab"]
    assert all(new > old for new, old in zip(again, times, strict=True))


KILLED = f"""
from pathlib import Path
from handloom.claim import scheduler
from handloom.claim.plan import Step
line = "{SCRIPT} random".replace("--chains 3", "--chains 100000")
if __name__ == "__main__":
    scheduler.run([Step("a", "rollout.json", (), line)], Path("out"), 1)
"""


@pytest.mark.long
def test_no_worker_outlives_a_run_that_is_killed(tmp_path: Path):
    (tmp_path / "script.py").write_text(KILLED)
    run = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path)
    log = tmp_path / "out" / "log" / "a.txt"
    wait_until(log.is_file, 60)
    (worker,) = [pid for pid in children(run.pid) if "spawn_main" in command(pid)]
    run.kill()
    run.wait()
    wait_until(lambda: not command(worker), 20)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command(pid: int) -> str:
    """Empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def wait_until(happened: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.long
def test_a_step_that_fails_is_named_and_its_log_says_why(tmp_path: Path):
    wrong = Step("a", "rollout.json", (), "eval rollout --actor nobody")
    with pytest.raises(RunError, match=r"a failed; .*/log/a\.txt says why"):
        scheduler.run([wrong, Step("b", "x", ("a",), SCRIPT)], tmp_path, 1)
    assert "nobody" in (tmp_path / "log" / "a.txt").read_text()


def write_cell(folder: Path, done: int, tried: int) -> None:
    (folder / "rollout").mkdir(parents=True)
    lengths = [1] * done + [0] * (tried - done)
    rollout = {"lengths": lengths, "touched_another": 0}
    (folder / "rollout" / "rollout.json").write_text(json.dumps(rollout))
    val = {"val": {"prior_mean": {"arm_l1": 0.5}}}
    (folder / "summary.json").write_text(json.dumps(val))


def test_the_verdict_follows_from_the_counts(tmp_path: Path):
    config = ClaimConfig(out=tmp_path, demonstrations=(5, 50), seeds=2)
    counts = {("nothing", 5): 3, ("hands", 5): 30, ("nothing", 50): 30, ("hands", 50): 31}
    for cell in cells(config):
        if cell.mode == "frozen" and (cell.kind, cell.demonstrations) in counts:
            write_cell(tmp_path / cell.name, counts[cell.kind, cell.demonstrations], 60)
    found = collect(config)
    assert {one.success for one in found} == {Count(6, 120), Count(60, 120), Count(62, 120)}
    few, many = verdict(found, "frozen")
    assert few.startswith("5 demonstrations")
    assert few.endswith("+45% success (+35% to +54%). That hands help: shown.")
    assert many.endswith("That hands help: not shown.")


def test_robot_video_in_stage_1_is_no_evidence_for_hands(tmp_path: Path):
    config = ClaimConfig(out=tmp_path, demonstrations=(50,), seeds=1)
    for kind, done in (("nothing", 5), ("both", 50), ("robot", 50)):
        write_cell(tmp_path / f"cells/{kind}-frozen-50-0", done, 60)
    videos, beside = verdict(collect(config), "frozen")
    assert videos.endswith("That videos help, of hands or of the robot: shown, by one training.")
    assert beside.endswith("That hands help beside robot video: not shown, by one training.")


@pytest.mark.slow
def test_a_quick_run_goes_through_all_parts(tmp_path: Path):
    claim(ClaimConfig(out=tmp_path, quick=True))
    page = (tmp_path / "report.html").read_text()
    for words in ("these hands and robot video", "features set to zero", "blind", "next frame"):
        assert words in page
    assert "<svg" in page
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(found["cells"]) == 2 * 10
    assert all(one["success"]["tried"] == 6 for one in found["cells"])
