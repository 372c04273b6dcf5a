"""Submission of a curation or pre-training as a Ray job to a running cluster."""

import asyncio
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import tyro

import handloom
from handloom.errors import RunError, UserError
from handloom.flags import parse
from handloom.pipeline.configuration import Request, read_request
from handloom.pipeline.recipes import RECIPES, dataset_name
from handloom.stages.outside import search, source_of

AGENT_TRIES, AGENT_WAIT_S = 6, 2.0  # the cluster itself waits ten seconds in each
# Folders of a checkout that are no code; Ray limits a job's working directory to 500 MB.
EXCLUDED = [".git", ".venv", "build", "dist", "runs", "data", "docs", "**/__pycache__"]
# These travel as the folders of handloom/ that are links to them.
EXCLUDED += ["/pipeline", "/stages", "/tokenize", "/train", "/tests", "/benchmarks"]
WHAT = f"A dataset: {', '.join(RECIPES)}, or module:ADAPTER; or `pretrain`."


@dataclass(frozen=True)
class SubmitCommand:
    """Run `handloom curate DATASET …` or `handloom train pretrain …` on a running Ray cluster, as a
    Ray job, and follow its log. All options of that command may be given here too. Data and output
    are paths that all nodes of the cluster see; a checkout and modules of your own travel there."""

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=WHAT)]
    address: str = "http://127.0.0.1:8265"
    """Address of the cluster's dashboard, http://HOST:PORT."""


def submit(args: Sequence[str], pretrain_out: Path) -> None:
    """Run `curate` or `train pretrain` with these arguments on a cluster; stream its log.

    Args:
        args: a dataset and options of `curate`, or `pretrain` and its options; and --address.
        pretrain_out: default output folder of pre-training.

    Raises:
        UserError: no cluster answers, or the arguments are not those of the command.
        RunError: the job did not succeed.
    """
    if {"-h", "--help"} & set(args):
        parse(SubmitCommand, ["--help"], "submit")
    rest, address = _take(list(args), "--address", SubmitCommand.address)
    modules: list[Path] = []
    if rest[:1] == ["pretrain"]:
        command = ["train", "pretrain", *_pretraining(rest[1:], pretrain_out)]
    else:
        request = read_request(rest, "submit")
        command = ["curate", *_curation(request)]
        modules = list(_own_modules(request))
    client = _client(address)
    with TemporaryDirectory() as folder:
        packages = [_as_package(path, Path(folder)) for path in modules]
        job_id = _submit(client, shlex.join(["python", "-m", "handloom", *command]), packages)
    print(f"submitted {job_id} to {address}", flush=True)
    job = asyncio.run(_follow(client, job_id))
    if job.status.value != "SUCCEEDED":
        kind = UserError if job.driver_exit_code == 2 else RunError  # our exit status is the job's
        raise kind(f"the job {job_id} ended as {job.status.value}; its log is above.")


def _curation(request: Request) -> list[str]:
    """The arguments of `curate`, without --config: the options of that file are flags by now."""
    name = dataset_name(request.dataset)
    rest, _ = _take(list(request.words), "--config", "")
    rest, out = _take(rest, "--out", f"runs/{name}")
    rest, data = _take(rest, "--data", "" if name == "sample" else f"data/{name}")
    places = ["--out", _absolute(out), *(["--data", _absolute(data)] if data else [])]
    return [request.dataset, *rest, *places]


def _own_modules(request: Request) -> Iterator[Path]:
    """Files and folders of the user's modules; prints which ones must be installed instead."""
    search(request.folders)
    for name in request.modules:
        place = source_of(name)
        if place is None:
            raise UserError(f"{name} cannot be found; expected module:NAME, importable from here.")
        if {"site-packages", "dist-packages"} & set(place.parts):
            print(f"{name} does not travel, since it is installed here ({place}); install it on "
                  "the nodes of the cluster too")  # fmt: skip
        else:
            yield place


def _pretraining(args: list[str], default_out: Path) -> list[str]:
    rest, out = _take(args, "--out", str(default_out))
    rest, workers = _take(rest, "--workers", "1")  # 0 would train in the job's own process
    rest, encoder = _take(rest, "--text-encoder", "")
    placed, flag = [], ""
    for arg in rest:
        name, equals, value = arg.partition("=")
        if arg.startswith("--"):
            flag = name
            arg = f"{name}={_absolute(value)}" if name == "--shards" and equals else arg
        elif flag == "--shards":
            arg = _absolute(arg)  # FOLDER=WEIGHT too
        placed.append(arg)
    if encoder:
        folder = Path(encoder).expanduser()
        placed += ["--text-encoder", str(folder.absolute()) if folder.is_dir() else encoder]
    return [*placed, "--out", _absolute(out), "--workers", workers]


def _client(address: str) -> Any:
    # Clusters since Ray 2.60 want the token that they wrote to this file; a client sends it only if
    # this is set before Ray is imported.
    if (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.ERROR)  # it logs every excluded file
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise UserError(
            f"the Ray cluster at {address} refuses the token ({str(error).splitlines()[0]}); put "
            "the cluster's token into RAY_AUTH_TOKEN and set RAY_AUTH_MODE=token."
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no Ray job server answers at {address} ({str(error).splitlines()[0]}); start a "
            "cluster with `ray start --head`, or name its dashboard with --address (make: "
            "ADDRESS=…)."
        ) from None


def _submit(client: Any, entrypoint: str, modules: list[Path]) -> str:
    """Submit the job; a cluster that has just started has no agent for jobs for some seconds."""
    for attempt in range(AGENT_TRIES):
        try:
            job_id: str = client.submit_job(
                entrypoint=entrypoint, runtime_env=_runtime_env(modules)
            )
            return job_id
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            if "agent" not in why or attempt + 1 == AGENT_TRIES:
                raise RunError(f"the cluster took no job: {why}") from None
            time.sleep(AGENT_WAIT_S)
    raise AssertionError("unreachable")


async def _follow(client: Any, job_id: str) -> Any:
    """Print the job's log until it ends; returns Ray's record of it."""
    async for lines in client.tail_job_logs(job_id):
        sys.stdout.write(lines)
        sys.stdout.flush()
    while (job := client.get_job_info(job_id)).status.value in ("PENDING", "RUNNING"):
        await asyncio.sleep(0.5)  # the log can end a moment before the job
    return job


def _as_package(source: Path, folder: Path) -> Path:
    """A module of one file as a package, since Ray's `py_modules` takes folders only."""
    if source.is_dir():
        return source
    package = folder / source.stem
    package.mkdir(exist_ok=True)
    return Path(shutil.copy(source, package / "__init__.py")).parent


def _runtime_env(modules: list[Path]) -> dict[str, Any]:
    """Ray's `runtime_env`: a checkout travels; an installed handloom must be installed there."""
    root = Path(handloom.__file__).parent.parent
    env: dict[str, Any] = {"py_modules": list(map(str, modules))} if modules else {}
    if (root / "pyproject.toml").is_file():
        env |= {"working_dir": str(root), "excludes": EXCLUDED}
    return env


def _absolute(place: str) -> str:
    """A path relative to this folder as one that holds in the job's; URLs stay."""
    return place if "://" in place else str(Path(place).absolute())


def _take(args: list[str], flag: str, default: str) -> tuple[list[str], str]:
    """Remove a flag and its value; returns the rest and the value."""
    for i, arg in enumerate(args):
        if arg.startswith(f"{flag}="):
            return args[:i] + args[i + 1 :], arg.partition("=")[2]
        if arg == flag and i + 1 < len(args):
            return args[:i] + args[i + 2 :], args[i + 1]
    return args, default
