"""The web application: pages, files to download, and the server."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastcam._util.claim import claim
from fastcam._util.extras import require
from fastcam.studio.gate import COOKIE, Gate
from fastcam.studio.home import Home
from fastcam.studio.settings import StartConfig, StudioConfig

if TYPE_CHECKING:
    from fastcam.studio.core import Studio

#: Seconds after the last visit that a browser keeps the cookie: the most that browsers allow.
_REMEMBERED = 400 * 86400


def serve(
    folder: str | Path,
    config: StudioConfig | None = None,
    start: StartConfig | None = None,
    *,
    data: Sequence[str | Path] = (),
    checkpoint: Sequence[str | Path] = (),
    show: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Run the studio until it is interrupted.

    Args:
        folder: for all that it makes; see :class:`fastcam.studio.home.Home`.
        config: where it listens, and its bounds.
        start: the drawn faces and the network that it opens on.
        data, checkpoint: a person's own in place of these: folders, and a network for each.
        show: open a browser.
        say: is told the address, and what it exposes.

    Raises:
        ImportError: NiceGUI is missing (extra ``studio``).
        ValueError: settings, data or a checkpoint that cannot be.
        OSError: the folder cannot be written or is another studio's, or the port is taken.
    """
    require("nicegui", extra="studio")
    if len(data) != len(checkpoint):
        raise ValueError(
            f"--data and --checkpoint: expected a network for each data set, got {len(data)} and "
            f"{len(checkpoint)}"
        )
    own = [(Path(d), Path(c)) for d, c in zip(data, checkpoint, strict=True)]
    for path in (path for pair in own for path in pair):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
    config, start = config or StudioConfig(), start or StartConfig()
    if config.exposed and config.token is None:
        config = replace(config, token=secrets.token_urlsafe(16))
    config = replace(config, port=_free_port(config.host, config.port))
    home = Home.open(folder)
    with claim(home.root):  # of its sessions another server would write what it knows of them
        _serve(home, config, start, own, show, say)


def _serve(
    home: Home,
    config: StudioConfig,
    start: StartConfig,
    own: Sequence[tuple[Path, Path]],
    show: bool,
    say: Callable[[str], None],
) -> None:
    """Run it in a folder that is this process's alone."""
    os.environ["NICEGUI_STORAGE_PATH"] = str(home.root / "browser")

    from nicegui import app, core, ui
    from nicegui.storage import Storage

    from fastcam.studio.pages.routes import tell

    def open_studio() -> Studio:
        from fastcam.studio.core import Studio

        return Studio(home, config, start, own)

    def tick() -> None:
        if opened.done():
            if opened.exception() is None:
                opened.result().tick()
            else:
                app.shutdown()

    Storage.path = home.root / "browser"
    # Beside the server, which has a page to show meanwhile: its libraries take seconds.
    opened = ThreadPoolExecutor(1).submit(open_studio)
    tell(home, opened)
    core.sio.eio.cors_allowed_origins = None  # the gate refuses other sites, sockets too
    app.add_middleware(Gate, config=config)
    app.timer(1.0, tick)
    say(_welcome(config, home))
    ui.run(
        host=config.host, port=config.port, title="fastcam studio", dark=None, reload=False,
        show=show, show_welcome_message=False, storage_secret=home.secret(),
        session_middleware_kwargs=_cookie(home),
        reconnect_timeout=20.0, uvicorn_logging_level="warning",
    )  # fmt: skip
    if opened.done():
        opened.result()  # what was wrong


def _cookie(home: Home) -> dict[str, Any]:
    """The cookie that says who somebody is: another for each folder.

    Browsers know a cookie by its host's name and not by the port: what else is served on this
    machine, another studio too, would replace a cookie of the usual name, and who has it loses
    the session.
    """
    name = f"{COOKIE}_{hashlib.sha256(home.secret().encode()).hexdigest()[:8]}"
    return {"session_cookie": name, "same_site": "strict", "max_age": _REMEMBERED}


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        OSError: it is taken, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            hint = "; name another with --port" if port else ""
            text = f"cannot listen on {host}, port {port}: {error.strerror}{hint}"
            raise OSError(error.errno, text) from None
        return int(probe.getsockname()[1])


def _welcome(config: StudioConfig, home: Home) -> str:
    host = f"[{config.host}]" if ":" in config.host else config.host
    address = f"http://{host}:{config.port}/"
    lines = [f"fastcam studio: {address}   (Ctrl-C ends it; {home.root} holds all that it makes)"]
    if config.token is not None:
        lines = [f"fastcam studio: {address}?token={config.token}   (Ctrl-C ends it)"]
    if config.exposed:
        lines.append(
            f"note: {config.host} can be reached from other machines, without encryption. Whoever "
            "has the token sees the data set's images and the networks, and can train on this "
            f"machine and fill {home.root}."
        )
    return "\n".join(lines)
