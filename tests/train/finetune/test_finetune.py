import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from handloom.errors import UserError
from handloom.tokenize.shards import read_manifest
from handloom.train.finetune import export, stage1, validate
from handloom.train.finetune.config import FinetuneConfig, FlowOptions, HeadOptions, LossOptions
from handloom.train.finetune.heads.cvae import has_collapsed
from handloom.train.model import text
from handloom.train.trainer.run import Run
from handloom.train.trainer.start import train
from tests.helpers.folders import CHECKOUT
from tests.helpers.robot_shards import TASKS, wander, write_robot_shards
from tests.helpers.stage1_runs import losses, rows, small_run, trace, write_clips
from tests.helpers.stage1_trunk import as_stage1
from tests.helpers.tiny_clip_text import write_clip_text

SMALL = HeadOptions(width=32, layers=1, latent=4, vae_width=32, vae_blocks=1)


def small_finetune(shards: Path, out: Path, **changes: Any) -> FinetuneConfig:
    options: dict[str, Any] = {
        "size": "nano",
        "steps": 12,
        "batch_size": 4,
        "chunk": 4,
        "stride": 2,
        "head": SMALL,
        "warmup": 4,
        "threads": 1,
        "text_length": 8,
        "log_every": 3,
        "val_every": 6,
        "save_every": 6,
        "val_windows": 16,
        "tensorboard": False,
    }
    return FinetuneConfig(shards=(str(shards),), out=out, **{**options, **changes})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_robot_shards(tmp_path_factory.mktemp("robot"))


@pytest.fixture(scope="module")
def stage_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage1")
    clips = write_clips(folder / "clips", side=4)
    train(small_run(clips, folder / "run", size="nano"))
    return folder / "run"


@pytest.fixture(scope="module")
def whole_run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    train(small_finetune(shards, out))
    return out


def test_a_run_learns_and_ends_with_a_summary(whole_run: Path) -> None:
    told = losses(whole_run)
    assert len(told) == 12
    assert sum(told[-3:]) < sum(told[:3])
    summary = json.loads((whole_run / "summary.json").read_text())
    assert summary["val"]["windows"] == 16
    assert set(summary["val"]["video"]) == {"static", "gripper"}
    train = [row["train"] for row in rows(whole_run) if "train" in row]
    assert {"loss", "video", "arm", "gripper", "kl", "windows_per_s", "data_wait"} <= set(train[0])


def test_validation_tells_known_from_unseen_instructions(tmp_path: Path) -> None:
    episodes = {"train": [wander(i) for i in (0, 1, 3, 4)], "val": [wander(i) for i in (2, 6)]}
    folder = write_robot_shards(tmp_path / "shards", episodes)
    job = Run(small_finetune(folder, tmp_path / "out")).task
    assert job.phrases == {episode.caption for episode in episodes["train"]} == set(TASKS[:2])
    found = validate.evaluate(job)
    assert found is not None
    both = found.phrases["known"], found.phrases["unseen"]
    assert [part.windows for part in both] == [8, 8]
    for who in ("prior_mean", "mean_action"):
        alone = [getattr(part, who).arm_l1 for part in both]
        # each window has four actions that count, but for the last ones of an episode
        assert min(alone) <= getattr(found, who).arm_l1 <= max(alone)
    assert "known phrases, 8 windows" in "\n".join(validate.table(found))
    train(small_finetune(folder, tmp_path / "out", steps=2))
    assert export.load(tmp_path / "out")[2]["phrases"] == sorted(TASKS[:2])


