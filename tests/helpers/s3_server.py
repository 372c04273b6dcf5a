"""An S3 server on loopback (moto), with faults on request and a count of what was asked."""

import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

BUCKET = "bucket"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
Fault = Callable[[str, str], int]  # method and path -> a status, 0 for none, -1 to break off


@dataclass
class S3Server:
    """The server's URL; what came in; and what goes wrong."""

    url: str = ""
    requests: Counter[str] = field(default_factory=Counter)
    """By method and path, `GET /bucket/key`."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of the bodies of answers to GET, by path."""
    fault: Fault | None = None
    is_careless: bool = False
    """Whether it ignores If-Match and If-None-Match, as some servers do."""
    app: Any = None

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests[f"{method} {path}"] += 1
        if self.is_careless:
            environ.pop("HTTP_IF_MATCH", None)
            environ.pop("HTTP_IF_NONE_MATCH", None)
        status = self.fault(method, path) if self.fault else 0
        if status < 0:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return [b""]
        if status:
            code = {503: "SlowDown", 403: "AccessDenied"}.get(status, "InternalError")
            start(f"{status} {code}", [("Content-Type", "application/xml")])
            body = f"<Error><Code>{code}</Code><Message>{code}, as asked</Message></Error>"
            return [body.encode() if method != "HEAD" else b""]
        return self._counted(method, path, self.app(environ, start))

    def _counted(self, method: str, path: str, answer: Iterable[bytes]) -> Iterator[bytes]:
        for piece in answer:
            if method == "GET":
                self.sent[path] += len(piece)
            yield piece

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Answer by `fault` meanwhile."""
        self.fault = fault
        try:
            yield
        finally:
            self.fault = None


@contextmanager
def s3_server(port: int = 0) -> Iterator[S3Server]:
    """Serve an empty bucket called `bucket`."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server(app=DomainDispatcherApplication(create_backend_app))
    http = make_server("127.0.0.1", port, server, threaded=True)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
