"""What a run keeps for its whole life, and what a step may not do."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from handloom.train.finetune.config import FinetuneConfig
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.trainer.options import TrainOptions
from handloom.train.trainer.run import Run
from handloom.train.vqgan.config import VQGANConfig
from tests.helpers.robot_shards import write_robot_shards
from tests.helpers.stage1_runs import small_run, write_clips
from tests.train.finetune.test_finetune import small_finetune

# What a checkpoint of stage 1 and of stage 2 has always kept.
STAGE_1 = {"size", "steps", "batch_size", "lr", "warmup", "weight_decay", "first_frame_weight"}
STAGE_1 |= {"clip", "seed", "text_length", "bf16"}
STAGE_2 = STAGE_1 - {"first_frame_weight"} | {"mode", "views", "history", "stride", "chunk"}
STAGE_2 |= {"episodes_per_task", "subset_seed", "trunk_lr"}
STAGE_2 |= {f"head.{n}" for n in ("width", "layers", "latent", "vae_width", "vae_blocks", "pool")}
STAGE_2 |= {f"loss.{n}" for n in ("video", "arm", "gripper", "kl", "kl_warmup", "free_bits")}


@pytest.mark.parametrize(
    ("config", "kept"),
    [(PretrainConfig(shards=("a",)), STAGE_1), (FinetuneConfig(shards=("a",)), STAGE_2)],
    ids=["pretrain", "finetune"],
)
def test_the_identity_of_a_run_is_what_checkpoints_keep(
    config: TrainOptions, kept: set[str]
) -> None:
    assert config.identity().keys() == kept


def test_the_head_in_use_is_part_of_the_identity() -> None:
    found = FinetuneConfig(shards=("a",), action_head="flow").identity()
    assert found["action_head"] == "flow"
    assert found["flow.euler_steps"] == 10


def test_a_process_in_another_folder_gets_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shards = ("a=2", "s3://bucket/b=0.5", str(tmp_path / "c"))
    placed = FinetuneConfig(shards=shards, stage1=Path("one")).with_absolute_paths()
    assert placed.shards == (f"{tmp_path}/a=2", "s3://bucket/b=0.5", f"{tmp_path}/c")
    assert placed.stage1 == tmp_path / "one"
    assert placed.out == tmp_path / "runs/finetune"
    vqgan = VQGANConfig(frames=("runs/a=0.5",), out=Path("m")).with_absolute_paths()
    assert vqgan.frames == (f"{tmp_path}/runs/a=0.5",)


class NoWaiting(TorchDispatchMode):
    """Fails where the host asks a device for a value."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        assert func.overloadpacket not in waits, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["pretrain", "finetune", "flow", "frozen head"])
def test_a_step_waits_for_no_value_from_the_device(kind: str, tmp_path: Path) -> None:
    if kind == "pretrain":
        config: TrainOptions = small_run(write_clips(tmp_path / "clips"), tmp_path / "out")
    else:
        episodes = write_robot_shards(tmp_path / "episodes")
        head = "flow" if kind == "flow" else "cvae"
        config = small_finetune(episodes, tmp_path / "out", action_head=head)
    task = Run(config).task
    batch = next(task.batches(0))
    with NoWaiting():
        step = task.take_step(batch, 0)
    assert step.norm.isfinite()
