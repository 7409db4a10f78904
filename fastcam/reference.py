"""Every op of :mod:`fastcam.functional` in plain PyTorch: the executable specification.

The fused kernels are tested against these functions and benchmarked against them, so they are
written as a good PyTorch user writes them: ``einsum`` instead of a materialised product, no Python
loops, differentiable by autograd (twice, too). They accept what the fused functions accept and
check nothing.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

__all__ = [
    "attend",
    "attend_conv1x1",
    "cam_iou_loss",
    "cam_loss",
    "defined_pairs",
    "grad_cam",
    "margins",
    "soft_threshold",
    "tone_curve",
    "valid_targets",
]


def _arithmetic_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any of the tensors is, float32 otherwise."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _outside_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Products in their arguments' type, as the kernels compute them, whatever autocast says."""
    kind = tensor.device.type
    if tensor.is_meta or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def _with_targets(tensor: Tensor, rank: int) -> Tensor:
    """Give a tensor that stands for one target its axis T."""
    return tensor.unsqueeze(1) if tensor.dim() == rank - 1 else tensor


def _raw_map(activations: Tensor, gradients: Tensor) -> Tensor:
    """ReLU(sum_c alpha_c A_c), [N,T,H,W]: docs/method.md, steps 1 and 2."""
    cells = activations.shape[-2] * activations.shape[-1]
    alpha = gradients.sum((-2, -1)) / cells
    with _outside_autocast(activations):
        return torch.einsum("ntc,nchw->nthw", alpha, activations).relu()


def _normalize(raw: Tensor) -> Tensor:
    """Divide each map by its peak (step 3); ``max(dim)`` gives the first arg-max the gradient."""
    peak = raw.flatten(-2).max(-1).values[..., None, None]
    return raw / torch.where(peak == 0, torch.ones_like(peak), peak)


def grad_cam(activations: Tensor, gradients: Tensor, normalize: bool = True) -> Tensor:
    """See :func:`fastcam.functional.grad_cam`."""
    gradients = _with_targets(gradients, 5)
    dtype = _arithmetic_dtype(activations, gradients)
    raw = _raw_map(activations.to(dtype), gradients.to(dtype))
    return _normalize(raw) if normalize else raw


def margins(logits: Tensor) -> Tensor:
    """See :func:`fastcam.functional.margins`; this one holds the K×K scores of the others."""
    logits = logits.to(_arithmetic_dtype(logits))
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    return logits - logits.unsqueeze(1).masked_fill(own, -math.inf).logsumexp(-1)


def soft_threshold(x: Tensor, threshold: float, sharpness: float, binarize: str) -> Tensor:
    """The soft set of a normalised map (step 4), or a sigmoid."""
    if binarize == "sigmoid":
        return torch.sigmoid(sharpness * (x - threshold))
    # The inner `where` keeps the branch that the outer one drops finite, and so its gradient zero.
    # (Not clamp: its gradient on the boundary is zero.)
    below, rest = x < threshold, 1 - threshold
    low = threshold * (torch.where(below, x, 0) / threshold) ** sharpness
    high = 1 - rest * (torch.where(below, 0, 1 - x) / rest) ** sharpness
    return torch.where(below, low, high)


def valid_targets(
    regions: Tensor, cell_weights: Tensor | None = None, where: Tensor | None = None
) -> Tensor:
    """See :func:`fastcam.functional.valid_targets`."""
    regions = _with_targets(regions, 4)
    weighted = regions.to(_arithmetic_dtype(regions))
    if cell_weights is not None:
        weighted = weighted * cell_weights
    valid = weighted.sum((-2, -1)) != 0
    if where is not None:
        valid = valid & (where.unsqueeze(1) if where.dim() == 1 else where)
    return valid


def _iou_loss(soft_set: Tensor, regions: Tensor, weights: Tensor, eps: float) -> Tensor:
    """-ln((I + eps) / (U + eps)) (step 5; Yang et al., eq. 2)."""
    intersection = (weights * soft_set * regions).sum((-2, -1))
    union = (weights * (soft_set + regions - soft_set * regions)).sum((-2, -1))
    return -torch.log((intersection + eps) / (union + eps))


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 where there is nothing to divide by."""
    return part / torch.where(whole == 0, 1, whole)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over the cells."""
    return _share((weights * values).sum((-2, -1)), weights.sum((-2, -1)))


