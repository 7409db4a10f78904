"""Tasks in the order of their importance: as many as fit into a number of seconds."""

from __future__ import annotations

import contextlib
import faulthandler
import math
import time
from collections.abc import Callable, Iterator, Mapping

MARGIN = 1.2  # tasks of one kind differ in size


class Budget:
    """So many seconds from now on (None: no limit), and how long each kind of task takes.

    A kind is expected to take as long as the longest of its last three tasks, and a fifth more;
    before the first one ended, as long as the guess.
    """

    def __init__(
        self,
        seconds: float | None,
        guesses: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._end = math.inf if seconds is None else clock() + seconds
        self._guesses = guesses
        self._took: dict[str, list[float]] = {}

    def left(self) -> float:
        """Seconds until the end, without a limit infinity."""
        return self._end - self._clock()

    def expected(self, kind: str) -> float:
        took = self._took.get(kind)
        return MARGIN * max(took[-3:]) if took else self._guesses[kind]

    def fits(self, kind: str, keep: float = 0.0) -> bool:
        """Whether a task of this kind is expected to end ``keep`` seconds before the end."""
        return self.expected(kind) + keep <= self.left()

    @contextlib.contextmanager
    def spend(self, kind: str) -> Iterator[None]:
        """Time a task, also one that raises."""
        begin = self._clock()
        try:
            yield
        finally:
            self._took.setdefault(kind, []).append(self._clock() - begin)

    @contextlib.contextmanager
    def enforced(self) -> Iterator[None]:
        """End the process at the end of the budget, whatever it waits for: with status 1, and
        where it was on stderr. (A thread of the interpreter's own does it, without the GIL.)
        """
        if self._end == math.inf:
            yield
            return
        faulthandler.dump_traceback_later(max(self.left(), 1e-3), exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
