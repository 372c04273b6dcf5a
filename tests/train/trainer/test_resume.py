"""Whatever ends a run of stage 1, the same command goes on as if nothing had happened."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import metadata

from handloom.errors import RunError, UserError
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.trainer import checkpoints, loop
from handloom.train.trainer.checkpoints import Reader
from handloom.train.trainer.run import Run
from handloom.train.trainer.start import train
from handloom.unpickle import Refused, Unpickler
from tests.helpers.stage1_runs import TOKENIZER, rows, small_run, trace, write_clips

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def config(shards: Path, tmp_path: Path) -> PretrainConfig:
    return small_run(shards, tmp_path / "out")


def saved(config: PretrainConfig, step: int = 0) -> None:
    """Leave a checkpoint of a run that has not begun, as if it were of some step."""
    job = Run(config)
    job.step = step
    job.save()
    job.checkpoints.wait()


def in_another_process(code: str, config: PretrainConfig) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, input=pickle.dumps(config), capture_output=True)


KILLED = """
import os, pickle, signal, sys
from handloom.train.trainer import log, start

def add(self, step, *rest, original=log.Log.add):
    if step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, step, *rest)

log.Log.add = add
start.train(pickle.loads(sys.stdin.buffer.read()))
"""


@pytest.mark.long
def test_a_killed_run_resumes_to_the_same_losses_and_the_same_weights(
    config: PretrainConfig,
) -> None:
    config = replace(config, save_every=3)
    whole = replace(config, out=config.out.with_name("whole"))
    train(whole)

    dead = in_another_process(KILLED, config)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    # The checkpoint of step 6 may have been half written, that of step 3 was whole.
    assert (config.out / "checkpoints" / "latest").read_text() in ("00000003", "00000006")

    train(config)
    assert trace(config.out) == trace(whole.out)
    assert [row["step"] for row in rows(config.out) if "loss" in row] == list(range(1, 13))
    a, b = (Run(c) for c in (config, whole))
    assert a.position == b.position == 24
    for one, other in zip(tensors(a), tensors(b), strict=True):
        assert torch.equal(one, other)


def tensors(job: Run) -> Iterator[torch.Tensor]:
    for of_kind in job.task.tensors().values():
        yield from of_kind.values()


def test_sigterm_saves_and_the_same_command_goes_on(config: PretrainConfig) -> None:
    job = Run(config)
    with loop.sigterm() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        with pytest.raises(RunError, match="SIGTERM after step 1 of 12"):
            loop.train(job, asked)
    assert Run(config).step == 1


FULL_DISK = """
import pickle, resource, sys
from handloom import cli
from handloom.train.trainer import checkpoints, start

def rename(self, partial, original=checkpoints.Checkpoints._rename):
    original(self, partial)  # after the first checkpoint no file may grow beyond 100 kB
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

checkpoints.Checkpoints._rename = rename
def go(args: list):
    start.train(pickle.loads(sys.stdin.buffer.read()))

cli.COMMANDS["go"] = cli.Command("", "__main__:go")
sys.exit(cli.main(["go"]))
"""


@pytest.mark.long
def test_a_full_disk_leaves_the_checkpoint_before(config: PretrainConfig) -> None:
    config = replace(config, save_every=3)
    run = in_another_process(FULL_DISK, config)
    said = run.stderr.decode()
    assert run.returncode == 1, said
    assert "a checkpoint could not be written into" in said
    assert "a file could not be written to its end" in said
    assert "the last whole one (step 3) is untouched" in said
    assert "Traceback" not in said
    assert [p.name for p in (config.out / "checkpoints").iterdir() if p.is_dir()] == ["00000003"]

    assert Run(config).step == 3


def test_so_many_checkpoints_are_kept(config: PretrainConfig) -> None:
    config = replace(config, save_every=1, steps=5, keep=3)
    loop.train(Run(config), lambda: False)
    folder = config.out / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == [
        "00000003",
        "00000004",
        "00000005",
        "latest",
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"size": "s"}, "size is tiny there and s now"),
        ({"lr": 1e-4}, "lr is 0.002 there and 0.0001 now"),
        ({"steps": 24}, "steps is 12 there and 24 now"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    config: PretrainConfig, change: dict[str, Any], sentence: str
) -> None:
    saved(config)
    with pytest.raises(UserError, match=sentence):
        Run(replace(config, **change))


def test_how_a_run_is_executed_may_change(config: PretrainConfig) -> None:
    saved(config, step=6)
    other = {"micro_batch": 1, "log_every": 1, "keep": 5, "activation_checkpointing": True}
    assert Run(replace(config, **other)).step == 6  # type: ignore[arg-type]


def test_a_checkpoint_of_another_tokenizer_is_refused(
    config: PretrainConfig, tmp_path: Path
) -> None:
    saved(config)
    other = {**TOKENIZER, "weights_sha256": "cd" * 32, "codebook_size": 128}
    shards = (str(write_clips(tmp_path / "shards", tokenizer=other)),)
    with pytest.raises(UserError, match=r"codebook_size is 64 there and 128 now; tokenizer is"):
        Run(replace(config, shards=shards))
    assert Run(replace(config, shards=shards, resume=False)).step == 0


def test_a_checkpoint_that_was_not_finished_is_not_there(config: PretrainConfig) -> None:
    saved(config, step=6)
    folder = config.out / "checkpoints"
    shutil.copytree(folder / "00000006", folder / "00000007.partial")
    assert Run(config).step == 6
    (folder / "00000006" / "__0_0.distcp").write_bytes(b"damaged")
    with pytest.raises(RunError, match="cannot be read"):
        Run(config)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


def test_a_strangers_checkpoint_runs_no_code(
    config: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(config, step=6)
    contents = config.out / "checkpoints" / "00000006" / ".metadata"
    assert Reader(contents.parent).read_metadata().state_dict_metadata
    contents.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(RunError, match=r"asks for posix\.mkdir"):
        Run(config)
    assert not Path("harm").exists()


class ByGetattr:
    """What Python 3.11.2, that of Debian 12, pickles a member of an enumeration as."""

    def __init__(self, kind: type, name: str) -> None:
        self.kind, self.name = kind, name

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.kind, self.name)


def test_members_of_enumerations_are_read_as_any_python_writes_them() -> None:
    kind = metadata._MEM_FORMAT_ENCODING
    for name, member in kind.__members__.items():
        assert contents_of(ByGetattr(kind, name)) is member
    with pytest.raises(Refused, match=r"asks for builtins\.getattr"):
        contents_of(ByGetattr(Path, "cwd"))


def contents_of(value: object) -> Any:
    return Unpickler(pickle.dumps(value), checkpoints._names()).load()
