"""Who may talk to the studio."""

from __future__ import annotations

import asyncio
import string
from typing import Any

import pytest

from fastcam.studio.gate import Gate
from fastcam.studio.settings import StudioConfig

TOKEN = "a-token-of-some-length"
UPLOAD = "/_nicegui/client/0a1b-22/upload/17"


def _ask(
    config: StudioConfig,
    path: str = "/",
    query: str = "",
    kind: str = "http",
    body: bytes = b"",
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """Status (of sockets the close code; 200 where it was let in), headers, body that came in."""
    sent: list[dict[str, Any]] = []
    got = b""

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        nonlocal got
        while True:
            message = await receive()
            got += message.get("body", b"")
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})

    chunks = [body[i : i + 1000] for i in range(0, len(body), 1000)] or [b""]

    async def receive() -> dict[str, Any]:
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    given = {"host": "127.0.0.1:8731", **headers}
    scope = {
        "type": kind, "path": path, "query_string": query.encode(),
        "headers": [(k.encode(), v.encode()) for k, v in given.items()],
    }  # fmt: skip
    asyncio.run(Gate(inner, config)(scope, receive, send))
    first = sent[0]
    found = {k.decode(): v.decode() for k, v in first.get("headers", [])}
    return first.get("status", first.get("code")), found, got


def test_this_machine_is_let_in_and_other_sites_pages_are_not() -> None:
    config = StudioConfig()
    assert _ask(config)[0] == 200
    assert _ask(config, host="localhost:8731", origin="http://localhost:8731")[0] == 200
    assert _ask(config, host="[::1]:8731")[0] == 200
    assert _ask(config, origin="http://evil.example")[0] == 403
    assert _ask(config, host="evil.example:8731")[0] == 403  # DNS that leads here
    assert _ask(config, kind="websocket", origin="http://evil.example")[0] == 1008
    assert _ask(config, kind="websocket", origin="http://127.0.0.1:8731")[0] == 200
    assert _ask(config, origin="null")[0] == 403
    assert _ask(config, origin="http://[::1")[0] == 403  # no address at all


def test_another_address_needs_the_token() -> None:
    config = StudioConfig(host="0.0.0.0", token=TOKEN)
    assert _ask(config, host="10.0.0.7:8731")[0] == 401
    assert _ask(config, query="token=wrong")[0] == 401
    assert _ask(config, kind="websocket")[0] == 1008
    assert _ask(config, kind="websocket", query=f"token={TOKEN}")[0] == 1008
    status, headers, _ = _ask(config, query=f"token={TOKEN}")
    assert status == 303 and headers["location"] == "/"
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=Strict" in headers["set-cookie"]
    cookie = headers["set-cookie"].split(";")[0]
    assert _ask(config, host="10.0.0.7:8731", cookie=cookie)[0] == 200
    assert _ask(config, kind="websocket", cookie=cookie)[0] == 200
    assert _ask(config, cookie=f"{cookie.split('=')[0]}=wrong")[0] == 401
    others = 'prefs={"a": 1}; note=a b'  # of other programs on this machine, and no proper cookies
    assert _ask(config, cookie=f"{others}; {cookie}")[0] == 200
    elsewhere = _ask(StudioConfig(host="0.0.0.0", token=TOKEN, port=8732), query=f"token={TOKEN}")
    assert elsewhere[1]["set-cookie"].split("=")[0] != cookie.split("=")[0]  # replaces none
    with pytest.raises(ValueError, match="token"):
        StudioConfig(token="short")


@pytest.mark.parametrize("character", [*" ;\"\\,&#+%'=/", "é", "€", "\n", "\udce9"])
def test_a_token_goes_through_an_address_and_a_cookie_as_it_is(character: str) -> None:
    every = string.ascii_letters + string.digits + "-._~"
    config = StudioConfig(token=every)
    status, headers, _ = _ask(config, query=f"token={every}")
    assert status == 303
    assert _ask(config, cookie=headers["set-cookie"].split(";")[0])[0] == 200
    with pytest.raises(ValueError, match=r"token: expected characters of A-Z.* got ") as caught:
        StudioConfig(token=f"long-enough{character}")
    assert str(caught.value).endswith(repr(character))


def test_a_request_has_bounds() -> None:
    config = StudioConfig(max_files=2, max_megabytes=1)
    assert _ask(config, **{"content-length": str(5 << 20)})[0] == 413
    assert _ask(config, UPLOAD, **{"content-length": str(2 << 20)})[0] == 200
    assert _ask(config, UPLOAD, **{"content-length": str(4 << 20)})[0] == 413
    # One that does not say how long it is ends as if its sender had gone.
    body = b"x" * (2 << 20)
    assert len(_ask(config, body=body)[2]) <= 1 << 20
    assert len(_ask(config, UPLOAD, body=body)[2]) == len(body)
