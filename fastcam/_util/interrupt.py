"""Ctrl-C and SIGTERM while the command line still imports what it needs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from fastcam._util.stop import importing, raise_for

NOTHING_LOST = "fastcam: interrupted; nothing was begun"


def guard() -> None:
    """End at once and quietly when Ctrl-C or SIGTERM comes during an import, if this is the command
    line.

    A KeyboardInterrupt inside an import of torch is swallowed, turned into other errors or told
    with a traceback by the modules it passes through. Nothing is lost by leaving at once, as long
    as nothing is being written. Programs that import fastcam keep their own handling.
    """
    if not _is_command() or threading.current_thread() is not threading.main_thread():
        return
    process = os.getpid()
    spawned = "--multiprocessing-fork" in sys.orig_argv

    def handle(number: int, frame: FrameType | None) -> Any:
        if importing(frame) and not _working():
            # Workers, forked or spawned, leave the message to their parent.
            if os.getpid() == process and not spawned:
                os.write(2, f"{NOTHING_LOST}\n".encode())
            os._exit(128 + number)
        raise_for(number, frame)

    handle.of_fastcam = True  # type: ignore[attr-defined]
    plain = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    for number, handler in plain.items():
        if signal.getsignal(number) == handler:  # neither ignored (nohup) nor somebody else's
            signal.signal(number, handle)


def _is_command() -> bool:
    """Whether this process was started as ``fastcam`` or ``python -m fastcam``."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # while Python looks for the module, its name stands here only
        given = sys.orig_argv
        named = [b if a == "-m" else a[2:] for a, b in zip(given, [*given[1:], ""], strict=True)
                 if a.startswith("-m")]  # fmt: skip
        return named[:1] == ["fastcam"]
    return os.path.basename(program) in ("fastcam", "fastcam.exe")


def _working() -> bool:
    claims = sys.modules.get("fastcam._util.claim")
    return claims is not None and claims.working()
