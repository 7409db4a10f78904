"""What long work says of itself: progress bars on stderr (where it is a terminal), stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from fastcam._util.extras import require


class Report(Protocol):
    """Called with what is done, how much of it, out of how much, and perhaps a note."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None: ...


def labelled(report: Report | None, what: str) -> Callable[[int, int], None] | None:
    """The same report for a function that counts only (done, total)."""
    if report is None:
        return None
    return lambda done, total: report(what, done, total)


def timed(say: Callable[[str], None]) -> Callable[[str], None]:
    """The same voice with the seconds since now before every line."""
    began = time.monotonic()
    return lambda text: say(f"[{time.monotonic() - began:4.0f} s] {text}")


@contextmanager
def progress_bars() -> Iterator[Report]:
    """One bar for each thing that is reported on."""
    console = require("rich.console", extra="train").Console(stderr=True)
    rich = require("rich.progress", extra="train")
    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[note]}"),
    )
    with rich.Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, int] = {}

        def report(what: str, done: int, total: int, note: str = "") -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total, note=note)
            progress.update(tasks[what], completed=done, total=total, note=note)

        yield report
