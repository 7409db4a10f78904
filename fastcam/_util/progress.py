"""Progress of long work: how it is reported, bars on stderr, lines with the time."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Protocol

from fastcam._util.extras import require

#: Called with (done, total), by work that is one thing.
Count = Callable[[int, int], None]


class Report(Protocol):
    """Called with what is done, how much of it, out of how much, and perhaps a note."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None: ...


def labelled(report: Report | None, what: str) -> Count | None:
    """The same report for work that is one thing."""
    if report is None:
        return None
    return lambda done, total: report(what, done, total)


def timed(say: Callable[[str], None]) -> Callable[[str], None]:
    """``say``, with the seconds since this call before every line."""
    began = time.monotonic()
    return lambda text: say(f"[{time.monotonic() - began:4.0f} s] {text}")


@contextmanager
def advancing(
    progress: bool | Count, what: str, total: int, done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Yields ``advance(steps)`` for work that goes on in steps.

    Args:
        progress: called with (done, total) after each step; True draws a bar on a terminal and in
            a notebook that has ipywidgets, if rich is installed.
        what: stands before the bar.
        total: steps in all.
        done: those that were done before.
    """
    with progress_bars() if progress is True and _can_draw() else nullcontext() as bars:
        count = progress if callable(progress) else labelled(bars, what)

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            if count is not None:
                count(done, total)

        yield advance


@contextmanager
def reporting(progress: bool | Report | None) -> Iterator[Report | None]:
    """What a caller's ``progress`` asks for: his own report, none, or for True bars where they can
    be drawn."""
    if progress is True:
        with progress_bars() if _can_draw() else nullcontext() as bars:
            yield bars
    else:
        yield progress or None


def _can_draw() -> bool:
    """Whether bars can be seen: on a terminal, or in a notebook that has the widgets for them."""
    if importlib.util.find_spec("rich") is None:
        return False
    if "IPython" in sys.modules and importlib.import_module("rich.console").Console().is_jupyter:
        return importlib.util.find_spec("ipywidgets") is not None
    return sys.stderr.isatty()


@contextmanager
def progress_bars() -> Iterator[Report]:
    """One bar for each thing that is reported on."""
    console = require("rich.console", extra="train").Console(stderr=True)
    rich = require("rich.progress", extra="train")
    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[note]}", markup=False),
    )
    with rich.Progress(*columns, console=console, disable=not _can_draw()) as progress:
        tasks: dict[str, int] = {}

        def report(what: str, done: int, total: int, note: str = "") -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total, note=note)
            progress.update(tasks[what], completed=done, total=total, note=note)

        yield report
