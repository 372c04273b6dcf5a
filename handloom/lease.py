"""One writer of a folder where files cannot be locked: a lease that its holder renews.

    first line     the holder's run
    second line    JSON: host, process, when both began, seconds of silence after which it ends

An object store creates a file only if there is none (`If-None-Match`), and replaces it only if it
is what it was (`If-Match`): of two runs that begin at once one gets it. Some servers answer such
conditions with success and ignore them; on these a run looks before it writes, and waits afterwards
whether another wrote too. On a file system without locks it is a file that is created exclusively.

Clocks may differ, or run backwards. So a lease that looks old is watched: only one that does not
change for longer than a holder ever waits is taken over.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from handloom.errors import RunError, StoreError, UserError
from handloom.files import whole
from handloom.places import StorePath
from handloom.stores import ask

RENEW_S = 10.0
SILENT_S = 180.0  # of no renewal, after which a lease has ended
POLL_S = 1.0


class Lease:
    """A lease on a folder.

    Args:
        path: of its file.
        run_id: who wants it.
    """

    def __init__(self, path: Path, run_id: str) -> None:
        self.path, self.run_id = path, run_id
        self.beats = 0
        self.tag = ""
        self.renewed_s = time.monotonic()
        self._lost = ""
        self._is_conditional = False  # whether the store heeds conditions
        self._stopped = threading.Event()

    @contextmanager
    def held(self, waits_s: float | None = None) -> Iterator["Lease"]:
        """Take the lease, renew it in a thread, and give it back.

        Args:
            waits_s: how long a lease that looks ended is watched; by default until it must be.

        Raises:
            UserError: another run has it.
        """
        if not self._create():
            self._take_over(waits_s)
        thread = threading.Thread(target=self._renew, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            thread.join()
            self._give_back()

    def check(self) -> None:
        """Raise RunError where the lease was lost: nothing may be written any more."""
        if not self._lost and time.monotonic() - self.renewed_s > SILENT_S:
            self._lost = f"could not be renewed for {SILENT_S:.0f} s"
        if self._lost:
            raise RunError(
                f"the lease {self.path} {self._lost}, so another run may be writing there; run the "
                "same command again, it goes on from there."
            )

    def _content(self) -> bytes:
        facts = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "boot": _boot(),
            "started": _started(os.getpid()),
            "ends_after_s": SILENT_S,
            "beats": self.beats,
        }
        return f"{self.run_id}\n{json.dumps(facts)}\n".encode()

    def _create(self) -> bool:
        content = self._content()
        if not isinstance(self.path, StorePath):
            self.tag = content.decode()
            return _create_file(self.path, content)
        if self._state():
            return False
        if not _create_object(self.path, content):
            # A request whose answer was lost is sent again, and finds what it wrote.
            return self._read() == content
        self._try_conditions(content)
        self.tag = self._state()
        return self._is_conditional or self._wrote_last()

    def _try_conditions(self, content: bytes) -> None:
        """Create the object once more: a store that takes it ignores conditions."""
        if isinstance(self.path, StorePath) and self.path.protocol == "s3":
            self._is_conditional = not _create_object(self.path, content)

    def _wrote_last(self) -> bool:
        """Of two runs that wrote at once, the last to write has the lease."""
        time.sleep(POLL_S)
        return self._read().partition(b"\n")[0] == self.run_id.encode()

    def _take_over(self, waits_s: float | None) -> None:
        """Take a lease that has ended. Raises UserError where it has not."""
        seen, state = self._read(), self._state()
        _, _, facts = seen.partition(b"\n")
        holder = _parsed(facts)
        if not _is_dead(holder):
            silent_s = self._silent_s()
            if silent_s < SILENT_S:
                raise UserError(self._refusal(holder, silent_s))
            watched_s = RENEW_S * 2.5 if waits_s is None else waits_s
            until = time.monotonic() + watched_s
            while time.monotonic() < until:
                time.sleep(min(POLL_S, watched_s))
                if self._state() != state:
                    raise UserError(self._refusal(holder, 0.0))
        self._try_conditions(self._content())
        self.tag = state if self._is_conditional else self._state()
        self._replace()
        if not self._is_conditional and not self._wrote_last():
            self._lost = self._lost or "was taken over"
        if self._lost:
            raise UserError(self._refusal(_parsed(self._read().partition(b"\n")[2]), 0.0))

    def _refusal(self, holder: dict[str, Any], silent_s: float) -> str:
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        return (
            f"another run is writing {self.path.parent} ({who}, last heard of {silent_s:.0f} s "
            f"ago); wait for it, or name another folder with --out. If it was killed, its lease "
            f"ends {SILENT_S:.0f} s after its last sign of life."
        )

    def _renew(self) -> None:
        while not self._stopped.wait(RENEW_S):
            with suppress(StoreError, OSError):  # `check` ends a run that cannot for too long
                self._replace()
            if self._lost:
                return

    def _replace(self) -> None:
        """Write the lease again, if it is still what this run wrote or saw last."""
        self.beats += 1
        began_s, content = time.monotonic(), self._content()
        if self._is_conditional and isinstance(self.path, StorePath):
            bucket, _, key = self.path.key.partition("/")
            request = {"Bucket": bucket, "Key": key, "Body": content, "IfMatch": f'"{self.tag}"'}
            try:
                ask(str(self.path), lambda opened: opened.call_s3("put_object", **request))
            except OSError:  # the condition does not hold, or the object is gone
                if self._read() != content:
                    self._lost = "was taken over"
                    return
        elif self._state() != self.tag:
            self._lost = "was taken over"
            return
        elif isinstance(self.path, StorePath):
            self.path.write_bytes(content)
        else:
            with whole(self.path) as temporary:
                temporary.write_bytes(content)
        self.tag, self.renewed_s = self._state(), began_s

    def _give_back(self) -> None:
        with suppress(StoreError, OSError):
            if not self._lost and self._read().startswith(self.run_id.encode()):
                self.path.unlink(missing_ok=True)

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""

    def _state(self) -> str:
        """Differs whenever the lease was written; empty where there is none."""
        if isinstance(self.path, StorePath):
            found = self.path.info()
            return found.tag if found else ""
        return self._read().decode(errors="replace")

    def _silent_s(self) -> float:
        """Seconds since the lease was renewed, by clocks that may be wrong."""
        try:
            return abs(time.time() - self.path.stat().st_mtime)
        except FileNotFoundError:
            return SILENT_S


def _create_object(path: StorePath, content: bytes) -> bool:
    """Create an object, in one request with its content; False where the store has it already."""
    with suppress(FileExistsError):
        ask(str(path), lambda opened: opened.pipe_file(path.key, content, mode="create"))
        return True
    return False


def _create_file(path: Path, content: bytes) -> bool:
    """Create a file that is not there, with its content in the same moment."""
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return True
    return False


def _parsed(facts: bytes) -> dict[str, Any]:
    try:
        found = json.loads(facts)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    if holder.get("host") != socket.gethostname():
        return False
    if holder.get("boot") != _boot():
        return True
    return _started(holder.get("pid")) != holder.get("started")


def _started(pid: Any) -> str:
    """When a process of this machine began, in the kernel's ticks: process ids are used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _boot() -> str:
    """Name of this boot of this machine; the same in its containers, whose hosts' names differ."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
