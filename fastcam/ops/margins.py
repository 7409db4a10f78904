"""The margin of each score over the others (public through functional)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcam._util.tensors import version_of, versioned
from fastcam.ops import checks as check
from fastcam.ops.library import acc_dtype

__all__ = ["margins"]


class _Source(NamedTuple):
    logits: Tensor
    versions: tuple[int, int]  # of the logits and the margins


def margins(logits: Tensor) -> Tensor:
    """Each score's margin for a softmax classifier: its logit minus the log-sum-exp of the others.

    It is the log-odds ln(p/(1−p)) of the class. A softmax does not change where the same number is
    added to all logits, and neither does a margin; a logit does, so that its Grad-CAM may show what
    raises every class. ::

        criterion(F.margins(logits), tap, regions, targets=labels)
        fastcam.grad_cam_maps(F.margins(logits), tap)

    Heads with a closed form keep it (the margins themselves must be passed, not a part of them).

    Args:
        logits: ``[N,K]`` with K ≥ 2, float32, float64, float16 or bfloat16.

    Returns:
        ``[N,K]``, differentiable any number of times; float64 if the logits are, float32 otherwise.

    Raises:
        TypeError, ValueError: ``logits`` is no floating-point tensor [N,K], or K < 2.

    docs/method.md has the gradient.
    """
    check.floating("logits", logits)
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(
            "logits: expected shape [N,K] with K >= 2 (a margin is over the other scores), "
            f"got {list(logits.shape)}"
        )
    scores = logits.to(acc_dtype(logits))
    # Relative to the largest, which changes no margin: sums of exponentials keep their digits.
    scores = scores - scores.detach().amax(1, keepdim=True)
    # The others of the largest score are summed without it. Of any other score p <= 1/2, and
    # log-sum-exp of all plus log(1 - p) loses nothing.
    largest = torch.zeros_like(scores, dtype=torch.bool)
    largest = largest.scatter(1, scores.argmax(1, keepdim=True), True)
    behind = scores.masked_fill(largest, -torch.inf).logsumexp(1, keepdim=True)
    everything = scores.logsumexp(1, keepdim=True)
    share = (scores - everything).masked_fill(largest, -torch.inf).exp()
    result = scores - torch.where(largest, behind, everything + torch.log1p(-share))
    if not torch.compiler.is_compiling():
        result = versioned(result)
        versions = version_of(logits), version_of(result)
        result._fastcam_margins_of = _Source(logits, versions)  # type: ignore[attr-defined]
    return result


def logits_of(scores: Tensor) -> Tensor | None:
    """The logits of which these are the margins; None if they are none, or not any more."""
    source: Any = getattr(scores, "_fastcam_margins_of", None)
    if source is None or scores._backward_hooks:
        return None
    if source.logits.requires_grad != scores.requires_grad:  # computed under no_grad
        return None
    unchanged = source.versions == (version_of(source.logits), version_of(scores))
    return source.logits if unchanged else None


def slopes(logits: Tensor, index: Tensor) -> Tensor:
    """∂margin_t/∂logits of chosen t: 1 at t, elsewhere minus the softmax of the others.

    Args:
        logits: [N,K]; index: int64 [N,T].

    Returns:
        [N,T,K] in the margins' dtype, differentiable.
    """
    scores = logits.to(acc_dtype(logits))
    own = index.unsqueeze(-1) == torch.arange(logits.shape[1], device=logits.device)
    others = scores.unsqueeze(1).masked_fill(own, -torch.inf).softmax(-1)
    return torch.where(own, 1, -others)
