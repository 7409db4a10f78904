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
    """The logits of chunk after chunk, in the same memory.

    One product of matrices a chunk, ``[k·C, C] @ [C, n·H·W]``: whole tiles whatever H·W is, and no
    pass for the bias, which is the weight of a channel of ones (among ``PAD`` more channels: the
    library wants rows of whole 16 bytes).
    """

    PAD = 8

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor) -> None:
        batch, channels, height, width = features.shape
        self._size = height, width
        self.cells = features.new_zeros(channels + self.PAD, batch, height * width)
        self.cells[:channels] = features.flatten(2).transpose(0, 1)
        self.cells[channels] = 1
        more = torch.nn.functional.pad(bias[:, None], (0, self.PAD - 1))
        self._weight = torch.cat([weight, more], 1)
        self._memory = features.new_empty(0)

    def __call__(self, samples: slice, rows: slice) -> Tensor:
        """``[n,k,C,H,W]`` of these samples and these rows of the weight; n lies inside k and C."""
        weight, cells = self._weight[rows], self.cells[:, samples]
        shape = len(weight), cells[0].numel()
        size = shape[0] * shape[1]
        if self._memory.numel() < size:  # the first chunk is the largest
            self._memory = cells.new_empty(size)
        made = torch.mm(weight, cells.flatten(1), out=self._memory[:size].view(shape))
        channels = len(self.cells) - self.PAD
        return made.view(-1, channels, cells.shape[1], *self._size).permute(2, 0, 1, 3, 4)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


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
        out[:, samples, some], l1[samples, some] = raw._attend_forward(
            features[samples], made, n, beta, True
        )
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
    logits = _Logits(features, weight, bias)
    # Sums over chunks are kept in the arithmetic dtype: half precision would lose the small ones.
    acc = acc_dtype(features)
    d_cells = torch.zeros_like(logits.cells[:channels], dtype=acc)
    d_weight = weight.new_zeros(len(weight), len(logits.cells), dtype=acc)  # and of the bias

    def add_chunk(samples: slice, some: slice) -> None:
        rows = _rows(some, channels)
        direct, d_logits = raw._attend_backward(
            features[samples],
            logits(samples, rows),
            grad_out[samples, some],
            None if grad_l1 is None else grad_l1[samples, some],
            n,
            beta,
            True,
            need_features,
            need_features or need_weight or need_bias,
        )
        d_rows = d_logits.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)  # [k·C, n·H·W]
        if need_features:
            here = d_cells[:, samples]
            here += direct.flatten(2).transpose(0, 1)
            _add_product(here.flatten(1), weight[rows].t(), d_rows)
        if need_weight or need_bias:
            _add_product(d_weight[rows], d_rows, logits.cells[:, samples].flatten(1).t())

    for chunk in _chunks(features, weight):
        add_chunk(*chunk)  # a function: its logits are not held by the time the results are

    def finished(needed: bool, grad: Tensor, like: Tensor) -> Tensor:
        # In memory of its own: what an op returns shares none.
        return like.new_empty(like.shape).copy_(grad) if needed else like.new_empty((0,))

    d_features = d_cells.transpose(0, 1).unflatten(2, features.shape[2:])
    return (
        finished(need_features, d_features, features),
        finished(need_weight, d_weight[:, :channels], weight),
        finished(need_bias, d_weight[:, channels], bias),
    )


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
