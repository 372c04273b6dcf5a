"""Laws of what is sent to a cluster: the command line, the files, and what is refused at once.

`test_submitted_jobs.py` runs jobs on a real one.
"""

import ast
import json
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from handloom.cli import COMMANDS, main
from handloom.errors import UserError
from handloom.flags import options_class, parse
from handloom.pipeline import on_cluster, travel
from handloom.pipeline.configuration import read_command
from handloom.pipeline.sameness import code_here
from handloom.pipeline.submit import NAMES, prepare
from tests.helpers.folders import CHECKOUT

# A command line for each command, with paths in every way that they are written, each with a `/`.
LINES = {
    "curate": "ssv2 --data v/x --out=runs/x --tokens.model ./mine --duplicates.against a/b s3://b/c",
    "train pretrain": "--shards ./a ./b=0.5 s3://c/d --init runs/x --text-encoder ./mine",
    "train finetune": "--shards=./a --stage1 runs/x --features=./kept --out ~/robot",
    "train vqgan": "--frames runs/x runs/y=2 --held-out ./z --begin-with ./mine --out models/new",
    "train scaling": "--shards ./a --sizes nano tiny",
    "train export": "--out runs/x",
    "train report": "--out runs/x",
    "generate": "--checkpoint s3://b/run --image ./a.png --text lift --lpips ~/weights",
    "eval tokenizer": "--frames runs/x=1 --model ./mine --out runs/y",
    "eval policy": "--checkpoint runs/x --shards ./a ./b --tokenizer ./mine",
    "eval rollout": "--checkpoint runs/x --calvin ~/calvin",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, which holds a model of its own."""
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def places(options: Any) -> Iterator[str]:
    """All values of options that are paths, or texts with a `/`."""
    for option in fields(options):
        value = getattr(options, option.name)
        if is_dataclass(value):
            yield from places(value)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Path) or (isinstance(each, str) and "/" in each):
                yield str(each)


def places_of(name: str, words: list[str]) -> list[str]:
    """All paths of a command line, as the command reads them in the present folder."""
    if name == "curate":
        job = read_command(words, name)
        return [str(job.data), str(job.out), *places(job.config)]
    kind = options_class(COMMANDS[name].target, COMMANDS[name].options)
    assert kind
    return list(places(parse(kind, words, name)))


@pytest.mark.parametrize("name", NAMES)
def test_paths_of_every_command_hold_in_another_folder(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = LINES[name].split()
    meant = [
        place if "://" in place else os.path.normpath(here / os.path.expanduser(place))
        for place in places_of(name, words)
    ]
    assert len(meant) >= sum("/" in word for word in words)
    sent = prepare([*name.split(), *words]).words
    assert sent[: len(name.split())] == name.split()
    monkeypatch.chdir("/")
    assert places_of(name, sent[len(name.split()) :]) == meant


def test_a_model_is_a_path_only_where_one_is(here: Path) -> None:
    sent = prepare(["eval", "tokenizer", "--frames", "a", "--model", "mine"]).words
    assert f"{here}/mine" in sent
    sent = prepare(["eval", "tokenizer", "--frames", "a", "--model", "bundled-128"]).words
    assert "bundled-128" in sent


def test_a_dataset_alone_is_curated_and_pretrain_is_a_training(here: Path) -> None:
    assert prepare(["ssv2", "--data", "x"]) == prepare(["curate", "ssv2", "--data", "x"])
    line = ["pretrain", "--shards", "x"]
    assert prepare(line) == prepare(["train", *line])


def test_a_configuration_travels_as_flags(here: Path) -> None:
    Path("mine.yaml").write_text("dataset: ssv2\ntokens: {model: mine}\n")
    sent = prepare(["--config", "mine.yaml"]).words
    assert sent[:2] == ["curate", "ssv2"]
    assert "--config" not in sent
    assert sent[sent.index("--tokens.model") + 1] == f"{here}/mine"


def test_training_is_done_by_processes_of_the_cluster_and_the_rest_where_a_core_or_gpu_is(
    here: Path,
) -> None:
    training = prepare(["train", "vqgan", "--frames", "a", "--out", "b", "--workers", "0"])
    assert training.words[-2:] == ["--workers", "1"]
    assert training.resources == {}
    evaluation = ["eval", "policy", "--checkpoint", "a", "--shards", "b"]
    assert prepare(evaluation).resources == {"entrypoint_num_cpus": 1}
    assert prepare([*evaluation, "--device", "cuda:0"]).resources == {"entrypoint_num_gpus": 1}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "submit needs a command"),
        ("egod4 --data x", "did you mean 'ego4d'"),
        ("status x", "unknown command or dataset 'status'"),
        ("eval", "eval alone is no command"),
        ("eval polcy --shards x", "did you mean 'policy'"),
        ("curate ego4d --dta x", "did you mean --data"),
        ("train pretrain --shards x --sise s", "did you mean --size"),
        ("train finetune --shards x --decay-steps 3", "give --schedule wsd"),
        ("curate ego4d --stages nowhere:Stage", "nowhere:Stage cannot be imported"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_sent(
    line: str, says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", *line.split(), "--address", "http://127.0.0.1:1"]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_what_travels_is_code_that_runs_and_nothing_else(tmp_path: Path) -> None:
    luggage = travel.gather(tmp_path, [])
    assert luggage.left_out == []
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in tmp_path.iterdir()} == {
        "handloom", travel.REQUIREMENTS, travel.CONSTRAINTS
    }  # fmt: skip
    assert not [path for path in files if path.suffix == ".pyc"]
    sent = [path for path in (tmp_path / "handloom").rglob("*") if path.is_file()]
    assert luggage.size == sum(path.stat().st_size for path in sent)
    assert luggage.size < 20 * travel.MB
    code = (
        "import handloom.pipeline.sameness as s; print(s.__file__, s.code_here(), sep='\\n')\n"
        "from handloom.stages.hands.stage import Hands; print(Hands().files)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True
    )  # fmt: skip
    place, digest, *_ = run.stdout.splitlines()
    assert place.startswith(str(tmp_path))
    assert digest == code_here()  # or a node would be told to have other code


def sparse(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    os.truncate(path, size)
    return path


def test_large_files_stay_and_are_named(tmp_path: Path) -> None:
    model = sparse(tmp_path / "mine/weights.bin", travel.LARGEST_FILE + 1)
    (tmp_path / "mine/__init__.py").write_text("x = 1\n")
    (tmp_path / "mine/again").symlink_to(tmp_path / "mine")  # a link that leads back
    luggage = travel.gather(tmp_path / "sent", [tmp_path / "mine"])
    assert luggage.left_out == [(model, travel.LARGEST_FILE + 1)]
    assert [path.name for path in (tmp_path / "sent/mine").iterdir()] == ["__init__.py"]
    assert any(f"{model} stays here: it has 32 MB" in line for line in luggage.sentences())


def test_too_much_code_is_refused_with_the_largest_files(tmp_path: Path) -> None:
    for number in range(4):
        sparse(tmp_path / f"mine/{number}.npy", travel.LARGEST_FILE - 1)
    (tmp_path / "sent").mkdir()
    with pytest.raises(UserError, match=r"1\d\d MB, expected at most 100.*mine/0.npy \(32 MB\)"):
        travel.gather(tmp_path / "sent", [tmp_path / "mine"])
    assert list((tmp_path / "sent").iterdir()) == []


def test_the_first_file_of_a_job_is_read_by_old_pythons_and_knows_what_it_needs() -> None:
    source = Path(on_cluster.__file__).read_text()
    ast.parse(source, feature_version=(3, 8))
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=" + ".".join(map(str, on_cluster.NEEDS))


def begin(folder: Path, code: str = "") -> subprocess.CompletedProcess[str]:
    """The beginning of a job in a folder that has travelled."""
    code += "\nfrom handloom.pipeline import on_cluster; sys.exit(on_cluster.main())"
    command = [sys.executable, "-c", f"import sys{code}", "--help"]
    env = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_a_cluster_without_the_dependencies_says_which(tmp_path: Path) -> None:
    (tmp_path / travel.REQUIREMENTS).write_text("numpy>=2\nno-such.package[a]>=1\n")
    run = begin(tmp_path)
    assert run.returncode == 2
    assert "lacks no-such.package: install handloom on its nodes, or submit with --install" in (
        run.stderr
    )
    (tmp_path / travel.REQUIREMENTS).write_text("\n".join(travel.requirements()))
    assert begin(tmp_path).returncode == 0


def test_a_cluster_with_an_old_python_is_refused(tmp_path: Path) -> None:
    run = begin(tmp_path, "; sys.version_info = (3, 9, 18)")
    assert run.returncode == 2
    assert "the cluster's Python is 3.9.18" in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.long
def test_pip_takes_the_lines_that_ray_is_given(tmp_path: Path) -> None:
    travel.gather(tmp_path, [])
    lines = travel.runtime_env(tmp_path, install=True)["pip"]["packages"]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps"]
    env = os.environ | {"RAY_RUNTIME_ENV_CREATE_WORKING_DIR": str(tmp_path)}
    run = subprocess.run(
        [*command, "-r", str(tmp_path / "lines.txt")], env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "Would install" not in run.stdout  # all of it is here, in the tested versions


@contextmanager
def dashboard(version: str) -> Iterator[str]:
    """A server that answers as the dashboard of a cluster of some version does."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"version": "4", "ray_version": version, "ray_commit": "x"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_cluster_with_another_ray_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with dashboard("2.40.0") as address:
        assert main(["submit", "sample", "--address", address]) == 2
    said = capsys.readouterr().err
    assert "runs Ray 2.40.0, expected" in said
    assert said.count("\n") == 1
