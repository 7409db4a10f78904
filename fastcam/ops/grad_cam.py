"""Grad-CAM as a differentiable function on tensors (public through functional)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastcam import reference
from fastcam._util.checks import flag
from fastcam.ops import checks as check
from fastcam.ops.autograd import differentiable_once
from fastcam.ops.library import acc_dtype, empty_maps, is_channels_last, raw

__all__ = ["grad_cam"]


def prepare(activations: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Check A and D; D with its axis T, in a dtype that the kernels pair with A's."""
    check.features("activations", activations)
    gradients = check.gradients(gradients, activations)
    if gradients.dtype == torch.float64:
        activations = activations.to(torch.float64)
    if gradients.dtype != activations.dtype:
        gradients = gradients.to(acc_dtype(activations))
    return activations, gradients


def spread(grad: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """∂/∂D is the same for every cell of D: [N,T,C] as an expanded view [N,T,C,H',W']."""
    return grad.to(dtype).view(*grad.shape, 1, 1).expand(shape)


def empty_outputs(activations: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For fakes: a value of each cell ``[N,T,H,W]``, channel ``[N,T,C]`` and pair ``[N,T]``."""
    batch, channels, height, width = activations.shape
    targets = gradients.shape[1]
    dtype = acc_dtype(activations)
    return (
        activations.new_empty((batch, targets, height, width), dtype=dtype),
        activations.new_empty((batch, targets, channels), dtype=dtype),
        activations.new_empty((batch, targets), dtype=dtype),
    )


@torch.library.register_fake("fastcam::_cam_forward")
def _cam_forward_fake(
    activations: Tensor, gradients: Tensor, normalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_outputs(activations, gradients)


@torch.library.register_fake("fastcam::_cam_backward")
def _cam_backward_fake(
    activations: Tensor,
    alpha: Tensor,
    cam: Tensor,
    peak: Tensor,
    grad: Tensor,
    normalize: bool,
    need_activations: bool,
    need_gradients: bool,
) -> tuple[Tensor, Tensor]:
    grad_activations = activations.new_empty((0,))
    if need_activations:
        grad_activations = empty_maps(
            activations.shape, activations.dtype, activations, is_channels_last(activations)
        )
    return grad_activations, alpha.new_empty(alpha.shape if need_gradients else (0,))


class _GradCam(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, activations: Tensor, gradients: Tensor, normalize: bool) -> Tensor:
        cam, alpha, peak = raw._cam_forward(activations, gradients, normalize)
        ctx.save_for_backward(activations, alpha, cam, peak)
        ctx.normalize = normalize
        ctx.gradients_like = gradients.shape, gradients.dtype
        return cam

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> Any:
        activations, alpha, cam, peak = ctx.saved_tensors
        grad_activations, grad_gradients = raw._cam_backward(
            activations,
            alpha,
            cam,
            peak,
            grad.to(cam.dtype),
            ctx.normalize,
            ctx.needs_input_grad[0],
            ctx.needs_input_grad[1],
        )
        return (
            grad_activations if ctx.needs_input_grad[0] else None,
            spread(grad_gradients, *ctx.gradients_like) if ctx.needs_input_grad[1] else None,
            None,
        )


def grad_cam(activations: Tensor, gradients: Tensor, normalize: bool = True) -> Tensor:
    """Grad-CAM of every target, differentiable in both arguments.

    ``ReLU(Σ_c α_c A_c)`` with the channel weights ``α = (1/(H·W)) Σ_{h',w'} D`` (Selvaraju et al.,
    equations 1 and 2).

    Args:
        activations: ``[N,C,H,W]``, the target layer's output; float32, float64, float16 or
            bfloat16, any strides (contiguous and channels_last are read in place).
        gradients: ``[N,T,C,H',W']`` or, for one target, ``[N,C,H',W']``: ∂score/∂activations. It
            may be taken after pooling that follows the layer, so H'×W' need not equal H×W.
        normalize: divide each map by its maximum; a map that is zero everywhere stays zero.

    Returns:
        ``[N,T,H,W]`` on the input's device; float64 if an input is, float32 otherwise. Not twice
        differentiable (:mod:`fastcam.reference` is).

    Raises:
        TypeError, ValueError: an argument is no floating-point tensor, or its shape or device does
            not fit; ``normalize`` is no bool.
    """
    flag("normalize", normalize)
    activations, gradients = prepare(activations, gradients)
    if check.plainly(activations):
        return reference.grad_cam(activations, gradients, normalize)
    return _GradCam.apply(activations, gradients, normalize)
