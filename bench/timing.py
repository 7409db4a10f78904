"""Timing on noisy machines: candidates take turns; what counts is the ratio of medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate: 20th, 50th and 80th percentile of its runs."""

    p20: float
    median: float
    p80: float
    runs: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        if len(seconds) < 2:
            raise ValueError(f"seconds: expected at least 2 runs, got {len(seconds)}")
        cuts = statistics.quantiles(seconds, n=10, method="inclusive")
        return cls(cuts[1], statistics.median(seconds), cuts[7], len(seconds))


class Turns:
    """Candidates that take turns: each ``turn`` runs and times every one of them once."""

    def __init__(
        self,
        candidates: Mapping[str, Callable[[], Any]],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.candidates, self.clock = dict(candidates), clock
        self.seconds: dict[str, list[float]] = {name: [] for name in candidates}

    def turn(self) -> None:
        for name, run in self.candidates.items():
            start = self.clock()
            run()
            self.seconds[name].append(self.clock() - start)

    def forget(self) -> None:
        """Drop what was timed so far: it was a warm-up."""
        for times in self.seconds.values():
            times.clear()


def interleaved(
    candidates: Mapping[str, Callable[[], Any]],
    *,
    seconds: float = 2.0,
    least: int = 7,
    most: int = 200,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Run the candidates in turn, A B C A B C …, for about ``seconds`` after one warm-up each."""
    turns = Turns(candidates, clock)
    turns.turn()
    turns.forget()
    end = time.perf_counter() + seconds
    for number in range(most):
        if number >= least and time.perf_counter() > end:
            break
        turns.turn()
    return {name: Timing.of(times) for name, times in turns.seconds.items()}
