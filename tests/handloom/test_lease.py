"""One writer: of two runs one gets the folder, a dead one's lease ends, a lost one is noticed."""

import json
import multiprocessing
import os
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Barrier

import pytest

from handloom import lease as leases
from handloom.errors import RunError, UserError
from handloom.files import write_bytes
from handloom.lease import Lease
from handloom.listings import forget_listings


@pytest.fixture(params=["disk", "store", "store that ignores conditions"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "disk":
        return tmp_path / ".lease"
    folder: Path = request.getfixturevalue("folder")
    server = request.getfixturevalue("s3")
    monkeypatch.setattr(server, "is_careless", "ignores" in request.param)
    return folder / ".lease"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.1)
    monkeypatch.setattr(leases, "POLL_S", 0.05)


def test_the_second_is_refused_by_the_first_ones_name(path: Path) -> None:
    with Lease(path, "one").held():
        second = Lease(path, "two")
        with pytest.raises(UserError, match=f"another run is writing .*process {os.getpid()} on "):
            second.held().__enter__()
    assert not path.exists()
    with Lease(path, "two").held():
        pass


def test_of_two_that_begin_at_once_one_has_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "POLL_S", 1.0)  # longer than a request takes on a busy machine
    both = Barrier(2)

    def begin(name: str) -> str:
        both.wait()
        try:
            with Lease(path, name).held() as lease:
                both.wait()
                lease.check()
                return name
        except UserError as error:
            both.wait()
            return str(error)

    with ThreadPool(2) as threads:
        said = threads.map_async(begin, ["one", "two"]).get(timeout=60)
    assert len({"one", "two"} & set(said)) == 1
    assert any("another run is writing" in text for text in said)


def test_a_held_lease_is_renewed(path: Path) -> None:
    with Lease(path, "one").held() as lease:
        before = path.read_bytes()
        time.sleep(0.5)
        assert path.read_bytes() != before
        lease.check()


def dead_lease(path: Path, **facts: object) -> None:
    told = {"host": "elsewhere", "pid": 1, "boot": "x", "started": "1", "beats": 3} | facts
    write_bytes(path, f"gone\n{json.dumps(told)}\n".encode())
    forget_listings()


def test_a_fresh_lease_of_another_machine_is_waited_for(path: Path) -> None:
    dead_lease(path)
    with pytest.raises(UserError, match="on elsewhere, last heard of"):
        Lease(path, "two").held().__enter__()
    assert path.read_bytes().startswith(b"gone")


def test_a_silent_lease_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead_lease(path)
    monkeypatch.setattr(leases, "SILENT_S", -1.0)
    lease = Lease(path, "two")
    with lease.held(waits_s=0.3):
        assert path.read_bytes().startswith(b"two")


def test_one_that_only_looks_silent_is_respected(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a clock that is hours ahead, or runs backwards."""
    with Lease(path, "one").held() as lease:
        monkeypatch.setattr(leases, "_is_dead", lambda holder: False)
        monkeypatch.setattr(Lease, "_silent_s", lambda self: 1e6)
        with pytest.raises(UserError, match="another run is writing"):
            Lease(path, "two").held(waits_s=1.0).__enter__()
        lease.check()


def test_a_killed_process_of_this_machine_is_followed_at_once(path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    process.start()
    assert process.pid
    facts = json.loads(Lease(path, "x")._content().partition(b"\n")[2])
    facts |= {"pid": process.pid, "started": leases._started(process.pid)}
    dead_lease(path, **facts)
    with pytest.raises(UserError, match="another run is writing"):
        Lease(path, "two").held().__enter__()
    process.kill()
    process.join()
    with Lease(path, "two").held():
        assert path.read_bytes().startswith(b"two")


def test_a_lost_lease_ends_its_run(path: Path) -> None:
    with Lease(path, "one").held() as lease:
        dead_lease(path)
        time.sleep(0.5)
        with pytest.raises(RunError, match="taken over, so another run may be writing"):
            lease.check()
    assert path.read_bytes().startswith(b"gone")


def test_a_lease_that_cannot_be_renewed_ends_its_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 60.0)
    with Lease(path, "one").held() as lease:
        lease.check()
        monkeypatch.setattr(leases, "SILENT_S", 0.05)
        time.sleep(0.1)
        with pytest.raises(RunError, match="could not be renewed"):
            lease.check()
