"""Ctrl-C and SIGTERM, which schedulers send before they kill: an end in good order."""

from __future__ import annotations

import atexit
import multiprocessing.util
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 128 + signal.SIGINT  # exit codes
TERMINATED = 128 + signal.SIGTERM

_PROCESS = os.getpid()  # other in a fork

#: Seconds that a step may take to its end before it is broken off.
GRACE = 2.0


class Terminated(KeyboardInterrupt):
    """SIGTERM, which asks for the same as Ctrl-C."""


_terminated = False  # whether SIGTERM has come
_waiting: list[int] | None = None  # signals that came while nothing may disturb
_SOON = 0.02  # seconds


def terminated() -> bool:
    """Whether SIGTERM has come to this process since it began to listen."""
    return _terminated


def raise_for(number: int, frame: FrameType | None = None) -> None:
    """The handler of both signals: raises what stands for the signal.

    Not in the midst of an import, which swallows it or makes another error of it: then when that is
    over, and so at the end of :func:`undisturbed`.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        Terminated: SIGTERM.
    """
    if _waiting is not None:
        _waiting.append(number)
    elif importing(frame):
        _again(number)
    else:
        _raise(number)


def _raise(number: int) -> NoReturn:
    global _terminated
    if number == signal.SIGTERM:
        _terminated = True
        raise Terminated
    raise KeyboardInterrupt


def _again(number: int) -> None:
    """Send a signal to the main thread once more."""
    main = threading.main_thread().ident
    timer = threading.Timer(_SOON, signal.pthread_kill, (main, number))
    timer.daemon = True
    timer.start()


def importing(frame: FrameType | None) -> bool:
    """Whether an import is going on there."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def undisturbed() -> Iterator[None]:
    """Raise for signals afterwards.

    What is raised in the hooks of a fork is lost, and in a file that torch.save writes it becomes
    another error. Within another such block, or in another thread than the main one, this does
    nothing.
    """
    global _waiting
    if _waiting is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    _waiting = came
    try:
        yield
    finally:
        _waiting = None
    if came:
        _raise(came[0])


def is_ours(handler: Any) -> bool:
    """Whether a signal's handler is one of fastcam's or Python's own, so that another may stand in
    for it."""
    plain = (signal.default_int_handler, raise_for)
    return handler in plain or getattr(handler, "of_fastcam", False)


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise :class:`Terminated` in the main thread, unless somebody else handles it.

    What it or Ctrl-C raises where Python can only ignore it is raised again.
    """
    global _terminated
    _terminated = False
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    if not main or not (handler == signal.SIG_DFL or is_ours(handler)):
        yield
        return
    told = sys.unraisablehook

    def lost(error: Any) -> None:  # raised in a finaliser, where it ends nothing
        if isinstance(error.exc_value, KeyboardInterrupt):
            _again(signal.SIGTERM if isinstance(error.exc_value, Terminated) else signal.SIGINT)
        else:
            told(error)

    if handler == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, raise_for)
    sys.unraisablehook = lost
    try:
        yield
    finally:
        sys.unraisablehook = told
        signal.signal(signal.SIGTERM, handler)


class Stop:
    """Whether Ctrl-C or SIGTERM has asked for the end of a long work, within ``with``.

    While the work is ``patient`` it looks at ``asked`` after each step, saves and calls
    :meth:`leave`; a second Ctrl-C, or :data:`GRACE` seconds, raise in the middle of a step. A
    second SIGTERM does not: whoever ends a group of processes may send several. At other times a
    signal raises at once. Signals that somebody else handles are left to him.

    Attributes:
        asked: the first signal's number; None until it comes.
        patient: whether steps are being taken.
        saving: whether the work is being saved, which no time breaks off.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.patient = self.saving = self._late = False
        self._timer: threading.Timer | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                # By default SIGTERM would end a library's caller at once, and lose the work.
                default = number == signal.SIGTERM and handler == signal.SIG_DFL
                if default or is_ours(handler):
                    self._before[number] = handler
                    signal.signal(number, self.handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._hold()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def handle(self, number: int, frame: FrameType | None = None) -> None:
        """A signal has come."""
        first, self.asked = self.asked is None, self.asked or number
        if not self.patient or self._late or (number == signal.SIGINT and not first):
            raise_for(number, frame)
        elif first:
            self._wait_for_step(number)

    def _wait_for_step(self, number: int) -> None:
        main = threading.main_thread().ident
        assert main is not None
        self._timer = threading.Timer(GRACE, self._break_off, (main, number))
        self._timer.daemon = True
        self._timer.start()

    def leave(self) -> NoReturn:
        """End the work.

        Raises:
            KeyboardInterrupt: see :func:`raise_for`; of another process's signal, too.
        """
        self._hold()
        _raise(self.asked or signal.SIGINT)

    def _break_off(self, thread: int, number: int) -> None:
        if not self.saving:
            self._late = True
            signal.pthread_kill(thread, number)

    def _hold(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def end_quietly(number: int, frame: FrameType | None = None) -> None:
    """The handler of a process whose parent speaks: ends it without a word."""
    os._exit(128 + number)


def leave(code: int) -> NoReturn:
    """End this process without the end of Python's interpreter, which threads of libraries disturb.

    What is registered with ``atexit`` is called, but in a fork, whose list is its parent's; the
    streams are flushed.
    """
    if os.getpid() == _PROCESS:
        atexit._run_exitfuncs()
    else:
        multiprocessing.util._exit_function()  # type: ignore[attr-defined]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
