"""The IoU loss of Grad-CAM as a function on tensors (public through functional)."""

from __future__ import annotations

import math
import os
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fastcam import reference
from fastcam.ops import checks as check
from fastcam.ops.autograd import differentiable_once, transformed
from fastcam.ops.grad_cam import empty_outputs, prepare, spread
from fastcam.ops.library import DTYPES, acc_dtype, empty_maps, is_channels_last, raw
from fastcam.ops.pair_cells import PairCells

__all__ = ["cam_iou_loss", "valid_targets"]

Binarize = Literal["tone", "sigmoid", "hard"]
Reduction = Literal["mean", "sum", "none"]

# LossKind of csrc/common/params.h; the parameters of each are (threshold, sharpness, eps).
BINARIZE_CODES: dict[str, int] = {name: code for code, name in enumerate(get_args(Binarize))}


_REDUCTION_CODES = {"none": 0, "mean": 1, "sum": 2}


@torch.library.register_fake("fastcam::_cam_loss_forward")
def _cam_loss_forward_fake(
    activations: Tensor,
    gradients: Tensor,
    regions: Tensor,
    cell_weights: Tensor | None,
    where: Tensor | None,
    loss: int,
    params: list[float],
    max_pull: float,
    reduction: int,
    need_gradients: bool,
) -> tuple[Tensor, ...]:
    grad_map, alpha, losses = empty_outputs(activations, gradients)
    return (
        losses,
        torch.empty_like(losses, dtype=torch.uint8),
        losses.new_empty(() if reduction else (0,)),
        losses.new_empty(() if reduction else (0,)),
        alpha,
        grad_map,
        alpha.new_empty(alpha.shape if need_gradients else (0,)),
    )


@torch.library.register_fake("fastcam::_cam_loss_backward")
def _cam_loss_backward_fake(
    alpha: Tensor,
    grad_map: Tensor,
    grad_gradients: Tensor | None,
    status: Tensor,
    grad: Tensor,
    count: Tensor | None,
    dtype: int,
    channels_last: bool,
    need_activations: bool,
) -> tuple[Tensor, Tensor]:
    grad_activations = alpha.new_empty((0,), dtype=DTYPES[dtype])
    if need_activations:
        shape = (alpha.shape[0], alpha.shape[2], *grad_map.shape[2:])
        grad_activations = empty_maps(shape, DTYPES[dtype], alpha, channels_last)
    return grad_activations, alpha.new_empty((0,) if grad_gradients is None else alpha.shape)


class _CamLoss(torch.autograd.Function):
    """A loss of the map whose gradients the forward makes: backward reads nothing of A's size."""

    @staticmethod
    def forward(
        ctx: Any,
        activations: Tensor,
        gradients: Tensor,
        regions: Tensor,
        cell_weights: Tensor | None,
        where: Tensor | None,
        loss: int,
        params: list[float],
        max_pull: float,
        reduction: str,
    ) -> tuple[Tensor, Tensor]:
        need_gradients = ctx.needs_input_grad[1]
        try:
            outputs = raw._cam_loss_forward.default(
                activations,
                gradients,
                regions,
                cell_weights,
                where,
                loss,
                params,
                max_pull,
                _REDUCTION_CODES[reduction],
                need_gradients,
            )
        except RuntimeError as error:
            raise check.value_error(error) or error from None
        losses, status, reduced, count, alpha, grad_map, grad_gradients = outputs
        ctx.save_for_backward(
            alpha,
            grad_map,
            grad_gradients if need_gradients else None,
            status,
            count if reduction == "mean" else None,
        )
        ctx.activations_like = DTYPES.index(activations.dtype), is_channels_last(activations)
        ctx.gradients_like = gradients.shape, gradients.dtype
        ctx.mark_non_differentiable(status)
        ctx.set_materialize_grads(False)
        return losses if reduction == "none" else reduced, status

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> Any:
        nothing = (None,) * 7
        if grad is None:
            return (None, None, *nothing)
        alpha, grad_map, grad_gradients, status, count = ctx.saved_tensors
        grad_activations, scaled = raw._cam_loss_backward.default(
            alpha,
            grad_map,
            grad_gradients,
            status,
            grad.to(alpha.dtype).expand(status.shape),
            count,
            *ctx.activations_like,
            ctx.needs_input_grad[0],
        )
        return (
            grad_activations if ctx.needs_input_grad[0] else None,
            spread(scaled, *ctx.gradients_like) if ctx.needs_input_grad[1] else None,
            *nothing,
        )


