"""``attend`` on a 1×1 convolution, chunk by chunk: the library's GEMM, then the fused kernel.

A chunk is a few attributes of one sample: its logits are made in a buffer that stays in the cache,
used, and overwritten by the next. Backward makes them again. The loops are ops of their own, so
that ``torch.compile`` sees one node.
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


def _chunks(features: Tensor, weight: Tensor) -> Iterator[tuple[int, int, int]]:
    """(sample, first attribute, past the last attribute)."""
    batch, channels, height, width = features.shape
    attributes = weight.shape[0] // max(1, channels)
    elements = _CHUNK_ELEMENTS[features.device.type] // max(1, channels * height * width)
    step = max(1, min(attributes, elements))
    for sample in range(batch):
        for first in range(0, attributes, step):
            yield sample, first, min(first + step, attributes)


def _logits(cells: Tensor, weight: Tensor, bias: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The chunk's logits [1,k,C,H,W] from its rows of the weight and one sample [C,H·W]."""
    return torch.addmm(bias[:, None], weight, cells).view(shape)


@_without_autocast
def _forward(
    features: Tensor, weight: Tensor, bias: Tensor, n: list[float], beta: list[float]
) -> tuple[Tensor, Tensor]:
    features = features.contiguous()
    batch, channels, height, width = features.shape
    attributes = weight.shape[0] // max(1, channels)
    out = features.new_empty((len(n), batch, attributes, channels))
    l1 = features.new_empty((batch, attributes), dtype=_acc(features))
    for sample, first, last in _chunks(features, weight):
        rows = slice(first * channels, last * channels)
        one = features[sample : sample + 1]
        shape = (1, last - first, channels, height, width)
        logits = _logits(one.view(channels, -1), weight[rows], bias[rows], shape)
        pooled, mask_sum = raw._attend_forward(one, logits, n, beta, True)
        out[:, sample, first:last] = pooled[:, 0]
        l1[sample, first:last] = mask_sum[0].sum(-1)
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
    _, channels, height, width = features.shape
    acc = _acc(features)
    need_logits = need_features or need_weight or need_bias
    # Sums over chunks are kept in the arithmetic dtype: half precision would lose the small ones.
    d_features = torch.zeros_like(features, dtype=acc) if need_features else None
    d_weight = torch.zeros_like(weight, dtype=acc) if need_weight else None
    d_bias = torch.zeros_like(bias, dtype=acc) if need_bias else None
    for sample, first, last in _chunks(features, weight):
        rows = slice(first * channels, last * channels)
        one = features[sample : sample + 1]
        cells = one.view(channels, -1)
        shape = (1, last - first, channels, height, width)
        logits = _logits(cells, weight[rows], bias[rows], shape)
        direct, d_logits = raw._attend_backward(
            one,
            logits,
            grad_out[sample : sample + 1, first:last],
            None if grad_l1 is None else grad_l1[sample : sample + 1, first:last],
            n,
            beta,
            True,
            need_features,
            need_logits,
        )
        d_rows = d_logits.view((last - first) * channels, height * width)
        if d_features is not None:
            d_features[sample] += direct[0]
            d_features[sample] += (weight[rows].t() @ d_rows).view(channels, height, width)
        if d_weight is not None:
            if acc == weight.dtype:
                d_weight[rows].addmm_(d_rows, cells.t())
            else:
                d_weight[rows] += d_rows @ cells.t()
        if d_bias is not None:
            d_bias[rows] += d_rows.sum(-1, dtype=acc)

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
