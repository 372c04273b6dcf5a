"""Runs that go on: to more steps from before the rate fell, or from the weights of another one."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from handloom.errors import UserError
from handloom.train.model import export
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.trainer.optimizer import falls_from, schedule
from handloom.train.trainer.run import Run
from handloom.train.trainer.start import train
from tests.helpers.stage1_runs import TOKENIZER, rows, small_run, trace, write_clips

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def config(shards: Path, tmp_path: Path) -> PretrainConfig:
    return small_run(shards, tmp_path / "out", size="nano")


def test_the_rate_rises_stays_and_falls() -> None:
    config = PretrainConfig(shards=("a",), steps=100, warmup=10, schedule="wsd", decay_steps=20)
    rates = [schedule(step, config) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(rates[10:81]) == {1.0}
    assert all(a > b for a, b in pairwise(rates[80:]))
    assert schedule(100, config) == pytest.approx(0.05)
    longer = replace(config, steps=500)
    assert [schedule(step, longer) for step in range(81)] == rates[:81]
    assert falls_from(replace(config, decay_steps=None)) == 90
    assert falls_from(replace(config, steps=12, decay_steps=None)) == 11


@pytest.mark.long
def test_a_run_that_goes_on_is_the_run_that_was_longer_from_the_start(
    config: PretrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, schedule="wsd", steps=12, decay_steps=3, keep=1)
    train(config)
    kept = [path.name for path in sorted((config.out / "checkpoints").iterdir())]
    assert kept == ["00000009", "00000012", "latest"]
    train(config)
    assert "nothing to do" in capsys.readouterr().out

    longer = replace(config, steps=20)
    whole = replace(longer, out=config.out.with_name("whole"))
    train(whole)
    train(longer)
    assert "goes on from step 9, before the learning rate fell" in capsys.readouterr().out
    assert [row["step"] for row in rows(config.out) if "loss" in row] == list(range(1, 21))
    losses = [[row for row in trace(out) if "loss" in row] for out in (longer.out, whole.out)]
    assert losses[0] == losses[1]
    weights = [export.load(out)[0].state_dict() for out in (longer.out, whole.out)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert json.loads((config.out / "summary.json").read_text())["step"] == 20


@pytest.mark.long
def test_a_run_does_not_go_back_further_than_its_checkpoints(config: PretrainConfig) -> None:
    config = replace(config, schedule="wsd", steps=12, decay_steps=3)
    train(config)
    before = sorted(p.name for p in (config.out / "checkpoints").iterdir())
    with pytest.raises(UserError, match=r"none from before step 4 is there: .*--init "):
        train(replace(config, steps=7))
    assert (config.out / "summary.json").is_file()
    assert sorted(p.name for p in (config.out / "checkpoints").iterdir()) == before
    with pytest.raises(UserError, match="another run: lr is"):
        train(replace(config, steps=30, lr=1.0))
    with pytest.raises(UserError, match="schedule is wsd there and None now"):
        train(replace(config, schedule="cosine", decay_steps=None))
    assert sorted(p.name for p in (config.out / "checkpoints").iterdir()) == before


def test_a_decay_that_does_not_fit_is_refused(config: PretrainConfig) -> None:
    for changes in ({"decay_steps": 3}, {"schedule": "wsd", "decay_steps": 9},
                    {"schedule": "wsd", "decay_steps": 0}):  # fmt: skip
        with pytest.raises(UserError, match="--decay-steps"):
            train(replace(config, **changes))  # type: ignore[arg-type]
    assert not config.out.exists()


@pytest.mark.long
def test_a_run_begins_with_the_weights_of_another(config: PretrainConfig, tmp_path: Path) -> None:
    train(replace(config, steps=3))
    more = str(write_clips(tmp_path / "more", dataset="more", seed=3))
    both = (*config.shards, more)
    again = replace(config, init=config.out, out=tmp_path / "again", shards=both, seed=7, steps=4)
    job, model = Run(again), export.load(config.out)[0]
    trained = job.task.trained.state_dict()
    assert all(torch.equal(trained[name], t) for name, t in model.state_dict().items())
    train(replace(again, steps=2, save_every=2))
    moved = tmp_path / "moved"
    (config.out / "export").rename(moved)
    assert Run(replace(again, steps=2, init=moved)).step == 2
    with pytest.raises(UserError, match=r"another run: init is \w{12} there and None now"):
        Run(replace(again, steps=2, init=None))


@pytest.mark.long
def test_weights_that_do_not_fit_are_refused(config: PretrainConfig, tmp_path: Path) -> None:
    train(replace(config, steps=2))
    out = tmp_path / "again"

    def refused(sentence: str, **changes: object) -> None:
        with pytest.raises(UserError, match=sentence):
            train(replace(config, **{"init": config.out, "out": out} | changes))  # type: ignore[arg-type]
        assert not out.exists()

    refused(r"width is 16 there and 32 here.*pass --size nano", size="micro")
    refused(r"frames is 3 there and 2 here.*--frames", frames=2)
    refused("text_length is 8 there and 9 here", spacing_input=True)
    refused("holds no exported model", init=tmp_path)
    other = write_clips(tmp_path / "other", tokenizer={**TOKENIZER, "weights_sha256": "cd" * 32})
    refused("name shards of that one", shards=(str(other),))
