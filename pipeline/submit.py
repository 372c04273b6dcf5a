"""Submission of a command as a Ray job to a running cluster.

    handloom submit curate ego4d --data /shared/ego4d --out /shared/run --address http://HOST:8265
    handloom submit train pretrain --shards /shared/run/shards --workers 8 --device cuda …
    handloom submit --follow JOB                     the log of one that was sent with --no-wait

The command line is checked here, before anything is sent. `travel` says what is sent, `placing`
what becomes of paths, `on_cluster` how the job begins on its node, `following` how it is watched.
"""

import logging
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import tyro

from handloom.cli import COMMANDS
from handloom.errors import RunError, UserError, first_line
from handloom.flags import choice, options_class, parse
from handloom.pipeline import travel
from handloom.pipeline.configuration import Request, defaults, read_command, read_request
from handloom.pipeline.following import follow, how_to_follow
from handloom.pipeline.on_cluster import PYTHON
from handloom.pipeline.placing import absolute, with_absolute_places
from handloom.pipeline.recipes import RECIPES, dataset_name
from handloom.stages.outside import is_outside, search, source_of

AGENT_TRIES, AGENT_WAIT_S = 6, 2.0  # the cluster itself waits ten seconds in each
# Parts of Ray that log each upload and connection; importing them sets their level.
TALKATIVE = (
    "dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"
)  # fmt: skip
FIRST_WORDS = ("curate", "train", "generate", "eval")
NAMES = [name for name in COMMANDS if name.split()[0] in FIRST_WORDS]
WHAT = f"""One of {", ".join(NAMES)}, and its options; or a dataset, for curate, or `pretrain`."""


@dataclass(frozen=True)
class SubmitCommand:
    """Run a command of handloom on a running Ray cluster, as a Ray job, and follow its log; the
    exit status is the job's. The same command again goes on where a job ended early. Data and
    output are URLs, or paths that all nodes of the cluster see; handloom's code and modules of your
    own travel there. `handloom submit COMMAND --help` lists the options of a command."""

    command: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(help=WHAT, metavar="COMMAND")
    ] = ()
    address: str = "http://127.0.0.1:8265"
    """Address of the cluster's dashboard, http://HOST:PORT."""
    wait: bool = True
    """Follow the log until the job ends. --no-wait only sends the job, and says how to follow it
    later."""
    install: bool = False
    """Let Ray install what handloom needs, by pip, in an environment of the job on each node that
    runs a part of it: for clusters that have Ray alone. A checkout brings the versions that it is
    tested with."""
    follow: str = ""
    """Name of a job that was sent before, instead of a command: print its log from the beginning,
    and end as it does."""


@dataclass(frozen=True)
class Job:
    """A command that is ready to be sent.

    Attributes:
        words: the command, with absolute paths.
        modules: files and folders of the user's own modules.
        resources: what Ray is to keep free for the job's own process.
    """

    words: list[str]
    modules: list[Path] = field(default_factory=list)
    resources: dict[str, int] = field(default_factory=dict)


def submit(args: Sequence[str]) -> None:
    """Run a command on a cluster and stream its log.

    Raises:
        UserError: no cluster answers, or the arguments are not those of the command.
        RunError: the cluster took no job.
        JobFailed: the job did not succeed; it carries the job's exit status.
    """
    options, words = _own_options(list(args))
    if options.follow:
        follow(_client(options.address), options.follow, options.address)
        return
    job = prepare(words)
    client = _client(options.address)
    _check_ray(client, options.address)
    with TemporaryDirectory() as name:
        luggage = travel.gather(Path(name), job.modules)
        print(*luggage.sentences(), sep="\n", flush=True)
        env = travel.runtime_env(Path(name), options.install)
        job_id = _send(client, job, env)
    print(f"submitted {job_id} to {options.address}{_waits_for(job)}", flush=True)
    if options.wait:
        follow(client, job_id, options.address)
    else:
        print(how_to_follow(job_id, options.address))


def _own_options(words: list[str]) -> tuple[SubmitCommand, list[str]]:
    """The options of `submit`, wherever they stand, and the words of the command."""
    own = []
    for flag in ("--address", "--follow"):
        words, value = _take(words, flag, "")
        own += [flag, value] if value else []
    for flag in ("--wait", "--no-wait", "--install", "--no-install"):
        own += [flag] if flag in words else []
        words = [word for word in words if word != flag]
    if not words or words[0] in ("-h", "--help"):
        own += words[:1]
        if not words and "--follow" not in own:
            raise UserError(f"submit needs a command; it knows {', '.join(NAMES)}.")
    return parse(SubmitCommand, own, "submit"), words