def _centroid(weights: Tensor) -> Tensor:
    """(row / H, column / W) from the grid's centre, [N,T,2]; the centre itself without weights."""
    height, width = weights.shape[-2:]
    row = (torch.arange(height).to(weights) + 0.5) / height - 0.5
    col = (torch.arange(width).to(weights) + 0.5) / width - 0.5
    return torch.stack([_mean(row[:, None], weights), _mean(col, weights)], -1)


def _outside(regions: Tensor, weights: Tensor, away: bool) -> Tensor:
    """What the loss "outside" weighs the cells with."""
    return weights * (regions if away else (1 - regions).clamp(min=0))


def _loss_of_map(
    x: Tensor, regions: Tensor, weights: Tensor, loss: str, away: bool, eps: float | None
) -> Tensor:
    """Each loss of docs/method.md but "iou": [N,T] of normalised maps, all three [N,T,H,W]."""
    if loss == "energy":
        inside = _mean(regions, weights * x)
        return inside if away else 1 - inside
    if loss == "center":
        return (_centroid(weights * x) - _centroid(weights * regions)).square().sum(-1)
    if loss == "l1":
        return _mean((x - regions).abs(), weights)
    if loss == "ppce":
        return -_mean(torch.log(x + (1e-3 if eps is None else eps)), weights * regions)
    if loss == "outside":
        return _mean(x.square(), _outside(regions, weights, away))
    raise ValueError(f"loss: {loss!r}")


def defined_pairs(
    regions: Tensor,
    cell_weights: Tensor | None = None,
    where: Tensor | None = None,
    *,
    loss: str = "energy",
    away: bool = False,
    **_: object,
) -> Tensor:
    """Which pairs a loss counts: bool [N,T]; :func:`valid_targets`, but for "outside"."""
    valid = valid_targets(regions, cell_weights, where)
    if loss == "outside":
        full = _with_targets(regions, 4).to(_arithmetic_dtype(regions))
        weights = torch.ones_like(full) if cell_weights is None else cell_weights
        valid = valid & (_outside(full, weights, away).sum((-2, -1)) != 0)
    return valid


def _with_cut_gradient(loss: Tensor, x: Tensor, limit: float) -> Tensor:
    """The same values [N,T], each with a gradient whose Σ|∂loss/∂x| is at most ``limit``."""
    (slopes,) = torch.autograd.grad(loss.sum(), x, retain_graph=True)
    total = slopes.abs().sum((-2, -1))
    cut = torch.where(total > limit, limit / total, 1)
    return loss.detach() + cut * (loss - loss.detach())


