"""Costs of a run from a sample: the sample is fair, its error is honest, and sums add up."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from handloom.errors import UserError
from handloom.pipeline.estimate import Basis, PlanOptions, Rate, costs, lines
from handloom.pipeline.probe import Sample, choose
from handloom.pipeline.spent import Spent
from handloom.stages.datasets.source import SourceVideo, Span

Cli = Callable[..., CompletedProcess[str]]


def video(number: int, clips: int, reason: str = "") -> SourceVideo:
    spans = tuple(Span(float(n), n + 1.0, f"text {n}") for n in range(clips))
    return SourceVideo(f"v{number}", f"v{number}.mp4", "", "1", spans, reason=reason)


def test_the_interval_of_a_rate_holds_the_true_rate_five_times_in_six_or_oftener() -> None:
    """Batches of 1 to 32 clips, whose seconds differ by video as a log-normal factor."""
    rng, true, holds = np.random.default_rng(3), 0.25, 0
    for _ in range(1000):
        spent = Spent()
        for _ in range(15):
            clips = int(rng.integers(1, 33))
            spent.add(clips, clips * true * float(rng.lognormal(-0.125, 0.5)))
        rate = spent.rates[0]
        holds += abs(rate - true) <= 1.645 * spent.error * rate
    assert 830 < holds < 950


def test_what_batches_took_is_stored_and_goes_on() -> None:
    one, both = Spent(), Spent()
    for number in range(10):
        both.add(number, number * 0.5)
        if number == 4:
            one = Spent.of({**both.facts(), "unknown": 3})
        elif number > 4:
            one.add(number, number * 0.5)
    assert one == both
    assert one.rates == (pytest.approx(0.5), 0)
    assert one.error == pytest.approx(0, abs=1e-6)
    assert Spent.of(None) == Spent()
    assert math.isinf(Spent().error)


def test_what_a_clip_and_what_opening_a_file_takes_are_told_apart() -> None:
    """Single clips of many files, then runs of neighbours: neither alone tells the two apart."""
    single, together = Spent(), Spent()
    for number in range(20):
        single.add(number % 3 + 1, 0.3 * (number % 3 + 1) + 0.2 * (number % 3 + 1), number % 3 + 1)
        together.add(32, 0.3 * 32 + 0.2, 1)
    assert single.rates == (pytest.approx(0.5), 0)
    assert together.rates == (pytest.approx(0.3 + 0.2 / 32), 0)
    assert (single + together).rates == (pytest.approx(0.3), pytest.approx(0.2))
    assert (single + together).error == pytest.approx(0, abs=1e-6)


def test_no_file_takes_less_than_nothing() -> None:
    spent = Spent()
    for number in range(1, 20):
        spent.add(number, 0.5 * number - 0.1 * (number % 4), number % 4)
    assert spent.rates == (pytest.approx(spent.seconds / spent.clips), 0)


def test_runs_of_clips_are_drawn_alike_and_whatever_their_order() -> None:
    videos = [video(n, clips) for n, clips in enumerate([320, 32, 5, 64, 1, 100] * 20)]
    drawn = Counter[int]()
    for seed in range(40):
        named = [SourceVideo(f"{v.video_id}/{seed}", "", "", "1", v.spans) for v in videos]
        sample, listed = choose(iter(named), 200, 32)
        again, _ = choose(reversed(named), 200, 32)  # type: ignore[arg-type]
        assert again == sample
        assert 200 <= listed < 232
        for unit, runs in sample.runs.items():
            clips = len(videos[int(unit[1:].split("/")[0])].spans)
            assert max(runs) < -(-clips // 32)
            drawn[clips] += len(runs)
    # A video of 320 clips has ten times the runs of one of 32.
    assert 7 < drawn[320] / drawn[32] < 14


def test_a_sample_of_all_runs_is_the_whole_and_runs_do_not_overlap() -> None:
    whole = video(1, 70)
    parts = [Sample({"v1": frozenset([n])}, 32)(whole) for n in range(3)]
    assert [len(part.spans) for part in parts if part] == [32, 32, 6]
    assert sum((part.spans for part in parts if isinstance(part, SourceVideo)), ()) == whole.spans
    assert Sample({"v1": frozenset([0])}, 32)(video(2, 3)) is None


def test_what_is_left_out_is_not_drawn() -> None:
    sources: Iterator[SourceVideo] = iter([video(1, 5, reason="missing_file"), video(2, 5)])
    sample, listed = choose(sources, 100, 32)
    assert (set(sample.runs), listed) == ({"v2"}, 5)


def test_costs_follow_the_clips_and_the_cores() -> None:
    rates = {"hands": Rate(1.0, 0.2, 100, 0.1), "tokens": Rate(0.5, 1.0, 50, 0.1)}
    basis = Basis(rates, 0.5, 0.05, 1.1, 60.0, 1000, 2e9, "a table")
    one, two = costs(basis, 10_000, 2, 0), costs(basis, 20_000, 2, 0)
    assert one.clips == pytest.approx(11_000)
    assert one.core_s["hands"] == pytest.approx(2_200)
    assert one.core_s["tokens"] == pytest.approx(5_500)
    assert two.wall_s - 60 == pytest.approx(2 * (one.wall_s - 60))
    assert costs(basis, 10_000, 4, 0).wall_s - 60 == pytest.approx((one.wall_s - 60) / 2)
    assert one.table_bytes == pytest.approx(11_000 * 125)
    assert one.shard_bytes == pytest.approx(5_500 * 1000)
    assert one.work_bytes == 0


def test_the_disk_holds_what_one_stage_works_with_at_a_time() -> None:
    rates = {
        "a": Rate(1.0, 0.2, 100, 0.1, work_bytes=4_000),
        "b": Rate(0.5, 1.0, 50, 0.1, work_bytes=6_000),
    }
    basis = Basis(rates, 0.5, 0.05, 1.1, 60.0, 1000, 2e9, "a table")
    found = costs(basis, 10_000, 2, 0)
    assert found.work_bytes == pytest.approx(11_000 * 4_000)
    assert "44.0 MB while `duplicates` works" in list(lines(basis, found, 2, 0))[-1]


def test_what_is_stored_and_stays_is_not_left_to_do() -> None:
    rates = {"hands": Rate(1.0, 0.2, 100, 0.1), "tokens": Rate(0.5, 1.0, 50, 0.1)}
    basis = Basis(rates, 0.5, 0.05, 1.0, 60.0, 1000, 2e9, "a table")
    left = costs(basis, 1_000, 2, 0, {"hands": 900, "tokens": 600})
    assert left.core_s["hands"] == pytest.approx(20)
    assert left.core_s["tokens"] == 0  # 100 more than a share of the clips: no less than nothing
    whole = costs(basis, 1_000, 2, 0)
    assert (left.table_bytes, left.shard_bytes) == (whole.table_bytes, whole.shard_bytes)


def test_tables_of_few_clips_are_mostly_what_a_part_takes() -> None:
    rates = {"hands": Rate(1.0, 0.2, 100, 0.1, part_bytes=20_000)}
    basis = Basis(rates, 0.5, 0.05, 1.0, 60.0, 1000, 2e9, "a table", parts=7)
    assert costs(basis, 1_000, 2, 0).table_bytes == pytest.approx(100_000 + 140_000)


def test_work_on_gpus_counts_apart_and_goes_on_meanwhile() -> None:
    rates = {"hands": Rate(1.0, 0.2, 0, 0.1), "tokens": Rate(0.5, 0.02, 0, 0.1, gpus=0.5)}
    found = costs(Basis(rates, 0.5, 0.05, 1.0, 0.0, 0, 0, ""), 100_000, 10, 1)
    assert found.gpu_s == {"tokens": pytest.approx(500)}
    assert found.wall_s == pytest.approx((100_000 * 0.2 + 50_000 * 2e-4) / 10)


@pytest.mark.parametrize(("name", "value"), [("probe", -1), ("cores", 0), ("gpus", -2)])
def test_numbers_that_cannot_be_are_refused(name: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"--plan\.{name} is {value}, expected"):
        PlanOptions(**{name: value})


def test_plan_states_costs_and_writes_nothing(here: Cli, miniature: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = here("plan", "sample", "--data", miniature, "--out", out, "--plan.cores", 64)
    assert run.returncode == 0, run.stderr
    assert "costs, from stated rates" in run.stdout
    assert re.search(r"disk .* shards .*, [\d.]+ [kMG]B while `duplicates` works", run.stdout)
    assert re.search(r"in all [\d.]+ core-hours, 0.00 GPU-hours .* on 64 cores", run.stdout)
    assert "GPUs change nothing" not in run.stdout
    assert not out.exists()
    told = here("plan", "sample", "--data", miniature, "--out", out, "--plan.gpus", 8).stdout
    assert "the GPUs change nothing here: these rates are of cores" in told


@pytest.mark.slow
def test_a_sample_is_tried_and_writes_nothing(
    here: Cli, miniature: Path, tiny_vqgan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    small = ["--tokens.model", tiny_vqgan, "--tokens.resolution", 64, "--run.workers", 1]
    places = ["sample", "--data", miniature, "--out", out]
    run = here("plan", *places, *small, "--plan.probe", 12)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"costs, from \d+ clips of its own in \d+ s on 1 cores", run.stdout)
    assert not out.exists()
    assert not [line for line in run.stdout.splitlines() if line.startswith("curate ")]


def test_nothing_to_try_is_said(
    here: Cli, miniature: Path, copy_of: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    data = copy_of(miniature, "data")
    for path in data.glob("v2/full_scale/*"):
        path.unlink()
    run = here("plan", "sample", "--data", data, "--out", tmp_path / "out", "--plan.probe", 5)
    assert run.returncode == 2
    assert "--plan.probe finds no clip to try" in run.stderr
