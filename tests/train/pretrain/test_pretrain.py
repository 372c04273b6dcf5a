"""The loop of stage 1 in one process: what it learns, logs, skips and refuses."""

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from handloom.errors import RunError, UserError
from handloom.tokenize import vqgan
from handloom.train.model import export, text
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.trainer import loop
from handloom.train.trainer.run import Run
from handloom.train.trainer.start import train
from tests.helpers.stage1_runs import TOKENIZER, losses, rows, small_run, trace, write_clips

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def config(shards: Path, tmp_path: Path) -> PretrainConfig:
    return small_run(shards, tmp_path / "out")


def never() -> bool:
    return False


def parameters(job: Run) -> dict[str, torch.Tensor]:
    tensors = {f"{kind}.{n}": t for kind, of in job.task.tensors().items() for n, t in of.items()}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.long
def test_a_run_is_reproducible_and_a_finished_one_is_left_alone(
    config: PretrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config)
    other = replace(config, out=config.out.with_name("other"))
    train(other)
    assert trace(config.out) == trace(other.out)
    assert [row["step"] for row in rows(config.out) if "loss" in row] == list(range(1, 13))
    assert [row["step"] for row in rows(config.out) if "val" in row] == [6, 12]

    written = {p: p.stat().st_mtime_ns for p in config.out.rglob("*") if p.is_file()}
    capsys.readouterr()
    train(config)
    assert "finished: nothing to do" in capsys.readouterr().out
    assert written == {p: p.stat().st_mtime_ns for p in config.out.rglob("*") if p.is_file()}


def test_the_text_encoder_is_frozen(config: PretrainConfig) -> None:
    job = Run(replace(config, steps=2))
    before = {name: t.clone() for name, t in job.task.text.network.state_dict().items()}
    loop.train(job, never)
    assert equal(before, job.task.text.network.state_dict())
    trained = {id(p) for group in job.task.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in job.task.model.parameters()}
    assert not trained & {id(p) for p in job.task.text.network.parameters()}


@pytest.mark.long
def test_a_short_run_beats_both_baselines_on_held_out_clips(config: PretrainConfig) -> None:
    train(replace(config, steps=80, val_every=80, save_every=80, batch_size=4))
    later = json.loads((config.out / "summary.json").read_text())["val"]["frames 1 and later"]
    for baseline in ("copy last frame", "unigram"):
        assert later["model"]["cross_entropy"] < later[baseline]["cross_entropy"]
        assert later["model"]["accuracy"] > later[baseline]["accuracy"]


@pytest.mark.parametrize("changes", [{"micro_batch": 1}, {"activation_checkpointing": True}])
def test_saving_memory_changes_no_result(
    config: PretrainConfig, changes: dict[str, bool | int]
) -> None:
    config = replace(config, steps=3, batch_size=4, save_every=3)
    plain, frugal = (Run(replace(config, out=config.out / str(i))) for i in range(2))
    frugal = Run(replace(frugal.config, **changes))
    loop.train(plain, never)
    loop.train(frugal, never)
    torch.testing.assert_close(
        losses(plain.config.out), losses(frugal.config.out), rtol=1e-5, atol=0
    )


class Poisoned(torch.nn.Module):
    """An objective that is not finite, in its loss alone, where a clip begins with a code."""

    def __init__(self, objective: torch.nn.Module, code: int) -> None:
        super().__init__()
        self.objective, self.code = objective, code

    def forward(self, codes_BN: torch.Tensor, text_BLE: torch.Tensor) -> torch.Tensor:
        loss_BN: torch.Tensor = self.objective(codes_BN, text_BLE)
        return torch.where((codes_BN[:, 0] == self.code)[:, None], torch.inf, loss_BN)


