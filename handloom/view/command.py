"""`handloom view`: a page over a run, or over a training, on this machine."""

import ctypes
import os
import secrets
import signal
import socket
import sys
import webbrowser
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from handloom.errors import UserError

PORT, TRIED = 8400, 20
M_MMAP_THRESHOLD = -3  # of malloc.h


@dataclass(frozen=True)
class ViewCommand:
    """Look at a run in a browser: filter its clips, move thresholds, mark clips, compare two runs.

    The run may go on meanwhile. For the folder of a training the page shows its curves.
    """

    out: Annotated[Path, tyro.conf.Positional]
    """The folder given to `handloom curate` or `handloom train` as --out."""
    against: Path | None = None
    """Folder of an earlier run of the same videos: the page shows what has changed since."""
    port: int | None = None
    """Port to listen on; by default the first free one from 8400."""
    host: str = "127.0.0.1"
    """Address to listen on; by default only this machine can see the page. With 0.0.0.0 everybody
    can who is given the printed address."""
    browser: bool = True
    """Open the page in the browser of this machine."""


def view(command: ViewCommand) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: a folder is neither a run nor a training, or the port is in use.
    """
    import uvicorn

    from handloom.view.app import build, open_folder

    give_memory_back()
    shown = open_folder(command.out, command.against)
    listener = listen(command.host, command.port)
    port = listener.getsockname()[1]
    token = secrets.token_urlsafe(16)
    app = build(shown, token, port, any_host=not is_loopback(command.host))
    address = f"http://{_named(command.host)}:{port}/?token={token}"
    print(f"{command.out}: open {address}\nCtrl-C ends it.", flush=True)
    if command.browser and has_screen():
        with suppress(webbrowser.Error):
            webbrowser.open(address)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # temporary files go, as by Ctrl-C
    config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    with suppress(KeyboardInterrupt), listener:
        uvicorn.Server(config).run([listener])


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens; UserError where the address cannot be had."""
    ports = [port] if port is not None else [*range(PORT, PORT + TRIED), 0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in ports:
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            listener.listen()
        except (OSError, OverflowError) as error:
            listener.close()
            found = error
        else:
            return listener
    raise UserError(
        f"--host {host} --port {ports[0]} cannot be listened on ({found}); name another port, or "
        "none to take a free one."
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    return host in ("localhost", "::1") or host.startswith("127.")


def give_memory_back() -> None:
    """Let glibc return large arrays when they are freed; by default each thread keeps up to 32 MB
    of them: of a million clips 150 MB more in all."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)


def has_screen() -> bool:
    """Whether a browser would open a window; one of the terminal would take it over."""
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def _named(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
