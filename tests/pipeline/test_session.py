"""A Ray of this machine alone listens on loopback only, and says why it does not start."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from handloom.errors import RunError, UserError
from handloom.pipeline import session
from tests.helpers.folders import CHECKOUT

LISTENERS = """
import os, ray, psutil
from handloom.pipeline.session import local_ray
with local_ray(num_cpus=1):
    ray.get(ray.remote(num_cpus=1)(lambda: os.getpid()).remote())  # a worker listens too
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    ports = [(c.laddr.ip, p.name()) for p in processes for c in p.net_connections("tcp")
             if c.status == "LISTEN"]
    print(sorted(set(ports)))
    print(oct(os.stat(os.path.expanduser("~/.ray/auth_token")).st_mode & 0o777))
"""


def test_a_local_ray_listens_on_loopback_and_keeps_its_token(tmp_path: Path) -> None:
    env = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}
    run = subprocess.run(
        [sys.executable, "-c", LISTENERS], env=env, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    ports, mode = run.stdout.splitlines()
    found = {ip.removeprefix("::ffff:"): name for ip, name in ast.literal_eval(ports)}
    assert found.keys() == {"127.0.0.1"}, ports
    assert {"raylet", "gcs_server"} <= {name for _, name in ast.literal_eval(ports)}
    assert mode == "0o600"


def test_a_token_that_all_may_read_is_closed_and_kept(tmp_path: Path) -> None:
    token = tmp_path / "auth_token"
    token.write_text("secret")
    token.chmod(0o644)
    session.keep_token_private(token, {})
    assert (token.read_text(), token.stat().st_mode & 0o777) == ("secret", 0o600)


def test_a_token_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    session.keep_token_private(tmp_path / "auth_token", {"RAY_AUTH_TOKEN": "secret"})
    assert list(tmp_path.iterdir()) == []


def test_a_token_that_cannot_be_written_names_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"in .*file/auth_token, which cannot be written .*set HOME"
    ):
        session.keep_token_private(tmp_path / "file/auth_token", {})


def test_a_temporary_folder_that_is_too_deep_is_not_tried_again() -> None:
    tries: list[int] = []

    def start() -> None:
        tries.append(1)
        raise OSError("AF_UNIX path length cannot exceed 107 bytes: /tmp/…")

    with pytest.raises(UserError, match="too long for Ray's sockets; set TMPDIR"):
        session._until_up(start)
    assert len(tries) == 1


ENDED = """
import os, signal, sys, time
from handloom.errors import RunError, Terminated
from handloom.pipeline.session import check_alive, local_ray, raise_on_sigterm
import psutil, ray
with local_ray(num_cpus=1):
    raise_on_sigterm()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except Terminated:
        print("terminated")
    check_alive()
    [raylet] = [p for p in psutil.Process().children(recursive=True) if p.name() == "raylet"]
    raylet.kill()
    raylet.wait(20)
    try:
        check_alive()
    except RunError as error:
        print(error)
    sys.stdout.flush()
    os._exit(0)
"""


def test_sigterm_and_the_end_of_ray_are_noticed(tmp_path: Path) -> None:
    env = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}
    run = subprocess.run(
        [sys.executable, "-c", ENDED], env=env, capture_output=True, text=True, timeout=300
    )
    told = [line for line in run.stdout.splitlines() if line.startswith(("terminated", "Ray has"))]
    assert [line[:9] for line in told] == ["terminate", "Ray has e"], run.stdout + run.stderr


def test_a_ray_that_does_not_come_up_is_tried_again_and_ended() -> None:
    started: list[subprocess.Popen[bytes]] = []

    def hang() -> None:
        started.append(subprocess.Popen(["sleep", "600"]))
        raise Exception("The current node timed out during startup. This could happen because …")

    with pytest.raises(RunError, match=r"^Ray was not up within 30 s, 3 times in a row \(The "):
        session._until_up(hang)
    assert len(started) == session.STARTS
    assert all(process.wait(10) == -9 for process in started)


def test_a_ray_that_comes_up_late_is_used() -> None:
    tries = iter([Exception("The current node timed out during startup."), None])

    def start() -> None:
        if (error := next(tries)) is not None:
            raise error

    session._until_up(start)
    assert next(tries, "none left") == "none left"