def test_a_step_that_is_not_finite_is_skipped_exactly_and_its_clips_are_named(
    config: PretrainConfig,
) -> None:
    job = Run(replace(config, log_every=1, skip_nonfinite=2))
    batch = next(job.task.train.batches(2, 0, start=2))
    job.task.objective = Poisoned(job.task.objective, int(batch["tokens"][0].flat[0]))
    inputs = job.task.batches(job.position)
    job.task.take_step(next(inputs), 0)
    before = parameters(job)
    _, norm = job.task.take_step(next(inputs), 1)
    assert not norm.isfinite()
    assert equal(before, parameters(job))  # moments and their count of steps too

    job = Run(job.config)
    job.task.objective = Poisoned(job.task.objective, int(batch["tokens"][0].flat[0]))
    with pytest.raises(RunError, match="was not finite in 2 steps") as stopped:
        loop.train(job, never)
    skipped = [row for row in rows(config.out) if "skipped" in row]
    assert skipped[0]["step"] == 2
    assert skipped[0]["skipped"] == batch["clip_id"]
    assert skipped[0]["loss"] is None
    assert skipped[-1]["skipped"][0] in str(stopped.value)


def test_weights_that_are_not_finite_stop_the_run(config: PretrainConfig) -> None:
    job = Run(replace(config, skip_nonfinite=3))
    with torch.no_grad():
        job.task.model.code.weight.fill_(float("nan"))
    with pytest.raises(RunError, match="in step 1, 2, 3, with the clips test-train"):
        loop.train(job, never)
    assert Run(config).step == 0


@pytest.mark.long
def test_datasets_are_mixed_by_weight_and_logged_apart(
    shards: Path, config: PretrainConfig, tmp_path: Path
) -> None:
    other = write_clips(tmp_path / "robot", clips=(8, 2), seed=1, dataset="robot")
    both = (f"{shards}=3", f"{other}=1")
    job = Run(replace(config, shards=both, batch_size=8, log_every=12, steps=12))
    assert len(job.task.val) == 8
    assert [job.task.val[i]["dataset"] for i in range(5)] == [
        "test",
        "robot",
        "test",
        "robot",
        "test",
    ]
    loop.train(job, never)
    (row,) = (row for row in rows(config.out) if "train" in row and row["step"] == 12)
    assert row["train"]["datasets"].keys() == {"test", "robot"}

    drawn = next(job.task.train.batches(4096, seed=0, fields=("meta",)))["meta"]
    assert [meta["dataset"] for meta in drawn].count("robot") == 1024


def test_the_log_says_how_fast_and_how_large(config: PretrainConfig) -> None:
    job = Run(replace(config, tensorboard=True, steps=3))
    loop.train(job, never)
    job.log.close()  # the writer holds events back for a while
    (facts,) = (row["train"] for row in rows(config.out) if "train" in row)
    assert facts["tokens_per_s"] > 0
    assert 0 <= facts["data_wait"] < 1
    assert facts["memory_gb"] > 0.1
    assert facts["gradient_norm"] > 0
    tags = {v.tag: v.simple_value for event in events(config.out) for v in event.summary.value}
    assert tags["train/loss"] == pytest.approx(facts["loss"])
    assert tags["train/datasets/test"] == pytest.approx(facts["loss"])


def events(out: Path) -> list[Any]:
    """The events of a TensorBoard file: each is length, its checksum, bytes, their checksum."""
    (path,) = (out / "tensorboard").glob("events*")
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        found.append(Event.FromString(data[at + 12 : at + 12 + size]))
        at += size + 16
    return found


