"""A studio in a process of its own, for tests and pictures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
#: Milliseconds that a page may take: other work may share the processors.
PATIENCE = 240_000
ROOT = Path(__file__).parents[2]


class Served:
    """A studio in a process of its own.

    Args:
        out: its folder.
        words: further words of ``fastcam studio``.
    """

    def __init__(self, out: Path, *words: object) -> None:
        self.out, self.words = out, [str(w) for w in words]
        self.process: subprocess.Popen[str] | None = None
        self.url, self.log = "", out.with_name(f"{out.name}.log")

    def start(self) -> Served:
        """Run it, and wait until it answers."""
        command = ["studio", "--out", str(self.out), "--no-show", "--port", "0", *self.words]
        # NiceGUI takes what pytest leaves in the environment for a test of its own.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "NICEGUI"))}
        environment = {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fastcam", *command], stdout=log, stderr=log,
                env=environment, cwd=self.out.parent, text=True,
            )  # fmt: skip
        end = time.monotonic() + PATIENCE / 1000
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            said = self.log.read_text()
            if "http://" in said:
                self.url = said.split("fastcam studio: ")[1].split()[0].rstrip("/")
                try:
                    urllib.request.urlopen(self.url, timeout=60).close()
                    return self
                except urllib.error.HTTPError:
                    return self
                except OSError:
                    pass
            time.sleep(0.2)
        raise AssertionError(f"the studio does not answer: {self.log.read_text()}")

    def stop(self) -> None:
        """End the server; its jobs go on."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
