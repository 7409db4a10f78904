"""The intentional mask transformation as functions on tensors (public through functional)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastcam import reference
from fastcam._util.checks import flag
from fastcam.ops import attend_conv  # noqa: F401  (registers the chunked ops)
from fastcam.ops import checks as check
from fastcam.ops.autograd import differentiable_once
from fastcam.ops.library import acc_dtype, raw

__all__ = ["attend", "attend_conv1x1", "tone_curve"]

Setting = float | Sequence[float]


def curves(n: Setting, beta: Setting) -> tuple[list[float], list[float], bool]:
    """Equal-length lists of n and beta, and whether either came as a sequence."""
    given = {"n": n, "beta": beta}
    lists: dict[str, list[float]] = {}
    for name, value in given.items():
        several = isinstance(value, (list, tuple))
        if not several and (
            isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating))
        ):
            raise TypeError(
                f"{name}: expected a number or a sequence of numbers, got {type(value).__name__}"
            )
        items: list[Any] = list(value) if several else [value]  # type: ignore[arg-type]
        for item in items:
            check.number(name, item, "finite and >= 0", lambda x: 0 <= x < math.inf)
        lists[name] = [float(item) for item in items]
    length = max(len(values) for values in lists.values())
    for name, value in given.items():
        if not isinstance(value, (list, tuple)):
            lists[name] = lists[name] * length
        elif len(lists[name]) != length or length == 0:
            raise ValueError(
                f"{name}: expected a number or a sequence as long as the other ({length}), "
                f"got {len(lists[name])} values"
            )
    return lists["n"], lists["beta"], any(isinstance(v, (list, tuple)) for v in given.values())


@torch.library.register_fake("fastcam::_tone_curve")
def _tone_curve_fake(mask: Tensor, n: float, beta: float) -> Tensor:
    return mask.new_empty(mask.shape)


@torch.library.register_fake("fastcam::_tone_curve_backward")
def _tone_curve_backward_fake(mask: Tensor, grad: Tensor, n: float, beta: float) -> Tensor:
    return mask.new_empty(mask.shape)


class _ToneCurve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mask: Tensor, n: float, beta: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.curve = n, beta
        return raw._tone_curve(mask, n, beta)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> Any:
        (mask,) = ctx.saved_tensors
        return raw._tone_curve_backward(mask, grad, *ctx.curve), None, None


def tone_curve(mask: Tensor, n: float = 1.0, beta: float = 0.0) -> Tensor:
    """The intentional transformation of a mask: ``g = (1+β)·h(M; n) − β``.

    Kimura & Tanaka, equations 7 and 8.

    ``h = (M/0.5)^n / 2`` below 0.5, mirrored above: n > 1 pushes the mask away from 0.5, n = 1 with
    β = 0 is the identity, n = 0 gives h = 1/2 everywhere; β lowers small values below zero.

    Args:
        mask: any shape, values in [0, 1]; float32, float64, float16 or bfloat16. What lies beyond
            counts as 0 or 1, with gradient 0.
        n: exponent, >= 0.
        beta: >= 0.

    Returns:
        ``g`` in the mask's shape and dtype. n and β are not learned; not twice differentiable.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; on the CPU,
            outside of compiled graphs, also for values beyond [0, 1] by more than the 0.001 that
            resizing may leave.
    """
    check.floating("mask", mask)
    check.on_supported_device("mask", mask)
    ns, betas, several = curves(n, beta)
    if several:
        raise TypeError("n, beta: expected numbers, got a sequence; F.attend takes sequences")
    check.values_of_mask(mask)
    if check.plainly(mask):
        return reference.tone_curve(mask, ns[0], betas[0])
    return _ToneCurve.apply(mask, ns[0], betas[0])


@torch.library.register_fake("fastcam::_attend_forward")
def _attend_forward_fake(
    features: Tensor, logits: Tensor, n: list[float], beta: list[float], pool: bool
) -> tuple[Tensor, Tensor]:
    shape = logits.shape[:3] if pool else logits.shape
    return (
        features.new_empty((len(n), *shape)),
        features.new_empty(logits.shape[:2], dtype=acc_dtype(features)),
    )


@torch.library.register_fake("fastcam::_attend_backward")
def _attend_backward_fake(
    features: Tensor,
    logits: Tensor,
    grad_out: Tensor,
    grad_mask_sum: Tensor | None,
    n: float,
    beta: float,
    pool: bool,
    need_features: bool,
    need_logits: bool,
) -> tuple[Tensor, Tensor]:
    return (
        features.new_empty(features.shape if need_features else (0,)),
        logits.new_empty(logits.shape if need_logits else (0,)),
    )


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, logits: Tensor, n: float, beta: float, pool: bool
    ) -> tuple[Tensor, Tensor]:
        out, l1 = raw._attend_forward(features, logits, [n], [beta], pool)
        ctx.save_for_backward(features, logits)
        ctx.options = n, beta, pool
        ctx.set_materialize_grads(False)
        return out.squeeze(0), l1

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor | None, grad_l1: Tensor | None) -> Any:
        features, logits = ctx.saved_tensors
        if grad is None:
            pooled = ctx.options[2]
            grad = logits.new_zeros(logits.shape[:3] if pooled else logits.shape)
        needs = ctx.needs_input_grad[:2]
        grads = raw._attend_backward(features, logits, grad, grad_l1, *ctx.options, *needs)
        return (*(g if need else None for g, need in zip(grads, needs, strict=True)), *[None] * 3)


def _together(features: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """All in one dtype: the kernels mix none."""
    dtype = features.dtype
    for other in others:
        dtype = torch.promote_types(dtype, other.dtype)
    return tuple(tensor.to(dtype) for tensor in (features, *others))


def _inference_only(several: bool, *tensors: Tensor) -> None:
    if several and torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        raise ValueError(
            "n, beta: expected numbers where gradients are recorded, got a sequence; several "
            "(n, beta) in one call are for inference, wrap it in torch.no_grad()"
        )


def attend(
    features: Tensor,
    mask_logits: Tensor,
    n: Setting = 1.0,
    beta: Setting = 0.0,
    *,
    pool: bool = False,
) -> tuple[Tensor, Tensor]:
    """Features seen through every attribute's mask: ``Z = (1 + g(σ(L); n, β)) ⊗ F``.

    Kimura & Tanaka, equations 2 and 9.

    Sigmoid, tone curve, product, mean and ‖M‖₁ are one pass over L, and nothing of L's size is
    saved besides L itself. Stable at any logit.

    Args:
        features: F, ``[N,C,H,W]``; float32, float64, float16 or bfloat16.
        mask_logits: L, ``[N,K,C,H,W]``.
        n: the curve's exponent(s), >= 0; see :func:`tone_curve`.
        beta: >= 0. At inference n and β may be sequences of J values (a number is repeated).
        pool: return the mean over the cells instead of Z.

    Returns:
        ``(Z [N,K,C,H,W], l1 [N,K])``, or ``(P [N,K,C], l1)`` with ``pool``; sequences give Z or P a
        leading axis J. Z and P have the inputs' promoted dtype; l1, the sum of M over c, h, w, is
        float32 (float64 for float64). Gradients reach features and logits (through l1 too); not
        twice differentiable.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; a sequence
            where gradients are recorded.
    """
    check.features("features", features)
    check.mask_logits(mask_logits, features)
    flag("pool", pool)
    ns, betas, several = curves(n, beta)
    if check.plainly(features):
        given = (ns, betas) if several else (ns[0], betas[0])
        return reference.attend(features, mask_logits, *given, pool=pool)
    _inference_only(several, features, mask_logits)
    features, mask_logits = _together(features, mask_logits)
    if several:
        return raw._attend_forward(features, mask_logits, ns, betas, pool)
    return _Attend.apply(features, mask_logits, ns[0], betas[0], pool)


class _AttendConv1x1(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, n: float, beta: float
    ) -> tuple[Tensor, Tensor]:
        out, l1 = raw._attend_conv1x1_forward(features, weight, bias, [n], [beta])
        ctx.save_for_backward(features, weight, bias)
        ctx.curve = n, beta
        ctx.set_materialize_grads(False)
        return out.squeeze(0), l1

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor | None, grad_l1: Tensor | None) -> Any:
        features, weight, bias = ctx.saved_tensors
        if grad is None:
            batch, channels = features.shape[:2]
            grad = features.new_zeros(batch, weight.shape[0] // channels, channels)
        needs = ctx.needs_input_grad[:3]
        grads = raw._attend_conv1x1_backward(
            features, weight, bias, grad, grad_l1, *ctx.curve, *needs
        )
        return (*(g if need else None for g, need in zip(grads, needs, strict=True)), None, None)


def attend_conv1x1(
    features: Tensor, weight: Tensor, bias: Tensor, n: Setting = 1.0, beta: Setting = 0.0
) -> tuple[Tensor, Tensor]:
    """:func:`attend` with ``pool=True`` on ``L = conv1x1(F)``, without ever holding L.

    Kimura & Tanaka, equations 2 and 9, with masks of one 1×1 convolution.

    The convolution and the pass run chunk by chunk in the cache, and again in backward, so memory
    does not grow with K·C·H·W.

    Args:
        features: F, ``[N,C,H,W]``; float32, float64, float16 or bfloat16.
        weight: ``[K·C, C]``; row k·C+c gives channel c of attribute k's mask.
        bias: ``[K·C]``.
        n, beta: as in :func:`attend`.

    Returns:
        ``(P [N,K,C], l1 [N,K])`` as :func:`attend` with ``pool=True``. Gradients reach features,
        weight and bias; not twice differentiable.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; a sequence
            where gradients are recorded.
    """
    check.features("features", features)
    check.conv1x1(weight, bias, features)
    ns, betas, several = curves(n, beta)
    plainly = check.plainly(features)
    if not plainly:
        _inference_only(several, features, weight, bias)
    features, weight, bias = _together(features, weight, bias)
    if plainly:
        given = (ns, betas) if several else (ns[0], betas[0])
        return reference.attend_conv1x1(features, weight, bias, *given)
    if several:
        return raw._attend_conv1x1_forward(features, weight, bias, ns, betas)
    return _AttendConv1x1.apply(features, weight, bias, ns[0], betas[0])
