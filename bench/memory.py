"""What a call allocates through torch's allocator on the CPU, exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from bench.agreement import Step

Result = TypeVar("Result")


@dataclass(frozen=True)
class Allocations:
    """Bytes in the order of time: positive when allocated, negative when freed.

    What native code takes from malloc past torch's allocator does not appear.
    """

    events: tuple[int, ...]

    @property
    def sizes(self) -> list[int]:
        return [size for size in self.events if size > 0]

    @property
    def peak(self) -> int:
        """Most bytes alive at a time, of those that the call allocated."""
        return max(accumulate(self.events), default=0)

    def at_least(self, size: int) -> list[int]:
        """The allocations of that size or more, smallest first."""
        return sorted(taken for taken in self.sizes if taken >= size)


def allocations(run: Callable[[], Result]) -> tuple[Result, Allocations]:
    """The call's result and what it allocated. Call it once before: a first call sets things up."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        result = run()
    recorded = profile.profiler.kineto_results.events()
    memory = [event for event in recorded if event.name() == "[memory]"]
    memory.sort(key=lambda event: event.start_ns())
    return result, Allocations(tuple(event.nbytes() for event in memory))


def stored(tensors: Iterable[Tensor]) -> int:
    """Bytes that the tensors hold: an expanded view counts what it is a view of, once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def peak_bytes(step: Step) -> tuple[int, int]:
    """Of a forward and backward, what is alive at the peak: without and with its gradients.

    Without: beyond the inputs and the gradients that it returns.
    """
    (_, gradients), taken = allocations(step)
    return taken.peak - stored(gradients), taken.peak
