"""``attend`` on a 1×1 convolution, chunk by chunk: the library's GEMM, then the fused kernel.

A chunk is a few attributes of one sample, or all of a few samples if they are small: its logits are
made in a buffer that stays in the cache, used, and overwritten by the next. Backward makes them
again. The loops are ops of their own, so that ``torch.compile`` sees one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from fastcam.ops.library import acc_dtype, raw

# Elements of a chunk's logits; backward holds as many again for their gradient. Whatever K is, this
# is what is held, as long as N·K·C·H·W exceeds it.
# CPU: 2 MB of float32. It stays in the second- and third-level cache, and a chunk is work enough
# for the threads that each of its steps starts and joins.
# CUDA: 64 MB of float32. On an H100 chunks of 8 MB leave the GEMMs too small: at N = 128, K = 40,
# C = 128, 14×14 forward takes 1.4 times as long with them and backward 2.5 times.
_CHUNK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 24}

_library = torch.library.Library("fastcam", "FRAGMENT")
_library.define(
    "_attend_conv1x1_forward(Tensor features, Tensor weight, Tensor bias, float[] n, float[] beta)"
    " -> (Tensor out, Tensor l1)"
)
_library.define(
    "_attend_conv1x1_backward(Tensor features, Tensor weight, Tensor bias, Tensor grad_out,"
    " Tensor? grad_l1, float n, float beta, bool need_features, bool need_weight, bool need_bias)"
    " -> (Tensor grad_features, Tensor grad_weight, Tensor grad_bias)"
)


def _unrecorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Nothing is recorded; and autocast would give the GEMM another dtype than the features."""

    @wraps(function)
    def wrapper(features: Tensor, *arguments: Any) -> Any:
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            return function(features, *arguments)

    return wrapper


def _chunks(features: Tensor, weight: Tensor) -> Iterator[tuple[slice, slice]]:
    """(samples, attributes)."""
    batch, channels, height, width = features.shape
    attributes = weight.shape[0] // max(1, channels)
    elements = _CHUNK_ELEMENTS[features.device.type] // max(1, channels * height * width)
    step = max(1, min(attributes, elements))
    samples = max(1, elements // max(1, attributes))
    for sample in range(0, batch, samples):
        for first in range(0, attributes, step):
            yield (
                slice(sample, min(sample + samples, batch)),
                slice(first, min(first + step, attributes)),
            )


def _rows(attributes: slice, channels: int) -> slice:
    """Of the weight."""
    return slice(attributes.start * channels, attributes.stop * channels)


class _Logits:
    """The logits of chunk after chunk, in the same memory."""

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor) -> None:
        self._tensors = features, weight, bias
        self._memory = features.new_empty(0)

    def __call__(self, samples: slice, rows: slice) -> Tensor:
        """``[n,k,C,H,W]`` of these samples and these rows of the weight."""
        features, weight, bias = self._tensors
        here, weight, bias = features[samples], weight[rows], bias[rows, None]
        batch, channels, height, width = here.shape
        cells = here.view(batch, channels, -1)
        size = batch * weight.shape[0] * height * width
        if self._memory.numel() < size:  # the first chunk is the largest
            self._memory = features.new_empty(size)
        made = self._memory[:size].view(batch, weight.shape[0], -1)
        if batch == 1:
            torch.addmm(bias, weight, cells[0], out=made[0])
        else:
            torch.baddbmm(bias[None], weight.expand(batch, -1, -1), cells, out=made)
        return made.view(batch, -1, channels, height, width)


@_unrecorded
def _forward(
    features: Tensor, weight: Tensor, bias: Tensor, n: list[float], beta: list[float]
) -> tuple[Tensor, Tensor]:
    features = features.contiguous()
    batch, channels = features.shape[:2]
    attributes = weight.shape[0] // max(1, channels)
    out = features.new_empty((len(n), batch, attributes, channels))
    l1 = features.new_empty((batch, attributes), dtype=acc_dtype(features))
    logits = _Logits(features, weight, bias)
    for samples, some in _chunks(features, weight):
        made = logits(samples, _rows(some, channels))
        pooled, mask_sum = raw._attend_forward(features[samples], made, n, beta, True)
        out[:, samples, some] = pooled
        l1[samples, some] = mask_sum
    return out, l1


@_unrecorded
def _backward(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    grad_out: Tensor,
    grad_l1: Tensor | None,
    n: float,
    beta: float,
    need_features: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    features = features.contiguous()
    channels = features.shape[1]
    acc = acc_dtype(features)
    need_logits = need_features or need_weight or need_bias
    # Sums over chunks are kept in the arithmetic dtype: half precision would lose the small ones.
    d_features = torch.zeros_like(features, dtype=acc) if need_features else None
    d_weight = torch.zeros_like(weight, dtype=acc) if need_weight else None
    d_bias = torch.zeros_like(bias, dtype=acc) if need_bias else None
    logits = _Logits(features, weight, bias)
    for samples, some in _chunks(features, weight):
        rows = _rows(some, channels)
        here = features[samples]
        direct, d_logits = raw._attend_backward(
            here,
            logits(samples, rows),
            grad_out[samples, some],
            None if grad_l1 is None else grad_l1[samples, some],
            n,
            beta,
            True,
            need_features,
            need_logits,
        )
        d_rows = d_logits.flatten(1, 2).flatten(2)  # [n, k·C, H·W]
        if d_features is not None:
            d_here = d_features[samples]
            d_here += direct
            transposed = weight[rows].t().expand(len(here), -1, -1)
            if acc == weight.dtype:
                d_here.flatten(2).baddbmm_(transposed, d_rows)
            else:
                d_here += torch.bmm(transposed, d_rows).view(here.shape)
        if d_weight is not None:
            if features.is_cuda:  # one launch, and the chunk's samples side by side
                d_weight[rows] += torch.bmm(d_rows, here.flatten(2).mT).sum(0, dtype=acc)
            else:
                for one, cells in zip(d_rows, here.flatten(2), strict=True):
                    if acc == weight.dtype:
                        d_weight[rows].addmm_(one, cells.t())
                    else:
                        d_weight[rows] += one @ cells.t()
        if d_bias is not None:
            d_bias[rows] += d_rows.sum((0, 2), dtype=acc)

    def finished(grad: Tensor | None, like: Tensor) -> Tensor:
        return like.new_empty((0,)) if grad is None else grad.to(like.dtype)

    return finished(d_features, features), finished(d_weight, weight), finished(d_bias, bias)


for _device in ("CPU", "CUDA"):
    _library.impl("_attend_conv1x1_forward", _forward, _device)
    _library.impl("_attend_conv1x1_backward", _backward, _device)


@torch.library.register_fake("fastcam::_attend_conv1x1_forward")
def _forward_fake(
    features: Tensor, weight: Tensor, bias: Tensor, n: list[float], beta: list[float]
) -> tuple[Tensor, Tensor]:
    batch, channels = features.shape[:2]
    attributes = weight.shape[0] // channels
    return (
        features.new_empty((len(n), batch, attributes, channels)),
        features.new_empty((batch, attributes), dtype=acc_dtype(features)),
    )


@torch.library.register_fake("fastcam::_attend_conv1x1_backward")
def _backward_fake(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    grad_out: Tensor,
    grad_l1: Tensor | None,
    n: float,
    beta: float,
    need_features: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    def grad(like: Tensor, needed: bool) -> Tensor:
        return like.new_empty(like.shape if needed else (0,))

    return grad(features, need_features), grad(weight, need_weight), grad(bias, need_bias)