def test_a_finished_run_does_nothing(
    whole_run: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (whole_run / "metrics.jsonl").read_bytes()
    train(small_finetune(shards, whole_run))
    assert "nothing to do" in capsys.readouterr().out
    assert (whole_run / "metrics.jsonl").read_bytes() == before


@pytest.mark.long
def test_a_killed_run_goes_on_bit_for_bit(whole_run: Path, shards: Path, tmp_path: Path) -> None:
    config = small_finetune(shards, tmp_path)
    code = (
        "import sys, os, signal; from pathlib import Path\n"
        "from tests.train.finetune.test_finetune import small_finetune\n"
        "from handloom.train.trainer import log, start\n"
        "add = log.Log.add\n"
        "def die(self, step, *rest):\n"
        "    if step == 9:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    add(self, step, *rest)\n"
        "log.Log.add = die\n"
        "start.train(small_finetune(Path(sys.argv[1]), Path(sys.argv[2])))\n"
    )
    died = subprocess.run([sys.executable, "-c", code, shards, tmp_path], cwd=CHECKOUT, check=False)
    assert died.returncode == -signal.SIGKILL
    assert not (tmp_path / "summary.json").exists()
    train(config)
    assert trace(tmp_path) == trace(whole_run)


@pytest.mark.long
def test_sigterm_saves(shards: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.train.finetune.test_finetune import small_finetune\n"
        "from handloom.cli import main\n"
        "from handloom import flags\n"
        "flags.parse = lambda *_: small_finetune("
        "Path(sys.argv[1]), Path(sys.argv[2]), steps=100_000)\n"
        "sys.exit(main(['train', 'finetune']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, shards, tmp_path], cwd=CHECKOUT)
    began = time.monotonic()
    while not (tmp_path / "checkpoints" / "latest").is_file() and time.monotonic() - began < 600:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(600) == 1
    last = [row["step"] for row in rows(tmp_path) if "loss" in row][-1]
    assert int((tmp_path / "checkpoints" / "latest").read_text()) == last


@pytest.mark.parametrize("mode", ["frozen", "frozen+cached"])
def test_a_frozen_gpt_stays_bit_for_bit(
    mode: Any, shards: Path, stage_1: Path, tmp_path: Path
) -> None:
    config = small_finetune(shards, tmp_path, mode=mode, stage1=stage_1)
    train(config)
    before = load_file(stage_1 / "export" / "model.safetensors")
    after = load_file(tmp_path / "export" / "model.safetensors")
    widened = stage1.widen(before, views=2)
    for name, tensor in widened.items():
        assert torch.equal(after[f"trunk.{name}"], tensor), name
    assert sum(losses(tmp_path)[-3:]) < sum(losses(tmp_path)[:3])
    model, _, _ = export.load(tmp_path)
    gpt, _ = stage1.load(stage_1, (2, 4, 4), read_manifest(shards))
    codes, text = torch.randint(64, (2, 48)), torch.randn(2, 8, 128)
    assert torch.equal(as_stage1(model, 1).loss(codes, text), gpt.loss(codes, text))


def test_stored_features_teach_what_computed_ones_do(
    shards: Path, stage_1: Path, tmp_path: Path
) -> None:
    traces = []
    for mode in ("frozen", "frozen+cached"):
        out = tmp_path / mode
        train(small_finetune(shards, out, mode=mode, stage1=stage_1))
        traces.append(losses(out))
    assert np.allclose(*traces, rtol=2e-3)  # float16 has eleven bits


def test_the_optimiser_of_a_frozen_run_knows_the_head_alone(
    shards: Path, stage_1: Path, tmp_path: Path
) -> None:
    jobs = [
        Run(small_finetune(shards, tmp_path / mode, mode=mode, stage1=stage_1))
        for mode in ("full", "frozen")
    ]
    known = [{id(p) for p in job.task.optimizer.state} for job in jobs]
    heads = [p for n, p in jobs[1].task.trained.named_parameters() if not n.startswith("trunk.")]
    assert known[1] == {id(p) for p in heads}
    assert len(known[0]) == len(list(jobs[0].task.trained.parameters()))


def test_a_run_from_stage_1_begins_with_its_weights(
    shards: Path, stage_1: Path, tmp_path: Path
) -> None:
    job = Run(small_finetune(shards, tmp_path, stage1=stage_1, trunk_lr=0.3))
    weights = load_file(stage_1 / "export" / "model.safetensors")
    for name, tensor in stage1.widen(weights, 2).items():
        assert torch.equal(job.task.trained.trunk.state_dict()[name], tensor)
    rates = {group["share"] for group in job.task.optimizer.param_groups}
    assert rates == {1.0, 0.3}


def test_non_finite_windows_are_skipped_and_named(shards: Path, tmp_path: Path) -> None:
    job = Run(small_finetune(shards, tmp_path))
    before = {name: p.detach().clone() for name, p in job.task.trained.named_parameters()}
    batch = next(job.task.batches(0))
    batch.inputs.inputs.action_BkA[0] = np.nan
    assert not job.task.take_step(batch, 0).norm.isfinite()
    for name, p in job.task.trained.named_parameters():
        assert torch.equal(p, before[name]), name


REFUSED = {
    "frozen without stage 1": ({"mode": "frozen", "stage1": None}, "without --stage1"),
    "random and stage 1": ({"control": "random"}, "--control random is a GPT of random weights"),
    "odd pool": ({"head": HeadOptions(pool=3)}, "--head.pool 3 does not divide"),
    "too long a history": ({"history": 3}, "lower --history to 2"),
    "no frame": ({"history": 0}, "1 or more"),
    "batch": ({"micro_batch": 3}, "--micro-batch 3 does not divide"),
    "unknown view": ({"views": ("top",)}, "static, gripper"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_said_in_a_sentence(
    case: str, shards: Path, stage_1: Path, tmp_path: Path
) -> None:
    changes, words = REFUSED[case]
    with pytest.raises(UserError, match=words):
        Run(small_finetune(shards, tmp_path, **{"stage1": stage_1, **changes}))


def test_a_control_run_may_freeze_random_weights(shards: Path, tmp_path: Path) -> None:
    control = {"mode": "frozen", "stage1": None, "control": "random", "size": "nano"}
    task = Run(small_finetune(shards, tmp_path, **control)).task
    assert "random weights, frozen" in task.describe()[0]
    assert not any(p.requires_grad for p in task.trained.trunk.parameters())


def test_stage_1_of_another_tokenizer_or_grid_is_refused(stage_1: Path, tmp_path: Path) -> None:
    other = {"name": "other", "weights_sha256": "cd" * 32, "codebook_size": 64}
    episodes = write_robot_shards(tmp_path / "other", tokenizer=other)
    with pytest.raises(UserError, match=r"cdcdcdcdcdcd.*--tokens.model"):
        Run(small_finetune(episodes, tmp_path / "a", stage1=stage_1))
    episodes = write_robot_shards(tmp_path / "wide", rows=6, cols=6)
    with pytest.raises(UserError, match=r"4 x 4 codes.*6 x 6"):
        Run(small_finetune(episodes, tmp_path / "b", stage1=stage_1))


def test_stage_1_of_other_views_is_refused(tmp_path: Path, shards: Path) -> None:
    three = write_robot_shards(tmp_path / "three", views=("a", "b", "c"), steps=3)
    at_once: dict[str, Any] = {"views": ("a", "b", "c"), "joint_views": True}
    short: dict[str, Any] = {"frames": 3, "spacing_s": 0.1, "steps": 2}
    train(small_run(three, tmp_path / "run", size="nano", **short, **at_once))
    with pytest.raises(UserError, match=r"3 views.*2: choose"):
        Run(small_finetune(shards, tmp_path / "out", stage1=tmp_path / "run", history=1))


def test_a_checkpoint_of_another_run_is_refused(shards: Path, whole_run: Path) -> None:
    with pytest.raises(UserError, match=r"loss\.kl is 0\.01 there and 0\.5 now"):
        Run(small_finetune(shards, whole_run, loss=LossOptions(kl=0.5)))


def test_shards_without_statistics_are_refused(tmp_path: Path) -> None:
    bare = write_robot_shards(tmp_path / "bare", statistics=False)
    with pytest.raises(UserError, match=r"no statistics.*handloom curate"):
        Run(small_finetune(bare, tmp_path / "out"))


def test_an_export_of_stage_1_is_no_policy(stage_1: Path) -> None:
    with pytest.raises(UserError, match=r"stage 1, which has no actions.*--stage1"):
        export.load(stage_1)


@pytest.mark.parametrize("head", ["cvae", "flow"])
def test_a_run_with_each_head_can_be_loaded_and_drawn_from(
    head: Any, shards: Path, tmp_path: Path
) -> None:
    flow = FlowOptions(width=32, blocks=1, euler_steps=4)
    train(small_finetune(shards, tmp_path, action_head=head, flow=flow))
    job = Run(small_finetune(shards, tmp_path, action_head=head, flow=flow))
    model, _, _ = export.load(tmp_path)
    inputs = job.task.windows(job.task.val.read(np.arange(3))).inputs
    with torch.no_grad():
        context = model.context(model.features(inputs), inputs)
        chunk = model.act(context)
        assert torch.equal(chunk, model.act(context))
        assert torch.equal(chunk, job.task.trained.eval().act(context))
        noise = torch.randn(3, *model.head.noise_shape)
        assert not torch.equal(chunk, model.act(context, noise))
    other = small_finetune(shards, tmp_path, action_head="flow" if head == "cvae" else "cvae")
    with pytest.raises(UserError, match=r"action_head is|flow\."):
        Run(other)


def test_an_option_that_is_gone_does_not_make_another_run(
    whole_run: Path, shards: Path, tmp_path: Path
) -> None:
    """Checkpoints of former versions name `head.state_to_images`, which was never switched on."""
    old = Path(shutil.copytree(whole_run, tmp_path / "old"))
    facts = old / "checkpoints" / "00000012" / "run.json"
    record = json.loads(facts.read_text())
    record["identity"]["head.state_to_images"] = False
    facts.write_text(json.dumps(record))
    assert Run(small_finetune(shards, old)).step == 12
    record["identity"]["head.state_to_images"] = True
    facts.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"head\.state_to_images is True there and None now"):
        Run(small_finetune(shards, old))


@pytest.mark.slow
def test_a_compiled_run_learns_the_same(shards: Path, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile wants a C++ compiler")
    for compiled in (False, True):
        head = replace(SMALL, latent=0)  # compiled code draws other noise
        out = tmp_path / str(compiled)
        train(small_finetune(shards, out, steps=4, compile=compiled, head=head))
    assert np.allclose(losses(tmp_path / "True"), losses(tmp_path / "False"), rtol=1e-4)


@pytest.mark.parametrize(
    ("active", "posterior_l1", "latent", "collapsed"),
    [(8, 0.4, 8, False), (3, 0.4, 8, True), (8, 0.499, 8, True), (2, 0.4, 2, False),
     (0, 0.5, 0, False)],
)  # fmt: skip
def test_a_collapsed_posterior_is_noticed(
    active: int, posterior_l1: float, latent: int, collapsed: bool
) -> None:
    assert has_collapsed(active, latent, posterior_l1, prior_l1=0.5) is collapsed


def test_features_of_another_stage_1_are_not_taken_for_these(
    shards: Path, stage_1: Path, tmp_path: Path
) -> None:
    clips = write_clips(tmp_path / "clips", side=4)
    train(small_run(clips, tmp_path / "other", size="nano", seed=1))
    same = {"mode": "frozen+cached", "features": tmp_path / "features", "steps": 1}
    for name, start in (("a", stage_1), ("b", tmp_path / "other"), ("c", stage_1)):
        train(small_finetune(shards, tmp_path / name, stage1=start, **same))
    kept = sorted(path.name.split("-")[0] for path in (tmp_path / "features").iterdir())
    assert kept == ["train", "train", "val", "val"]
    with pytest.raises(UserError, match="stage 1 is"):
        Run(small_finetune(shards, tmp_path / "a", stage1=tmp_path / "other", **same))


def test_a_policy_finds_the_text_encoder_of_its_stage_1(shards: Path, tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", side=4)
    encoder = str(write_clip_text(tmp_path / "clip"))
    train(small_run(clips, tmp_path / "run", size="nano", steps=2, text_encoder=encoder))
    train(small_finetune(shards, tmp_path / "out", stage1=tmp_path / "run", steps=2))
    _, _, facts = export.load(tmp_path / "out")
    assert facts["text_encoder"]["name"] == encoder
    assert text.load_again(facts["text_encoder"]).weights_sha256
