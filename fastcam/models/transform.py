"""Which transformation of the masks holds: for one network, in one thread, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


# A context variable: another thread, which runs the same network, does not see it.
_active: ContextVar[tuple[tuple[nn.Module, MaskTransform], ...]] = ContextVar(
    "fastcam_mask_transforms", default=()
)


@contextmanager
def using(network: nn.Module, transform: MaskTransform) -> Iterator[None]:
    """Let ``transform`` hold for ``network`` in the block; the innermost of several holds."""
    entry = network, transform
    _active.set((*_active.get(), entry))
    try:
        yield
    finally:
        # Not back to what held before: blocks of two generators may overlap without nesting.
        _active.set(tuple(other for other in _active.get() if other is not entry))


def current(network: nn.Module) -> MaskTransform:
    """What holds for ``network`` here and now: the identity outside of every block."""
    for module, transform in reversed(_active.get()):
        if module is network:
            return transform
    return MaskTransform()
