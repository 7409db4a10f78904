"""Timing on a GPU: CUDA events, a cold L2 cache, the median of many runs; and the host's clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch.autograd import DeviceType

from bench.timing import Timing

Call = Callable[[], Any]


class Timer(Protocol):
    """Times one candidate."""

    def __call__(self, run: Call) -> Timing: ...

    def peak_bytes(self, run: Call) -> int | None: ...

    def launches(self, run: Call) -> dict[str, int] | None: ...


class EventTimer:
    """GPU seconds of a call, each with a cold L2 and all its launches queued.

    Before each call the cache is flushed by reading twice its size (writing would leave it full of
    what has to be written back meanwhile), and the GPU then waits until the call is queued: what is
    timed is the GPU's work, not Python's. ``runs`` at most, and for long calls as many as fit into
    ``seconds``, but ten.
    """

    def __init__(
        self, device: torch.device, runs: int = 50, seconds: float = 0.2, warm_up: int = 5
    ) -> None:
        self.device, self.runs, self.seconds, self.warm_up = device, runs, seconds, warm_up
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.zeros(max(2 * cache, 1 << 24) // 4, device=device)
        self._cycles_per_second = self._measure_cycles()

    def __call__(self, run: Call) -> Timing:
        for _ in range(self.warm_up):
            run()
        queueing, whole = self._host_seconds(run)
        wait = 2 * queueing
        runs = min(self.runs, max(10, int(self.seconds / (wait + whole))))
        pairs = []
        for _ in range(runs):
            start, end = self._events()
            self._flush.sum()
            torch.cuda._sleep(int(wait * self._cycles_per_second))
            start.record()
            run()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize(self.device)
        return Timing.of([1e-3 * start.elapsed_time(end) for start, end in pairs])

    def _events(self) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def _host_seconds(self, run: Call) -> tuple[float, float]:
        """How long Python takes over a call while the GPU is idle, and until the GPU has done it
        (the longest of three)."""
        queueing, whole = 0.0, 0.0
        for _ in range(3):
            torch.cuda.synchronize(self.device)
            begin = time.perf_counter()
            run()
            queueing = max(queueing, time.perf_counter() - begin)
            torch.cuda.synchronize(self.device)
            whole = max(whole, time.perf_counter() - begin)
        return queueing, whole

    def _measure_cycles(self, cycles: int = 10_000_000) -> float:
        """Cycles of ``torch.cuda._sleep`` in a second."""
        for _ in range(2):  # the first time wakes the GPU
            start, end = self._events()
            start.record()
            torch.cuda._sleep(cycles)
            end.record()
            torch.cuda.synchronize(self.device)
        return cycles / (1e-3 * start.elapsed_time(end))

    def peak_bytes(self, run: Call) -> int:
        """Memory that the call needs at its peak, on top of what is allocated before it."""
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        run()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before

    def launches(self, run: Call) -> dict[str, int] | None:
        """What the GPU does for a call; None if the profiler sees nothing of it.

        Not between timings of the host: a profiler that has run once may slow down launches.
        """
        run()
        torch.cuda.synchronize(self.device)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            run()
            torch.cuda.synchronize(self.device)
        return counted(e.name for e in profile.events() if e.device_type == DeviceType.CUDA)


def counted(names: Iterable[str]) -> dict[str, int] | None:
    """Kernels, memsets and memcpys among the profiler's names of what a GPU did."""
    counts = {"kernels": 0, "memsets": 0, "memcpys": 0}
    for name in names:
        if name.startswith("Memset"):
            counts["memsets"] += 1
        elif name.startswith("Memcpy"):
            counts["memcpys"] += 1
        elif name not in ("Context Sync", "Event Sync", "Stream Sync", "Stream Wait Event"):
            counts["kernels"] += 1
    return counts if any(counts.values()) else None


class WallTimer:
    """Wall clock, for trying the benchmark itself on a CPU."""

    def __init__(self, runs: int = 3) -> None:
        self.runs = runs

    def __call__(self, run: Call) -> Timing:
        run()
        seconds = []
        for _ in range(self.runs):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return Timing.of(seconds)

    def peak_bytes(self, run: Call) -> None:
        return None

    def launches(self, run: Call) -> None:
        return None


def wall_clock(
    candidates: Mapping[str, Call],
    synchronize: Call,
    *,
    seconds: float = 0.15,
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Seconds a call by the host's clock, Python included, as in a loop that never waits.

    A round makes so many calls in a row that they take about ``seconds`` (3 to 50), waits for the
    device once, and divides; candidates take turns.
    """

    def timed(run: Call, count: int) -> float:
        begin = clock()
        for _ in range(count):
            run()
        synchronize()
        return (clock() - begin) / count

    counts = {}
    for name, run in candidates.items():
        timed(run, 3)  # warm-up
        counts[name] = min(max(int(seconds / timed(run, 3)), 3), 50)
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            found[name].append(timed(run, counts[name]))
    return {name: Timing.of(times) for name, times in found.items()}


def copy_bandwidth(timer: Timer, device: torch.device | str, megabytes: int = 1024) -> float:
    """Bytes a second that copying one large tensor to another reads and writes."""
    source = torch.empty(megabytes << 20, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    rounds = [timer(lambda: target.copy_(source)).median for _ in range(3)]
    return 2 * source.numel() / statistics.median(rounds)
