"""Laws of `handloom generate`, and what it refuses."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from handloom.cli import main
from handloom.tokenize import vqgan
from handloom.tokenize.shards import Sample, ShardDataset, write_manifest, write_shards
from handloom.train.model import export, text
from handloom.train.model.gpt import GPT
from handloom.train.model.shape import Shape
from tests.helpers.lpips_files import write_lpips

SIDE, GRID, FRAMES = 32, 8, 3


@pytest.fixture(scope="module")
def facts(tiny_vqgan: Path) -> dict[str, Any]:
    """Of the tokenizer, as a manifest has them."""
    return {**vqgan.describe(str(tiny_vqgan), resolution=SIDE), "model": str(tiny_vqgan)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, facts: dict[str, Any]) -> Path:
    """A run that has exported an untrained model."""
    run = tmp_path_factory.mktemp("run")
    encoder = text.load("seeded", 6)
    grid = {"views": 1, "frames": FRAMES, "rows": GRID, "cols": GRID}
    size = {"layers": 1, "width": 16, "heads": 1, "codebook_size": 256}
    shape = Shape(**size, **grid, text_length=6, text_width=encoder.width)
    torch.manual_seed(0)
    of_text = {"name": "seeded", "weights_sha256": encoder.weights_sha256, "length": 6}
    told = {"step": 1, "tokenizer": facts, "text_encoder": of_text}
    export.save(run / "export", GPT(shape), shape, told)
    return run


def write_clips(root: Path, facts: dict[str, Any], views: int = 1) -> Path:
    random, infos = np.random.default_rng(0), {}
    for split, count in (("train", 2), ("val", 2)):
        samples = []
        for i in range(count):
            codes = random.integers(0, 256, (views, FRAMES, GRID, GRID)).astype(np.uint16)
            meta = {"caption": f"move cup {i}", "split": split, "dataset": f"set{i}"}
            meta["frame_times_s"] = [0.5, 0.75, 1.0]
            samples.append(Sample(f"clip-{split}-{i}", codes, meta))
        infos[split] = write_shards(root, split, samples)
    write_manifest(root, infos, facts)
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, facts: dict[str, Any]) -> Path:
    return write_clips(tmp_path_factory.mktemp("shards"), facts)


def generate(checkpoint: Path, out: Path, *args: object) -> int:
    always = ["--checkpoint", checkpoint, "--out", out, "--threads", 1]
    return main(["generate", *map(str, [*always, *args])])


def test_a_clip_is_continued_beside_its_truth(
    checkpoint: Path, shards: Path, tmp_path: Path
) -> None:
    args = ("--shards", shards, "--clip", "clip-train-1", "--given", 2, "--frames", 5)
    assert generate(checkpoint, tmp_path, *args) == 0
    name = tmp_path / "clip-train-1"
    codes = np.load(f"{name}.tokens.npy")
    assert (codes.dtype, codes.shape) == (np.uint16, (1, 5, GRID, GRID))
    np.testing.assert_array_equal(codes[:, :2], ShardDataset(shards, "train")[1]["tokens"][:, :2])
    with av.open(f"{name}.mp4") as video:
        stream = video.streams.video[0]
        assert [(f.width, f.height) for f in video.decode(stream)] == [(SIDE, SIDE)] * 5
        assert stream.average_rate == 4  # a frame each quarter of a second, as the clip's
    with Image.open(f"{name}.gif") as gif:
        frames_ms = [(gif.seek(i), gif.info["duration"])[1] for i in range(gif.n_frames)]
        assert sum(frames_ms) == 5 * 250  # Pillow shows equal neighbours as one
    with Image.open(f"{name}.png") as picture:
        assert picture.height > 2 * 160  # prediction and truth
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["set1"]["frames"] == 1  # 5 predicted, 3 known, 2 given
    assert scores["set1"]["truth"] == "decoded codes"
    assert "tokenizer's ceiling" not in scores["set1"]


def test_a_picture_is_continued_from_itself(
    checkpoint: Path, tiny_vqgan: Path, tmp_path: Path, frames_thwc: np.ndarray
) -> None:
    Image.fromarray(frames_thwc[0][:SIDE, :SIDE]).save(tmp_path / "cup.png")
    args = ("--image", tmp_path / "cup.png", "--text", "move cup")
    drawn = ("--temperature", 1, "--top-k", 50, "--top-p", 0.9, "--seed", 5)
    for out in ("a", "b"):
        assert generate(checkpoint, tmp_path / out, *args, *drawn) == 0
    codes = [np.load(tmp_path / out / "cup.tokens.npy") for out in "ab"]
    np.testing.assert_array_equal(*codes)
    tokenizer = vqgan.load(str(tiny_vqgan), resolution=SIDE)
    np.testing.assert_array_equal(codes[0][0, :1], tokenizer.encode(frames_thwc[:1, :SIDE, :SIDE]))
    assert not (tmp_path / "a/scores.json").exists()


def test_held_out_clips_are_measured_by_dataset(
    checkpoint: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lpips(tmp_path)
    args = ("--shards", shards, "--clips", 9, "--lpips", tmp_path)
    assert generate(checkpoint, tmp_path / "out", *args) == 0
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert [(name, found["frames"]) for name, found in scores.items()] == [
        ("all", 4), ("set0", 2), ("set1", 2),
    ]  # fmt: skip
    parts = [scores[name]["predicted"]["lpips"] for name in ("set0", "set1")]
    assert scores["all"]["predicted"]["lpips"] == pytest.approx(sum(parts) / 2, abs=1e-3)
    assert "last given repeated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (
            "--shards {shards} --clip clip-val-7",
            "no clip 'clip-val-7'.*did you mean clip-.*inspect",
        ),
        ("--shards {shards}", "0 of --clip, --clips and --image are given"),
        ("--shards {shards} --clip clip-val-0 --clips 2", "2 of --clip, --clips and --image"),
        ("--clip clip-val-0", "need --shards"),
        ("--shards {shards} --clips 0", "--clips 0 is nothing"),
        ("--shards {shards} --clip clip-val-0 --frames 1", "--frames 1 counts the given frames"),
        ("--shards {shards} --clip clip-val-0 --given 3", "3 frames are given and 3 are wanted"),
        ("--shards {shards} --clip clip-val-0 --given 4 --frames 9", "more than the 3 frames"),
        ("--shards {shards} --clip clip-val-0 --top-k 5", "--temperature 0 draws nothing"),
        ("--shards {shards} --clip clip-val-0 --temperature -1", "--temperature -1.0 cannot be"),
        ("--shards {shards} --clip clip-val-0 --temperature 1 --top-p 0", "--top-p 0.0 cannot be"),
        ("--shards {shards} --clip clip-val-0 --text {long}", "--text has 8 tokens.*to read 6"),
        ("--image {shards}/manifest.json --text cup", "not a picture that can be read"),
        ("--image {shards}/none.png --text cup", "not a picture that can be read"),
        ("--image {shards}/none.png", "--image needs --text"),
        ("--image a.png b.png --text cup", "2 pictures are given.*1 views"),
        ("--shards {views} --clip clip-val-0", "2 views of 8 x 8 codes.*1 of 8 x 8"),
        ("--shards {other} --clip clip-val-0", "holds codes of the tokenizer other .*abab"),
        ("--shards {shards} --clip clip-val-0 --i3d {shards}/manifest.json", "i3d_torchscript.pt"),
        ("--shards {shards} --clip clip-val-0 --text-encoder no/such/one", "no text encoder at"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    checkpoint: Path,
    shards: Path,
    facts: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    args: str,
    sentence: str,
) -> None:
    made = {"shards": shards, "long": "one two three four five six"}
    if "{views}" in args:
        made["views"] = write_clips(tmp_path / "views", facts, views=2)
    if "{other}" in args:
        other = {**facts, "name": "other", "weights_sha256": "ab" * 32}
        made["other"] = write_clips(tmp_path / "other", other)
    words = [word.format(**made) for word in args.split()]
    assert generate(checkpoint, tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert said.startswith("handloom: ")
    assert said.count("\n") == 1
    assert re.search(sentence, said), said
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_model_is_refused(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(tmp_path, tmp_path / "out", "--shards", shards, "--clips", 1) == 2
    assert "holds no exported model" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder"])
def test_frozen_parts_that_are_not_those_of_training_are_refused(
    checkpoint: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    other = tmp_path / "export"
    shutil.copytree(checkpoint / "export", other)
    config = json.loads((other / "config.json").read_text())
    config[part]["weights_sha256"] = "cd" * 32
    (other / "config.json").write_text(json.dumps(config))
    assert generate(other, tmp_path / "out", "--shards", shards, "--clips", 1) == 2
    said = capsys.readouterr().err
    assert "cdcdcdcdcdcd" in said
    assert f"with --{part.replace('_', '-')}." in said
