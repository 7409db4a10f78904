"""Ops give the same bits on any number of threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastcam import functional as F

CURVES = ([1.0, 2.0, 2.5, 3.3], [0.0, 0.3, 0.5, 1.0])


def _on_each_count(call: Callable[[], tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            results.append(call())
        return results
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("shape", [(3, 3, 67, 13, 13), (1, 1, 2, 150, 150), (2, 3, 0, 4, 4)])
def test_attend(shape: tuple[int, ...], several: bool, pool: bool, dtype: torch.dtype) -> None:
    """Rows of several curves are pooled in groups; 603 and 2 rows are no whole number of them."""
    n, k, c, h, w = shape
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(n, c, h, w, generator=rng).to(dtype)
    logits = torch.randn(n, k, c, h, w, generator=rng).to(dtype)
    exponents, betas = CURVES if several else (2.5, 0.3)
    one, *others = _on_each_count(lambda: F.attend(features, logits, exponents, betas, pool=pool))
    for threads, other in enumerate(others, 2):
        for got, wanted in zip(other, one, strict=True):
            assert torch.equal(got, wanted), threads


def test_gradients_of_attend() -> None:
    rng = torch.Generator().manual_seed(1)
    features = torch.randn(3, 67, 13, 13, generator=rng).requires_grad_()
    logits = torch.randn(3, 3, 67, 13, 13, generator=rng).requires_grad_()

    def gradients() -> tuple[Tensor, ...]:
        pooled, l1 = F.attend(features, logits, 2.5, 0.3, pool=True)
        return torch.autograd.grad(pooled.square().sum() + l1.sum(), (features, logits))

    one, *others = _on_each_count(gradients)
    for threads, other in enumerate(others, 2):
        for got, wanted in zip(other, one, strict=True):
            assert torch.equal(got, wanted), threads
