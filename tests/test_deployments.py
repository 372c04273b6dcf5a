"""Laws of deploy/: what its files name is there, and the batch scripts run, on two local nodes."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from handloom.pipeline.submit import prepare
from tests.helpers.folders import CHECKOUT, shard_sums
from tests.helpers.stage1_runs import losses, write_clips

DEPLOY = CHECKOUT / "deploy"
SCRIPTS = sorted((DEPLOY / "slurm").iterdir())
Cli = Callable[..., subprocess.CompletedProcess[str]]


def instructions() -> Iterator[tuple[str, str]]:
    """The instructions of the Dockerfile, in order: `COPY` and its words, and so on."""
    text = (DEPLOY / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        yield name, " ".join(rest.split())


def copied(words: str) -> tuple[list[str], str]:
    """Sources and target of a COPY."""
    *sources, target = [word for word in words.split() if not word.startswith("--")]
    return sources, target


def test_the_image_is_built_from_what_is_there_by_the_tested_versions() -> None:
    found = dict(instructions())
    python = re.fullmatch(r"python:(\d+)\.(\d+)-slim-bookworm", found["FROM"])
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    wanted = re.fullmatch(r">=(\d+)\.(\d+)", project["requires-python"])
    assert python
    assert wanted
    assert tuple(map(int, python.groups())) >= tuple(map(int, wanted.groups()))
    for name, words in instructions():
        if name == "COPY":
            assert [x for x in copied(words)[0] if not (CHECKOUT / x).exists()] == []
    (install,) = [words for name, words in instructions() if "pip install" in words]
    assert "--constraint constraints.txt" in install
    assert found["USER"] == "handloom"  # the last one: nothing runs as root


def test_what_pip_reads_is_copied_before_it_runs() -> None:
    names = [name if "pip install" not in words else "PIP" for name, words in instructions()]
    before = list(instructions())[: names.index("PIP")]
    sources = {source for name, words in before if name == "COPY" for source in copied(words)[0]}
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    meta, version = project["project"], project["tool"]["hatch"]["version"]["path"]
    read = {"pyproject.toml", "constraints.txt", meta["readme"], *meta["license-files"], version}
    assert read <= sources


# Where Debian has libraries that no wheel brings.
PACKAGES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libGLESv2.so.2": "libgles2",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
}
IN_EVERY_IMAGE_OF_PYTHON = (
    "libc.", "libm.", "libdl.", "libpthread.", "librt.", "libgcc_s.", "libstdc++.", "libz.",
    "ld-linux"
)  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="libraries as Linux links them")
def test_the_image_has_the_libraries_that_mediapipe_links() -> None:
    import cv2
    from mediapipe.tasks import c

    folders = [Path(str(cv2.__file__)).parent, Path(next(iter(c.__path__)))]
    linked: dict[str, str] = {}
    for library in (path for folder in folders for path in folder.glob("*.so")):
        linked |= libraries(library)
    system = {name: path for name, path in linked.items() if "/site-packages/" not in path}
    assert {"libEGL.so.1", "libGLESv2.so.2", "libGL.so.1"} <= system.keys()
    with_package = PACKAGES.keys() & system.keys()
    apt_brings = {name for known in with_package for name in libraries(Path(system[known]))}
    others = system.keys() - with_package - apt_brings
    assert {n for n in others if not n.startswith(IN_EVERY_IMAGE_OF_PYTHON)} == set()
    (installed,) = [words for name, words in instructions() if "apt-get install" in words]
    assert set(PACKAGES.values()) <= set(installed.split())
    (readme,) = re.findall(r"apt-get install ([\w. -]+)", (CHECKOUT / "README.md").read_text())
    assert set(readme.split()) == set(PACKAGES.values())


def libraries(library: Path) -> dict[str, str]:
    """Libraries that a file links, and those that these link, by name, with their paths."""
    run = subprocess.run(["ldd", library], capture_output=True, text=True)
    return dict(re.findall(r"(\S+) => (/\S+)", run.stdout))


@pytest.fixture
def job() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "kuberay/rayjob.yaml").read_text())
    return loaded


def test_the_rayjob_is_one_that_kuberay_knows(job: dict[str, Any]) -> None:
    """The fields that ray.io_rayjobs.yaml of KubeRay 1.7 requires, and their types."""
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert isinstance(spec["backoffLimit"], int)
    assert isinstance(spec["ttlSecondsAfterFinished"], int)
    assert spec["shutdownAfterJobFinishes"] is True
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {"name", "image", "resources"} <= container.keys()
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    for group in groups[1:]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert cluster["authOptions"]["mode"] == "token"


SCHEMA = {
    "type": "object",
    "properties": {
        "apiVersion": {"type": "string"},
        "spec": {
            "type": "object",
            "required": ["groupName"],
            "properties": {
                "groupName": {"type": "string"},
                "limits": {"additionalProperties": {"x-kubernetes-int-or-string": True}},
            },
        },
    },
}
CRD = {"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": SCHEMA}}]}}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"groupName": "cpu", "limits": {"cpu": 8, "memory": "8Gi"}}, []),
        ({"groupName": 3}, ["spec.groupName: 3 is not of type 'string'"]),
        ({}, ["spec: 'groupName' is a required property"]),
        ({"groupName": "cpu", "replica": 1}, ["spec: Additional properties are not allowed"]),
    ],
)
def test_a_manifest_is_compared_with_a_schema(spec: dict[str, Any], says: list[str]) -> None:
    found = runpy.run_path(str(DEPLOY / "kuberay/check.py"))["errors"](
        CRD, {"apiVersion": "ray.io/v1", "metadata": {"name": "x"}, "spec": spec}
    )
    assert len(found) == len(says)
    assert all(line.startswith(start) for line, start in zip(found, says, strict=True))


def test_the_rayjob_runs_a_command_of_handloom_on_the_ray_of_the_image(job: dict[str, Any]) -> None:
    program, *words = job["spec"]["entrypoint"].split()
    assert program == "handloom"
    assert prepare(words).words[0] == "curate"
    pins = (CHECKOUT / "constraints.txt").read_text().splitlines()
    assert f"ray=={job['spec']['rayClusterSpec']['rayVersion']}" in pins
    mounted = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    (mount,) = mounted["volumeMounts"]
    assert all(w.startswith(mount["mountPath"]) for w in words if w.startswith("/"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(script: Path) -> None:
    run = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


# Slurm on one machine: both nodes are this one, and a step is a process.
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "$@" >> "$SCONTROL_LOG"
[[ $1 == show ]] && printf '%s\\n' ${3//,/ }
exit 0
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch script with two nodes of a core each."""
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    path = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    return os.environ | {
        "PATH": ":".join(path),
        "HANDLOOM": str(CHECKOUT),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "localhost,127.0.0.1",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "SCONTROL_LOG": str(tmp_path / "scontrol.log"),
    }


