"""How the losses of the pairs become one number, in one process or in several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastcam.cam.tap import ActivationTap
from fastcam.ops import checks as check
from fastcam.ops.autograd import transformed
from fastcam.ops.cam_loss import Reduction

__all__ = ["Reducer", "Reduction", "Sync", "WithGroup", "averaged", "world_size"]

Sync = Literal["global", "local"]
_REDUCTIONS, _SYNCS = get_args(Reduction), get_args(Sync)


def world_size(process_group: Any = None) -> int:
    """How many there are in a group (None: the default one); 1 where none was initialised.

    Raises:
        ValueError: this process is not in the group.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    size = dist.get_world_size(process_group)
    if size < 1:  # what torch says of a group without this process
        raise ValueError(
            f"process_group: expected a group that this process (rank {dist.get_rank()}) is in, "
            "got one of other processes"
        )
    return size


def averaged(scalars: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Means over all processes of scalars on one device, float32, with one all-reduce."""
    world = world_size()
    if world == 1 or not scalars:
        return dict(scalars)
    values = torch.stack([value.detach().float() for value in scalars.values()])
    dist.all_reduce(values)
    return dict(zip(scalars, values / world, strict=True))


class _Group:
    """A group of processes, which a copy shares (torch cannot copy one) and no file can hold."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def __deepcopy__(self, memo: dict[int, Any]) -> _Group:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            "process_group: a group of processes cannot be pickled, nor a loss or Balance that has "
            "one; set its process_group to None before, or save its state_dict()"
        )


class WithGroup:
    """What has a ``process_group``: its copies (``copy.deepcopy``) have the same one."""

    @property
    def process_group(self) -> Any:
        """The group of processes; None for the default one."""
        return None if self._group is None else self._group.group

    @process_group.setter
    def process_group(self, group: Any) -> None:
        self._group = None if group is None else _Group(group)


class Reducer:
    """A loss's options of reduction, checked.

    A mean is over the valid pairs of all processes: DistributedDataParallel averages the gradients
    of the processes, which for means over each one's own pairs is not the gradient of one mean
    wherever the counts differ. So each process takes world · Σ own losses / Σ all counts.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        sync: ``"global"`` or ``"local"`` (each process by itself).
        process_group: None for the default one.

    Raises:
        ValueError: an option is not one of those.
    """

    def __init__(self, reduction: Reduction, sync: Sync, process_group: Any) -> None:
        check.one_of("reduction", reduction, _REDUCTIONS)
        check.one_of("sync", sync, _SYNCS)
        self.reduction, self.sync, self.process_group = reduction, sync, process_group

    def world(self, loss: nn.Module, activations: ActivationTap | Tensor) -> int:
        """How many processes share a mean now: one, where the loss or the model is in eval mode or
        gradients are off, so that one process may validate alone."""
        training = loss.training and torch.is_grad_enabled()
        if isinstance(activations, ActivationTap):
            training = training and activations.model.training
        if self.reduction != "mean" or self.sync != "global" or not training:
            return 1
        return world_size(self.process_group)

    def mean(
        self, total: Tensor, count: Tensor, world: int, normalizer: float | Tensor | None
    ) -> Tensor:
        """The mean from this process's sum and count; no valid pair anywhere has mean 0.

        Args:
            total: scalar, the sum over valid pairs.
            count: scalar of any integer type, how many they are.
            world: of :meth:`world`.
            normalizer: in place of the count.
        """
        if normalizer is None:
            normalizer = count.to(total.dtype)
            if world > 1:
                dist.all_reduce(normalizer, group=self.process_group)
            normalizer = normalizer.clamp(min=1)
        return total * world / normalizer

    def of_pairs(
        self, losses: Tensor, valid: Tensor, world: int, normalizer: float | Tensor | None
    ) -> Tensor:
        """Of losses [N,T] that are 0 where not ``valid`` (bool [N,T])."""
        if self.reduction == "none":
            return losses
        if self.reduction == "sum":
            return losses.sum()
        return self.mean(losses.sum(), valid.sum(), world, normalizer)

    def checked(self, normalizer: float | Tensor | None) -> float | Tensor | None:
        """``normalizer``, if it can be one.

        Raises:
            TypeError, ValueError: it cannot.
        """
        if normalizer is None:
            return None
        if self.reduction != "mean":
            raise ValueError(
                f"normalizer: expected None beside reduction={self.reduction!r} (it is in place of "
                f"a mean's count), got {normalizer!r}"
            )
        if isinstance(normalizer, Tensor):
            if normalizer.dim() or normalizer.requires_grad:
                raise ValueError(
                    "normalizer: expected a number or a scalar tensor that does not require grad, "
                    f"got shape {list(normalizer.shape)}"
                )
            if not _at_hand(normalizer):
                return normalizer
            value: Any = normalizer.item()
        elif isinstance(normalizer, bool) or not isinstance(normalizer, Real):
            raise TypeError(
                f"normalizer: expected a number or a scalar tensor, got {type(normalizer).__name__}"
            )
        else:
            value = normalizer
        if not 0 < value < math.inf:
            raise ValueError(f"normalizer: expected above 0 and finite, got {value}")
        return normalizer


def _at_hand(tensor: Tensor) -> bool:
    """Whether there is a value to look at that no device has yet to compute."""
    return (
        tensor.device.type == "cpu"
        and type(tensor) is Tensor  # not of a mode that has shapes alone
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and not transformed()
    )
