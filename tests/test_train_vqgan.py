"""Laws of the VQGAN's trainer: tiny networks on drawn pictures, a few seconds a run."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw

from handloom.errors import RunError, UserError
from handloom.tokenize import measure_lpips, vqgan
from handloom.train import vqgan_loop
from handloom.train.vqgan import VQGANConfig, train
from handloom.train.vqgan_codebook import Codebook
from handloom.train.vqgan_discriminator import PatchGAN
from handloom.train.vqgan_frames import Frames
from handloom.train.vqgan_losses import adaptive_weight, gradient_difference, hinge
from handloom.train.vqgan_model import build, latents_of, pictures, start
from handloom.train.vqgan_perceptual import LPIPS
from handloom.train.vqgan_report import GRID_SIDE, psnr_db

Sight = Callable[[int], np.ndarray]


def table_top(seed: int, size: int = 80) -> np.ndarray:
    """A wooden table below a wall, with a few coloured things on it."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), (190, 196, 204))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, size // 3, size, size), fill=(150, 112, 80))
    for color in ((200, 60, 50), (60, 110, 190), (224, 172, 140)):
        x, y = rng.integers(0, size * 3 // 4, 2)
        draw.ellipse((x, y, x + size // 4, y + size // 5), fill=color)
    return np.array(image)


def write_pictures(folder: Path, count: int = 12, first: int = 0) -> Path:
    folder.mkdir(parents=True)
    for seed in range(first, first + count):
        Image.fromarray(table_top(seed)[:70]).save(folder / f"{seed}.png")
    return folder


def write_video(path: Path, seconds: float, fps: int = 10, size: int = 64) -> None:
    """A video whose brightness is 20 times the second it shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "1"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(int(seconds * fps)):
            grey = np.full((size, size, 3), int(20 * number / fps), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_pictures(tmp_path_factory.mktemp("frames") / "table")
    (made / "broken.mp4").write_bytes(b"not a video")
    return made


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> VQGANConfig:
    return VQGANConfig(
        frames=(str(folder),),
        out=tmp_path / "model",
        steps=14,
        batch=2,
        resolution=64,
        crop=32,
        widths=(8, 16, 40),
        codes=32,
        lr=3e-3,
        encoder_start=3,
        discriminator_start=5,
        discriminator_ramp=4,
        discriminator_width=8,
        dead_after=6,
        log_every=2,
        eval_every=100,
        save_every=6,
        threads=1,
    )


def log_of(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in row.items() if name != "seconds"} for row in rows]


def test_training_lowers_the_loss_and_writes_a_folder_that_loads(
    config: VQGANConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config)
    steps = [row for row in log_of(config.out) if "loss" in row]
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

    with pytest.raises(KeyboardInterrupt):
        vqgan_loop.train(vqgan_loop.open_job(killed), dies)
    assert log_of(killed.out)[-1]["step"] == 8
    train(killed)
    assert log_of(killed.out) == log_of(whole.out)
    assert vqgan.describe(str(killed.out)) == vqgan.describe(str(whole.out))


def test_sigterm_saves_and_a_checkpoint_knows_its_run(config: VQGANConfig, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"stopped by SIGTERM after step 1 of 14.*goes on"):
        vqgan_loop.train(vqgan_loop.open_job(config), lambda: True)
    with pytest.raises(UserError, match=r"another run: lr is 0\.003 there and 0\.1 now"):
        train(replace(config, lr=0.1))
    others = write_pictures(tmp_path / "others", 13, first=50)
    with pytest.raises(UserError, match=r"checkpoint of another run: frames is"):
        train(replace(config, frames=(str(others),)))
    with pytest.raises(UserError, match=r"another run: frames is"):
        train(replace(config, frames=(f"{config.frames[0]}=2",)))


def test_the_discriminator_does_not_ruin_the_reconstruction(config: VQGANConfig) -> None:
    longer = replace(
        config, steps=70, batch=4, eval_every=10, discriminator_start=40, save_every=1000
    )
    train(longer)
    psnr_by_step = {r["step"]: r["held_out"]["psnr_db"] for r in log_of(longer.out) if len(r) == 2}
    assert min(psnr_by_step[step] for step in range(50, 71, 10)) > psnr_by_step[40] - 1
    last = [row for row in log_of(longer.out) if "adaptive" in row][-1]
    assert last["adaptive"] > 0
    assert last["logits_real"] > last["logits_fake"]  # it did learn to tell them apart


def test_dead_codes_come_back() -> None:
    generator = torch.Generator().manual_seed(0)
    weight_kd = torch.randn(16, 4, generator=generator)
    weight_kd[8:] += 100  # where no latent ever comes
    book = Codebook(weight_kd, torch.full((16,), 1 / 16), 64, decay=0.9, dead_after=5)
    for step in range(1, 41):
        latents = torch.randn(1, 4, 8, 8, generator=generator)
        _, ids, _ = book.quantize(latents)
        book.see(latents, ids, step, learn=True)
        if step == 4:
            assert book.usage(step) <= 0.5
    assert book.restarted >= 8
    assert book.usage(40) == 1
    assert weight_kd.abs().max() < 10


def test_codes_that_do_not_learn_stay_and_are_counted() -> None:
    weight_kd = torch.tensor([[0.0], [1.0], [50.0]])
    book = Codebook(weight_kd.clone(), torch.tensor([0.5, 0.5, 0.0]), 4, 0.9, dead_after=2)
    for step in range(1, 9):
        latents = torch.tensor([0.2, -0.1, 0.8, 0.9]).view(1, 1, 2, 2)
        book.see(latents, book.quantize(latents)[1], step, learn=False)
    assert torch.equal(book.weight_kd, weight_kd)
    assert book.usage(8) == pytest.approx(2 / 3)
    assert book.perplexity() == pytest.approx(2, rel=1e-3)


def test_codes_begin_to_learn_from_where_they_are() -> None:
    weight_kd = torch.tensor([[0.0], [1.0]])
    book = Codebook(weight_kd.clone(), torch.tensor([0.1, 0.9]), 4, 0.9, dead_after=50)
    latents = torch.tensor([0.0, 0.0, 0.0, 1.0]).view(1, 1, 2, 2)  # more of the first than before
    for step in range(1, 21):
        book.see(latents, book.quantize(latents)[1], step, learn=step > 10)
        assert torch.allclose(book.weight_kd, weight_kd, atol=1e-5)


def test_gradients_pass_the_codes_unchanged() -> None:
    book = Codebook(torch.randn(8, 2), torch.full((8,), 1 / 8), 4, 0.9, 5)
    latents = torch.randn(1, 2, 2, 2, requires_grad=True)
    codes, ids, commitment = book.quantize(latents)
    assert torch.allclose(codes.permute(0, 2, 3, 1), book.weight_kd[ids], atol=1e-6)
    (codes * torch.arange(8.0).view(1, 2, 2, 2)).sum().backward()
    assert torch.equal(latents.grad, torch.arange(8.0).view(1, 2, 2, 2))
    assert commitment.item() == pytest.approx((latents - codes).square().mean().item(), rel=1e-4)


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
    before = vqgan_loop.open_job(replace(config, encoder_start=config.steps))
    kept = {name: value.clone() for name, value in before.model.encoder.state_dict().items()}
    codes = before.model.quantize.embedding.weight.clone()
    vqgan_loop.train(before, lambda: False)
    after = before.average.encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in kept.items())
    assert torch.equal(before.average.quantize.embedding.weight, codes)


def test_sources_are_drawn_by_their_weights(
    config: VQGANConfig, folder: Path, tmp_path: Path
) -> None:
    small = write_pictures(tmp_path / "few=small", 2, first=30)
    both = replace(config, frames=(f"{folder}=3", str(small)), max_pairs=8)
    frames = Frames(both)
    pool = frames.pool(0)
    drawn = Counter(s for step in range(500) for s in pool.draw(0, step, 4)[1])
    assert drawn[0] / 2000 == pytest.approx(0.75, abs=0.04)
    assert pool.names == ("table", "few=small")
    frame, again = (pool.draw(0, 3, 1)[0][0] for _ in range(2))
    assert np.array_equal(frame, again)
    held, trained = ({i.key for s in frames.sources for i in part(s)} for part in PARTS)
    assert held
    assert trained
    assert not held & trained


PARTS = (lambda source: source.held_out, lambda source: source.train)


def test_pools_change_and_can_be_read_again(config: VQGANConfig) -> None:
    frames = Frames(replace(config, max_pairs=3, refresh=2))
    assert [frames.pool_number(step) for step in range(5)] == [0, 0, 1, 1, 2]
    bytes_of = [frames.pool(number).pairs[0].tobytes() for number in (0, 1, 2, 1)]
    assert bytes_of[1] == bytes_of[3]
    assert len(set(bytes_of)) > 1


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ((), "names no source"),
        (("nowhere",), "nowhere is not a folder: name the output"),
        (("{}=0",), "the weight '0' has to be a number above 0"),
        (("{}=-1",), "the weight '-1' has to be a number above 0"),
        (("{}=nan",), "the weight 'nan' has to be a number above 0"),
        (("{}=much",), "the weight 'much' has to be a number above 0"),
    ],
)
def test_sources_that_cannot_be_are_refused(
    config: VQGANConfig, frames: tuple[str, ...], message: str
) -> None:
    named = tuple(text.format(config.frames[0]) for text in frames)
    with pytest.raises(UserError, match=re.escape(message)):
        train(replace(config, frames=named))


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
        ({"batch": 0}, "--batch 0: it has to be 1 or more"),
        ({"lr": 0.0}, "has to be above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(
    config: VQGANConfig, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(replace(config, **options))
    assert not config.out.exists()


def write_table(run: Path, stage: str, rows: list[dict[str, Any]], part: str = "0") -> None:
    folder = run / "tables" / stage
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"00-{'ab' * 6}-{part}.parquet")
    (folder / "_stage.json").write_text(json.dumps({"fingerprint": "ab" * 32}))


def clip(name: str, start_s: float, end_s: float, **more: Any) -> dict[str, Any]:
    row = {"clip_id": name, "video_id": f"v-{name}", "split": "train", "status": "ok"}
    span = {"start_s": start_s, "end_s": end_s, "media_path": "videos/a.mp4", "fps": 10.0}
    return {**row, **span, "text": "#C C lifts a cup", **more}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a clip of each kind, all in one video; only `kept` is for training."""
    out = tmp_path / "run"
    write_video(tmp_path / "data/videos/a.mp4", seconds=12)
    clips = [
        clip("kept", 3.0, 5.0),
        clip("held", 9.0, 11.0, split="val"),
        clip("failed", 0.0, 2.0, status="failed"),
        clip("rejected", 0.0, 2.0),
    ]
    write_table(out, "ingest", clips)
    decided = [{"clip_id": name, "status": "ok"} for name in ("kept", "held")]
    write_table(out, "select", [*decided, {"clip_id": "rejected", "status": "rejected"}])
    stale = out / "tables/ingest" / f"00-{'cd' * 6}-0.parquet"
    pq.write_table(pa.Table.from_pylist([clip("stale", 0.0, 2.0)]), stale)
    (out / "run.yaml").write_text(f"dataset: ego4d\ndata: {tmp_path / 'data'}\n")
    return out


def test_of_a_run_only_kept_spans_are_read(config: VQGANConfig, run: Path) -> None:
    (run / "shards").mkdir()
    (run / "shards/manifest.json").write_text("{}")
    for named in (run, run / "shards"):
        frames = Frames(replace(config, frames=(str(named),), max_pairs=6))
        assert [[item.key for item in part(frames.sources[0])] for part in PARTS] == [
            ["held"],
            ["kept"],
        ]
        assert frames.sources[0].name == "run"
        trained, held_out = frames.pool(0).pairs[0], frames.held_out().pairs[0]
        seconds = trained.mean((2, 3, 4)) / 20
        assert 2.8 < seconds.min() < seconds.max() < 5.3
        assert np.allclose(seconds[:, 1] - seconds[:, 0], config.gap_s, atol=0.25)
        seconds = held_out.mean((2, 3, 4)) / 20
        assert 8.8 < seconds.min() < seconds.max() < 11.3


def test_official_splits_hold_whatever_else_is_held_out(
    config: VQGANConfig, run: Path, folder: Path
) -> None:
    frames = Frames(replace(config, frames=(str(run),), held_out=(str(folder),)))
    assert [item.key for item in frames.sources[0].train] == ["kept"]
    assert len(frames.validation[0].held_out) == 13
    frames = Frames(replace(config, frames=(str(folder),), held_out=(str(run),)))
    assert len(frames.sources[0].train) == 13  # of which a hash had kept back a tenth
    assert {item.key for item in frames.validation[0].held_out} == {"held", "kept"}


def test_sources_of_one_name_are_told_apart(config: VQGANConfig, run: Path) -> None:
    frames = Frames(replace(config, frames=(str(run), f"{run}=2")))
    assert [source.name for source in frames.sources] == ["run", "run-2"]
    assert frames.held_out().names == ("run", "run-2")


def test_shards_alone_hold_no_frames(config: VQGANConfig, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"codes cannot be turned back.*name the output folder"):
        train(replace(config, frames=(str(tmp_path / "shards"),)))


def test_runs_whose_data_is_gone_are_refused(config: VQGANConfig, run: Path) -> None:
    (run / "run.yaml").write_text("dataset: ego4d\ndata: /nowhere/ego4d\n")
    with pytest.raises(UserError, match="its media lay in /nowhere/ego4d, which is not a folder"):
        train(replace(config, frames=(str(run),)))
    (run / "run.yaml").write_text("[]")
    with pytest.raises(UserError, match="does not say where the data lies"):
        train(replace(config, frames=(str(run),)))


def test_episodes_are_opened_by_whoever_knows_them(config: VQGANConfig, run: Path) -> None:
    rows = [clip(f"e{i}", 0.0, 2.0, place=[i], fps=5.0, state=[[0.0]]) for i in range(12)]
    write_table(run, "ingest", rows)
    write_table(run, "select", [{"clip_id": row["clip_id"], "status": "ok"} for row in rows])
    named = replace(config, frames=(str(run),), max_pairs=20, gap_s=0.6)
    with pytest.raises(UserError, match="a run of robot episodes"):
        train(named)

    def reopen(out: Path, row: dict[str, Any]) -> dict[str, np.ndarray]:
        assert out == run
        shade = np.arange(10, dtype=np.uint8)[:, None, None, None] + 10 * row["place"][0]
        return {view: np.broadcast_to(shade + add, (10, 8, 9, 3)) for view, add in CAMERAS}

    pairs = Frames(named, reopen).pool(0).pairs[0][:, :, 0, 0, 0].astype(int)
    assert set((pairs[:, 1] - pairs[:, 0]).tolist()) == {3}  # 0.6 s at 5 steps a second
    assert {shade >= 128 for shade in pairs[:, 0].tolist()} == {False, True}  # both cameras


CAMERAS = (("front", 0), ("wrist", 128))


def test_the_adaptive_weight_balances_both_losses() -> None:
    torch.manual_seed(0)
    last = torch.nn.Conv2d(4, 3, 3, padding=1)
    judge = PatchGAN(8, 32)
    painted = last(torch.randn(2, 4, 32, 32))
    ours, theirs = painted.abs().mean(), -100 * judge(painted).mean()
    weight = adaptive_weight(ours, theirs, last.weight)
    norms = [
        torch.autograd.grad(loss, last.weight, retain_graph=True)[0].norm().item()
        for loss in (ours, weight * theirs)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_hinge_and_gradient_difference() -> None:
    sure, unsure = torch.full((4,), 1.5), torch.zeros(4)
    assert hinge(sure, -sure).item() == 0  # beyond the margin nothing is gained
    assert hinge(unsure, unsure).item() == 1
    assert hinge(-sure, sure).item() == 2.5
    picture = torch.rand(1, 3, 32, 32)
    assert gradient_difference(picture, picture + 0.3).item() == pytest.approx(0, abs=1e-6)
    blurred = torch.nn.functional.avg_pool2d(picture, 3, 1, 1)
    assert gradient_difference(blurred, picture).item() > 0.05


@pytest.mark.parametrize("side", [8, 16, 32, 64, 256])
def test_every_crop_has_patches(side: int) -> None:
    logits = PatchGAN(8, side)(torch.zeros(1, 3, side, side))
    assert logits.shape[1] == 1
    assert min(logits.shape[2:]) >= 1


def test_lpips_is_the_one_that_is_measured_with(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vgg, linear, before = {}, {}, 3
    for number, (block, width) in enumerate(
        zip(measure_lpips.BLOCKS, (64, 128, 256, 512, 512), strict=True)
    ):
        for layer in block:
            vgg[f"features.{layer}.weight"] = torch.randn(width, before, 3, 3) * before**-0.5 / 3
            vgg[f"features.{layer}.bias"] = torch.randn(width) / 10
            before = width
        linear[f"lin{number}.model.1.weight"] = torch.rand(1, width, 1, 1)
    with pytest.raises(UserError, match="is not there or not readable"):
        LPIPS(tmp_path)
    torch.save(vgg, tmp_path / measure_lpips.VGG)
    torch.save(linear, tmp_path / measure_lpips.LINEAR)
    a, b = table_top(1, 48), table_top(2, 48)
    loss = LPIPS(tmp_path)
    x = pictures(np.stack([a, b])).requires_grad_(True)
    found = loss(x[:1], x[1:])
    assert found.item() == pytest.approx(measure_lpips.load(tmp_path)(a, b), rel=1e-4)
    found.backward()
    assert torch.isfinite(x.grad).all()
    assert loss(x, x).item() == 0
    torch.save(vgg, tmp_path / measure_lpips.LINEAR)
    with pytest.raises(UserError, match="is missing"):
        LPIPS(tmp_path)


def test_psnr_of_a_known_error() -> None:
    a = np.zeros((1, 4, 4, 3), np.uint8)
    assert psnr_db(a, a + 255) == pytest.approx(0, abs=1e-5)
    assert psnr_db(a, a + 51) == pytest.approx(20 * np.log10(5), abs=1e-4)
