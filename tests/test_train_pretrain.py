import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from handloom.errors import RunError, UserError
from handloom.tokenize.shards import Sample, write_manifest, write_shards
from handloom.train import loop
from handloom.train.pretrain import PretrainConfig, train

TOKENIZER = {"name": "vqgan-f16-64", "weights_sha256": "ab" * 32, "codebook_size": 64}


def write_clips(root, clips=(24, 6), frames=3, tokenizer=TOKENIZER, seed=0):
    """Shards whose later frames are their first one, shifted as the caption says, with noise."""
    random, infos = np.random.default_rng(seed), {}
    for split, count in zip(("train", "val"), clips, strict=True):
        samples = []
        for i in range(count):
            step = int(random.integers(0, 2))
            still = random.integers(0, 64, (6, 6))
            codes = np.stack([np.roll(still, step * f, axis=1) for f in range(frames)])
            noisy = random.random(codes.shape) < 0.1
            codes[noisy] = random.integers(0, 64, int(noisy.sum()))
            meta = {"caption": ("stay", "move right")[step], "split": split, "dataset": "test"}
            samples.append(Sample(f"{split}{i:03d}", codes[None].astype(np.uint16), meta))
        infos[split] = write_shards(root, split, samples)
    write_manifest(root, infos, {**tokenizer, "model": str(root / "no-decoder-here")})
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def config(shards, tmp_path):
    return PretrainConfig(
        shards=shards,
        out=tmp_path / "out",
        steps=12,
        batch_size=2,
        warmup=4,
        lr=2e-3,
        threads=1,  # the same in this process, whatever ran before, as in a new one
        text_length=8,
        log_every=3,
        val_every=6,
        save_every=6,
    )


def rows(config):
    return [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_is_reproducible_and_a_finished_one_is_left_alone(config, capsys):
    train(config)
    other = replace(config, out=config.out.with_name("other"))
    train(other)
    assert rows(config) == rows(other)
    assert [row["step"] for row in rows(config) if "loss" in row] == list(range(1, 13))
    assert [row["step"] for row in rows(config) if "val" in row] == [6, 12]

    written = {p: p.stat().st_mtime_ns for p in config.out.rglob("*") if p.is_file()}
    capsys.readouterr()
    train(config)
    assert "finished: nothing to do" in capsys.readouterr().out
    assert written == {p: p.stat().st_mtime_ns for p in config.out.rglob("*") if p.is_file()}


KILLED = """
import os, pickle, signal, sys
from handloom.train import log, pretrain

def add(self, step, *rest, original=log.Log.add):
    if step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, step, *rest)

log.Log.add = add
pretrain.train(pickle.loads(sys.stdin.buffer.read()))
"""


def run_and_kill_at_step_8(config):
    command = [sys.executable, "-c", KILLED]
    return subprocess.run(command, input=pickle.dumps(config), capture_output=True)


def test_a_killed_run_resumes_to_the_same_losses_and_the_same_weights(config):
    whole = replace(config, out=config.out.with_name("whole"))
    train(whole)

    dead = run_and_kill_at_step_8(config)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert rows(config)[-1]["step"] == 6

    train(config)
    assert rows(config) == rows(whole)
    a, b = (torch.load(c.out / "checkpoints" / "00000012.pt") for c in (config, whole))
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in b["model"])
    assert a["position"] == b["position"] == 24


def test_sigterm_saves_and_the_same_command_goes_on(config):
    job = loop.Job(config)
    with loop.sigterm() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        with pytest.raises(RunError, match="SIGTERM after step 1 of 12"):
            loop.train(job, asked)
    assert loop.Job(config).step == 1


def test_the_text_encoder_is_frozen(config):
    job = loop.Job(config)
    before = {name: t.clone() for name, t in job.text.network.state_dict().items()}
    loop.train(job, lambda: False)
    after = job.text.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    trained = {id(p) for group in job.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in job.model.parameters()}
    assert not trained & {id(p) for p in job.text.network.parameters()}


def test_a_short_run_beats_both_baselines_on_held_out_clips(config):
    train(replace(config, steps=120, val_every=120, save_every=120, batch_size=4))
    later = json.loads((config.out / "summary.json").read_text())["val"]["frames 1 and later"]
    for baseline in ("copy last frame", "unigram"):
        assert later["model"]["cross_entropy"] < later[baseline]["cross_entropy"]
        assert later["model"]["accuracy"] > later[baseline]["accuracy"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"size": "s"}, "size is tiny there and s now"),
        ({"lr": 1e-4}, "lr is 0.002 there and 0.0001 now"),
        ({"steps": 24}, "steps is 12 there and 24 now"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(config, change, sentence):
    loop.Job(config).save()
    with pytest.raises(UserError, match=sentence):
        loop.Job(replace(config, **change))


def test_a_checkpoint_of_another_tokenizer_is_refused(config, tmp_path):
    loop.Job(config).save()
    other = {**TOKENIZER, "weights_sha256": "cd" * 32, "codebook_size": 128}
    shards = write_clips(tmp_path / "shards", tokenizer=other)
    with pytest.raises(UserError, match=r"codebook_size is 64 there and 128 now; tokenizer is"):
        loop.Job(replace(config, shards=shards))
    assert loop.Job(replace(config, shards=shards, resume=False)).step == 0


def test_a_checkpoint_that_was_not_finished_is_not_there(config):
    job = loop.Job(config)
    job.step = 6
    job.save()
    (config.out / "checkpoints" / "00000007.tmp").write_bytes(b"half a checkpoint")
    assert loop.Job(config).step == 6
    (config.out / "checkpoints" / "00000006.pt").write_bytes(b"damaged")
    with pytest.raises(RunError, match="cannot be read"):
        loop.Job(config)


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(config):
    job = loop.Job(config)
    with torch.no_grad():
        job.model.code.weight.fill_(float("nan"))
    with pytest.raises(RunError, match="the loss is nan in steps 1 to 3"):
        loop.train(job, lambda: False)
    assert loop.Job(config).step == 0


def test_bad_input_is_one_sentence(config, tmp_path):
    def refused(sentence, **changes):
        with pytest.raises(UserError, match=sentence):
            train(replace(config, **changes))

    refused("holds no manifest.json", shards=tmp_path)
    refused("lower --batch-size", batch_size=25)
    refused("unknown size 'xxl'", size="xxl")
    refused("val holds 0 clips", shards=write_clips(tmp_path / "empty", clips=(4, 0)))
    refused("have 1 frame", shards=write_clips(tmp_path / "still", frames=1))
    assert not config.out.exists()


def test_the_options_can_be_read_without_torch():
    code = "import sys; import handloom.train.pretrain; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
