"""Bad input: one sentence on stderr, the right exit status, no traceback, nothing written."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from handloom.cli import main

Cli = Callable[..., subprocess.CompletedProcess[str]]


def told(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    """Exit status and what was said on stderr, which must be one line and no traceback."""
    status = main([str(arg) for arg in args])
    error = capsys.readouterr().err
    assert error.startswith("handloom: ")
    assert error.count("\n") == 1
    return status, error


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["curat"], "did you mean 'curate'?"),
        (["curate"], "needs a dataset"),
        (["curate", "ego4"], "did you mean 'ego4d'?"),
        (["curate", "sample", "--tokens.frame", "3"], "did you mean --tokens.frames?"),
        (["curate", "sample", "--retry"], "unknown option '--retry'"),
        (["curate", "ego4d", "--data", "/nonexistent/ego"], "/nonexistent/ego is not there"),
        (["plan", "ego4d", "--data", "/nonexistent/ego"], "ego4ddataset.com"),
        (["status", "/nonexistent/out"], "holds no tables"),
        (["report", "/nonexistent/out"], "run.yaml is missing"),
        (["inspect", "/nonexistent/shards"], "neither a folder of shards nor a .tar"),
        (["sample", "ego5d", "--out", "/nonexistent/x"], "did you mean 'ego4d'?"),
        (["train", "pretain"], "did you mean 'pretrain'?"),
        (["train", "pretrain", "--shards", "/nonexistent/shards"], "no manifest.json"),
    ],
)
def test_wrong_command_lines(
    capsys: pytest.CaptureFixture[str], args: list[str], said: str
) -> None:
    status, error = told(capsys, *args)
    assert (status, said in error) == (2, True), error


def test_a_folder_that_is_not_the_dataset(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    status, error = told(capsys, "curate", "ego4d", "--data", data, "--out", out)
    assert (status, "expected v2/ego4d.json" in error, out.exists()) == (2, True, False)


def test_output_folders_that_are_not_ours(
    capsys: pytest.CaptureFixture[str], miniature: Path, tmp_path: Path
) -> None:
    def refused(out: Path) -> str:
        status, error = told(capsys, "curate", "sample", "--data", miniature, "--out", out)
        assert status == 2
        return error

    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").touch()
    assert "not written by `handloom curate`" in refused(photos)
    assert [p.name for p in photos.iterdir()] == ["cat.jpg"]
    assert "is a file" in refused(photos / "cat.jpg")
    assert "cannot be written (Not a directory)" in refused(photos / "cat.jpg" / "out")
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.yaml").write_text("dataset: ego4d\n")
    assert "a run of the dataset 'ego4d', not of 'sample'" in refused(other)
    (other / "run.yaml").write_text(": : :")
    assert "not a record of a run" in refused(other)


def test_an_output_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], miniature: Path
) -> None:
    status, error = told(capsys, "curate", "sample", "--data", miniature, "--out", "/proc/out")
    assert (status, "/proc/out cannot be written" in error) == (2, True)


def test_a_configuration_file_sets_options_and_flags_override_it(
    capsys: pytest.CaptureFixture[str], miniature: Path, tmp_path: Path
) -> None:
    from handloom.pipeline.commands import read_command

    path = tmp_path / "options.yaml"
    path.write_text("tokens:\n  frames: 3\nhands:\n  frames_per_second: 1.5\n")
    job = read_command(["sample", "--config", str(path), "--tokens.frames", "7"], "curate")
    assert (job.config.tokens.frames, job.config.hands.frames_per_second) == (7, 1.5)
    for text, said in [
        ("tokens: 3", "must map stages to options"),
        ("tokens: {frame: 3}", "did you mean --tokens.frames?"),
        ("a: [", "cannot be read as YAML"),
    ]:
        path.write_text(text)
        status, error = told(capsys, "curate", "sample", "--config", path, "--data", miniature)
        assert (status, said in error) == (2, True), error


def test_a_hub_that_cannot_be_reached_says_what_to_download(
    capsys: pytest.CaptureFixture[str], miniature: Path, tmp_path: Path
) -> None:
    args = ["curate", "sample", "--data", miniature, "--out", tmp_path / "out"]
    status, error = told(capsys, *args, "--tokens.model", "nobody/no-such-vqgan")
    assert status == 2
    assert "nobody/no-such-vqgan" in error
    assert "--tokens.model" in error
    assert not (tmp_path / "out").exists()


def test_broken_annotations_end_a_run_with_one_sentence(
    cli: Cli, miniature: Path, tmp_path: Path, copy_of: Callable[[Path, str], Path]
) -> None:
    data, out = copy_of(miniature, "data"), tmp_path / "out"
    path = data / "v2/annotations/narration.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    run = cli("curate", "sample", "--data", data, "--out", out)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "narration.json is not complete JSON" in run.stderr
    assert not (out / "shards").exists()


def test_a_run_that_keeps_nothing_fails(here: Cli, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "v2/annotations").mkdir(parents=True)
    (data / "v2/full_scale").mkdir()
    (data / "v2/ego4d.json").write_text('{"videos": []}')
    rows = [{"timestamp_sec": 1.0, "narration_text": "#C C waits"}]
    narrations = {"a": {"narration_pass_1": {"narrations": rows}}}
    (data / "v2/annotations/narration.json").write_text(json.dumps(narrations))
    run = here("curate", "ego4d", "--data", data, "--out", tmp_path / "out")
    assert run.returncode == 1
    assert "no clip was kept" in run.stderr
    assert "1 missing_file" in run.stdout


def test_help_names_the_commands(cli: Cli) -> None:
    run = cli("--help")
    assert run.returncode == 0
    assert "curate DATASET" in run.stdout
