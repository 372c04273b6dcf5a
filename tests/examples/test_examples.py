"""The examples run as their pages say, and what they read and measure is right."""

import ast
import csv
import json
import re
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest

from handloom import files
from handloom.places import place
from handloom.stages.datasets.source import CutRule
from handloom.stages.media.clip_frames import whole
from handloom.stages.tables.parts import open_tables
from handloom.stages.tables.rows import Clip, Row
from handloom.tokenize.shards import SPLITS, ShardDataset
from tests.helpers.folders import CHECKOUT
from tests.helpers.robot_shards import write_robot_shards
from tests.helpers.s3_server import BUCKET, S3Server
from tests.helpers.stage1_runs import write_clips

FOLDER = CHECKOUT / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))
NOTEBOOK = FOLDER / "quickstart.ipynb"


def module(name: str) -> ModuleType:
    """An example, as a program that imports it would have it."""
    spec = spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def program(name: str, *args: object, cwd: Path) -> str:
    """Run an example in a folder, and give what it prints."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), *map(str, args)]
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(params=[(), ("state", "action")], ids=["people", "robots"])
def shards(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """Small shards, and the arrays that their samples hold beside codes."""
    if request.param:
        return write_robot_shards(tmp_path, (5, 2), per_shard=3), request.param
    return write_clips(tmp_path), request.param


def test_each_says_how_it_is_run_and_stands_in_the_list() -> None:
    listed = set(re.findall(r"\]\((\w+\.\w+)\)", (FOLDER / "README.md").read_text()))
    assert listed == {path.name for path in [*SCRIPTS, NOTEBOOK]}
    for path in SCRIPTS:
        says = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert f".venv/bin/python examples/{path.name}" in says, path


def test_the_notebook_holds_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"]] == []


def test_the_plain_readers_read_what_handlooms_own_does(
    shards: tuple[Path, tuple[str, ...]],
) -> None:
    folder, arrays = shards
    by_numpy, by_torch = module("read_shards_numpy"), module("read_shards_torch")
    for split in ("train", "val"):
        expected = {sample["clip_id"]: sample for sample in ShardDataset(folder, split)}
        tars = sorted((folder / split).glob("*.tar"))
        plain = {sample["clip_id"]: sample for tar in tars for sample in by_numpy.read(tar)}
        batches = list(by_torch.loader(str(folder), split, batch_size=1))
        tensors = {batch["__key__"][0]: batch for batch in batches}
        assert plain.keys() == tensors.keys() == expected.keys()
        assert len(batches) == len(expected)
        for clip_id, sample in expected.items():
            read, loaded = plain[clip_id], tensors[clip_id]
            assert read["caption"] == loaded["caption"][0] == sample["caption"]
            assert read["codes"].dtype == np.uint16
            for name, theirs in [("tokens", "codes"), *((name, name) for name in arrays)]:
                np.testing.assert_array_equal(read[theirs], sample[name])
                np.testing.assert_array_equal(loaded[theirs][0].numpy(), sample[name])


@pytest.mark.parametrize("name", ["read_shards_numpy", "read_shards_torch"])
def test_the_plain_readers_need_no_handloom(name: str, tmp_path: Path) -> None:
    write_clips(tmp_path / "runs/sample/shards")
    code = (
        "import runpy, sys\n"
        "runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
        "print(sorted({'handloom', 'torch'} & {*sys.modules}))"
    )
    command = [sys.executable, "-c", code, str(FOLDER / f"{name}.py")]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.endswith("[]\n" if name.endswith("numpy") else "['torch']\n")
    assert "uint16 (8, 1, 3, 6, 6)" in run.stdout or "torch.int64 [8, 1, 3, 6, 6]" in run.stdout


@pytest.mark.long
def test_training_from_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards, out = write_clips(tmp_path / "shards"), tmp_path / "run"
    module("train_on_shards").main(str(shards), str(out), steps="2")
    assert json.loads((out / "summary.json").read_text())["step"] == 2
    caption = ShardDataset(shards, "val")[0]["caption"]
    said = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(rf"'{caption}', given frame 0: [\d.]+% of the later codes are right", said)


@pytest.mark.parametrize("pixels_a_frame", [0, 1, 2])
def test_the_stage_measures_how_fast_a_picture_moves(pixels_a_frame: int, tmp_path: Path) -> None:
    write_sliding(tmp_path / "a.mp4", pixels_a_frame)
    clip = Clip(
        clip_id="a", dataset="", version="", split="", licence="", bucket="", unit="",
        video_id="a", start_s=0.0, end_s=2.0, text="", text_kind="", media_path="a.mp4",
    )  # fmt: skip
    (row,) = module("own_stage").Motion().at(tmp_path)(clip, whole(clip))
    assert row.speed == pytest.approx(pixels_a_frame * 30 / 128, rel=0.1, abs=0.01)
    assert (row.status, row.reason) == (("ok", "") if pixels_a_frame else ("rejected", "still"))


def write_sliding(path: Path, pixels_a_frame: int) -> None:
    """Two seconds of a blurred pattern of 128 x 128 pixels at 30 frames a second."""
    noise = np.random.default_rng(0).random((16, 16)).repeat(8, 0).repeat(8, 1) * 255
    smooth = sum(np.roll(noise, (y, x), (0, 1)) for y in range(8) for x in range(8)) / 64
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        for i in range(60):
            grey = np.roll(smooth, i * pixels_a_frame, axis=1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.stack([grey] * 3, axis=-1), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_the_adapter_counts_a_file_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "clips.csv").write_text(
        "file,start_s,end_s,text\nb.mp4,0,2,opens a door\na.mp4,10,12,waits\na.mp4,9,10,sits\n"
    )
    found = list(module("own_dataset").videos(tmp_path, CutRule()))
    assert [(v.video_id, v.media_path, v.reason) for v in found] == [
        ("a.mp4", "a.mp4", ""), ("b.mp4", "", "missing_file"),
    ]  # fmt: skip
    assert [(s.start_s, s.end_s, s.text) for s in found[0].spans] == [
        (9.0, 10.0, "sits"), (10.0, 12.0, "waits"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def home(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `make curate` has run, on the miniature in place of the sample."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(miniature, folder / "runs/sample/source")
    command = [sys.executable, "-m", "handloom", "curate", "sample"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=900)
    return folder


@pytest.mark.slow
def test_a_dataset_of_ones_own(home: Path) -> None:
    program("own_dataset", cwd=home)
    with (home / "runs/own_videos/clips.csv").open(newline="") as table:
        listed = list(csv.DictReader(table))  # some texts end with a new line
    tables = open_tables(home / "runs/own_dataset")
    clips = list(tables["ingest"].read(Clip))
    assert len(clips) == len(listed) > 3
    assert {(clip.dataset, clip.licence) for clip in clips} == {("own_dataset", "my-own-videos")}
    assert packed(home / "runs/own_dataset")


@pytest.mark.slow
def test_a_stage_of_ones_own(home: Path) -> None:
    program("own_stage", cwd=home)
    tables = open_tables(home / "runs/own_stage")
    came = {row.clip_id for row in tables["select"].read(Row) if row.status == "ok"}
    rows = {row.clip_id: row for row in tables["motion"].read(Row)}
    assert rows.keys() == came
    assert {row.error for row in rows.values()} == {""}
    kept = {clip_id for clip_id, row in rows.items() if row.status == "ok"}
    assert packed(home / "runs/own_stage") == kept
    assert kept


@pytest.mark.slow
@pytest.mark.parametrize("name", ["read_shards_numpy", "read_shards_torch", "train_on_shards"])
def test_the_others_run_after_make_curate(name: str, home: Path) -> None:
    said = program(name, cwd=home)
    wanted = {"read_shards_numpy": "numpy uint16 (", "read_shards_torch": "codes torch.int64 ["}
    assert wanted.get(name, "% of the later codes are right") in said


@pytest.mark.slow
def test_a_bucket_is_curated_into_a_bucket(miniature: Path, s3: S3Server, tmp_path: Path) -> None:
    data, out = (f"s3://{BUCKET}/{tmp_path.name}/{name}" for name in ("videos", "run"))
    with files.whole(place(data)) as folder:
        shutil.copytree(miniature, folder)
    said = program("curate_a_bucket", data, out, cwd=tmp_path)
    clips = ShardDataset(f"{out}/shards")
    assert f"{len(clips)} clips to train on" in said
    assert clips[0]["tokens"].shape == (1, 3, 16, 16)
    assert list(tmp_path.glob("runs")) == []
    s3.requests.clear()
    program("curate_a_bucket", data, out, cwd=tmp_path)
    written = [
        request for request in s3.requests if re.match(r"(PUT|POST) .*(parquet|tar)$", request)
    ]
    assert written == []


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(miniature: Path, tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    (tmp_path / "examples").mkdir()
    shutil.copytree(miniature, tmp_path / "runs/sample/source")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    where = {"metadata": {"path": str(tmp_path / "examples")}}
    NotebookClient(notebook, timeout=900, resources=where).execute()
    shown = [kind for cell in notebook.cells for output in cell.get("outputs", ())
             for kind in output.get("data", ())]  # fmt: skip
    assert shown.count("image/png") >= 7
    assert shown.count("image/gif") == 1


def packed(out: Path) -> set[str]:
    """The clips in a run's shards."""
    return {s["clip_id"] for split in SPLITS for s in ShardDataset(out / "shards", split)}