def batch(script: str, slurm: dict[str, str], *args: object) -> subprocess.Popen[str]:
    """Start a batch script as Slurm does: a copy of it, elsewhere."""
    copy = Path(slurm["SCONTROL_LOG"]).parent / "slurm_script"
    shutil.copy(DEPLOY / "slurm" / script, copy)
    command = ["bash", copy, *map(str, args)]
    return subprocess.Popen(
        command, cwd=copy.parent, env=slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True
    )  # fmt: skip


def ray_processes(slurm: dict[str, str]) -> list[str]:
    """Processes of the job's Ray that still run."""
    run = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [x for x in run.stdout.splitlines() if f"/ray-{slurm['SLURM_JOB_ID']}/" in x]


@pytest.mark.slow
def test_a_curation_that_is_preempted_is_requeued_and_goes_on(
    slurm: dict[str, str], miniature: Path, tiny_vqgan: Path, cli: Cli, tmp_path: Path
) -> None:
    options = ["--data", miniature, "--tokens.model", tiny_vqgan, "--tokens.resolution", 64]
    options += ["--run.batch-clips", 2]
    out = tmp_path / "out"
    first = batch("curate.sbatch", slurm, "ego4d", *options, "--out", out)
    while len(list(out.glob("tables/hands/*.parquet"))) < 2:
        assert first.poll() is None
        time.sleep(0.1)
    first.terminate()
    said = first.communicate(timeout=300)[0]
    assert first.returncode == 143, said
    assert f"requeued: job {slurm['SLURM_JOB_ID']} goes on" in said
    assert f"requeue {slurm['SLURM_JOB_ID']}" in Path(slurm["SCONTROL_LOG"]).read_text()
    assert ray_processes(slurm) == []

    second = batch("curate.sbatch", slurm, "ego4d", *options, "--out", out)
    said = second.communicate(timeout=900)[0]
    assert second.returncode == 0, said
    assert ray_processes(slurm) == []
    assert not Path(f"/tmp/ray-{slurm['SLURM_JOB_ID']}").exists()
    assert Path(slurm["SCONTROL_LOG"]).read_text().count("requeue") == 1
    cli("curate", "ego4d", *options, "--out", tmp_path / "local")
    assert shard_sums(out) == shard_sums(tmp_path / "local")


@pytest.mark.slow
def test_a_pretraining_has_a_process_on_each_node(slurm: dict[str, str], tmp_path: Path) -> None:
    options = ["--shards", write_clips(tmp_path / "shards"), "--out", tmp_path / "out"]
    options += ["--steps", 2, "--batch-size", 2, "--text-length", 8, "--log-every", 1]
    run = batch("pretrain.sbatch", slurm, *options)
    said = run.communicate(timeout=900)[0]
    assert run.returncode == 0, said
    assert "2 processes on cpu" in said
    assert len(losses(tmp_path / "out")) == 2


@pytest.mark.slow
def test_what_a_command_refuses_is_the_exit_status_of_the_batch(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    run = batch("curate.sbatch", slurm, "egod4", "--out", tmp_path / "out")
    said = run.communicate(timeout=900)[0]
    assert run.returncode == 2, said
    assert "did you mean 'ego4d'" in said
    assert ray_processes(slurm) == []
