"""Laws of the VQGAN's training runs: tiny networks on drawn pictures, a few seconds a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from handloom.errors import RunError, UserError
from handloom.tokenize import vqgan
from handloom.train.trainer import loop
from handloom.train.trainer.run import Run
from handloom.train.trainer.start import train
from handloom.train.vqgan.config import VQGANConfig
from handloom.train.vqgan.evaluate import GRID_SIDE
from handloom.train.vqgan.frames import Frames
from handloom.train.vqgan.model import build, latents_of, pictures, start
from tests.helpers.vqgan_training import log_of, table_top, tiny_config, write_pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_pictures(tmp_path_factory.mktemp("frames") / "table")
    (made / "broken.mp4").write_bytes(b"not a video")
    return made


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> VQGANConfig:
    return tiny_config(folder, tmp_path / "model")


def summaries(out: Path) -> list[dict[str, Any]]:
    return [row["train"] for row in log_of(out) if "train" in row]


def test_training_lowers_the_loss_and_writes_a_folder_that_loads(
    config: VQGANConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config)
    steps = summaries(config.out)
    assert steps[-1]["l1"] < steps[0]["l1"]
    assert {"usage", "perplexity", "psnr_db", "perceptual"} <= set(steps[0])
    assert not {"logits_real", "adaptive", "commitment"} & set(steps[0])  # they begin later
    assert {"logits_real", "logits_fake", "adaptive", "commitment"} <= set(steps[-1])
    tokenizer = vqgan.load(str(config.out))
    assert (tokenizer.name, tokenizer.resolution, tokenizer.input_range) == ("model", 64, (-1, 1))
    frames_thwc = table_top(1, 64)[None]
    assert tokenizer.decode(tokenizer.encode(frames_thwc)).shape == frames_thwc.shape
    assert "--codes 32" in (config.out / "README.md").read_text()
    for picture in ("reconstructions.png", "reconstructions/00000014.png"):
        with Image.open(config.out / picture) as image:
            assert image.height == 2 * GRID_SIDE  # true ones above, painted ones below

    before = {path: path.stat().st_mtime_ns for path in config.out.rglob("*")}
    capsys.readouterr()
    train(config)
    assert "finished: nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in config.out.rglob("*")} == before


@pytest.mark.long
@pytest.mark.parametrize("refresh", [0, 5])
def test_a_killed_run_goes_on_to_the_same_weights(config: VQGANConfig, refresh: int) -> None:
    whole = replace(config, refresh=refresh, max_pairs=6, out=config.out / "a", name="same")
    killed = replace(whole, out=config.out / "b")
    train(whole)

    steps = iter(range(1, 100))

    def dies() -> bool:
        if next(steps) == 9:  # three steps after the last checkpoint
            raise KeyboardInterrupt
        return False

    run = Run(killed)
    with pytest.raises(KeyboardInterrupt):
        loop.train(run, dies)
    run.checkpoints.settle()  # its thread lives on in this process, and would write beside the next
    assert log_of(killed.out)[-1]["step"] == 8
    train(killed)
    assert log_of(killed.out) == log_of(whole.out)
    assert vqgan.describe(str(killed.out)) == vqgan.describe(str(whole.out))


def test_sigterm_saves_and_a_checkpoint_knows_its_run(config: VQGANConfig, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"stopped by SIGTERM after step 1 of 14.*goes on"):
        loop.train(Run(config), lambda: True)
    with pytest.raises(UserError, match=r"another run: lr is 0\.003 there and 0\.1 now"):
        train(replace(config, lr=0.1))
    others = write_pictures(tmp_path / "others", 13, first=50)
    with pytest.raises(UserError, match=r"checkpoint of another run: frames is"):
        train(replace(config, frames=(str(others),)))
    with pytest.raises(UserError, match=r"another run: frames is"):
        train(replace(config, frames=(f"{config.frames[0]}=2",)))


@pytest.mark.long
def test_the_discriminator_does_not_ruin_the_reconstruction(config: VQGANConfig) -> None:
    longer = replace(
        config, steps=70, batch_size=4, val_every=10, discriminator_start=40, save_every=1000
    )
    train(longer)
    psnr_by_step = {r["step"]: r["val"]["psnr_db"] for r in log_of(longer.out) if "val" in r}
    assert min(psnr_by_step[step] for step in range(50, 71, 10)) > psnr_by_step[40] - 1
    last = summaries(longer.out)[-1]
    assert last["adaptive"] > 0
    assert last["logits_real"] > last["logits_fake"]  # it did learn to tell them apart


def test_opening_the_branches_changes_nothing_that_is_computed(config: VQGANConfig) -> None:
    pool = Frames(config).pool(0)
    x = pictures(pool.some(3, 1))
    latents, gradients = [], []
    for first in (config.steps, 0):
        model = build(config)
        start(model, pool, replace(config, encoder_start=first))
        found = latents_of(model, x)
        found.square().sum().backward()
        latents.append(found.detach())
        gradients.append(model.encoder.mid_block.resnets[0].conv2.weight.grad.abs().max().item())
    assert torch.equal(*latents)
    assert gradients[0] == 0 < gradients[1]


def test_a_run_can_begin_with_a_trained_model(config: VQGANConfig, tmp_path: Path) -> None:
    torch.manual_seed(1)
    donor = build(config)
    donor.save_pretrained(tmp_path / "donor")
    model = build(config)
    more = replace(config, begin_with=tmp_path / "donor", encoder_start=config.steps)
    start(model, Frames(config).pool(0), more)
    theirs, ours = donor.state_dict(), model.state_dict()
    other = [name for name in ours if not torch.allclose(ours[name], theirs[name], atol=1e-3)]
    assert other == ["quantize.embedding.weight"]  # fitted anew
    with pytest.raises(UserError, match=r"has num_vq_embeddings 32 and this run 64"):
        train(replace(more, codes=64))
    with pytest.raises(UserError, match="is not a diffusers VQModel"):
        train(replace(more, begin_with=tmp_path))


def test_a_linear_encoder_is_left_alone(config: VQGANConfig) -> None:
    run = Run(replace(config, encoder_start=config.steps))
    model = run.task.trained
    kept = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    codes = model.quantize.embedding.weight.clone()
    loop.train(run, lambda: False)
    after = run.task.average.encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in kept.items())
    assert torch.equal(run.task.average.quantize.embedding.weight, codes)


def test_folders_without_frames_are_refused(config: VQGANConfig, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="holds neither videos nor images"):
        train(replace(config, frames=(str(empty),)))
    one = write_pictures(tmp_path / "one", 1)
    with pytest.raises(UserError, match="too few videos or images"):
        train(replace(config, frames=(str(one),)))
    for name in ("a.mp4", "b.mp4"):
        (empty / name).write_bytes(b"not a video")
    with pytest.raises(UserError, match="none of 1 files could be read"):
        train(replace(config, frames=(str(empty),)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "groups 3 does not divide the width 8"),
        ({"widths": (8, 16, 24)}, "need 36 channels"),
        ({"widths": (40, 40)}, "both 40"),
        ({"widths": (40,)}, "two numbers at least"),
        ({"codes": 70_000}, "uint16 holds 65,536 at most"),
        ({"crop": 30}, "--crop 30: 3 widths make codes of 4 pixels"),
        ({"batch_size": 0}, "--batch-size 0: it has to be 1 or more"),
        ({"lr": 0.0}, "has to be above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(
    config: VQGANConfig, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(replace(config, **options))
    assert not config.out.exists()
