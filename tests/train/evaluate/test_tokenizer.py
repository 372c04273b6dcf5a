"""`handloom eval tokenizer` measures what a folder holds, and says where it cannot."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handloom.cli import main
from handloom.tokenize import vqgan
from handloom.tokenize.measure.report import measure


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twenty pictures: soft stripes of different widths."""
    folder = tmp_path / "stripes"
    folder.mkdir()
    for i in range(20):
        row = 127 + 100 * np.sin(np.arange(96) / (3 + i))
        picture = np.broadcast_to(row[None, :, None], (64, 96, 3)).astype(np.uint8)
        Image.fromarray(np.ascontiguousarray(picture)).save(folder / f"{i}.png")
    return folder


def test_numbers_and_pictures_are_those_of_measure(
    pictures: Path, tiny_vqgan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    args = ["--frames", str(pictures), "--model", str(tiny_vqgan), "--resolution", "64"]
    assert main(["eval", "tokenizer", *args, "--out", str(out)]) == 0
    told = json.loads((out / "tokenizer.json").read_text())["datasets"]["stripes"]
    assert f"PSNR {told['psnr_db']:.2f} dB" in capsys.readouterr().out
    assert 1 <= told["frames"] <= 20
    with Image.open(out / "stripes.png") as grid:
        assert grid.width > 64
    again = measure(
        vqgan.load(str(tiny_vqgan), resolution=64),
        {"flat": [np.full((2, 64, 64, 3), 90, np.uint8)]},
        tmp_path / "flat",
    )
    assert again["datasets"]["flat"]["codes_used"] <= told["codes_used"]


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        ([], 0, "usage: handloom eval"),
        (["tokeniser"], 2, "did you mean 'tokenizer'"),
        (["tokenizer", "--frames", "/nowhere"], 2, "/nowhere is not a folder"),
    ],
)
def test_what_cannot_be_measured(
    args: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", *args]) == status
    captured = capsys.readouterr()
    assert said in captured.out + captured.err
