"""Ops that several threads call at once give what one gives, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from samples import SHAPES, make
from torch import Tensor

from fastcam import functional as F
from fastcam.ops.cam_loss import LOSSES
from fastcam.regions import (
    Region,
    five_points,
    from_masks,
    landmarks_from_five_points,
    rectangles,
    template_landmarks,
)

THREADS, ROUNDS = 8, 2


def _with_gradients(function: Callable[..., Any], *leaves: Tensor) -> list[Tensor]:
    """The first result and the gradients of its sum."""
    fresh = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    found = function(*fresh)
    value = found if isinstance(found, Tensor) else found[0]
    return [value.detach(), *torch.autograd.grad(value.sum(), fresh)]


def _calls() -> list[Callable[[], list[Tensor]]]:
    """Of every op and of the regions' functions, in sizes that differ from one to the next."""
    calls: list[Callable[[], list[Tensor]]] = []
    for number, shape in enumerate(SHAPES):
        for dtype in (torch.float32, torch.float64):
            sample = make(shape, dtype=dtype, seed=number)
            a, d, s = sample.activations, sample.gradients, sample.regions
            calls.append(lambda a=a, d=d: _with_gradients(F.grad_cam, a, d))
            for loss in LOSSES:

                def loss_of(a: Tensor, d: Tensor, s: Tensor = s, loss: str = loss) -> Tensor:
                    return F.cam_loss(a, d, s, loss=loss)  # type: ignore[arg-type]

                calls.append(lambda a=a, d=d, f=loss_of: _with_gradients(f, a, d))
            weights = s.square() + 0.1
            for binarize in ("tone", "sigmoid", "hard"):

                def iou_of(
                    a: Tensor, d: Tensor, s: Tensor = s, w: Tensor = weights, how: Any = binarize
                ) -> Tensor:
                    return F.cam_iou_loss(
                        a, d, s, binarize=how, cell_weights=w, threshold=0.4, max_pair_pull=0.7
                    )

                calls.append(lambda a=a, d=d, f=iou_of: _with_gradients(f, a, d))
            calls.append(lambda s=s, w=weights: [F.valid_targets(s, w)])
            rng = torch.Generator().manual_seed(number)
            channels, attributes = 4 + number, 3
            f = torch.randn(2, channels, 5, 6, generator=rng, dtype=dtype)
            logits = torch.randn(2, attributes, channels, 5, 6, generator=rng, dtype=dtype)
            weight = torch.randn(attributes * channels, channels, generator=rng, dtype=dtype)
            bias = torch.randn(attributes * channels, generator=rng, dtype=dtype)
            calls.append(lambda f=f, x=logits: _with_gradients(F.attend, f, x))
            three = (f, weight, bias)
            calls.append(lambda x=three: _with_gradients(F.attend_conv1x1, *x))
            calls.append(lambda x=logits: _with_gradients(F.tone_curve, x.sigmoid()))
            calls.append(lambda x=f: _with_gradients(F.margins, x.flatten(1)))
    faces = np.stack([template_landmarks(178, 218)] * 4)
    region = Region.parse("mouth,left_eye,0.1,0.2,0.5,0.6")
    calls.append(lambda: [torch.from_numpy(region.grid(faces, (218, 178), (13, 11)))])
    calls.append(lambda: [torch.from_numpy(rectangles(faces))])
    five = five_points(faces) + np.arange(4)[:, None, None]
    calls.append(lambda: [torch.from_numpy(landmarks_from_five_points(five))])
    masks = torch.rand(3, 2, 20, 30, generator=torch.Generator().manual_seed(0))
    calls.append(lambda: [from_masks(masks, (7, 5))])
    return calls


@pytest.mark.parametrize("inner", [1, 2], ids=["one thread in each", "two threads in each"])
def test_eight_threads_at_once_give_what_one_gives(inner: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(inner)
    try:
        calls = _calls()
        wanted = [call() for call in calls]
        together = Barrier(THREADS)

        def work(thread: int) -> int:
            torch.set_num_threads(inner)  # of this thread
            together.wait()
            for turn in range(ROUNDS):
                for step in range(len(calls)):
                    number = (step * 7 + thread * 11 + turn) % len(calls)
                    for got, one in zip(calls[number](), wanted[number], strict=True):
                        assert torch.equal(got, one), number
            return len(calls) * ROUNDS

        with ThreadPoolExecutor(THREADS) as pool:
            assert sum(pool.map(work, range(THREADS))) == THREADS * ROUNDS * len(calls)
    finally:
        torch.set_num_threads(before)
