"""Dropout of a process's share of a batch, as one process would draw it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as nnf


@dataclass
class BatchShare:
    """Which images of a batch of ``images`` this process has: every ``count``-th from ``rank``."""

    rank: int
    count: int
    images: int = 0

    @contextmanager
    def part(self, number: int, parts: int) -> Iterator[None]:
        """Within it, of these images every ``parts``-th from ``number``."""
        whole = self.rank, self.count
        self.rank, self.count = self.rank + self.count * number, self.count * parts
        try:
            yield
        finally:
            self.rank, self.count = whole


class SharedDropout(nn.Dropout):
    """Draws the mask of the whole batch in each process, which takes its images' rows of it.

    So the processes need the same state of the random generator. A tensor without a row for each
    image is treated as by ``nn.Dropout``.
    """

    share: BatchShare

    def forward(self, input: Tensor) -> Tensor:
        share = self.share
        own = len(range(share.rank, share.images, share.count))
        if not self.training or not own or not input.dim() or len(input) != own:
            return super().forward(input)
        whole = input.new_ones(share.images, *input.shape[1:])
        factor = nnf.dropout(whole, self.p)[share.rank :: share.count]
        return input.mul_(factor) if self.inplace else input * factor


@contextmanager
def shared_dropout(model: nn.Module, share: BatchShare) -> Iterator[None]:
    """Within it, a model's layers of dropout are shared ones; ``share.images`` is to be kept."""
    layers = [module for module in model.modules() if type(module) is nn.Dropout]
    for layer in layers:
        layer.__class__ = SharedDropout
        layer.share = share  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.Dropout
            del layer.share