def _check_kernels() -> None:
    """Which CUDA kernels are asked for is read by csrc/cuda/launch.cuh; a wrong name, here."""
    value = os.environ.get("FASTCAM_CAM_KERNELS", "")
    if value not in ("", "parts"):
        raise ValueError(f"FASTCAM_CAM_KERNELS: expected 'parts' or nothing, got {value!r}")


_check_kernels()


def _by_reference(
    activations: Tensor, gradients: Tensor, cells: PairCells, **options: Any
) -> tuple[Tensor, Tensor]:
    """:func:`loss_and_status` under a function transform."""
    cells.check_values()
    given: dict[str, Any] = {"cell_weights": cells.cell_weights, "where": cells.where}
    loss = reference.cam_iou_loss(activations, gradients, cells.regions, **given, **options)
    valid = reference.valid_targets(cells.regions, **given)
    peak = reference.grad_cam(activations, gradients, normalize=False).amax((-2, -1))
    return loss, valid.to(torch.uint8) | (valid & (peak == 0)).to(torch.uint8) << 1


@lru_cache(maxsize=64, typed=True)
def _params(
    binarize: Binarize,
    reduction: Reduction,
    threshold: float,
    sharpness: float,
    eps: float,
    max_pair_pull: float | None,
) -> tuple[float, float, float]:
    """(threshold, sharpness, eps), checked with the other options."""
    check.one_of("binarize", binarize, get_args(Binarize))
    check.one_of("reduction", reduction, get_args(Reduction))
    check.number("threshold", threshold, "in (0, 1)", lambda x: 0 < x < 1)
    check.number("sharpness", sharpness, "finite and >= 1", lambda x: 1 <= x < math.inf)
    check.number("eps", eps, "finite and > 0", lambda x: 0 < x < math.inf)
    check.max_pair_pull(max_pair_pull)
    return float(threshold), float(sharpness), float(eps)


def loss_and_status(
    activations: Tensor,
    gradients: Tensor,
    cells: PairCells,
    *,
    threshold: float,
    sharpness: float,
    binarize: Binarize,
    eps: float = 1e-6,
    max_pair_pull: float | None,
    reduction: Reduction,
) -> tuple[Tensor, Tensor]:
    """:func:`cam_iou_loss` and the status of every pair: uint8 [N,T], bit 0 valid, bit 1 dead.

    Args:
        activations, gradients: as :func:`fastcam.ops.grad_cam.prepare` returns them.
    """
    given = binarize, reduction, threshold, sharpness, eps, max_pair_pull
    try:
        params = _params(*given)
    except TypeError:  # what cannot be hashed is no number: the check says so
        params = _params.__wrapped__(*given)
    cells = cells.to(acc_dtype(activations))
    if transformed():
        if max_pair_pull is not None:
            raise ValueError(
                "max_pair_pull: expected None inside torch.func transforms and forward-mode "
                f"differentiation (they cannot follow a gradient that is cut), got {max_pair_pull}"
            )
        return _by_reference(
            activations, gradients, cells, threshold=threshold, sharpness=sharpness,
            binarize=binarize, eps=eps, reduction=reduction,
        )  # fmt: skip
    return _CamLoss.apply(
        activations,
        gradients,
        cells.regions,
        cells.cell_weights,
        cells.where,
        BINARIZE_CODES[binarize],
        [*params],
        0.0 if max_pair_pull is None else float(max_pair_pull),
        reduction,
    )