def cam_loss(
    activations: Tensor,
    gradients: Tensor,
    regions: Tensor,
    *,
    loss: str = "energy",
    away: bool = False,
    eps: float | None = None,
    threshold: float = 0.5,
    sharpness: float = 8.0,
    binarize: str = "tone",
    cell_weights: Tensor | None = None,
    where: Tensor | None = None,
    max_pair_pull: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """See :func:`fastcam.functional.cam_loss`; this one takes the options of "iou", too."""
    gradients = _with_targets(gradients, 5)
    dtype = _arithmetic_dtype(activations, gradients)
    regions = _with_targets(regions, 4).to(dtype)
    weights = torch.ones_like(regions)
    if cell_weights is not None:
        weights = cell_weights.to(dtype).expand_as(regions)
    valid = defined_pairs(regions, cell_weights, where, loss=loss, away=away)

    # An invalid pair is cut off twice: at D, so that no NaN reaches alpha or comes back from it,
    # and at the map, so that none of A does.
    on = valid[..., None, None]
    gradients = torch.where(on[..., None], gradients.to(dtype), 0)
    raw = torch.where(on, _raw_map(activations.to(dtype), gradients), 0)
    x = _normalize(raw)

    if loss == "iou":
        eps = 1e-6 if eps is None else eps
        soft_set = soft_threshold(x, threshold, sharpness, binarize.replace("hard", "tone"))
        value = _iou_loss(soft_set, regions, weights, eps)
        if binarize == "hard":  # the value of {x > threshold}, the gradient of the tone curve
            hard_set = torch.where(x.isnan(), x, (x > threshold).to(dtype))
            value = value - value.detach() + _iou_loss(hard_set, regions, weights, eps).detach()
    else:
        value = _loss_of_map(x, regions, weights, loss, away, eps)
    if max_pair_pull is not None and x.requires_grad:
        value = _with_cut_gradient(value, x, max_pair_pull)
    value = torch.where(valid, value, 0)

    if reduction == "none":
        return value
    if reduction == "sum":
        return value.sum()
    return value.sum() / valid.sum().clamp(min=1)


def cam_iou_loss(activations: Tensor, gradients: Tensor, regions: Tensor, **options: Any) -> Tensor:
    """See :func:`fastcam.functional.cam_iou_loss`."""
    return cam_loss(activations, gradients, regions, loss="iou", **options)


def tone_curve(mask: Tensor, n: float = 1.0, beta: float = 0.0) -> Tensor:
    """See :func:`fastcam.functional.tone_curve`."""
    given = mask.dtype
    mask = mask.to(_arithmetic_dtype(mask))
    below = mask < 0.5
    x = torch.where(below, mask, 1 - mask) / 0.5
    part = torch.where(x < 0, 0, x) ** n / 2  # a mask beyond [0, 1] counts as 0 or 1
    return ((1 + beta) * torch.where(below, part, 1 - part) - beta).to(given)


def _tone_curve_of_logits(logits: Tensor, n: float, beta: float) -> Tensor:
    """g(σ(L)), through the logarithm of 2·σ(−|L|): the plain chain is NaN at L = 60, n = 0.5."""
    below = logits < 0
    part = torch.exp(n * (math.log(2) + nnf.logsigmoid(torch.where(below, logits, -logits)))) / 2
    return (1 + beta) * torch.where(below, part, 1 - part) - beta


def attend(
    features: Tensor,
    mask_logits: Tensor,
    n: float | list[float] = 1.0,
    beta: float | list[float] = 0.0,
    *,
    pool: bool = False,
) -> tuple[Tensor, Tensor]:
    """See :func:`fastcam.functional.attend`."""
    dtype = _arithmetic_dtype(features, mask_logits)
    out_dtype = torch.promote_types(features.dtype, mask_logits.dtype)
    f, logits = features.to(dtype).unsqueeze(1), mask_logits.to(dtype)
    l1 = torch.sigmoid(logits).sum((2, 3, 4))

    def one(n: float, beta: float) -> Tensor:
        z = (1 + _tone_curve_of_logits(logits, n, beta)) * f
        return (z.mean((-2, -1)) if pool else z).to(out_dtype)

    if not isinstance(n, (list, tuple)) and not isinstance(beta, (list, tuple)):
        return one(n, beta), l1
    length = len(n) if isinstance(n, (list, tuple)) else len(beta)  # type: ignore[arg-type]
    ns = n if isinstance(n, (list, tuple)) else [n] * length
    betas = beta if isinstance(beta, (list, tuple)) else [beta] * length
    return torch.stack([one(*curve) for curve in zip(ns, betas, strict=True)]), l1


def attend_conv1x1(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    n: float | list[float] = 1.0,
    beta: float | list[float] = 0.0,
) -> tuple[Tensor, Tensor]:
    """See :func:`fastcam.functional.attend_conv1x1`; this one holds L."""
    channels = features.shape[1]
    dtype = torch.promote_types(torch.promote_types(features.dtype, weight.dtype), bias.dtype)
    features, weight, bias = (tensor.to(dtype) for tensor in (features, weight, bias))
    with _outside_autocast(features):
        logits = nnf.conv2d(features, weight[..., None, None], bias)
    return attend(features, logits.unflatten(1, (-1, channels)), n, beta, pool=True)
