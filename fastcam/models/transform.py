"""Which transformation of the masks holds: for one network, in one thread, for a while."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor, nn

MaskFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MaskTransform:
    """g of ``T = 1 + g(M)``: the tone curve, or any function of the mask."""

    n: float | Sequence[float] = 1.0
    beta: float | Sequence[float] = 0.0
    function: MaskFunction | None = None

    @property
    def identity(self) -> bool:
        """Whether g(M) = M, as in training."""
        return self.function is None and self.n == 1 and self.beta == 0


class Transformed(ContextDecorator):
    """In a block ``transform`` holds for ``network``; the innermost of several blocks holds.

    It may be entered again, and within itself.
    """

    def __init__(self, network: nn.Module, transform: MaskTransform) -> None:
        self.network, self.transform = network, transform

    def __enter__(self) -> None:
        _active.set((*_active.get(), self))

    def __exit__(self, *_: object) -> None:
        # Not back to what held before: blocks of two generators may overlap without nesting.
        blocks = _active.get()
        for i in reversed(range(len(blocks))):
            if blocks[i] is self:  # none is where a generator is closed by another thread
                _active.set(blocks[:i] + blocks[i + 1 :])
                return


# A context variable: another thread, which runs the same network, does not see it.
_active: ContextVar[tuple[Transformed, ...]] = ContextVar("fastcam_mask_transforms", default=())


def current(network: nn.Module) -> MaskTransform:
    """What holds for ``network`` here and now: the identity outside of every block."""
    for block in reversed(_active.get()):
        if block.network is network:
            return block.transform
    return MaskTransform()
