"""The losses of Grad-CAM as functions on tensors (public through functional)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from fastcam import reference
from fastcam.ops import checks as check
from fastcam.ops.autograd import differentiable_once, transformed
from fastcam.ops.grad_cam import empty_outputs, prepare, spread
from fastcam.ops.library import DTYPES, acc_dtype, empty_maps, is_channels_last, raw
from fastcam.ops.pair_cells import PairCells

__all__ = ["cam_iou_loss", "cam_loss", "valid_targets"]

Binarize = Literal["tone", "sigmoid", "hard"]
Reduction = Literal["mean", "sum", "none"]
_REDUCTIONS = get_args(Reduction)
CamLossName = Literal["iou", "energy", "center", "l1", "ppce", "outside"]

# Each loss: its LossKind of csrc/common/losses.h ("iou": the first of three), and its options with
# their defaults, in the order of its policy's parameters. _OPTION_CHECKS has what fits each.
LOSSES: dict[str, tuple[int, dict[str, Any]]] = {
    "iou": (0, {"threshold": 0.5, "sharpness": 8.0, "eps": 1e-6, "binarize": "tone"}),
    "energy": (3, {"away": False}),
    "center": (4, {}),
    "l1": (5, {}),
    "ppce": (6, {"eps": 1e-3}),
    "outside": (7, {"away": False}),
}

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
    if value not in ("", "parts", "ring"):
        raise ValueError(f"FASTCAM_CAM_KERNELS: expected 'parts', 'ring' or nothing, got {value!r}")


_check_kernels()


class MapLoss(NamedTuple):
    """A loss of the map and its options, checked."""

    name: str
    options: dict[str, Any]
    kind: int  # LossKind of csrc/common/losses.h
    params: tuple[float, ...]  # in the order of its policy


_OPTION_CHECKS: dict[str, Callable[[Any], None]] = {
    "threshold": lambda x: check.number("threshold", x, "in (0, 1)", lambda x: 0 < x < 1),
    "sharpness": lambda x: check.number(
        "sharpness", x, "finite and >= 1", lambda x: 1 <= x < math.inf
    ),
    "eps": lambda x: check.number("eps", x, "finite and > 0", lambda x: 0 < x < math.inf),
    "binarize": lambda x: check.one_of("binarize", x, get_args(Binarize)),
    "away": lambda x: check.flag("away", x),
}


def _map_loss(name: str, **options: Any) -> MapLoss:
    check.one_of("loss", name, get_args(CamLossName))
    kind, defaults = LOSSES[name]
    for option, value in options.items():
        if option not in defaults:
            having = " and ".join(repr(other) for other in LOSSES if option in LOSSES[other][1])
            raise ValueError(
                f"{option}: expected nothing with the loss {name!r} (it is an option of {having}), "
                f"got {value!r}"
            )
        _OPTION_CHECKS[option](value)
    options = {**defaults, **options}
    params = tuple(float(value) for value in options.values() if not isinstance(value, str))
    if "binarize" in options:
        kind += get_args(Binarize).index(options["binarize"])
    return MapLoss(name, options, kind, params)


_kept_map_loss = lru_cache(maxsize=64, typed=True)(_map_loss)


def map_loss(name: str, **options: Any) -> MapLoss:
    """The loss of this name; an option that is left out has its default.

    Raises:
        TypeError, ValueError: there is no such loss, it has no such option, or the value does not
            fit.
    """
    if torch.compiler.is_compiling():  # dynamo looks through a cache, and warns of it
        return _map_loss(name, **options)
    try:
        return _kept_map_loss(name, **options)
    except TypeError:  # what cannot be hashed fits no option: the check says so
        return _map_loss(name, **options)


def _by_reference(
    activations: Tensor,
    gradients: Tensor,
    cells: PairCells,
    loss: MapLoss,
    max_pair_pull: float | None,
    reduction: Reduction,
) -> tuple[Tensor, Tensor]:
    """:func:`loss_and_status` under a function transform, or on a device without kernels."""
    cells.check_values()
    given: dict[str, Any] = {"cell_weights": cells.cell_weights, "where": cells.where}
    value = reference.cam_loss(
        activations,
        gradients,
        cells.regions,
        loss=loss.name,
        max_pair_pull=max_pair_pull,
        reduction=reduction,
        **given,
        **loss.options,
    )
    valid = reference.defined_pairs(cells.regions, loss=loss.name, **given, **loss.options)
    peak = reference.grad_cam(activations, gradients, normalize=False).amax((-2, -1))
    return value, valid.to(torch.uint8) | (valid & (peak == 0)).to(torch.uint8) << 1


def loss_and_status(
    activations: Tensor,
    gradients: Tensor,
    cells: PairCells,
    loss: MapLoss,
    *,
    max_pair_pull: float | None,
    reduction: Reduction,
) -> tuple[Tensor, Tensor]:
    """:func:`cam_loss` and the status of every pair: uint8 [N,T], bit 0 valid, bit 1 dead.

    Args:
        activations, gradients: as :func:`fastcam.ops.grad_cam.prepare` returns them.
        loss: of :func:`map_loss`.
    """
    check.one_of("reduction", reduction, _REDUCTIONS)
    check.max_pair_pull(max_pair_pull)
    cells = cells.to(acc_dtype(activations))
    if max_pair_pull is not None and transformed():
        raise ValueError(
            "max_pair_pull: expected None inside torch.func transforms and forward-mode "
            f"differentiation (they cannot follow a gradient that is cut), got {max_pair_pull}"
        )
    if check.plainly(activations):
        return _by_reference(activations, gradients, cells, loss, max_pair_pull, reduction)
    return _CamLoss.apply(
        activations,
        gradients,
        cells.regions,
        cells.cell_weights,
        cells.where,
        loss.kind,
        [*loss.params],
        0.0 if max_pair_pull is None else float(max_pair_pull),
        reduction,
    )


def cam_loss(
    activations: Tensor,
    gradients: Tensor,
    regions: Tensor,
    *,
    loss: CamLossName = "energy",
    away: bool = False,
    eps: float | None = None,
    cell_weights: Tensor | None = None,
    where: Tensor | None = None,
    max_pair_pull: float | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """A loss between the normalised Grad-CAM and a region, fused forward and backward.

    With x the normalised map, S the region, w the cell weights and Σ over the cells of a pair
    (docs/method.md has dead maps and sources):

    ============= ================================================= ===========================
    loss          value                                             source
    ============= ================================================= ===========================
    ``"energy"``  1 − Σ w·x·S / Σ w·x                               Rao et al.
    ``"center"``  squared distance of the w-weighted centroids of x named in Yang et al., Table 1
                  and S, rows divided by H, columns by W
    ``"l1"``      Σ w·abs(x − S) / Σ w                              Rao et al.; Gao et al.
    ``"ppce"``    −Σ w·S·ln(x + eps) / Σ w·S                        Rao et al.
    ``"outside"`` Σ w·(1 − S)·x² / Σ w·(1 − S)                      after Ross et al.
    ``"iou"``     :func:`cam_iou_loss` with its defaults; further   Yang et al., eq. 2
                  options are its own
    ============= ================================================= ===========================

    Args:
        activations, gradients, regions, cell_weights, where, max_pair_pull, reduction: as in
            :func:`cam_iou_loss`.
        loss: which.
        away: the map shall leave the region instead: ``"energy"`` is Σ w·x·S / Σ w·x then, and
            ``"outside"`` takes S for 1 − S. The other losses have no such form.
        eps: of ``"ppce"`` (1e-3) and ``"iou"`` (1e-6); None is that default.

    A pair is *invalid*, with loss and gradients exactly 0, as in :func:`cam_iou_loss`, and for
    ``"outside"`` also where Σ w·(1 − S) = 0, that is where nothing lies outside. An all-zero map of
    a valid pair is *dead*: it has a value and no gradient. NaN and +inf in a valid pair stay
    visible.

    Returns:
        A scalar, or ``[N,T]`` with ``reduction="none"``; float64 if activations or gradients are,
        float32 otherwise. Not twice differentiable (use :mod:`fastcam.reference` for that).

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; also for an
            option that the loss does not have.
    """
    given: dict[str, Any] = {}
    if away is not False:
        given["away"] = away
    if eps is not None:
        given["eps"] = eps
    which = map_loss(loss, **given)
    return _loss_of_map(
        activations, gradients, regions, cell_weights, where, which, max_pair_pull, reduction
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
    ``-ln(eps/(Σ w·S + eps))`` (``"sigmoid"``: what the formula gives for σ(−s·θ) in every cell) and
    has no gradient. NaN and +inf in a valid pair's activations and gradients stay visible.

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
    loss = map_loss("iou", threshold=threshold, sharpness=sharpness, eps=eps, binarize=binarize)
    return _loss_of_map(
        activations, gradients, regions, cell_weights, where, loss, max_pair_pull, reduction
    )


def _loss_of_map(
    activations: Tensor,
    gradients: Tensor,
    regions: Tensor,
    cell_weights: Tensor | None,
    where: Tensor | None,
    loss: MapLoss,
    max_pair_pull: float | None,
    reduction: Reduction,
) -> Tensor:
    """What the public functions do once their loss is chosen."""
    activations, gradients = prepare(activations, gradients)
    cells = PairCells.of(regions, cell_weights, where, activations, gradients.shape[:2])
    return loss_and_status(
        activations, gradients, cells, loss, max_pair_pull=max_pair_pull, reduction=reduction
    )[0]


def valid_targets(
    regions: Tensor, cell_weights: Tensor | None = None, where: Tensor | None = None
) -> Tensor:
    """Which pairs (n, t) the loss counts: region not empty after weighting, and not switched off.

    Args:
        regions: ``[N,T,H,W]`` or, for one target, ``[N,H,W]``; bool or floating. Values are
            checked on the CPU alone.
        cell_weights: ``[H,W]`` or ``[N or 1, T or 1, H, W]``; floating.
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
