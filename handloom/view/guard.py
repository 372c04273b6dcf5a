"""Who may see the page: whoever opened the printed address, and nobody else on this machine.

The address holds a random token, which becomes a cookie of this port. Pages run nothing but the
viewer's own scripts, and load nothing from elsewhere.
"""

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; font-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
FOREIGN = "Another page asked for this change; changes are made on the page of `handloom view`."
DENIED = "This page belongs to somebody's `handloom view`; open the address that it printed."


class Guard:
    """Lets requests through that carry the token.

    Args:
        app: what is behind.
        token: of the printed address.
        cookie: name of the cookie; another one for each port, since cookies know no ports.
        any_host: whether other names than those of this machine may be asked for, as they must be
            where the server listens on more than loopback.
    """

    def __init__(self, app: ASGIApp, token: str, cookie: str, any_host: bool = False) -> None:
        self.app, self.token, self.cookie, self.any_host = app, token, cookie, any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        app = self._answer(scope, headers) or self.app
        await app(scope, receive, send_guarded)

    def _answer(self, scope: Scope, headers: dict[str, str]) -> ASGIApp | None:
        """The answer to a request that does not get through, None for one that does."""
        if not self.any_host and _host(headers.get("host", "")) not in LOOPBACK:
            return PlainTextResponse(DENIED, 403)  # a name that somebody points at this machine
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and self._is_right(given):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
            return answer
        if not self._is_right(_cookie(headers.get("cookie", ""), self.cookie)):
            return PlainTextResponse(DENIED, 403)
        if scope["method"] in CHANGING and not _is_own(headers):
            return PlainTextResponse(FOREIGN, 403)
        return None

    def _is_right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.token.encode())


def _host(header: str) -> str:
    """The name in a `Host` header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_own(headers: dict[str, str]) -> bool:
    """Whether a change is asked for by the viewer's own page, or by no page of a browser."""
    origin = headers.get("origin")
    if origin is None:
        return True
    return origin.partition("://")[2].lower() == headers.get("host", "").lower()


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found else ""
