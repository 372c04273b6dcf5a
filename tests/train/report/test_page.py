"""The report of both stages: it says what runs wrote, what is missing, and needs no network."""

import base64
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from handloom import demo, flags
from handloom.errors import UserError
from handloom.train.evaluate.policy import run as evaluate_policy
from handloom.train.evaluate.policy_config import PolicyEval
from handloom.train.evaluate.rollout import run as roll_out
from handloom.train.evaluate.rollout_config import RolloutEval
from handloom.train.finetune.config import FinetuneConfig, HeadOptions
from handloom.train.generate import pictures
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.report import charts
from handloom.train.report import page as report
from handloom.train.report.page import TrainReport
from handloom.train.trainer.start import train
from tests.helpers.folders import CHECKOUT
from tests.helpers.robot_shards import write_robot_shards
from tests.helpers.stage1_runs import small_run, write_clips

HEAD = HeadOptions(width=32, layers=1, latent=4, vae_width=32, vae_blocks=1)
PARTS = ("stage1", "stage2", "scores", "rollouts/policy", "rollouts/random", "rollouts/oracle")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `make train-sample` leaves it; the oracle's rollouts stand for the policy's."""
    out = tmp_path_factory.mktemp("whole")
    clips = write_clips(out / "human" / "shards", side=4)
    episodes = write_robot_shards(out / "robot" / "shards", (6, 3), steps=12)
    train(small_run(clips, out / "stage1", size="nano", steps=6))
    train(
        FinetuneConfig(
            shards=(str(episodes),), out=out / "stage2", stage1=out / "stage1", mode="frozen",
            head=HEAD, steps=4, batch_size=4, warmup=1, history=1, stride=3, chunk=4, log_every=2,
            val_every=2, threads=1, tensorboard=False,
        )
    )  # fmt: skip
    evaluate_policy(
        PolicyEval(
            checkpoint=out / "stage2", shards=(str(episodes),), out=out / "scores", clips=0,
            windows=8, samples=2, threads=1,
        )
    )  # fmt: skip
    for actor, steps, films in (("oracle", 120, 1), ("random", 3, 0)):
        roll_out(
            RolloutEval(
                actor=actor, single=True, tasks=("open_drawer",), chains=1, steps_per_task=steps,
                videos=films, words="trained", out=out / "rollouts" / actor,
            )
        )  # fmt: skip
    shutil.copytree(out / "rollouts" / "oracle", out / "rollouts" / "policy")
    return out


@pytest.fixture(scope="module")
def page(whole: Path) -> str:
    return report.write(TrainReport(out=whole)).read_text()


# The page


def test_a_whole_run_misses_nothing_but_pictures(page: str, whole: Path) -> None:
    # No tokenizer is at hand for these codes, so that no picture can be.
    assert missed(page) == [str(whole / "scores" / "pictures.png")]


def test_numbers_are_those_of_the_runs(page: str, whole: Path) -> None:
    scores = json.loads((whole / "scores" / "scores.json").read_text())
    for errors in scores["all"]["chunks"].values():
        assert f"<td>{errors['arm_l1_std']:.3f}</td>" in page
    later = json.loads((whole / "stage1" / "summary.json").read_text())["val"]["frames 1 and later"]
    assert f"model {later['model']['accuracy']:.1%}" in page
    assert "<td>24 clips, 6 held out</td>" in page
    assert "<td>6 clips, 3 held out</td>" in page
    assert "policy 1 of 1" in page
    assert "random 0 of 1" in page


def test_a_rollout_is_shown_with_its_words_and_its_outcome(page: str) -> None:
    assert "<b>done</b>" in page
    assert "knows no language" in page


def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    assert "<script" not in page
    assert "<link" not in page
    assert "http" not in page
    sources = re.findall(r'src="([^"]*)"', page)
    assert all(source.startswith(("data:image/", "data:video/")) for source in sources)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_missing_is_said(whole: Path, tmp_path: Path, part: str) -> None:
    out = tmp_path / "cut"
    shutil.copytree(whole, out)
    shutil.rmtree(out / part)
    found = missed(report.write(TrainReport(out=out)).read_text())
    assert any(line.startswith(str(out / part)) for line in found)


def test_of_an_empty_folder_everything_is_missing(tmp_path: Path) -> None:
    found = missed(report.write(TrainReport(out=tmp_path)).read_text())
    for part in PARTS:
        assert any(line.startswith(str(tmp_path / part)) for line in found), part


def test_a_killed_run_is_shown_as_far_as_it_came(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    shutil.copytree(whole, out)
    (out / "stage2" / "summary.json").unlink()
    with (out / "stage2" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 5, "train": {"lo')  # the process died in the middle of a line
    killed = report.write(TrainReport(out=out)).read_text()
    assert "arm L1, held out" in killed
    assert "unfinished" in killed


def test_a_film_that_cannot_be_read_costs_only_itself(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "broken"
    shutil.copytree(whole, out)
    (out / "rollouts" / "policy" / "chain-000.mp4").write_bytes(b"no video")
    assert "not a readable video" in report.write(TrainReport(out=out)).read_text()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is not a folder.*train-sample"):
        report.write(TrainReport(out=tmp_path / "nowhere"))


def missed(page: str) -> list[str]:
    """Paths that the page says are missing."""
    return re.findall(r"<p class=missing>(\S+) is not there", page)


# What it reads


def test_parameters_are_counted_without_loading_them(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(()), "c": torch.zeros(2, 2, 2)}, path)
    assert report.parameters(path) == 3 * 5 + 1 + 8
    assert report.parameters(tmp_path / "none") == 0


def test_minutes_follow_from_the_rates(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": 50, "train": {"windows_per_s": 10}},
        {"step": 60, "loss": 0.1},
        {"step": 100, "train": {"windows_per_s": 20}},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # 50 steps of 12 windows at 10 a second and 50 at 20.
    assert report.minutes(tmp_path, {"mode": "full", "batch_size": 12}) == pytest.approx(1.5)


# Charts


def test_bars_are_as_long_as_their_rates() -> None:
    drawn = charts.rate_chart({"policy": {"a": (2, 4), "b": (4, 4)}, "random": {"a": (1, 4)}})
    widths = [float(w) for w in re.findall(r'width="([\d.]+)" height="11.0" fill', drawn)]
    bars = [w for w in widths if w != 12]  # the legend's boxes
    assert bars[0] == pytest.approx(2 * bars[1])
    assert bars[2] == pytest.approx(4 * bars[1])


@pytest.mark.parametrize(("done", "tried"), [(0, 5), (3, 5), (5, 5), (30, 36)])
def test_the_interval_holds_the_rate_and_its_mirror(done: int, tried: int) -> None:
    low, high = charts.interval(done, tried)
    assert 0 <= low <= done / tried <= high <= 1
    mirrored = charts.interval(tried - done, tried)
    assert mirrored == pytest.approx((1 - high, 1 - low))
    more = charts.interval(10 * done, 10 * tried)
    assert more[1] - more[0] < high - low


def test_a_strip_goes_from_the_first_frame_to_the_last(tmp_path: Path) -> None:
    levels = np.linspace(20, 230, 22).astype(np.uint8)
    film = np.broadcast_to(levels[:, None, None, None], (22, 40, 60, 3)).copy()
    film[:, 30:] = 255  # the words
    pictures.write_mp4(film, 10, tmp_path / "film.mp4")
    strip = np.asarray(charts.film_strip(tmp_path / "film.mp4", 4, words_px=10))
    assert (strip[:8] > 240).all()
    shades = strip[strip.shape[0] // 2, :: strip.shape[1] // 8][1::2][:4, 0].astype(int)
    assert shades.tolist() == pytest.approx([20, 90, 160, 230], abs=6)


# The command


def test_the_steps_of_the_demo_name_options_that_there_are() -> None:
    out = Path("/tmp/some where")
    kinds = {
        "train pretrain": PretrainConfig, "train finetune": FinetuneConfig,
        "eval policy": PolicyEval, "eval rollout": RolloutEval,
    }  # fmt: skip
    seen = set()
    for step in demo.steps(demo.DemoConfig(out=out)):
        words = [*shlex.split(step.line), "--out", str(out / step.name)]
        command = " ".join(words[:2])
        if command in kinds:
            config = flags.parse(kinds[command], words[2:], command)
            assert config.out == out / step.name
            seen.add(command)
    assert seen == set(kinds)


def test_the_command_fails_with_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "handloom", "train", "report", "--out", str(tmp_path / "none")],
        cwd=CHECKOUT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("handloom: ")
    assert "Traceback" not in done.stderr


def test_a_chart_of_single_points_is_a_sentence() -> None:
    one, more = charts.Line("policy", [(150, 0.5)]), charts.Line("other", [(0, 1.0), (50, 0.5)])
    assert charts.lines_or_words("errors", [one]) == "<p>errors, measured once: policy 0.500.</p>"
    assert "<svg" in charts.lines_or_words("errors", [one, more])
    assert not charts.lines_or_words("errors", [charts.Line("policy", [])])


def test_films_play_in_the_page(page: str, whole: Path) -> None:
    films = sorted((whole / "rollouts/policy").glob("chain-*.mp4"))
    assert films
    assert base64.b64encode(films[0].read_bytes()).decode() in page
