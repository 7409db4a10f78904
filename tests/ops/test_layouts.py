"""The rule of which layout kernels read stands in C++ and, for fakes, in Python: they agree."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastcam import functional
from fastcam.ops.library import is_channels_last, raw

assert functional.grad_cam  # it registers the fakes


def in_order(shape: tuple[int, ...], order: tuple[int, ...], gap_after: int | None) -> Tensor:
    """A tensor whose axes lie in memory in this order, with a gap below one of them."""
    outer = [shape[axis] + (axis == gap_after) for axis in order]
    wide = torch.rand(outer).permute(*(order.index(axis) for axis in range(len(shape))))
    return wide[tuple(slice(size) for size in shape)]


def layouts() -> Iterator[Tensor]:
    for shape in (*product((1, 2), (1, 3), (1, 2), (1, 2)), (0, 3, 2, 2), (2, 0, 2, 2)):
        for order in permutations(range(4)):
            for gap in (None, 0, 1, 2, 3):
                yield in_order(shape, order, gap)


def backward_of(activations: Tensor) -> Tensor:
    batch, channels, *cells = activations.shape
    alpha = activations.new_empty((batch, 1, channels)).fill_(1.0)
    cam = activations.new_empty((batch, 1, *cells)).fill_(1.0)
    peak = activations.new_empty((batch, 1)).fill_(1.0)
    return raw._cam_backward(activations, alpha, cam, peak, cam, True, True, False)[0]


def test_outputs_of_kernels_and_fakes_have_the_same_strides():
    layouts_seen = set()
    mode = FakeTensorMode()
    for activations in layouts():
        real = backward_of(activations)
        with mode:
            fake = backward_of(mode.from_tensor(activations))
        case = f"{tuple(activations.shape)} {activations.stride()}"
        assert real.stride() == fake.stride(), case
        last = is_channels_last(activations)
        layout = torch.channels_last if last else torch.contiguous_format
        assert real.stride() == torch.empty(real.shape, memory_format=layout).stride(), case
        layouts_seen.add(last)
    assert layouts_seen == {True, False}
