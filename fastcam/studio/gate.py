"""Who may talk to the studio: this machine, or whoever has the token; and how much at a time."""

from __future__ import annotations

import hmac
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fastcam.studio.settings import LOOPBACK, MEGABYTE, StudioConfig

#: How the studio's cookies are called, with what tells them from those of other studios behind it.
COOKIE = "fastcam_studio"
#: Bytes of a request that brings no image.
_SMALL = MEGABYTE
#: Where a page of NiceGUI's sends files.
_UPLOAD = re.compile(r"/_nicegui/client/[0-9a-f-]+/upload/[0-9]+")

Scope = dict[str, Any]


class Gate:
    """ASGI middleware in front of everything, pages, files and sockets alike.

    A request of another site's page is refused (its ``Origin`` is another, or, while only this
    machine may ask, its ``Host`` is a name that leads here by some trick of DNS). With a token, a
    request must have it in its address once (``?token=…``) and in a cookie from then on.

    Args:
        app: what comes behind.
        config: host, token and the bounds of uploads.
    """

    def __init__(self, app: Any, config: StudioConfig) -> None:
        self.app, self.config = app, config
        self.cookie = f"{COOKIE}_{config.port}"  # browsers send it to every port of the host

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        if not self.same_site(headers):
            await _answer(scope, send, 403, "this request comes from another site's page")
            return
        if self.config.token is not None and not self._known(headers):
            if scope["type"] == "http" and self._given(scope):
                cookie = f"{self.cookie}={self.config.token}; HttpOnly; SameSite=Strict; Path=/"
                extra = [(b"location", b"/"), (b"set-cookie", cookie.encode("latin-1"))]
                await _answer(scope, send, 303, "", extra)
            else:
                text = "open the address that `fastcam studio` has printed, with its token"
                await _answer(scope, send, 401, text)
            return
        limit = self.limit(scope)
        if int(headers.get("content-length", "0") or 0) > limit:
            await _answer(scope, send, 413, f"at most {limit / MEGABYTE:g} MB at a time")
            return
        await self.app(scope, _bounded(receive, limit), send)

    def same_site(self, headers: dict[str, str]) -> bool:
        """Whether a request may come from where its headers say."""
        host = headers.get("host", "")
        if not self.config.exposed and _name(host) not in LOOPBACK:
            return False
        origin = headers.get("origin")
        try:
            return origin is None or urlsplit(origin).netloc == host
        except ValueError:  # no address, as http://[::1
            return False

    def limit(self, scope: Scope) -> int:
        """Bytes that a request may bring."""
        if _UPLOAD.fullmatch(scope.get("path", "")):
            return int((self.config.max_files * self.config.max_megabytes + 1) * MEGABYTE)
        return _SMALL

    def _known(self, headers: dict[str, str]) -> bool:
        # Split by hand: the library's parser gives up at another program's cookie that is odd.
        pairs = (part.partition("=") for part in headers.get("cookie", "").split(";"))
        return any(k.strip() == self.cookie and self._is_token(v.strip()) for k, _, v in pairs)

    def _given(self, scope: Scope) -> bool:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        return self._is_token(query.get("token", [""])[0])

    def _is_token(self, text: str) -> bool:
        assert self.config.token is not None
        return hmac.compare_digest(text.encode(), self.config.token.encode())


def _name(host: str) -> str:
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _bounded(receive: Any, limit: int) -> Any:
    """The body of a request, which ends as if the client had gone where it is too long."""
    got = 0

    async def inner() -> dict[str, Any]:
        nonlocal got
        message: dict[str, Any] = await receive()
        if message["type"] == "http.request":
            got += len(message.get("body", b""))
            if got > limit:
                return {"type": "http.disconnect"}
        return message

    return inner


async def _answer(
    scope: Scope,
    send: Any,
    status: int,
    text: str,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    kind = (b"content-type", b"text/plain; charset=utf-8")
    start = {"type": "http.response.start", "status": status, "headers": [kind, *(headers or [])]}
    await send(start)
    await send({"type": "http.response.body", "body": text.encode()})
