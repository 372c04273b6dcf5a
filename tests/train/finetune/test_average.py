"""A running average of the weights: what it is, that a run keeps it, and that it is exported."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from handloom.errors import RunError, UserError
from handloom.train.finetune import export
from handloom.train.finetune.validate import evaluate
from handloom.train.trainer import loop
from handloom.train.trainer.average import Average
from handloom.train.trainer.run import Run
from handloom.train.trainer.start import train
from tests.helpers.robot_shards import write_robot_shards
from tests.helpers.stage1_runs import rows, trace
from tests.train.finetune.test_finetune import small_finetune

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_robot_shards(tmp_path_factory.mktemp("robot"))


@pytest.fixture(scope="module")
def whole_run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    train(small_finetune(shards, out, ema=0.9))
    return out


def test_the_average_is_the_formula_and_a_swap_leaves_no_trace() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    average, by_hand = Average(model, 0.5), model.weight.detach().double()
    for step in range(30):
        nn.init.normal_(model.weight)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        by_hand = decay * by_hand + (1 - decay) * model.weight.detach().double()
    assert list(average.tensors) == ["weight"]
    torch.testing.assert_close(average.tensors["weight"].double(), by_hand, rtol=1e-5, atol=1e-6)
    last, mean = model.weight.detach().clone(), average.tensors["weight"].clone()
    with average.in_use():
        assert torch.equal(model.weight, mean)
    assert torch.equal(model.weight, last)
    assert torch.equal(average.tensors["weight"], mean)


def test_a_run_that_was_stopped_goes_on_with_its_average(
    whole_run: Path, shards: Path, tmp_path: Path
) -> None:
    config = small_finetune(shards, tmp_path, ema=0.9)
    job = Run(config)
    with pytest.raises(RunError, match="after step 7"):
        loop.train(job, lambda: job.step == 7)
    train(config)
    assert trace(tmp_path) == trace(whole_run)
    ours, theirs = (
        load_file(out / "export" / "model.safetensors") for out in (tmp_path, whole_run)
    )
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_the_average_is_validated_and_exported_and_the_last_weights_learn(
    whole_run: Path, shards: Path, tmp_path: Path
) -> None:
    train(small_finetune(shards, tmp_path))  # the average moves no weight
    losses = [[r["loss"] for r in rows(out) if "loss" in r] for out in (whole_run, tmp_path)]
    assert losses[0] == losses[1]
    model, _, _ = export.load(whole_run)
    job = Run(small_finetune(shards, whole_run, ema=0.9)).task
    exported = dict(model.named_parameters())
    assert all(torch.equal(exported[name], t) for name, t in job.average.tensors.items())
    last = {name: p.detach() for name, p in job.trained.named_parameters()}
    assert not torch.equal(last["readout.query"], exported["readout.query"])
    without = export.load(tmp_path)[0].readout.query
    assert torch.equal(last["readout.query"], without)
    job.trained = model
    found = evaluate(job)
    assert found is not None
    scores = [row["val"] for row in rows(whole_run) if "val" in row][-1]
    assert found.plain()["prior_mean"] == scores["prior_mean"]


def test_a_model_in_parts_has_the_same_average(
    whole_run: Path, shards: Path, tmp_path: Path
) -> None:
    train(small_finetune(shards, tmp_path, ema=0.9, parallel="fsdp"))
    ours, theirs = (
        load_file(out / "export" / "model.safetensors") for out in (tmp_path, whole_run)
    )
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4)


def test_another_average_is_another_run(whole_run: Path, shards: Path) -> None:
    with pytest.raises(UserError, match=r"ema is 0\.9 there and None now"):
        Run(small_finetune(shards, whole_run))
    with pytest.raises(UserError, match=r"--ema 1\.0 is the decay .* such as 0\.999"):
        replace(small_finetune(shards, whole_run), ema=1.0).check()
    with pytest.raises(UserError, match="--tf32 is a kind of number of NVIDIA GPUs"):
        replace(small_finetune(shards, whole_run), tf32=True).check()
