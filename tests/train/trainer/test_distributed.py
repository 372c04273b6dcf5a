"""Training in several processes: the same batches, the same losses, the same files."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from handloom.errors import RunError, UserError
from handloom.tokenize.shards import ShardDataset
from handloom.train.finetune.config import FinetuneConfig
from handloom.train.model import export
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.pretrain.data import FIELDS, make_batches
from handloom.train.trainer import loop
from handloom.train.trainer.distributed import World
from handloom.train.trainer.options import TrainOptions
from handloom.train.trainer.run import Run
from handloom.train.trainer.start import train
from tests.helpers.folders import CHECKOUT
from tests.helpers.robot_shards import write_robot_shards
from tests.helpers.stage1_runs import losses, rows, small_run, write_clips
from tests.helpers.vqgan_training import tiny_config, write_pictures
from tests.train.finetune.test_finetune import SMALL, small_finetune

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def torchrun(*args: object) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--standalone", "-m", *map(str, args)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        command, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A finished run of one process."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    config = small_run(shards, out, batch_size=4, steps=6, save_every=3)
    train(config)
    return config


@pytest.fixture(scope="module")
def together(alone: PretrainConfig, others: dict[str, TrainOptions]) -> dict[str, PretrainConfig]:
    """The same run in two processes, in several ways; one process began what they resume."""
    begun = replace(alone, out=alone.out.with_name("resumed"))
    job = Run(begun)
    with pytest.raises(RunError, match="after step 3"):
        loop.train(job, lambda: job.step == 3)
    changes: dict[str, dict[str, Any]] = {
        "ddp": {},
        "accumulated": {"micro_batch": 1},
        "fsdp": {"parallel": "fsdp"},
        "resumed": {},
        "poisoned": {"skip_nonfinite": 1, "steps": 2},
        "apart": {},
    }
    runs = {
        name: replace(alone, out=alone.out.with_name(name), **options)
        for name, options in changes.items()
    }
    listed = alone.out.with_name("configs")
    listed.write_bytes(pickle.dumps([*runs.values(), *others.values()]))
    torchrun("tests.helpers.train_together", listed)
    return runs


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainOptions]:
    """Runs of the other kinds of training, for two processes."""
    root = tmp_path_factory.mktemp("others")
    episodes = write_robot_shards(root / "episodes")
    # Without a latent: what is drawn for it depends on how many draw.
    head = replace(SMALL, latent=0)
    finetune = small_finetune(episodes, root / "finetune", head=head, steps=6, save_every=3)
    pictures = write_pictures(root / "pictures")
    clips = write_clips(root / "clips", side=4)
    train(small_run(clips, root / "stage1", size="nano", steps=2))
    start: dict[str, Any] = {"stage1": root / "stage1", "mode": "frozen+cached", "ema": 0.9}
    cached = replace(finetune, out=root / "cached", **start)
    return {
        "finetune": finetune,
        "finetune cached": cached,
        "finetune cached in parts": replace(cached, out=root / "cached parts", parallel="fsdp"),
        "finetune in parts": replace(finetune, out=root / "parts", parallel="fsdp"),
        # 8 crops are 2 whole frames in the last steps, one for each process.
        "vqgan": replace(tiny_config(pictures, root / "vqgan"), batch_size=8),
    }


@pytest.mark.long
@pytest.mark.parametrize(
    "kind",
    ["finetune", "finetune cached", "finetune cached in parts", "finetune in parts", "vqgan"],
)
def test_two_processes_of_any_kind_learn_what_one_learns(
    together: dict[str, PretrainConfig], others: dict[str, TrainOptions], kind: str
) -> None:
    config = others[kind]
    alone = replace(config, out=config.out.with_name(f"{config.out.name} alone"))
    if isinstance(config, FinetuneConfig):
        alone = replace(alone, parallel="ddp")
    train(alone)
    torch.testing.assert_close(losses(config.out), losses(alone.out), rtol=1e-3, atol=0)
    ours, theirs = (
        next(row["val"] for row in reversed(rows(out)) if "val" in row)
        for out in (config.out, alone.out)
    )
    assert ours.keys() == theirs.keys()
    name = "psnr_db" if kind == "vqgan" else "windows"
    assert ours[name] == pytest.approx(theirs[name], abs=0.02)
    assert (config.out / ("config.json" if kind == "vqgan" else "summary.json")).is_file()


@pytest.mark.long
@pytest.mark.parametrize("way", ["ddp", "accumulated", "fsdp", "resumed"])
def test_two_processes_learn_what_one_learns(
    alone: PretrainConfig, together: dict[str, PretrainConfig], way: str
) -> None:
    found = together[way].out
    torch.testing.assert_close(losses(found), losses(alone.out), rtol=1e-4, atol=0)
    vals = [
        [row["val"]["all"]["loss"] for row in rows(out) if "val" in row]
        for out in (found, alone.out)
    ]
    torch.testing.assert_close(*vals, rtol=1e-4, atol=0)
    assert len(vals[0]) == 1
    ours, theirs = (export.load(out)[0].state_dict() for out in (found, alone.out))
    for name, weights in theirs.items():
        torch.testing.assert_close(ours[name], weights, rtol=0, atol=2e-3)
    assert json.loads((found / "summary.json").read_text())["step"] == 6


@pytest.mark.long
def test_each_process_writes_its_part_of_a_checkpoint_that_one_can_read(
    alone: PretrainConfig, together: dict[str, PretrainConfig], tmp_path: Path
) -> None:
    out = together["fsdp"].out
    assert len(list((out / "checkpoints" / "00000006").glob("*.distcp"))) == 2
    ours = export.load(out)[0].state_dict()
    export.from_checkpoint(out)
    assert all(torch.equal(ours[n], w) for n, w in export.load(out)[0].state_dict().items())
    job = Run(replace(together["fsdp"], parallel="ddp"))
    assert (job.step, job.position) == (6, 24)


@pytest.mark.long
def test_a_loss_that_is_not_finite_in_one_process_is_skipped_in_all(
    together: dict[str, PretrainConfig],
) -> None:
    out = together["poisoned"].out
    said = [(out / f"stopped-{rank}").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert "not finite in 1 steps, lately in step 2" in said[0]
    skipped = [row for row in rows(out) if "skipped" in row]
    assert [row["step"] for row in skipped] == [2]
    assert len(skipped[0]["skipped"]) == 4  # the clips of both


@pytest.mark.long
def test_machines_without_a_common_folder_are_refused(together: dict[str, PretrainConfig]) -> None:
    out = together["apart"].out
    for rank in range(2):
        assert "not the same folder for all 2 processes" in (out / f"refused-{rank}").read_text()
    assert {path.name for path in out.iterdir()} == {"refused-0", "refused-1"}  # nothing is left


@pytest.mark.slow
def test_the_processes_of_torchrun_are_those_of_the_command_line(
    alone: PretrainConfig, shards: Path, tmp_path: Path
) -> None:
    options = {"batch-size": 4, "steps": 6, "warmup": 4, "lr": 2e-3, "text-length": 8, "threads": 1}
    flags = [text for name, value in options.items() for text in (f"--{name}", value)]
    torchrun("handloom", "train", "pretrain", "--shards", shards, "--out", tmp_path / "out", *flags)
    torch.testing.assert_close(losses(tmp_path / "out"), losses(alone.out), rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_processes_share_the_batches_of_one(shards: Path, size: int) -> None:
    data = ShardDataset(shards)

    def inputs(rank: int, size: int) -> Any:
        batches = data.batches(4, 0, rank, size, fields=FIELDS)
        return make_batches(
            batches, torch.device("cpu"), lambda captions, _: torch.zeros(len(captions))
        )

    ranks = [inputs(rank, size) for rank in range(size)]
    for whole, *parts in zip(inputs(0, 1), *ranks, strict=False):
        codes = [part.inputs.codes_BN for part in parts]
        assert torch.equal(whole.inputs.codes_BN, torch.cat(codes))
        assert {part.position for part in parts} == {whole.position}
        if whole.position > 100:  # several epochs
            break


def test_processes_that_do_not_divide_the_batch_are_refused(alone: PretrainConfig) -> None:
    sentence = "--batch-size 4 cannot be split evenly over 3 processes: .* such as 3 or 6"
    with pytest.raises(UserError, match=sentence):
        Run(alone, World(torch.device("cpu"), rank=0, size=3))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["finetune", "vqgan"])
def test_ray_workers_learn_what_one_process_learns(
    others: dict[str, TrainOptions], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT)
    config = others[kind]
    alone = replace(config, out=config.out.with_name(f"{kind} by itself"))
    by_ray = replace(config, out=config.out.with_name(f"{kind} by Ray"), workers=2)
    train(alone)
    # Ray starts and ends in a process of its own, as on a command line.
    start = "import pickle, sys; from handloom.train.trainer.start import train; "
    start += "train(pickle.loads(open(sys.argv[1], 'rb').read()))"
    listed = config.out.with_name(f"{kind} config")
    listed.write_bytes(pickle.dumps(by_ray))
    done = subprocess.run([sys.executable, "-c", start, str(listed)], cwd=CHECKOUT,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    torch.testing.assert_close(losses(by_ray.out), losses(alone.out), rtol=1e-3, atol=0)