def cam_iou_loss(
    activations: Tensor,
    gradients: Tensor,
    regions: Tensor,
    *,
    cell_weights: Tensor | None = None,
    where: Tensor | None = None,
    threshold: float = 0.5,
    sharpness: float = 8.0,
    binarize: Binarize = "tone",
    eps: float = 1e-6,
    max_pair_pull: float | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """IoU loss between the thresholded Grad-CAM and a region: ``-ln((I+eps)/(U+eps))``.

    Yang et al., equation 2; docs/method.md has the steps.

    Grad-CAM, its normalisation, the soft threshold and the loss are one pass; the gradient is exact
    through every step, the normalising maximum included (its share goes to the first arg-max cell).

    Args:
        activations: ``[N,C,H,W]``, see :func:`grad_cam`.
        gradients: ``[N,T,C,H',W']`` or, for one target, ``[N,C,H',W']``. Pass
            ``gradients.detach()`` to treat the channel weights as constant.
        regions: ``[N,T,H,W]`` or, for one target, ``[N,H,W]``: the share of each cell that the
            region covers, in [0, 1]; bool or floating. No gradient flows to it.
        cell_weights: ``[H,W]`` or ``[N or 1, T or 1, H, W]``, finite and >= 0 (Yang et
            al. weigh the mouth three times); no gradient flows to it.
        where: bool ``[N]`` or ``[N,T]``; False switches a pair off.
        threshold: θ in (0, 1): which share of its peak counts as attention.
        sharpness: s >= 1; the larger, the closer the soft set is to {x > θ}, and the flatter its
            gradient away from θ.
        binarize: ``"tone"`` (a curve with fixed point θ, docs/method.md), ``"sigmoid"``
            (σ(s·(x−θ))), or ``"hard"`` (the value of the set {x > θ} with the gradient of
            ``"tone"``).
        eps: added to I and U.
        max_pair_pull: a pair whose Σ|∂loss/∂x| over the cells of its normalised map x is larger has
            its gradient scaled down to this; None scales nothing. The value stays, so the gradient
            is then not the value's. −ln I grows without bound where a map hardly touches its
            region, and one such image would outvote a batch.
        reduction: ``"mean"`` over the valid pairs (0 if there are none), ``"sum"``, or ``"none"``.

    A pair is *invalid*, with loss and gradients exactly 0 whatever the map, if its region is empty
    (Σ w·S = 0) or ``where`` is False. An all-zero map of a valid pair is *dead*: it costs
    ``-ln(eps/(Σ w·S + eps))`` and has no gradient. NaN and +inf in a valid pair's activations and
    gradients stay visible.

    The *values* of regions and cell weights are looked at on the CPU, but for pairs that ``where``
    switches off (and with 0.001 to spare for what resizing a mask leaves beyond [0, 1]); a compiled
    graph raises a ``RuntimeError`` with the same words. On a GPU they are not, as that would take
    launches of its own; :class:`fastcam.IoUCamLoss` does. Under ``torch.func``'s transforms and
    forward-mode differentiation plain PyTorch runs in place of the kernel.

    Returns:
        A scalar, or ``[N,T]`` with ``reduction="none"``; float64 if activations or gradients are,
        float32 otherwise. Not twice differentiable (use :mod:`fastcam.reference` for that).

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    activations, gradients = prepare(activations, gradients)
    cells = PairCells.of(regions, cell_weights, where, activations, gradients.shape[:2])
    loss, _ = loss_and_status(
        activations, gradients, cells, threshold=threshold, sharpness=sharpness,
        binarize=binarize, eps=eps, max_pair_pull=max_pair_pull, reduction=reduction,
    )  # fmt: skip
    return loss


def valid_targets(
    regions: Tensor, cell_weights: Tensor | None = None, where: Tensor | None = None
) -> Tensor:
    """Which pairs (n, t) the loss counts: region not empty after weighting, and not switched off.

    Args:
        regions: ``[N,T,H,W]`` or, for one target, ``[N,H,W]``.
        cell_weights: ``[H,W]`` or ``[N or 1, T or 1, H, W]``.
        where: bool ``[N]`` or ``[N,T]``.

    Returns:
        bool ``[N,T]``.

    Raises:
        TypeError, ValueError: as :func:`cam_iou_loss`.
    """
    grid = check.region_grid(regions)
    cells = PairCells.of(grid, cell_weights, where, grid, grid.shape[:2])
    if not grid.is_cuda:
        cells.check_values()
    return cells.valid()
