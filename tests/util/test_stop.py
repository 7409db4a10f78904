"""Ctrl-C and SIGTERM: asked once a long work ends after its step, asked twice at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastcam._util import stop as stop_module
from fastcam._util.stop import (
    Stop,
    Terminated,
    raise_for,
    sigterm_raises,
    terminated,
    undisturbed,
)
from fastcam._util.workers import in_processes

BOTH = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """As in a program of its own, and afterwards as before."""
    before = {number: signal.getsignal(number) for number in BOTH}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_sigterm_is_an_interrupt_within_and_the_system_s_outside() -> None:
    with sigterm_raises():
        assert not terminated()
        with pytest.raises(Terminated):
            _send(signal.SIGTERM)
        assert terminated()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def _work(*numbers: int, then: float = 0.0) -> Stop:
    """A step within which signals come, and which takes so many seconds more."""
    with Stop() as stop:
        stop.patient = True
        for number in numbers:
            _send(number)
        time.sleep(then)
        return stop


@pytest.mark.parametrize("number", BOTH)
def test_a_patient_work_is_asked_first(number: int) -> None:
    stop = _work(number)
    assert stop.asked == number
    with pytest.raises(BOTH[signal.Signals(number)]):
        stop.leave()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(BOTH[signal.Signals(number)]), Stop():
        _send(number)


def test_a_second_ctrl_c_and_a_long_step_break_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        _work(signal.SIGTERM, signal.SIGINT)
    again = _work(signal.SIGTERM, signal.SIGTERM)  # from whoever ends a group, and its parent
    assert again.asked == signal.SIGTERM
    monkeypatch.setattr(stop_module, "GRACE", 0.05)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        _work(signal.SIGINT, then=60)
    assert time.monotonic() - began < 30
    with Stop() as stop:
        stop.patient = stop.saving = True
        _send(signal.SIGINT)
        time.sleep(0.3)  # a save is not broken off


def test_handlers_of_others_stay_and_threads_have_none() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, lambda *_: None)
    with Stop() as stop, sigterm_raises():
        for number in BOTH:
            _send(number)
        assert stop.asked is None
    found: list[int | None] = []

    def other() -> None:
        with Stop() as stop, sigterm_raises():
            found.append(stop.asked)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [None]


def _long(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def _ready(folder: Path) -> None:
    return None


def _saves(folder: Path) -> None:
    """A step that takes a second more in every process after the first."""
    with Stop() as stop:
        stop.patient = True
        others = len(list(folder.iterdir()))
        (folder / str(os.getpid())).touch()
        while stop.asked is None:
            time.sleep(0.01)
        time.sleep(others)
        stop.saving = True
        (folder / f"{os.getpid()}.saved").touch()
        stop.saving = False
        stop.leave()


def _end_pool(folder: Path, work: Callable[[Path], None], number: int) -> None:
    def ask() -> None:
        while len(list(folder.iterdir())) < 2:
            time.sleep(0.01)
        _send(number)

    began = time.monotonic()
    thread = threading.Thread(target=ask)
    signal.signal(signal.SIGTERM, raise_for)
    pool = in_processes(work, [folder] * 4, 2, _ready, (folder,))
    thread.start()
    with pytest.raises(BOTH[signal.Signals(number)]):
        list(pool)
    assert time.monotonic() - began < 30
    for path in folder.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.stem), 0)


@pytest.mark.parametrize("number", BOTH)
def test_a_pool_of_processes_ends_with_it(tmp_path: Path, number: int) -> None:
    """The signal comes to the parent alone; tasks that wait are not begun."""
    _end_pool(tmp_path, _long, number)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("number", BOTH)
def test_each_process_of_a_pool_saves_what_it_has(tmp_path: Path, number: int) -> None:
    """Also when another one's end has the pool end the rest."""
    _end_pool(tmp_path, _saves, number)
    assert len(list(tmp_path.glob("*.saved"))) == 2


def _stopped(folder: Path) -> int:
    """A process that answers nothing any more, as one that waits for what a killed one holds."""
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGSTOP)).start()
    return os.getpid()


@pytest.mark.timeout(60)
def test_a_pool_ends_when_its_work_is_done_though_a_process_hangs(tmp_path: Path) -> None:
    pool = in_processes(_stopped, [tmp_path] * 2, 2, _ready, (tmp_path,))
    number = next(pool)
    time.sleep(0.6)
    assert len(list(pool)) == 1  # the other task's, and the end
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def _killed(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_of_a_pool_says_that_the_same_goes_on(tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match="was killed .* run the same again to go on"):
        list(in_processes(_killed, [tmp_path], 1, _ready, (tmp_path,)))


def test_what_python_would_ignore_is_raised_again() -> None:
    """A finaliser, the hooks of a fork, and an import end nothing."""

    class Dies:
        def __del__(self) -> None:
            _send(signal.SIGTERM)
            for _ in range(1000):
                pass

    with pytest.raises(Terminated), sigterm_raises():  # noqa: PT012
        Dies()
        time.sleep(60)
    with sigterm_raises():
        with pytest.raises(Terminated):
            _disturbed()
        with pytest.raises(Terminated):
            _imports_for_long()


def _disturbed() -> None:
    done = False
    with undisturbed():
        _send(signal.SIGTERM)
        done = True
    raise AssertionError(done)


def _imports_for_long() -> None:
    """As a module that makes another error of an interrupt."""
    code = (
        "import time\ntry:\n    ask()\n    time.sleep(0.2)\nexcept BaseException as e:\n    1 / 0\n"
    )
    frozen = compile(code, "<frozen importlib>", "exec")
    exec(frozen, {"ask": lambda: _send(signal.SIGTERM)})
    time.sleep(60)


_LEAVES = """
import atexit, os, sys
from fastcam._util.stop import leave
class Late:
    def __del__(self): print("the interpreter ended", flush=True)
late = Late()
atexit.register(print, "registered")
if sys.argv[1] == "fork" and (child := os.fork()):
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)
print("done")
leave(3)
"""


@pytest.mark.parametrize(
    ("how", "said", "code"), [("alone", "done\nregistered\n", 3), ("fork", "done\n3\n", 0)]
)
def test_a_process_leaves_without_the_end_of_its_interpreter(
    how: str, said: str, code: int
) -> None:
    done = subprocess.run([sys.executable, "-c", _LEAVES, how], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (said, code), done.stderr