def test_captions_that_are_too_long_are_cut_counted_and_mentioned_once(
    config: PretrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Run(replace(config, text_length=3, log_every=2, steps=4))  # "move right" needs 4
    loop.train(job, never)
    long = sum(
        caption == "move right"
        for batch, _ in zip(job.task.train.batches(2, 0), range(4), strict=False)
        for caption in batch["caption"]
    )
    assert 0 < long < 8
    assert [row["train"] for row in rows(config.out) if "train" in row][-1]["captions_cut"] >= long
    assert capsys.readouterr().out.count("longer than 3 tokens and were cut") == 1


def test_an_export_is_the_model(config: PretrainConfig) -> None:
    train(replace(config, steps=2))
    model, facts = export.load(config.out)
    job = Run(replace(config, steps=2))
    assert equal(model.state_dict(), job.task.model.state_dict())
    assert facts["step"] == 2
    assert facts["tokenizer"]["weights_sha256"] == TOKENIZER["weights_sha256"]
    assert facts["text_encoder"]["weights_sha256"] == job.task.text.weights_sha256
    (config.out / "export" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="does not load as a model of handloom"):
        export.load(config.out)
    export.from_checkpoint(config.out)
    assert equal(export.load(config.out)[0].state_dict(), model.state_dict())
    with pytest.raises(UserError, match="holds no exported model"):
        export.load(config.out / "checkpoints")


TOO_LARGE = """
import pickle, resource, sys
from handloom.train.trainer import loop
from handloom.train.trainer.run import Run

job = Run(pickle.loads(sys.stdin.buffer.read()))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, resource.RLIM_INFINITY))
try:
    loop.train(job, lambda: False)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_a_batch_that_does_not_fit_into_memory_says_what_to_lower(
    config: PretrainConfig, tmp_path: Path
) -> None:
    large = write_clips(tmp_path / "large", clips=(32, 1), side=12)
    config = replace(config, shards=(str(large),), batch_size=32)
    run = subprocess.run(
        [sys.executable, "-c", TOO_LARGE], input=pickle.dumps(config), capture_output=True
    )
    said = run.stdout.decode()
    assert "UserError 32 clips of 432 codes at a time do not fit" in said, run.stderr.decode()
    assert "--micro-batch 16 (the result is the same)" in said


def test_bad_input_is_one_sentence(config: PretrainConfig, shards: Path, tmp_path: Path) -> None:
    def refused(sentence: str, **changes: object) -> None:
        with pytest.raises(UserError, match=sentence):
            train(replace(config, **changes))  # type: ignore[arg-type]

    refused("holds no manifest.json", shards=(str(tmp_path),))
    refused("lower --batch-size", batch_size=25)
    refused("unknown size 'xxl'", size="xxl")
    refused("choose a divisor of 2", micro_batch=3)
    refused("val holds 0 clips", shards=(str(write_clips(tmp_path / "empty", clips=(4, 0))),))
    still = str(write_clips(tmp_path / "still", frames=1))
    refused("have 1 frame", shards=(still,))
    refused("still/train: each of its 24 clips is too short for 3 f", shards=(str(shards), still))
    small = str(write_clips(tmp_path / "small", side=4))
    refused(r"codes of several shapes .* \[4, 4\].*--out .* --tok", shards=(str(shards), small))
    refused("asks for a weight of 0, expected a number above 0", shards=(f"{shards}=0",))
    refused("asks for a weight of -1", shards=(str(shards), f"{small}=-1"))
    other = write_clips(tmp_path / "other", tokenizer={**TOKENIZER, "weights_sha256": "cd" * 32})
    refused("encoded by different tokenizers", shards=(str(shards), str(other)))
    if not torch.cuda.is_available():
        refused("finds no GPU here", device="cuda")
    assert not config.out.exists()


def test_the_options_can_be_read_without_torch() -> None:
    code = "import sys; import handloom.train.pretrain.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_captions_encoded_together_are_those_encoded_one_by_one() -> None:
    encoder = text.load("seeded", length=6)
    captions = ["stay", "move the cup to the left", "", "move right"]
    ids = [encoder._tokens(caption) for caption in captions]
    torch.testing.assert_close(encoder.together(ids), encoder(captions), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_model_learns_the_same(config: PretrainConfig) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile wants a C++ compiler")
    outs = [config.out / name for name in ("eager", "compiled")]
    for out in outs:
        compiled = out.name == "compiled"
        loop.train(Run(replace(config, out=out, steps=2, compile=compiled)), never)
    torch.testing.assert_close(losses(outs[0]), losses(outs[1]), rtol=1e-4, atol=0)


@pytest.mark.long
def test_pictures_of_predictions_are_kept_on_the_way(tmp_path: Path) -> None:
    tokenizer = {**vqgan.describe("bundled-128"), "model": "bundled-128"}
    shards = write_clips(tmp_path / "shards", (6, 2), tokenizer=tokenizer, side=8)
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["tokenizer"]["model"] = "bundled-128"
    (shards / "manifest.json").write_text(json.dumps(manifest))
    config = small_run(shards, tmp_path / "run", size="nano", sample_every=5, val_every=0)
    train(config)
    kept = sorted(path.name for path in (config.out / "samples").iterdir())
    assert kept == ["00000005.png", "00000010.png"]
    with (
        Image.open(config.out / "samples" / kept[0]) as first,
        Image.open(config.out / "predictions.png") as last,
    ):
        assert first.size == last.size
        assert first.tobytes() != last.tobytes()  # it has learned since
