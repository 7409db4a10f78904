"""Timing on a GPU: CUDA events, a cold L2 cache, the median of many runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from bench.timing import Timing


class Timer(Protocol):
    """Times one candidate."""

    def __call__(self, run: Callable[[], Any]) -> Timing: ...

    def peak_bytes(self, run: Callable[[], Any]) -> int | None: ...


class EventTimer:
    """GPU seconds of a call, each with a cold L2 and all its launches queued.

    Before each call the cache is flushed by writing over twice its size, and the GPU then waits
    until the call is queued: what is timed is the GPU's work, not Python's.
    """

    def __init__(self, device: torch.device, runs: int = 100, warm_up: int = 5) -> None:
        self.device, self.runs, self.warm_up = device, runs, warm_up
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(max(2 * cache, 1 << 24), dtype=torch.int8, device=device)
        self._cycles_per_second = self._measure_cycles()

    def __call__(self, run: Callable[[], Any]) -> Timing:
        for _ in range(self.warm_up):
            run()
        wait = int(2 * self._seconds_to_queue(run) * self._cycles_per_second)
        pairs = []
        for _ in range(self.runs):
            start, end = self._events()
            self._flush.zero_()
            torch.cuda._sleep(wait)
            start.record()
            run()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize(self.device)
        return Timing.of([1e-3 * start.elapsed_time(end) for start, end in pairs])

    def _events(self) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def _seconds_to_queue(self, run: Callable[[], Any]) -> float:
        """How long Python takes over a call while the GPU is idle (the longest of three)."""
        longest = 0.0
        for _ in range(3):
            torch.cuda.synchronize(self.device)
            begin = time.perf_counter()
            run()
            longest = max(longest, time.perf_counter() - begin)
        return longest

    def _measure_cycles(self, cycles: int = 10_000_000) -> float:
        """Cycles of ``torch.cuda._sleep`` in a second."""
        for _ in range(2):  # the first time wakes the GPU
            start, end = self._events()
            start.record()
            torch.cuda._sleep(cycles)
            end.record()
            torch.cuda.synchronize(self.device)
        return cycles / (1e-3 * start.elapsed_time(end))

    def peak_bytes(self, run: Callable[[], Any]) -> int:
        """Memory that the call needs at its peak, on top of what is allocated before it."""
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        run()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before


class WallTimer:
    """Wall clock, for trying the benchmark itself on a CPU."""

    def __init__(self, runs: int = 3) -> None:
        self.runs = runs

    def __call__(self, run: Callable[[], Any]) -> Timing:
        run()
        seconds = []
        for _ in range(self.runs):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return Timing.of(seconds)

    def peak_bytes(self, run: Callable[[], Any]) -> None:
        return None


def copy_bandwidth(timer: Timer, device: torch.device | str, megabytes: int = 1024) -> float:
    """Bytes a second that copying one large tensor to another reads and writes."""
    source = torch.empty(megabytes << 20, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    rounds = [timer(lambda: target.copy_(source)).median for _ in range(3)]
    return 2 * source.numel() / statistics.median(rounds)
