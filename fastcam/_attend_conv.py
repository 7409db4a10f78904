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

from fastcam._ops import raw

# Elements of a chunk's logits: small enough for a core's own cache, large enough for GEMM and, on a
# GPU, to fill the machine.
_CHUNK_ELEMENTS = {"cpu": 1 << 17, "cuda": 1 << 23}

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


def _without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast would make the GEMM's result of another dtype than the features it goes with."""

    @wraps(function)
    def wrapper(features: Tensor, *arguments: Any) -> Any:
        with torch.autocast(features.device.type, enabled=False):
            return function(features, *arguments)

    return wrapper


def _acc(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


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


def _logits(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The chunk's logits [n,k,C,H,W] from its rows of the weight and its samples [n,C,H,W]."""
    batch, channels, height, width = features.shape
    cells = features.view(batch, channels, -1)
    if batch == 1:
        rows = torch.addmm(bias[:, None], weight, cells[0])
    else:
        rows = torch.baddbmm(bias[None, :, None], weight.expand(batch, -1, -1), cells)
    return rows.view(batch, -1, channels, height, width)


@_without_autocast
def _forward(
    features: Tensor, weight: Tensor, bias: Tensor, n: list[float], beta: list[float]
) -> tuple[Tensor, Tensor]:
    features = features.contiguous()
    batch, channels = features.shape[:2]
    attributes = weight.shape[0] // max(1, channels)
    out = features.new_empty((len(n), batch, attributes, channels))
    l1 = features.new_empty((batch, attributes), dtype=_acc(features))
    for samples, some in _chunks(features, weight):
        rows = _rows(some, channels)
        logits = _logits(features[samples], weight[rows], bias[rows])
        pooled, mask_sum = raw._attend_forward(features[samples], logits, n, beta, True)
        out[:, samples, some] = pooled
        l1[samples, some] = mask_sum.sum(-1)
    return out, l1


@_without_autocast
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
    acc = _acc(features)
    need_logits = need_features or need_weight or need_bias
    # Sums over chunks are kept in the arithmetic dtype: half precision would lose the small ones.
    d_features = torch.zeros_like(features, dtype=acc) if need_features else None
    d_weight = torch.zeros_like(weight, dtype=acc) if need_weight else None
    d_bias = torch.zeros_like(bias, dtype=acc) if need_bias else None
    for samples, some in _chunks(features, weight):
        rows = _rows(some, channels)
        here = features[samples]
        direct, d_logits = raw._attend_backward(
            here,
            _logits(here, weight[rows], bias[rows]),
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
            d_features[samples] += direct
            d_features[samples] += (weight[rows].t() @ d_rows).view(here.shape)
        if d_weight is not None:
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
        features.new_empty((batch, attributes), dtype=_acc(features)),
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
