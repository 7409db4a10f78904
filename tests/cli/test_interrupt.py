"""Ctrl-C while the command line imports torch: one line, whatever the import makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastcam._util import interrupt, stop
from fastcam._util.claim import claim

ROOT = Path(interrupt.__file__).resolve().parents[2]
SCRIPT = "import sys\nfrom fastcam.__main__ import main\nsys.exit(main())\n"  # as pip makes it
#: Stands in for torch: says who handles Ctrl-C, waits, and swallows what comes, as torch may do.
TORCH = (
    "import signal, sys\n"
    "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)\n"
    "try:\n    sys.stdin.read()\n"
    "except BaseException as error:\n    raise ImportError('torch is broken') from error\n"
)


def _start(folder: Path, *command: str) -> subprocess.Popen[str]:
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(TORCH)
    reset = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    (folder / "sitecustomize.py").write_text(reset)  # where the tests run with it ignored
    path = os.pathsep.join([str(folder), str(ROOT)])
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *command], env={**os.environ, "PYTHONPATH": path}, cwd=folder,
        stdin=pipe, stdout=pipe, stderr=pipe, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("how", ["module", "script"])
def test_an_interrupt_during_the_import_is_one_line(how: str, tmp_path: Path) -> None:
    (tmp_path / "fastcam").write_text(SCRIPT)
    start = ("-m", "fastcam") if how == "module" else (str(tmp_path / "fastcam"),)
    process = _start(tmp_path, *start, "synth", "faces")
    assert process.stdout is not None
    assert process.stdout.readline() == "False\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert said == "fastcam: interrupted; nothing was begun\n"
    assert process.returncode == 130


def test_a_spawned_process_leaves_the_message_to_its_parent(tmp_path: Path) -> None:
    (tmp_path / "fastcam").write_text(SCRIPT)
    process = _start(tmp_path, str(tmp_path / "fastcam"), "--multiprocessing-fork")
    assert process.stdout is not None
    assert process.stdout.readline() == "False\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "")
    assert process.returncode == 130


def test_programs_that_import_fastcam_keep_their_handling(tmp_path: Path) -> None:
    process = _start(tmp_path, "-c", "import fastcam")
    assert process.communicate("")[0] == "True\n"


def test_an_interrupt_while_something_is_written_is_an_ordinary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/fastcam", "train"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupt.guard()
        handle = signal.getsignal(signal.SIGINT)
        assert callable(handle) and handle is not signal.default_int_handler
        left: list[int] = []
        again: list[int] = []
        monkeypatch.setattr(os, "_exit", left.append)
        with pytest.raises(KeyboardInterrupt):  # no import goes on
            handle(signal.SIGINT, sys._getframe())
        with claim(tmp_path):
            with monkeypatch.context() as patch:
                patch.setattr(interrupt, "importing", lambda frame: True)
                patch.setattr(stop, "importing", lambda frame: True)
                patch.setattr(stop, "_again", again.append)
                handle(signal.SIGINT, None)  # raised in an import, it would be lost
            with pytest.raises(KeyboardInterrupt):
                handle(signal.SIGINT, None)
        assert not left and again == [signal.SIGINT]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupt.guard()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