def prepare(words: list[str]) -> Job:
    """Check a command line as the command itself does, and make its paths absolute.

    Raises:
        UserError: an unknown command, or options that are not its own.
    """
    first = words[0]
    if first == "pretrain":
        return _other("train pretrain", words[1:])
    if first not in FIRST_WORDS:  # a dataset
        if not (first in RECIPES or is_outside(first) or first.startswith("-")):
            choice(first, [*FIRST_WORDS, *RECIPES], "command or dataset")
        return _curation(words)
    if first == "curate":
        return _curation(words[1:])
    if first in COMMANDS:
        return _other(first, words[1:])
    seconds = [name.split()[1] for name in NAMES if name.startswith(f"{first} ")]
    if len(words) == 1:
        raise UserError(f"{first} alone is no command; it goes on with {', '.join(seconds)}.")
    second = choice(words[1], seconds, f"{first} command")
    return _other(f"{first} {second}", words[2:])


def _curation(words: list[str]) -> Job:
    """`curate` without --config: the options of that file are flags by now."""
    read_command(words, "curate")
    request = read_request(words, "submit")
    name = dataset_name(request.dataset)
    rest, _ = _take(list(request.words), "--config", "")
    rest, out = _take(rest, "--out", f"runs/{name}")
    rest, data = _take(rest, "--data", "" if name == "sample" else f"data/{name}")
    places = ["--out", absolute(out), *(["--data", absolute(data)] if data else [])]
    options = with_absolute_places(rest, type(defaults(request.dataset, request.stages)))
    return Job(["curate", request.dataset, *options, *places], list(_own_modules(request)))


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


def _other(name: str, words: list[str]) -> Job:
    """A training, generation or evaluation."""
    kind = options_class(COMMANDS[name].target, COMMANDS[name].options)
    assert kind  # only `curate` and commands like it read the words themselves
    options: Any = parse(kind, words, name)
    if hasattr(options, "check"):
        options.check()
    rest, out = _take(words, "--out", str(options.out))
    placed = [*name.split(), *with_absolute_places(rest, kind), "--out", absolute(out)]
    if hasattr(options, "workers"):
        # 0 would train in the job's own process, which has no core of the cluster
        return Job(placed if options.workers else [*placed, "--workers", "1"])
    on_gpu = getattr(options, "device", "").startswith("cuda")
    return Job(placed, resources={"entrypoint_num_gpus" if on_gpu else "entrypoint_num_cpus": 1})


def _client(address: str) -> Any:
    # Clusters since Ray 2.60 want the token that they wrote to this file; a client sends it only if
    # this is set before Ray is imported.
    if (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for module in TALKATIVE:
        logging.getLogger(f"ray.{module}").setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise UserError(
            f"the Ray cluster at {address} refuses the token ({first_line(error)}); put "
            "the cluster's token into RAY_AUTH_TOKEN and set RAY_AUTH_MODE=token."
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no Ray job server answers at {address} ({first_line(error)}); start a "
            "cluster with `ray start --head`, or name its dashboard with --address (make: "
            "ADDRESS=…)."
        ) from None


def _check_ray(client: Any, address: str) -> None:
    """Refuse a cluster whose Ray is not one that handloom works with."""
    from packaging.requirements import Requirement  # comes with Ray

    version = getattr(client, "_server_ray_version", None)
    for wanted in map(Requirement, travel.requirements()):
        if wanted.name == "ray" and version and not wanted.specifier.contains(version, True):
            raise UserError(
                f"the cluster at {address} runs Ray {version}, expected {wanted.specifier}: start "
                "it with such a version."
            )


def _send(client: Any, job: Job, env: dict[str, Any]) -> str:
    """Submit the job; a cluster that has just started has no agent for jobs for some seconds."""
    command = shlex.join(["-m", "handloom.pipeline.on_cluster", *job.words])
    entrypoint = f'exec "${{{PYTHON}:?is not set, so this Ray is not supported}}" {command}'
    for attempt in range(AGENT_TRIES):
        try:
            job_id: str = client.submit_job(entrypoint=entrypoint, runtime_env=env, **job.resources)
            return job_id
        except (RuntimeError, OSError) as error:
            why = first_line(error)
            if "agent" not in why or attempt + 1 == AGENT_TRIES:
                raise RunError(f"the cluster took no job: {why}") from None
            time.sleep(AGENT_WAIT_S)
    raise AssertionError("unreachable")


def _waits_for(job: Job) -> str:
    """What the job's own process needs before it starts, for the line on its submission."""
    names = {"entrypoint_num_cpus": "core", "entrypoint_num_gpus": "GPU"}
    waits = [f"; it starts when a {names[kind]} of the cluster is free" for kind in job.resources]
    return "".join(waits)


def _take(args: list[str], flag: str, default: str) -> tuple[list[str], str]:
    """Remove a flag and its value; returns the rest and the value."""
    for i, arg in enumerate(args):
        if arg.startswith(f"{flag}="):
            return args[:i] + args[i + 1 :], arg.partition("=")[2]
        if arg == flag and i + 1 < len(args):
            return args[:i] + args[i + 2 :], args[i + 1]
    return args, default
