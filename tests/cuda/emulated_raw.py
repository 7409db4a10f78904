"""The raw ops on emulated CUDA kernels, to stand where ``torch.ops.fastcam`` does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emulation import BINARIZE, Emulator, is_channels_first
from torch import Tensor

from fastcam.ops import attend_conv
from fastcam.ops.library import raw


def _readable(t: Tensor) -> Tensor:
    """As csrc/ops/checks.h: the tensor itself where a kernel can read it as it lies."""
    dense = t.numel() == 0 or is_channels_first(t) or _is_channels_last(t)
    return t if dense else t.contiguous()


def _with_contiguous_cells(t: Tensor) -> Tensor:
    return t if t.stride()[2:] == (t.shape[3], 1) else t.contiguous()


def _is_channels_last(t: Tensor) -> bool:
    channels, height, width = t.shape[-3:]
    c, h, w = t.stride()[-3:]
    return (
        (channels == 1 or c == 1)
        and (width == 1 or w == channels)
        and (height == 1 or h == width * channels)
    )


class EmulatedOps:
    """The raw ops (``torch.ops.fastcam``) on emulated CUDA kernels, for CPU tensors."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def emulator(self) -> Emulator:
        return Emulator(**self.options)

    def _cam_forward(self, activations: Tensor, gradients: Tensor, normalize: bool) -> Any:
        activations, gradients = _readable(activations), _readable(gradients)
        if 0 in gradients.shape[:2]:
            return raw._cam_forward(activations, gradients, normalize)
        return self.emulator().cam_forward(activations, gradients, normalize)

    def _cam_iou_forward(
        self,
        activations: Tensor,
        gradients: Tensor,
        regions: Tensor,
        cell_weights: Tensor | None,
        where: Tensor | None,
        *rest: Any,
    ) -> Any:
        if 0 in gradients.shape[:2]:
            return raw._cam_iou_forward(activations, gradients, regions, cell_weights, where, *rest)
        activations, gradients = _readable(activations), _readable(gradients)
        threshold, sharpness, binarize, eps, max_pull = rest
        cells = [None if t is None else _with_contiguous_cells(t) for t in (regions, cell_weights)]
        mode = next(name for name, number in BINARIZE.items() if number == binarize)
        return self.emulator().cam_iou_forward(
            activations,
            gradients,
            cells[0],
            cells[1],
            where,
            threshold,
            sharpness,
            mode,
            eps,
            max_pull,
        )

    def _cam_backward(
        self,
        activations: Tensor,
        alpha: Tensor,
        grad_map: Tensor,
        scale: Tensor | None,
        status: Tensor | None,
        need_activations: bool,
        need_gradients: bool,
    ) -> Any:
        arguments = (alpha.contiguous(), grad_map.contiguous(), scale, status)
        if 0 in alpha.shape:
            return raw._cam_backward(activations, *arguments, need_activations, need_gradients)
        grads = self.emulator().cam_backward(
            _readable(activations), *arguments, need_activations, need_gradients
        )
        return tuple(
            alpha.new_empty(0, dtype=dtype) if grad is None else grad
            for grad, dtype in zip(grads, (activations.dtype, alpha.dtype), strict=True)
        )

    def _cam_loss_forward(
        self,
        activations: Tensor,
        gradients: Tensor,
        regions: Tensor,
        cell_weights: Tensor | None,
        where: Tensor | None,
        *rest: Any,
    ) -> Any:
        if 0 in gradients.shape[:2]:
            return raw._cam_loss_forward(
                activations, gradients, regions, cell_weights, where, *rest
            )
        cells = [None if t is None else _with_contiguous_cells(t) for t in (regions, cell_weights)]
        return self.emulator().cam_loss_forward(
            _readable(activations), _readable(gradients), *cells, where, *rest
        )

    def _cam_loss_backward(
        self, alpha: Tensor, grad_map: Tensor, grad_gradients: Tensor | None, *rest: Any
    ) -> Any:
        if 0 in alpha.shape:
            return raw._cam_loss_backward(alpha, grad_map, grad_gradients, *rest)
        return self.emulator().cam_loss_backward(alpha, grad_map, grad_gradients, *rest)

    # csrc/ops/attend.h: contiguous copies of what is not, and no launch without elements.

    def _tone_curve(self, mask: Tensor, n: float, beta: float) -> Tensor:
        if mask.numel() == 0:
            return raw._tone_curve(mask, n, beta)
        return self.emulator().tone_curve(mask.contiguous(), n, beta)

    def _tone_curve_backward(self, mask: Tensor, grad: Tensor, n: float, beta: float) -> Tensor:
        if mask.numel() == 0:
            return raw._tone_curve_backward(mask, grad, n, beta)
        return self.emulator().tone_curve(mask.contiguous(), n, beta, grad.contiguous())

    def _attend_forward(
        self,
        features: Tensor,
        logits: Tensor,
        n: Sequence[float],
        beta: Sequence[float],
        pool: bool,
    ) -> Any:
        if logits.numel() == 0:
            return raw._attend_forward(features, logits, n, beta, pool)
        return self.emulator().attend_forward(
            features.contiguous(), logits.contiguous(), n, beta, pool
        )

    def _attend_backward(
        self,
        features: Tensor,
        logits: Tensor,
        grad_out: Tensor,
        grad_mask_sum: Tensor | None,
        n: float,
        beta: float,
        pool: bool,
        *needs: bool,
    ) -> Any:
        sums = None if grad_mask_sum is None else grad_mask_sum.contiguous()
        if features.numel() == 0:
            return raw._attend_backward(features, logits, grad_out, sums, n, beta, pool, *needs)
        grads = self.emulator().attend_backward(
            features.contiguous(),
            logits.contiguous(),
            grad_out.contiguous(),
            sums,
            n,
            beta,
            pool,
            *needs,
        )
        return tuple(features.new_empty(0) if grad is None else grad for grad in grads)

    # attend_conv1x1: the loops of fastcam/attend_conv.py, whose GEMM is the library's.

    def _attend_conv1x1_forward(self, *arguments: Any) -> Any:
        return attend_conv._forward(*arguments)

    def _attend_conv1x1_backward(self, *arguments: Any) -> Any:
        return attend_conv._backward(*arguments)
