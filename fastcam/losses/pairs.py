"""What the losses over pairs (image, target) share: options, and counts of the last call."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fastcam.cam.heads import HEADS, Head
from fastcam.losses.reduce import Reducer, Reduction, Sync, WithGroup
from fastcam.ops import checks as check

__all__ = ["CamStats", "MapPairLoss", "PairLoss", "WeightGrad"]

WeightGrad = Literal["full", "detach"]
_WEIGHT_GRADS = get_args(WeightGrad)


class CamStats:
    """How many pairs (image, target) the last call counted, and how many of their maps were dead.

    Reading a count waits for the device that holds it; nothing is waited for until then.
    """

    def __init__(self, status: Tensor | None = None) -> None:
        self._status = status
        self._device = None if status is None else status.device
        self._counts: tuple[int, int] | None = None

    def _count(self) -> tuple[int, int]:
        if self._counts is None:
            if self._status is None:
                self._counts = 0, 0
            else:
                bits = torch.stack([self._status & 1, (self._status >> 1) & 1])
                valid, dead = bits.flatten(1).sum(1).tolist()
                self._counts = valid, dead
                self._status = None
        return self._counts

    @property
    def valid(self) -> int:
        """Pairs with a region that were not switched off."""
        return self._count()[0]

    @property
    def dead(self) -> int:
        """Valid pairs whose map was zero everywhere: they cost much and have no gradient."""
        return self._count()[1]

    @property
    def counts(self) -> tuple[Tensor, Tensor]:
        """(valid, dead) as scalars on the loss's device; nothing waits for it."""
        if self._status is None:
            valid, dead = (torch.tensor(count, device=self._device) for count in self._count())
            return valid, dead
        return (self._status & 1).sum(), ((self._status >> 1) & 1).sum()

    def __repr__(self) -> str:
        return f"CamStats(valid={self.valid}, dead={self.dead})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_stats, self._count()


def _restore_stats(valid: int, dead: int) -> CamStats:
    stats = CamStats()
    stats._counts = valid, dead
    return stats


class PairLoss(WithGroup, nn.Module):
    """A loss of N·T pairs, reduced over all processes or in this one.

    Args:
        reduction, sync, process_group: see :class:`fastcam.losses.cam.CamLoss`.

    Raises:
        ValueError: an option is not one of those.
    """

    def __init__(
        self, reduction: Reduction = "mean", sync: Sync = "global", process_group: Any = None
    ) -> None:
        super().__init__()
        self.reduction: Reduction = reduction
        self.sync: Sync = sync
        self.process_group = process_group
        self._stats = CamStats()
        self._reducer(None)  # checks them

    @property
    def stats(self) -> CamStats:
        """Valid and dead pairs of the last call."""
        return self._stats

    def _reducer(self, normalizer: float | Tensor | None) -> tuple[Reducer, float | Tensor | None]:
        """The options as they are now, and the ``normalizer`` of a call, checked."""
        reducer = Reducer(self.reduction, self.sync, self.process_group)
        return reducer, reducer.checked(normalizer)


class MapPairLoss(PairLoss):
    """A loss of the pairs' maps, whose channel weights are had through the network's head.

    Args:
        weight_grad, head: see :class:`fastcam.losses.cam.CamLoss`.
        reduction, sync, process_group: as well.

    Raises:
        ValueError: an option is not one of those.
    """

    def __init__(
        self,
        weight_grad: WeightGrad = "full",
        head: Head = "auto",
        reduction: Reduction = "mean",
        sync: Sync = "global",
        process_group: Any = None,
    ) -> None:
        super().__init__(reduction, sync, process_group)
        check.one_of("head", head, HEADS)
        self.head: Head = head
        self.weight_grad: WeightGrad = weight_grad
        self._through_weights()  # checks it

    def _through_weights(self) -> bool:
        """Whether the loss backpropagates through the channel weights now."""
        check.one_of("weight_grad", self.weight_grad, _WEIGHT_GRADS)
        return self.weight_grad == "full" and torch.is_grad_enabled()
