"""Products that skip what a ReLU or a dropout has zeroed, and when they are worth it.

Each has its plain twin in a dense product: ``v @ W`` for rows v that are zero wherever they did not
pass, its gradient in v where that counts, and in W. The kernels are in csrc/cpu/masked.cpp.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastcam._ops import raw

__all__ = ["dots", "outer", "passed", "product"]

# At most this part of the entries passes (from 0.85 on a dense product and its gradients take less
# time), and there are at least so many rows and weights (below, the lists do not pay).
MOST = 0.7
FEWEST_ROWS = 8
FEWEST_WEIGHTS = 1 << 18


def passed(v: Tensor, weight: Tensor, multiplier: Tensor | None) -> Tensor | None:
    """Which entries of v take part in ``v @ weight``; None where the dense product is to be taken.

    It is the multiplier that says so: v may be zero for a weight of zero, with a gradient that is
    not.

    Args:
        v: [N,T,J], multiplied by the multiplier.
        weight: [J,I].
        multiplier: [N,J] of ReLU and dropout, or None for 1.

    Returns:
        bool [N·T,J] for the functions below, or None.
    """
    if (
        multiplier is None
        or v.device.type != "cpu"
        or v.dtype not in (torch.float32, torch.float64)
        or v.dtype != weight.dtype
        or not (weight.device.type == "cpu" and weight.is_contiguous())
        or type(weight.data) is not Tensor  # a subclass has its own product
        or v.shape[0] * v.shape[1] < FEWEST_ROWS
        or weight.numel() < FEWEST_WEIGHTS
        or torch.compiler.is_compiling()
    ):
        return None
    nonzero = multiplier.detach().ne(0)
    if int(nonzero.count_nonzero()) > MOST * nonzero.numel():
        return None
    return nonzero.unsqueeze(1).expand(v.shape).flatten(0, 1)


def product(v: Tensor, passed: Tensor, weight: Tensor) -> Tensor:
    """``v @ weight`` [R,I] for v [R,J] and weight [J,I]; entries that did not pass count as 0."""
    return raw._masked_product(v.contiguous(), passed.contiguous(), weight)


def dots(grad: Tensor, passed: Tensor, weight: Tensor) -> Tensor:
    """``grad @ weight.t()`` [R,J] for grad [R,I] and weight [J,I]; 0 where nothing passed."""
    return raw._masked_dots(grad.contiguous(), passed.contiguous(), weight)


def outer(v: Tensor, passed: Tensor, grad: Tensor, add_to: Tensor | None = None) -> Tensor:
    """``v.t() @ grad`` [J,I] for v [R,J] and grad [R,I], or that added to a contiguous tensor."""
    out = grad.new_empty(v.shape[1], grad.shape[1]) if add_to is None else add_to
    raw._masked_outer(
        v.contiguous(), passed.contiguous(), grad.contiguous(), out, add_to is not None
    )
    return out
